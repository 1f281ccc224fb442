//! Names of keys and channels.

use crate::{NodeId, PublicationId, Topic};

/// What names begin with, so that several hubs and other programs can share a server.
///
/// A topic is one name's end, whatever is in it, and no other name has the same beginning: so no topic can be
/// taken for another.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
    /// Of topics' channels: they are one space for all of a server's databases.
    channels: String,
}

impl Names {
    pub(super) fn new(prefix: &str, database: i64) -> Self {
        Self { prefix: prefix.to_owned(), channels: format!("{prefix}{database}:t:") }
    }

    /// The key of a topic's stream.
    pub(super) fn stream(&self, topic: &Topic) -> String {
        format!("{}t:{topic}", self.prefix)
    }

    /// The key that is there while a publication is known. The length tells where the topic ends.
    pub(super) fn publication(&self, topic: &Topic, id: &PublicationId) -> String {
        format!("{}i:{}:{topic}:{}", self.prefix, topic.len(), id.as_str())
    }

    /// The key of a topic's rows of presence.
    pub(super) fn rows(&self, topic: &Topic) -> String {
        format!("{}p:{topic}", self.prefix)
    }

    /// The key of a node's lease.
    pub(super) fn lease(&self, node: NodeId) -> String {
        format!("{}{node}", self.leases())
    }

    /// What the keys of leases begin with.
    pub(super) fn leases(&self) -> String {
        format!("{}n:", self.prefix)
    }

    /// The key of the number of a node's connection.
    pub(super) fn fence(&self, node: NodeId) -> String {
        format!("{}c:{node}", self.prefix)
    }

    /// A topic's channel.
    pub(super) fn channel(&self, topic: &Topic) -> String {
        format!("{}{topic}", self.channels)
    }

    /// Whose channel it is, if it is a topic's.
    pub(super) fn topic(&self, channel: &str) -> Option<Topic> {
        Topic::new(channel.strip_prefix(&self.channels)?).ok()
    }

    /// The channel on which a node hears itself.
    pub(super) fn probe(&self, node: NodeId) -> String {
        format!("{}probe:{node}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_of_one_topic_is_never_one_of_another() {
        let names = Names::new("w:", 0);
        let name = |topic: &str, id: &str| {
            names.publication(&Topic::new(topic).expect("it is a name"), &PublicationId::new(id))
        };
        assert_ne!(name("a:b", "c"), name("a", "b:c"));
        assert_ne!(name("1:a", "c"), name("1", "a:c"));
    }

    #[test]
    fn a_channel_is_of_the_database_and_the_topic_that_it_was_made_for() {
        let topic = Topic::new("a:b κ").expect("it is a name");
        let names = Names::new("w:", 0);
        assert_eq!(names.topic(&names.channel(&topic)), Some(topic.clone()));
        assert_eq!(names.topic(&Names::new("w:", 1).channel(&topic)), None);
        assert_eq!(names.topic(&names.probe(NodeId(7))), None);
    }
}
