//! What a client asks of a topic's past.

use serde::Deserialize;
use wireline::Message;

use crate::{Content, Page, Position, Publication};

/// A place in a topic, as a client names it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Since {
    #[serde(default)]
    pub(crate) offset: u64,
    pub(crate) epoch: Option<String>,
}

/// A message with its place.
pub(crate) type Kept<'p> = (&'p Message, Position);

impl Since {
    /// The position, if it can be one.
    pub(super) fn position(&self) -> Option<Position> {
        let epoch = self.epoch.as_deref()?;
        let mark = u32::from_str_radix(epoch, 16).ok().filter(|mark| format!("{mark:08x}") == epoch)?;
        Some(Position::new(self.offset, mark))
    }
}

/// The messages of a page with all that is kept, in the order that is asked for; `None` if it is not proven that nothing
/// is missing.
///
/// Without `since` they begin at an end of what is kept. With it they begin behind its offset, or before it in reverse. Its
/// epoch is the mark of that publication or of a later one: clients page with the epoch of the first answer, which is that of
/// the topic's end then. Each publication names its predecessor, so whoever is still here has the past that it had.
pub(crate) fn select<'p>(
    page: &'p Page,
    since: Option<&Since>,
    limit: Option<usize>,
    is_reverse: bool,
) -> Option<Vec<Kept<'p>>> {
    let items = page.items.iter();
    let limit = limit.unwrap_or(usize::MAX);
    let Some(since) = since else {
        return Some(match is_reverse {
            false => items.filter_map(message).take(limit).collect(),
            true => items.rev().filter_map(message).take(limit).collect(),
        });
    };
    let Position { offset, mark } = since.position()?;
    if !is_past(page, offset, mark) || !(is_reverse || is_whole_behind(page, offset)) {
        return None;
    }
    Some(if is_reverse {
        let before = items.rev().skip_while(|publication| publication.position.offset >= offset);
        before.filter_map(message).take(limit).collect()
    } else {
        let behind = items.skip_while(|publication| publication.position.offset <= offset);
        behind.filter_map(message).take(limit).collect()
    })
}

/// Joins and leaves are none.
fn message(publication: &Publication) -> Option<Kept<'_>> {
    match &publication.content {
        Content::Message(message) => Some((message, publication.position)),
        Content::Join(_) | Content::Leave(_) => None,
    }
}

/// Whether the offset is in the past of what has the mark, which is still here.
fn is_past(page: &Page, offset: u64, mark: u32) -> bool {
    let is_floor = |first: &Publication| first.previous.is(Position::new(offset, mark));
    let proves = |witness: Position| witness.mark == mark && witness.offset >= offset;
    proves(page.top)
        || page.items.iter().any(|publication| proves(publication.position))
        || page.items.first().is_some_and(is_floor)
}

/// Whether everything behind the offset is on the page.
fn is_whole_behind(page: &Page, offset: u64) -> bool {
    page.top.offset <= offset || page.items.first().is_some_and(|first| first.previous.offset <= offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Member, Topic};

    /// Messages at 10, 20, ... with the marks 1, 2, ..., the second of which is a join; what stood before is forgotten.
    fn page(count: u32) -> Page {
        let place = |number: u32| Position::new(u64::from(number) * 10, number);
        let publication = |number: u32| Publication {
            topic: Topic::new("tea").expect("it is a name"),
            position: place(number),
            previous: place(number - 1).into(),
            content: match number {
                2 => Content::Join(Member::new("ann")),
                _ => Content::Message(number.to_string().into()),
            },
            except: None,
        };
        Page { top: place(count), proven: false, items: (1..=count).map(publication).collect() }
    }

    fn since(offset: u64, mark: u32) -> Since {
        Since { offset, epoch: Some(format!("{mark:08x}")) }
    }

    fn texts(page: &Page, since: Option<&Since>, limit: Option<usize>, is_reverse: bool) -> Option<String> {
        let messages = select(page, since, limit, is_reverse)?;
        Some(messages.iter().map(|(message, _)| message.to_string()).collect())
    }

    #[test]
    fn without_a_place_it_begins_at_an_end_of_what_is_kept() {
        for (limit, is_reverse, expected) in [
            (None, false, "1345"),
            (Some(2), false, "13"),
            (Some(0), false, ""),
            (None, true, "5431"),
            (Some(2), true, "54"),
        ] {
            assert_eq!(texts(&page(5), None, limit, is_reverse).as_deref(), Some(expected));
        }
    }

    #[test]
    fn behind_a_place_comes_what_follows_it_and_before_it_what_came_earlier() {
        let page = page(5);
        for (since, is_reverse, expected) in [
            (since(10, 1), false, "345"),
            (since(20, 2), false, "345"),
            (since(50, 5), false, ""),
            // What is forgotten, though its successor knows it.
            (since(0, 0), false, "1345"),
            // By the epoch of what came later: of a publication, and of the end.
            (since(30, 4), false, "45"),
            (since(30, 5), false, "45"),
            (since(35, 5), false, "45"),
            (since(30, 5), true, "1"),
            (since(50, 5), true, "431"),
        ] {
            assert_eq!(texts(&page, Some(&since), None, is_reverse).as_deref(), Some(expected), "{since:?}");
        }
        assert_eq!(texts(&page, Some(&since(10, 1)), Some(1), false).as_deref(), Some("3"));
    }

    #[test]
    fn what_is_not_proven_is_not_answered() {
        let page = page(5);
        for place in [
            // Another life, or an earlier epoch than the offset's.
            since(30, 0x77),
            since(30, 2),
            since(60, 5),
            Since { offset: 30, epoch: None },
            Since { offset: 30, epoch: Some("_".into()) },
        ] {
            assert_eq!(texts(&page, Some(&place), None, false), None, "{place:?}");
            assert_eq!(texts(&page, Some(&place), None, true), None, "{place:?}");
        }
        let mut cut = page;
        cut.items.drain(..2);
        assert_eq!(texts(&cut, Some(&since(20, 5)), None, false).as_deref(), Some("345"));
        assert_eq!(texts(&cut, Some(&since(10, 5)), None, false), None, "what followed is forgotten");
        cut.items.clear();
        assert_eq!(texts(&cut, Some(&since(40, 5)), None, false), None, "all is forgotten");
        assert_eq!(texts(&cut, Some(&since(50, 5)), None, false).as_deref(), Some(""));
    }
}
