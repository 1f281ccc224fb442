//! Tells a backplane and its topics who is here.

use std::time::Duration;

use super::Rules;
use crate::{
    Content, Member, NodeId, Outgoing, PublicationId, Topic, backplane::Backplane, node::PresenceUpdate,
};

/// Between attempts to reach an engine that is away.
const RETRY: Duration = Duration::from_millis(500);

/// Does what a node's update says, however long it takes to reach the engine. Whether that still had what it was
/// told before.
pub(super) async fn tell(backplane: &dyn Backplane, rules: &Rules, update: PresenceUpdate) -> bool {
    // First the rows: who reads them after the news finds them as the news has it.
    let is_kept = loop {
        match backplane.lease(&update.rows, update.lease).await {
            Ok(is_kept) => break is_kept,
            Err(error) => tracing::debug!(%error, "who is present could not be told"),
        }
        tokio::time::sleep(RETRY).await;
    };
    for (topic, member) in update.joined {
        publish(backplane, rules, &topic, Content::Join(member)).await;
    }
    for (topic, member) in update.left {
        if !is_elsewhere(backplane, &topic, &member).await {
            publish(backplane, rules, &topic, Content::Leave(member)).await;
        }
    }
    is_kept
}

/// Says for a node that is gone that its member left. Whichever nodes say so, it is published once: a node's
/// name is its alone, and what it left unsaid is said at once by all who hear the topic.
pub(super) async fn tell_gone(
    backplane: &dyn Backplane,
    rules: &Rules,
    topic: &Topic,
    member: Member,
    node: NodeId,
) {
    let id = PublicationId::new(format!("gone:{node}:{}", member.name()));
    publish_as(id, backplane, rules, topic, Content::Leave(member)).await;
}

/// Whether another node has a row with the member. This node has none any more.
async fn is_elsewhere(backplane: &dyn Backplane, topic: &Topic, member: &Member) -> bool {
    loop {
        match backplane.presence(topic).await {
            Ok(rows) => return rows.iter().any(|row| row.members.contains(member)),
            Err(error) => tracing::debug!(%error, "who is present could not be read"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn publish(backplane: &dyn Backplane, rules: &Rules, topic: &Topic, content: Content) {
    publish_as(PublicationId::random(), backplane, rules, topic, content).await;
}

async fn publish_as(
    id: PublicationId,
    backplane: &dyn Backplane,
    rules: &Rules,
    topic: &Topic,
    content: Content,
) {
    let outgoing = Outgoing { id, content, except: None };
    let history = rules(topic).history;
    loop {
        match backplane.publish(topic, outgoing.clone(), history).await {
            Err(error) if error.is_temporary() => tokio::time::sleep(RETRY).await,
            Err(error) => return tracing::warn!(%topic, %error, "a join or leave could not be published"),
            Ok(_) => return,
        }
    }
}
