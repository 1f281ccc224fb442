//! One topic, and nothing but its payloads: for clients that know nothing of hubs. There are no words in it for
//! what was missed, so that the connection ends instead.

use wireline::Message;

use super::{Refusal, Told, code};
use crate::{Content, Publication, node::Notice};

pub(super) fn publication(publication: &Publication) -> Option<Message> {
    match &publication.content {
        Content::Message(message) => Some(message.clone()),
        Content::Join(_) | Content::Leave(_) => None,
    }
}

pub(super) fn notice(notice: &Notice) -> Told {
    match notice {
        Notice::Subscribed { .. } => Told::Nothing,
        Notice::Refused { .. } => Told::Close(code::UNAVAILABLE.into(), "the topic is not available"),
        Notice::Reset { .. } => Told::Close(code::CONTINUITY_LOST.into(), "messages may be missing"),
    }
}

/// Why the connection ends at what it has sent.
pub(crate) fn reason(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Forbidden | Refusal::TooManySubscriptions => "forbidden",
        Refusal::TooLarge => "too_large",
        Refusal::Unavailable => "unavailable",
    }
}
