//! Tells a backplane and its topics who is here.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet};

use super::Rules;
use crate::{
    Content, Member, NodeId, Outgoing, PublicationId, Topic, backplane::Backplane, node::PresenceUpdate,
};

/// Between attempts to reach an engine that is away.
const RETRY: Duration = Duration::from_millis(500);

/// Publications of joins and leaves that are on their way at a time.
const PUBLISHING: usize = 64;

/// Who came and who left, for those who hear the topics.
#[derive(Debug)]
pub(super) struct News {
    joined: Vec<(Topic, Member)>,
    left: Vec<(Topic, Member)>,
}

/// Has the engine keep a node's rows, however long it takes to reach it. Whether it still had what it was told before,
/// and what is to be said of it then. `has_rows`: it has been told something.
pub(super) async fn keep(
    backplane: &dyn Backplane,
    update: PresenceUpdate,
    has_rows: &AtomicBool,
) -> (bool, News) {
    let PresenceUpdate { rows, lease, joined, mut left } = update;
    let is_kept = loop {
        match backplane.lease(&rows, lease).await {
            Ok(is_kept) => break is_kept,
            Err(error) if error.is_temporary() => {
                tracing::debug!(%error, "who is present could not be told");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => {
                tracing::warn!(%error, "who is present cannot be told");
                has_rows.store(false, Ordering::Relaxed);
                return (true, News { joined, left });
            }
        }
    };
    let had_rows = has_rows.swap(true, Ordering::Relaxed);
    if !is_kept && had_rows {
        // Of all who were here under a lease that has ended those who hear the topics say that they left.
        left.clear();
    }
    (is_kept, News { joined, left })
}

/// Publishes the news as they come: of one member in their order, of others side by side.
pub(super) async fn publish_news(
    backplane: Arc<dyn Backplane>,
    rules: Rules,
    mut news: mpsc::UnboundedReceiver<News>,
) {
    let mut publishing = JoinSet::new();
    let mut on_their_way = HashSet::new();
    while let Some(News { joined, left }) = news.recv().await {
        let joined = joined.into_iter().map(|who| (who, true));
        for (who, is_join) in joined.chain(left.into_iter().map(|who| (who, false))) {
            while on_their_way.len() >= PUBLISHING || on_their_way.contains(&who) {
                let Some(Ok(told)) = publishing.join_next().await else { break };
                on_their_way.remove(&told);
            }
            on_their_way.insert(who.clone());
            let (backplane, rules) = (Arc::clone(&backplane), Arc::clone(&rules));
            publishing.spawn(async move {
                tell(&*backplane, &rules, &who, is_join).await;
                who
            });
        }
    }
}

async fn tell(backplane: &dyn Backplane, rules: &Rules, (topic, member): &(Topic, Member), is_join: bool) {
    let content = if is_join {
        Content::Join(member.clone())
    } else if is_elsewhere(backplane, topic, member).await {
        return;
    } else {
        Content::Leave(member.clone())
    };
    publish_as(PublicationId::random(), backplane, rules, topic, content).await;
}

/// Says for a node that is gone that its member left. Whichever nodes say so, it is published once: a node's
/// name is its alone, and what it left unsaid is said at once by all who hear the topic. What a node leaves unsaid another
/// time it does so under another lease.
pub(super) async fn tell_gone(
    backplane: &dyn Backplane,
    rules: &Rules,
    topic: &Topic,
    member: Member,
    node: NodeId,
    lease: u32,
) {
    let id = PublicationId::new(format!("gone:{node}:{lease:08x}:{}", member.name()));
    publish_as(id, backplane, rules, topic, Content::Leave(member)).await;
}

/// Whether another node has a row with the member. This node has none any more.
async fn is_elsewhere(backplane: &dyn Backplane, topic: &Topic, member: &Member) -> bool {
    loop {
        match backplane.presence(topic).await {
            Ok(rows) => return rows.iter().any(|row| row.members.contains(member)),
            Err(error) if error.is_temporary() => tracing::debug!(%error, "who is present could not be read"),
            Err(error) => {
                tracing::warn!(%topic, %error, "who is present cannot be read");
                return false;
            }
        }
        tokio::time::sleep(RETRY).await;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Events, History, Memory, TopicRules};

    #[tokio::test]
    async fn what_a_node_leaves_unsaid_is_said_once_under_each_of_its_leases() {
        let node = Memory::new().node(Events::channel(16).0);
        let rules: Rules =
            Arc::new(|_| TopicRules { history: History::messages(10), ..TopicRules::default() });
        let topic = Topic::new("tea").expect("it is a name");
        for lease in [1, 1, 2] {
            tell_gone(&node, &rules, &topic, Member::new("ann"), NodeId(7), lease).await;
        }
        let page = node.read(&topic, None, 10).await.expect("it is read");
        assert_eq!(page.items.len(), 2, "two nodes said the first, and she left again under the second");
    }
}
