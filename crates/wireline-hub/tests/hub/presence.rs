//! Who is here.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use wireline_hub::{
    Backplane, BackplaneError, Content, History, Hub, HubBuilder, Member, Memory, NodeRow, Outgoing, Page,
    Position, PresenceRow, Topic, TopicRules, backplane::BackplaneFuture,
};

use crate::client::{Client, topic};

fn builder() -> HubBuilder {
    Hub::builder()
        .topics(|topic| TopicRules { presence: !topic.starts_with('$'), ..TopicRules::default() })
        .on_connect(|connect| async move { Ok(connect.token.map(Member::new)) })
}

fn hub() -> Hub {
    builder().start()
}

/// One in which it takes a while to publish who comes and goes, and which may take no rows.
#[derive(Debug)]
struct Slow<B> {
    inner: B,
    is_full: bool,
    renewals: Arc<AtomicUsize>,
}

impl<B: Backplane> Backplane for Slow<B> {
    fn publish<'b>(
        &'b self,
        topic: &'b Topic,
        outgoing: Outgoing,
        history: History,
    ) -> BackplaneFuture<'b, Position> {
        Box::pin(async move {
            if !matches!(outgoing.content, Content::Message(_)) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            self.inner.publish(topic, outgoing, history).await
        })
    }

    fn subscribe<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, ()> {
        self.inner.subscribe(topic)
    }

    fn unsubscribe<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, ()> {
        self.inner.unsubscribe(topic)
    }

    fn read<'b>(
        &'b self,
        topic: &'b Topic,
        after: Option<Position>,
        max: usize,
    ) -> BackplaneFuture<'b, Page> {
        self.inner.read(topic, after, max)
    }

    fn lease<'b>(&'b self, rows: &'b [PresenceRow], ttl: Duration) -> BackplaneFuture<'b, bool> {
        if self.is_full && rows.iter().any(|row| !row.members.is_empty()) {
            return Box::pin(async { Err(BackplaneError::TooLarge { len: 2, limit: 1 }) });
        }
        self.renewals.fetch_add(1, Ordering::SeqCst);
        self.inner.lease(rows, ttl)
    }

    fn presence<'b>(&'b self, topic: &'b Topic) -> BackplaneFuture<'b, Vec<NodeRow>> {
        self.inner.presence(topic)
    }
}

/// A hub over that, and how often its node's lease was renewed.
fn slow(is_full: bool) -> (Hub, Arc<AtomicUsize>) {
    let (memory, renewals) = (Memory::new(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&renewals);
    let hub = builder().shards(1).backplane(move |events| Slow {
        inner: memory.node(events),
        is_full,
        renewals: Arc::clone(&counted),
    });
    (hub.start(), renewals)
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_while_news_take_their_time() {
    let (hub, renewals) = slow(false);
    let mut watcher = Client::connect(&hub).await;
    watcher.subscribe("tea").await;
    // To tell of each takes longer than it is here.
    for round in 0..60 {
        let mut guest = Client::connect_as(&hub, Some(&format!("guest {round}"))).await;
        guest.subscribe("tea").await;
        let before = renewals.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(renewals.load(Ordering::SeqCst) > before, "round {round}");
        drop(guest);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let mut heard = BTreeMap::<String, Vec<String>>::new();
    for _ in 0..120 {
        let said = watcher.hear().await;
        let text = |name: &str| said.header[name].as_str().expect("it is text").to_owned();
        heard.entry(text("who")).or_default().push(text("ev"));
    }
    assert_eq!(heard.len(), 60, "{heard:?}");
    assert!(heard.values().all(|both| both == &["join", "leave"]), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn rows_that_cannot_be_kept_hold_up_nothing_else() {
    let (hub, renewals) = slow(true);
    let mut watcher = Client::connect(&hub).await;
    watcher.subscribe("tea").await;
    let mut ann = Client::connect_as(&hub, Some("ann")).await;
    ann.subscribe("tea").await;
    assert_eq!(watcher.hear().await.header["ev"], "join", "it is told all the same");
    drop(ann);
    assert_eq!(watcher.hear().await.header["ev"], "leave");
    assert!(renewals.load(Ordering::SeqCst) > 0, "when they are small enough again, they are kept");
}

#[tokio::test(start_paused = true)]
async fn joins_and_leaves_are_heard_and_who_is_here_can_be_asked() {
    let hub = hub();
    let mut watcher = Client::connect(&hub).await;
    watcher.subscribe("tea").await;
    let mut ann = Client::connect_as(&hub, Some("ann")).await;
    ann.subscribe("tea").await;
    let joined = watcher.hear().await;
    assert_eq!((&joined.header["ev"], &joined.header["who"]), (&json!("join"), &json!("ann")));
    let who = watcher.ask(&json!({"op": "who", "t": "tea"}), "").await;
    assert_eq!(who.header["who"], json!(["ann"]));
    assert_eq!(hub.presence(&topic()).await, Ok(vec![Member::new("ann")]));
    drop(ann);
    let left = watcher.hear().await;
    assert_eq!((&left.header["ev"], &left.header["who"]), (&json!("leave"), &json!("ann")));
    assert_eq!(hub.presence(&topic()).await, Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn somebody_with_two_connections_is_here_once_and_leaves_with_the_last() {
    let hub = hub();
    let mut watcher = Client::connect(&hub).await;
    watcher.subscribe("tea").await;
    let [mut first, mut second] =
        [Client::connect_as(&hub, Some("ann")).await, Client::connect_as(&hub, Some("ann")).await];
    first.subscribe("tea").await;
    second.subscribe("tea").await;
    assert_eq!(watcher.hear().await.header["ev"], "join");
    drop(first);
    watcher.hears_nothing().await;
    second.request(&json!({"op": "unsub", "t": "tea"}), "").await;
    assert_eq!(watcher.hear().await.header["ev"], "leave");
}

#[tokio::test(start_paused = true)]
async fn where_presence_is_off_nobody_is_told() {
    let hub = Hub::builder().on_connect(|connect| async move { Ok(connect.token.map(Member::new)) }).start();
    let mut watcher = Client::connect(&hub).await;
    watcher.subscribe("tea").await;
    let mut ann = Client::connect_as(&hub, Some("ann")).await;
    ann.subscribe("tea").await;
    watcher.hears_nothing().await;
    assert_eq!(hub.presence(&topic()).await, Ok(vec![]));
}
