//! What every backplane must do, as one suite: each check takes an [`Engine`] and panics if it does otherwise.
//! Checks use topics of their own, so that they can share an engine.
//!
//! ```
//! # mod tests {
//! use wireline_hub::{Memory, backplane_conformance};
//!
//! // A test for each check, each with an engine of its own.
//! backplane_conformance!(async { Memory::new() });
//! # }
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! # wireline_hub::testing::conformance::one_id_is_published_once(wireline_hub::Memory::new()).await;
//! # }
//! ```
#![allow(
    clippy::missing_panics_doc,
    reason = "a check panics if the backplane does otherwise: that is what it is for"
)]

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::timeout;
use wireline::Message;

use super::Engine;
use crate::{
    Backplane, ConnectionId, Content, Event, Events, History, Member, NodeRow, Outgoing, Position,
    PresenceRow, Publication, PublicationId, Topic, backplane::EventReceiver, entropy,
};

/// How long a delivery may take.
const DELIVERY: Duration = Duration::from_secs(10);

/// After what time nothing will come any more.
const SILENCE: Duration = Duration::from_millis(300);

/// Makes a test of each check, with the engine that the future makes. Time is tokio's virtual one; an engine that is a
/// process of its own needs `in_real_time:` before it.
#[macro_export]
macro_rules! backplane_conformance {
    (in_real_time: $engine:expr) => {
        $crate::backplane_conformance!(@all (flavor = "current_thread") $engine);
    };
    ($engine:expr) => {
        $crate::backplane_conformance!(@all (start_paused = true) $engine);
    };
    (@all $time:tt $engine:expr) => {
        $crate::backplane_conformance!(@each $time $engine =>
            what_is_published_is_delivered_as_it_was,
            each_names_its_predecessor_on_every_node,
            nodes_that_publish_at_once_hear_one_order,
            one_id_is_published_once,
            one_id_from_two_nodes_at_once_is_published_once,
            what_follows_a_position_is_read_page_by_page,
            a_position_that_is_not_of_this_topic_proves_nothing,
            the_position_of_an_empty_topic_can_be_resumed,
            history_has_a_number,
            history_has_a_size,
            history_has_an_age,
            without_history_only_the_end_is_proven,
            what_is_read_after_subscribing_and_what_is_delivered_leave_no_gap,
            who_unsubscribed_hears_no_more,
            topics_are_told_apart_whatever_their_names,
            rows_of_presence_are_kept_for_their_lease,
            rows_of_a_lease_that_has_ended_do_not_come_back_with_the_next,
            an_engine_that_comes_up_empty_proves_nothing_of_before,
        );
    };
    (@each $time:tt $engine:expr => $($check:ident,)+) => {
        $($crate::backplane_conformance!(@test $time $engine => $check);)+
    };
    (@test ($($time:tt)+) $engine:expr => $check:ident) => {
        #[::tokio::test($($time)+)]
        async fn $check() {
            $crate::testing::conformance::$check($engine.await).await;
        }
    };
}

/// A node, and what it hears.
struct Node {
    backplane: Arc<dyn Backplane>,
    events: EventReceiver,
}

impl Node {
    async fn new(engine: &impl Engine) -> Self {
        let (events, receiver) = Events::channel(100_000);
        Self { backplane: engine.node(events).await, events: receiver }
    }

    async fn subscribe(&self, topic: &Topic) {
        self.backplane.subscribe(topic).await.expect("the engine is there");
    }

    async fn publish(&self, topic: &Topic, text: &str, history: History) -> Position {
        self.publish_as(topic, PublicationId::random(), text, history).await
    }

    async fn publish_as(&self, topic: &Topic, id: PublicationId, text: &str, history: History) -> Position {
        let outgoing = Outgoing { id, content: Content::Message(text.into()), except: None };
        self.backplane.publish(topic, outgoing, history).await.expect("the engine is there")
    }

    async fn publish_many(&self, topic: &Topic, count: usize, history: History) -> Vec<Position> {
        let mut positions = Vec::new();
        for number in 0..count {
            positions.push(self.publish(topic, &number.to_string(), history).await);
        }
        positions
    }

    /// The next publication of the topic.
    async fn hear(&mut self, topic: &Topic) -> Publication {
        loop {
            let event = timeout(DELIVERY, self.events.recv()).await.expect("it is delivered in time");
            if let Some(Event::Published(publication)) = event
                && publication.topic == *topic
            {
                return publication;
            }
        }
    }

    /// All that comes of the topic until it is silent.
    async fn hear_all(&mut self, topic: &Topic) -> Vec<Publication> {
        let mut heard = Vec::new();
        while let Ok(Some(event)) = timeout(SILENCE, self.events.recv()).await {
            if let Event::Published(publication) = event
                && publication.topic == *topic
            {
                heard.push(publication);
            }
        }
        heard
    }

    async fn read(
        &self,
        topic: &Topic,
        after: Option<Position>,
        max: usize,
    ) -> (bool, Position, Vec<String>) {
        let page = self.backplane.read(topic, after, max).await.expect("the engine is there");
        assert_chain(&page.items);
        (page.proven, page.top, page.items.iter().map(text).collect())
    }
}

/// A topic that no other check has.
fn topic(name: &str) -> Topic {
    Topic::new(format!("{name}:{:x}", entropy::mark())).expect("it is a name")
}

fn text(publication: &Publication) -> String {
    match &publication.content {
        Content::Message(message) => message.to_string(),
        other => panic!("{other:?} is no message"),
    }
}

fn texts(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn assert_chain(publications: &[Publication]) {
    for pair in publications.windows(2) {
        assert!(pair[1].previous.may_be(pair[0].position), "{pair:?}");
        assert!(pair[1].position.offset > pair[0].position.offset, "{pair:?}");
    }
}

/// Text and bytes, of any length, joins and leaves, and who is left out.
pub async fn what_is_published_is_delivered_as_it_was(engine: impl Engine) {
    let (mut one, other, topic) = (Node::new(&engine).await, Node::new(&engine).await, topic("as-it-was"));
    one.subscribe(&topic).await;
    let contents = [
        Content::Message("κόσμε\n".into()),
        Content::Message("".into()),
        Content::Message(Message::from(vec![0, 0xff, b'\n'])),
        Content::Message(Message::from(vec![7; 256 << 10])),
        Content::Join(Member::new("ann \"κ\"")),
        Content::Leave(Member::new("ann \"κ\"")),
    ];
    for content in contents {
        for except in [None, Some(ConnectionId(u128::MAX - 7))] {
            let outgoing = Outgoing { id: PublicationId::random(), content: content.clone(), except };
            let published = other.backplane.publish(&topic, outgoing, History::default()).await;
            let position = published.expect("the engine is there");
            let heard = one.hear(&topic).await;
            assert_eq!((heard.position, &heard.content, heard.except), (position, &content, except));
            let page = other.backplane.read(&topic, None, 1).await.expect("the engine is there");
            // Reading may tell more of the predecessor than a delivery does.
            let known = page.items.iter().map(|item| item.previous).next().expect("it is kept");
            assert_eq!(known.offset, heard.previous.offset);
            assert!(heard.previous.mark.is_none_or(|mark| known.mark == Some(mark)));
            let kept = Publication { previous: known, ..heard };
            assert_eq!(page.items, [kept], "it is kept as it was delivered");
        }
    }
}

/// From the first publication on, and the publisher's own node included.
pub async fn each_names_its_predecessor_on_every_node(engine: impl Engine) {
    let (mut one, mut other, topic) = (Node::new(&engine).await, Node::new(&engine).await, topic("chain"));
    one.subscribe(&topic).await;
    other.subscribe(&topic).await;
    let (_, start, _) = one.read(&topic, None, 0).await;
    let positions = one.publish_many(&topic, 50, History::default()).await;
    for node in [&mut one, &mut other] {
        let heard = node.hear_all(&topic).await;
        assert_chain(&heard);
        assert!(heard[0].previous.may_be(start), "{:?} follows {start}", heard[0]);
        assert_eq!(heard.iter().map(|heard| heard.position).collect::<Vec<_>>(), positions);
    }
}

/// All nodes the same, and each publisher's in the order that it published them.
pub async fn nodes_that_publish_at_once_hear_one_order(engine: impl Engine) {
    const PUBLISHERS: usize = 4;
    const EACH: usize = 100;
    let topic = topic("order");
    let mut nodes = Vec::new();
    for _ in 0..PUBLISHERS {
        let node = Node::new(&engine).await;
        node.subscribe(&topic).await;
        nodes.push(node);
    }
    let mut publishing = Vec::new();
    for (publisher, node) in nodes.iter().enumerate() {
        let (backplane, topic) = (Arc::clone(&node.backplane), topic.clone());
        publishing.push(tokio::spawn(async move {
            for number in 0..EACH {
                let content = Content::Message(format!("{publisher} {number}").into());
                let outgoing = Outgoing { id: PublicationId::random(), content, except: None };
                backplane.publish(&topic, outgoing, History::default()).await.expect("the engine is there");
                tokio::task::yield_now().await;
            }
        }));
    }
    for publishing in publishing {
        publishing.await.expect("it publishes");
    }
    let mut orders = Vec::new();
    for node in &mut nodes {
        let mut heard = node.hear_all(&topic).await;
        // Deliveries may be late; what order they are of does not change.
        heard.sort_by_key(|heard| heard.position.offset);
        assert_chain(&heard);
        orders.push(heard.iter().map(|heard| (heard.position, text(heard))).collect::<Vec<_>>());
    }
    assert!(orders.iter().all(|order| *order == orders[0]), "nodes hear different orders");
    assert_eq!(orders[0].len(), PUBLISHERS * EACH);
    for publisher in 0..PUBLISHERS {
        let own = orders[0].iter().filter_map(|(_, text)| text.strip_prefix(&format!("{publisher} ")));
        assert_eq!(own.map(str::to_owned).collect::<Vec<_>>(), texts(0..EACH));
    }
}

/// A second attempt is answered with the first one's position.
pub async fn one_id_is_published_once(engine: impl Engine) {
    let (mut one, other, topic) = (Node::new(&engine).await, Node::new(&engine).await, topic("once"));
    one.subscribe(&topic).await;
    let id = PublicationId::new("order 7");
    let first = one.publish_as(&topic, id.clone(), "1", History::default()).await;
    one.publish(&topic, "2", History::default()).await;
    assert_eq!(other.publish_as(&topic, id.clone(), "1", History::default()).await, first);
    let elsewhere = self::topic("once");
    let there = other.publish_as(&elsewhere, id, "there", History::default()).await;
    assert_eq!(
        other.read(&elsewhere, None, 10).await,
        (false, there, vec!["there".into()]),
        "another topic's"
    );
    assert_eq!(one.hear_all(&topic).await.iter().map(text).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(one.read(&topic, None, 10).await.2, ["1", "2"]);
}

/// The same, with nodes that race.
pub async fn one_id_from_two_nodes_at_once_is_published_once(engine: impl Engine) {
    let (mut one, other, topic) = (Node::new(&engine).await, Node::new(&engine).await, topic("race"));
    one.subscribe(&topic).await;
    for round in 0..50 {
        let id = PublicationId::new(format!("round {round}"));
        let text = round.to_string();
        let (first, second) = tokio::join!(
            one.publish_as(&topic, id.clone(), &text, History::default()),
            other.publish_as(&topic, id.clone(), &text, History::default())
        );
        assert_eq!(first, second);
    }
    assert_eq!(one.hear_all(&topic).await.iter().map(text).collect::<Vec<_>>(), texts(0..50));
}

/// The first ones behind it, as many as are wanted; nothing behind the last; the newest without a position.
pub async fn what_follows_a_position_is_read_page_by_page(engine: impl Engine) {
    let (node, topic) = (Node::new(&engine).await, topic("pages"));
    let positions = node.publish_many(&topic, 10, History::messages(100)).await;
    let top = positions[9];
    assert_eq!(node.read(&topic, Some(positions[3]), 4).await, (true, top, texts(4..8)));
    assert_eq!(node.read(&topic, Some(positions[7]), 4).await, (true, top, texts(8..10)));
    assert_eq!(node.read(&topic, Some(top), 4).await, (true, top, vec![]));
    assert_eq!(node.read(&topic, None, 4).await, (false, top, texts(6..10)));
    assert_eq!(node.read(&topic, None, 0).await, (false, top, vec![]));
}

/// Forged marks, offsets that do not exist yet, and positions of other topics.
pub async fn a_position_that_is_not_of_this_topic_proves_nothing(engine: impl Engine) {
    let (node, topic, other) = (Node::new(&engine).await, topic("forged"), topic("forged"));
    let positions = node.publish_many(&topic, 5, History::messages(100)).await;
    let elsewhere = node.publish_many(&other, 5, History::messages(100)).await;
    for position in &positions {
        let forged = Position { mark: position.mark ^ 1, ..*position };
        assert!(!node.read(&topic, Some(forged), 10).await.0, "{forged} is forged");
    }
    let future = Position { offset: positions[4].offset + 1000, mark: positions[4].mark };
    assert!(!node.read(&topic, Some(future), 10).await.0, "{future} was never there");
    for position in elsewhere {
        assert!(!node.read(&topic, Some(position), 10).await.0, "{position} is another topic's");
    }
}

/// Who came before the first publication misses none of them.
pub async fn the_position_of_an_empty_topic_can_be_resumed(engine: impl Engine) {
    let (node, topic) = (Node::new(&engine).await, topic("empty"));
    let (_, start, _) = node.read(&topic, None, 10).await;
    assert_eq!(node.read(&topic, Some(start), 10).await, (true, start, vec![]));
    let positions = node.publish_many(&topic, 3, History::messages(100)).await;
    assert_eq!(node.read(&topic, Some(start), 10).await, (true, positions[2], texts(0..3)));
}

/// The oldest goes, and with it what can be proven.
pub async fn history_has_a_number(engine: impl Engine) {
    let (node, topic, history) = (Node::new(&engine).await, topic("number"), History::messages(5));
    let positions = node.publish_many(&topic, 10, history).await;
    assert_eq!(node.read(&topic, None, 100).await, (false, positions[9], texts(5..10)));
    assert!(node.read(&topic, Some(positions[5]), 100).await.0);
    assert_eq!(node.read(&topic, Some(positions[3]), 100).await, (false, positions[9], texts(5..10)));
}

/// In bytes of payload.
pub async fn history_has_a_size(engine: impl Engine) {
    let (node, topic) = (Node::new(&engine).await, topic("size"));
    let history = History::messages(100).bytes(1000);
    for _ in 0..20 {
        node.publish(&topic, &"x".repeat(100), history).await;
    }
    let (_, _, kept) = node.read(&topic, None, 100).await;
    assert!((1..=10).contains(&kept.len()), "{} are kept", kept.len());
}

/// What is older is gone, and the topic stands where it stood.
pub async fn history_has_an_age(engine: impl Engine) {
    let (node, topic) = (Node::new(&engine).await, topic("age"));
    let history = History::messages(100).age(Duration::from_secs(1));
    let positions = node.publish_many(&topic, 3, history).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(node.read(&topic, None, 100).await, (false, positions[2], vec![]));
    assert!(node.read(&topic, Some(positions[2]), 100).await.0, "nothing follows the end");
    assert!(!node.read(&topic, Some(positions[0]), 100).await.0, "what followed is gone");
}

/// It is delivered all the same.
pub async fn without_history_only_the_end_is_proven(engine: impl Engine) {
    let (mut node, topic) = (Node::new(&engine).await, topic("none"));
    node.subscribe(&topic).await;
    let positions = node.publish_many(&topic, 3, History::NONE).await;
    assert_eq!(node.hear_all(&topic).await.iter().map(text).collect::<Vec<_>>(), texts(0..3));
    assert!(node.read(&topic, Some(positions[2]), 100).await.0);
    assert!(!node.read(&topic, Some(positions[0]), 100).await.0);
}

/// However the subscription and the publisher race.
pub async fn what_is_read_after_subscribing_and_what_is_delivered_leave_no_gap(engine: impl Engine) {
    const ROUNDS: usize = 50;
    let publisher = Node::new(&engine).await;
    let topic = topic("barrier");
    let publishing = {
        let topic = topic.clone();
        tokio::spawn(async move {
            for number in 0..ROUNDS * 20 {
                publisher.publish(&topic, &number.to_string(), History::messages(10_000)).await;
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
        })
    };
    for round in 0..ROUNDS {
        let mut node = Node::new(&engine).await;
        node.subscribe(&topic).await;
        let (_, top, read) = node.read(&topic, None, 10_000).await;
        let next = if publishing.is_finished() { None } else { Some(node.hear(&topic).await) };
        let Some(mut next) = next else { break };
        while next.position.offset <= top.offset {
            // It was read, too.
            if publishing.is_finished() {
                break;
            }
            next = node.hear(&topic).await;
        }
        if next.position.offset > top.offset {
            assert!(next.previous.may_be(top), "round {round}: {next:?} does not follow {top}");
            assert_eq!(text(&next), read.len().to_string(), "round {round}");
        }
    }
    publishing.await.expect("it publishes");
}

/// Nor does its node get any work for it.
pub async fn who_unsubscribed_hears_no_more(engine: impl Engine) {
    let (mut node, topic, other) = (Node::new(&engine).await, topic("gone"), topic("gone"));
    node.subscribe(&topic).await;
    node.subscribe(&other).await;
    node.publish(&topic, "1", History::default()).await;
    assert_eq!(text(&node.hear(&topic).await), "1");
    node.backplane.unsubscribe(&topic).await.expect("the engine is there");
    node.publish(&topic, "2", History::default()).await;
    node.publish(&other, "3", History::default()).await;
    let mut heard = Vec::new();
    while let Ok(Some(Event::Published(publication))) = timeout(SILENCE, node.events.recv()).await {
        heard.push(text(&publication));
    }
    assert_eq!(heard, ["3"]);
    node.subscribe(&topic).await;
    node.publish(&topic, "4", History::default()).await;
    assert_eq!(text(&node.hear(&topic).await), "4");
}

/// Those that mean something to an engine, too.
pub async fn topics_are_told_apart_whatever_their_names(engine: impl Engine) {
    const NAMES: [&str; 14] =
        ["a", "A", "a.b", "a.*", "a.>", ">", "*", "a b", "a/b", "κ", "a%2Eb", "{a}", "a:b", "a\"'\\"];
    let mut node = Node::new(&engine).await;
    let salt = entropy::mark();
    let topics = NAMES.map(|name| Topic::new(format!("{name}{salt:x}")).expect("it is a name"));
    for topic in &topics {
        node.subscribe(topic).await;
    }
    for topic in &topics {
        node.publish(topic, topic, History::default()).await;
    }
    let mut heard = HashSet::new();
    for _ in &topics {
        let event = timeout(DELIVERY, node.events.recv()).await.expect("it is delivered in time");
        let Some(Event::Published(publication)) = event else { panic!("{event:?}") };
        assert_eq!(text(&publication), *publication.topic);
        assert!(heard.insert(publication.topic.clone()), "{} was delivered twice", publication.topic);
    }
    for topic in &topics {
        assert_eq!(node.read(topic, None, 10).await.2, [&**topic]);
    }
}

/// Until it ends, or the row is empty; a renewal keeps all of a node's rows.
pub async fn rows_of_presence_are_kept_for_their_lease(engine: impl Engine) {
    let (one, other) = (Node::new(&engine).await, Node::new(&engine).await);
    let (topic, second) = (topic("presence"), topic("presence"));
    let row = |topic: &Topic, members: &[&str]| PresenceRow {
        topic: topic.clone(),
        members: members.iter().map(|member| Member::new(*member)).collect(),
    };
    let lease = Duration::from_secs(2);
    let set = async |node: &Node, rows: &[PresenceRow]| {
        node.backplane.lease(rows, lease).await.expect("the engine is there")
    };
    set(&one, &[row(&topic, &["ann", "bob"]), row(&second, &["ann"])]).await;
    set(&other, &[row(&topic, &["bob", "eve"])]).await;
    let rows = members(&one, &topic).await;
    assert_eq!(rows.len(), 2);
    assert_ne!(rows[0].node, rows[1].node);
    assert_eq!(names(&rows), ["ann", "bob", "bob", "eve"]);

    set(&other, &[row(&topic, &[])]).await;
    assert_eq!(names(&members(&one, &topic).await), ["ann", "bob"], "an empty row is none");

    set(&other, &[row(&topic, &["eve"])]).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(set(&one, &[]).await, "the rows are there");
    }
    assert_eq!(names(&members(&other, &topic).await), ["ann", "bob"], "only one lease was renewed");
    assert_eq!(names(&members(&other, &second).await), ["ann"]);
    assert!(!set(&other, &[row(&topic, &["eve"])]).await, "the lease had ended");
    assert_eq!(names(&members(&one, &topic).await), ["ann", "bob", "eve"], "who comes back is there again");
}

/// Somebody has said meanwhile that those members are gone.
pub async fn rows_of_a_lease_that_has_ended_do_not_come_back_with_the_next(engine: impl Engine) {
    let (node, topic, other) = (Node::new(&engine).await, topic("ended"), topic("ended"));
    let lease = Duration::from_secs(1);
    let ann = |topic: &Topic| [PresenceRow { topic: topic.clone(), members: vec![Member::new("ann")] }];
    node.backplane.lease(&ann(&topic), lease).await.expect("the engine is there");
    tokio::time::sleep(lease * 2).await;
    node.backplane.lease(&ann(&other), lease).await.expect("the engine is there");
    assert_eq!(names(&members(&node, &other).await), ["ann"]);
    assert_eq!(members(&node, &topic).await, []);
}

async fn members(node: &Node, topic: &Topic) -> Vec<NodeRow> {
    node.backplane.presence(topic).await.expect("the engine is there")
}

fn names(rows: &[NodeRow]) -> Vec<&str> {
    let mut names: Vec<&str> = rows.iter().flat_map(|row| row.members.iter().map(Member::name)).collect();
    names.sort_unstable();
    names
}

/// Nor does it answer a new publication with an old position.
pub async fn an_engine_that_comes_up_empty_proves_nothing_of_before(engine: impl Engine) {
    let (node, topic, empty) = (Node::new(&engine).await, topic("forgotten"), topic("forgotten"));
    let history = History::messages(100);
    let mut before = node.publish_many(&topic, 5, history).await;
    before.push(node.read(&empty, None, 0).await.1);
    if !engine.forget().await {
        return;
    }
    for published in [0, 10] {
        let after = node.publish_many(&topic, published, history).await;
        for position in &before {
            for topic in [&topic, &empty] {
                let (proven, ..) = node.read(topic, Some(*position), 100).await;
                assert!(!proven, "{position} is from before");
            }
            assert!(!after.contains(position));
        }
    }
}
