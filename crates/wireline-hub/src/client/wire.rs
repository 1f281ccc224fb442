//! `hub.v1`, from its other end.

use serde::{Deserialize, Serialize};
use wireline::Message;

use crate::{Position, node::ResetReason, protocol::hub_v1};

/// What a client asks for; each operation has some of it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Request<'r> {
    pub(super) op: &'static str,
    pub(super) id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<&'r str>,
    /// Where it was among what is broadcast.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) all: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) t: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) echo: Option<bool>,
}

impl Request<'_> {
    pub(super) fn encode(&self) -> Message {
        hub_v1::line(self).into()
    }

    pub(super) fn encode_with(&self, payload: &Message) -> Message {
        hub_v1::with_payload(&hub_v1::line(self), payload)
    }
}

/// What a server tells; each kind has some of it.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    /// Which request this answers.
    pub(super) re: Option<u64>,
    pub(super) ev: Option<String>,
    pub(super) t: Option<String>,
    p: Option<String>,
    pos: Option<String>,
    #[serde(default)]
    pub(super) recovered: bool,
    why: Option<String>,
    who: Option<Who>,
    pub(super) err: Option<Failure>,
    /// Seconds after which the server is heard of at the latest.
    pub(super) ping: Option<u64>,
    /// In what time a client is to come back, in milliseconds.
    pub(super) retry: Option<[u64; 2]>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Failure {
    pub(super) code: String,
    #[serde(default)]
    pub(super) temp: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Who {
    Joined(String),
    Present(Vec<String>),
}

impl Header {
    /// Where the topic stands, by whichever name it goes here.
    pub(super) fn position(&self) -> Option<Position> {
        self.p.as_ref().or(self.pos.as_ref())?.parse().ok()
    }

    /// Who came or left.
    pub(super) fn member(&self) -> Option<&str> {
        match self.who.as_ref()? {
            Who::Joined(name) => Some(name),
            Who::Present(_) => None,
        }
    }

    /// Who is here.
    pub(super) fn members(self) -> Vec<String> {
        match self.who {
            Some(Who::Present(names)) => names,
            _ => Vec::new(),
        }
    }

    pub(super) fn reset_reason(&self) -> Option<ResetReason> {
        match self.why.as_deref()? {
            "window" => Some(ResetReason::Window),
            "rollback" => Some(ResetReason::Rollback),
            "lost" => Some(ResetReason::Lost),
            _ => None,
        }
    }
}

/// A header line, and the payload behind it; `None` if that is not the protocol.
pub(super) fn decode(message: Message) -> Option<(Header, Message)> {
    let bytes = message.as_bytes();
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let header = serde_json::from_slice(&bytes[..end]).ok()?;
    Some((header, hub_v1::payload(message, end + 1)))
}
