//! Members of other nodes at a topic: if their node dies, somebody has to say that they left.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{Member, NodeId, NodeRow};

/// What was seen of a topic's members.
#[derive(Debug)]
pub(super) struct Watch {
    seen: BTreeMap<Member, Seen>,
    /// When the rows are to be read.
    due: Instant,
    is_reading: bool,
    interval: Duration,
}

#[derive(Debug)]
struct Seen {
    /// The last node that it was at, and the number of that one's lease.
    place: (NodeId, u32),
    /// Since when it has been missing from the engine's rows. For an interval that may be a member that leaves, and
    /// whose leave is on its way.
    missing_since: Option<Instant>,
}

impl Watch {
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        Self { seen: BTreeMap::new(), due: now, is_reading: false, interval }
    }

    /// When [`take_due`](Self::take_due) is to be asked.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.is_reading).then_some(self.due)
    }

    /// Whether the rows are to be read now, which [`handle_rows`](Self::handle_rows) follows.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let is_due = self.due().is_some_and(|due| due <= now);
        self.is_reading |= is_due;
        is_due
    }

    /// Somebody joined, wherever that was.
    pub(super) fn hear_join(&mut self, soon: Instant) {
        self.due = self.due.min(soon);
    }

    /// Somebody left, and it was said.
    pub(super) fn hear_leave(&mut self, member: &Member) {
        self.seen.remove(member);
    }

    /// Takes the engine's rows, or `None` if it did not answer: who has gone unsaid, from which node, and under which
    /// of its leases.
    pub(super) fn handle_rows(
        &mut self,
        rows: Option<Vec<NodeRow>>,
        now: Instant,
    ) -> Vec<(Member, NodeId, u32)> {
        self.is_reading = false;
        self.due = now + self.interval;
        let Some(rows) = rows else { return Vec::new() };
        for seen in self.seen.values_mut() {
            seen.missing_since.get_or_insert(now);
        }
        for row in rows {
            for member in row.members {
                self.seen.insert(member, Seen { place: (row.node, row.lease), missing_since: None });
            }
        }
        let is_gone = |seen: &Seen| seen.missing_since.is_some_and(|since| since + self.interval <= now);
        let gone = self.seen.extract_if(.., |_, seen| is_gone(seen));
        gone.map(|(member, Seen { place: (node, lease), .. })| (member, node, lease)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn row(node: u128, members: &[&str]) -> NodeRow {
        NodeRow {
            node: NodeId(node),
            lease: 7,
            members: members.iter().map(|member| Member::new(*member)).collect(),
        }
    }

    #[test]
    fn who_is_missing_for_an_interval_is_gone_and_is_told_once() {
        let now = Instant::now();
        let mut watch = Watch::new(INTERVAL, now);
        assert!(watch.take_due(now) && watch.due().is_none());
        let rows = || Some(vec![row(1, &["ann", "bob"]), row(2, &["bob", "eve"])]);
        assert!(watch.handle_rows(rows(), now).is_empty());
        assert_eq!(watch.due(), Some(now + INTERVAL));
        let left = || Some(vec![row(2, &["bob", "eve"])]);
        assert!(watch.handle_rows(left(), now).is_empty());
        assert!(watch.handle_rows(left(), now + INTERVAL / 2).is_empty(), "however often one looks");
        let later = now + INTERVAL;
        assert!(watch.handle_rows(None, later).is_empty(), "an engine that does not answer says nothing");
        assert_eq!(watch.handle_rows(left(), later), [(Member::new("ann"), NodeId(1), 7)]);
        assert!(watch.handle_rows(left(), later).is_empty());
    }

    #[test]
    fn whose_leave_was_heard_or_who_came_back_is_not_gone() {
        let now = Instant::now();
        let mut watch = Watch::new(INTERVAL, now);
        watch.handle_rows(Some(vec![row(1, &["ann", "bob"])]), now);
        watch.hear_leave(&Member::new("ann"));
        watch.handle_rows(Some(vec![]), now);
        for number in 1..4 {
            assert!(watch.handle_rows(Some(vec![row(2, &["bob"])]), now + number * INTERVAL).is_empty());
        }
    }

    #[test]
    fn a_join_has_the_rows_read_soon() {
        let now = Instant::now();
        let mut watch = Watch::new(INTERVAL, now);
        watch.handle_rows(Some(vec![]), now);
        watch.hear_join(now + INTERVAL / 50);
        assert_eq!(watch.due(), Some(now + INTERVAL / 50));
    }
}
