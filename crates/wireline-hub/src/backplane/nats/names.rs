//! What things are called at the broker.

use std::fmt::Write as _;

use crate::{NodeId, PublicationId, Topic};

/// A token that no topic is encoded to.
const OWN: &str = "=";

/// Names that begin with a hub's prefix, so that several hubs can share a broker.
#[derive(Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    /// None if the prefix is no token.
    pub(super) fn new(prefix: &str) -> Option<Self> {
        let is_token = !prefix.is_empty() && prefix.bytes().all(is_plain);
        is_token.then(|| Self { prefix: prefix.to_owned() })
    }

    /// The stream of publications that are kept.
    pub(super) fn kept_stream(&self) -> String {
        format!("{}-keep", self.prefix)
    }

    /// The stream that knows of each topic without history where it stands.
    pub(super) fn passed_stream(&self) -> String {
        format!("{}-pass", self.prefix)
    }

    /// What is published there is kept.
    pub(super) fn kept(&self, topic: &Topic) -> String {
        format!("{}.keep.{}", self.prefix, encode(topic))
    }

    pub(super) fn all_kept(&self) -> String {
        format!("{}.keep.>", self.prefix)
    }

    /// What is published there is not.
    pub(super) fn passed(&self, topic: &Topic) -> String {
        format!("{}.pass.{}", self.prefix, encode(topic))
    }

    pub(super) fn all_passed(&self) -> String {
        format!("{}.pass.>", self.prefix)
    }

    /// Where a topic is heard.
    pub(super) fn heard(&self, topic: &Topic) -> String {
        format!("{}.out.{}", self.prefix, encode(topic))
    }

    pub(super) fn all_heard(&self) -> String {
        format!("{}.out.>", self.prefix)
    }

    /// Where a connection hears itself.
    pub(super) fn echo(&self) -> String {
        format!("{}.out.{OWN}.{:032x}", self.prefix, crate::entropy::number())
    }

    /// The origins among what is kept.
    pub(super) fn origins_kept(&self) -> String {
        format!("{}.keep.{OWN}", self.prefix)
    }

    /// One origin among what is not.
    pub(super) fn origin_passed(&self, mark: u32) -> String {
        format!("{}.pass.{OWN}.{mark:08x}", self.prefix)
    }

    /// The bucket of rows of presence.
    pub(super) fn rows_bucket(&self) -> String {
        format!("{}-rows", self.prefix)
    }

    /// The bucket of leases that are given for so long.
    pub(super) fn leases_bucket(&self, ttl_ms: u64) -> String {
        format!("{}-leases-{ttl_ms}", self.prefix)
    }

    pub(super) fn row(&self, topic: &Topic, node: NodeId) -> String {
        format!("$KV.{}.{}.{node}", self.rows_bucket(), encode(topic))
    }

    pub(super) fn rows_of(&self, topic: &Topic) -> String {
        format!("$KV.{}.{}.*", self.rows_bucket(), encode(topic))
    }

    pub(super) fn lease(&self, ttl_ms: u64, node: NodeId) -> String {
        format!("$KV.{}.{node}", self.leases_bucket(ttl_ms))
    }
}

/// The stream that a bucket is.
pub(super) fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// Whose row it is.
pub(super) fn node_of_row(subject: &str) -> Option<NodeId> {
    let (_, node) = subject.rsplit_once('.')?;
    u128::from_str_radix(node, 16).ok().map(NodeId)
}

/// By what the broker knows a second attempt: the same word on another topic is another publication.
pub(super) fn message_id(topic: &Topic, id: &PublicationId) -> String {
    format!("{}.{}", encode(topic), encode(id.as_str()))
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// One token, which is a key of a bucket's, too: what has a meaning at the broker is written as `=` and two
/// hexadecimal digits.
fn encode(name: &str) -> String {
    let mut token = String::with_capacity(name.len());
    for byte in name.bytes() {
        if is_plain(byte) {
            token.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(token, "={byte:02X}");
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_has_a_meaning_at_the_broker_is_written_otherwise() {
        assert_eq!(encode("chat-1_A"), "chat-1_A");
        assert_eq!(encode("a.b *>=κ"), "a=2Eb=20=2A=3E=3D=CE=BA");
        assert!(Names::new("hub.>").is_none() && Names::new("").is_none());
    }

    #[test]
    fn a_row_names_its_node() {
        let names = Names::new("hub").expect("it is a token");
        let node = NodeId::random();
        let row = names.row(&Topic::new("a.b").expect("it is a name"), node);
        assert_eq!(node_of_row(&row), Some(node));
    }

    proptest! {
        #[test]
        fn no_two_names_are_the_same_token(one in "\\PC{1,8}", other in "\\PC{1,8}") {
            prop_assert_eq!(encode(&one) == encode(&other), one == other);
            prop_assert!(encode(&one).bytes().all(|byte| is_plain(byte) || byte == b'='));
            prop_assert_ne!(encode(&one), OWN);
        }
    }
}
