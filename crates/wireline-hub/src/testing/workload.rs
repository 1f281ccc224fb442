//! Publishers and subscribers of several nodes, and a checker of all that they heard.
//!
//! Publishers write `publisher number`; subscribers are clients of `hub.v1` that come back, at another node, where
//! they were. Whatever happens meanwhile, [`Outcome::check`] then holds:
//!
//! - Between two resets a subscriber has heard an unbroken run of the topic's one order, nothing twice.
//! - What was acknowledged to a publisher is there; what was not is there once at most.
//! - What a publisher published one after the other stands in that order.
//! - Who is still there has heard everything to the end.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use wireline::{Request, Server, WebSocket, testing::Network};

use crate::{Hub, Position, Topic};

/// After what time in which nobody hears anything nothing more will come, since all have what was acknowledged.
const SILENCE: Duration = Duration::from_secs(1);

/// How much is published, and to whom.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Topics, each with all the publishers and subscribers.
    pub topics: usize,
    /// Publishers of each topic, each at one node.
    pub publishers: usize,
    /// What each of them publishes to each topic.
    pub messages: usize,
    /// Between two publications of a publisher.
    pub pause: Duration,
    /// Subscribers of each topic.
    pub subscribers: usize,
    /// How long all may take at most, when everything works again, until everybody has everything.
    pub patience: Duration,
}

/// What is done to the clients and by them while they publish and hear.
#[derive(Debug)]
pub struct Clients {
    networks: Mutex<Vec<Network>>,
    hubs: Mutex<Vec<Option<Hub>>>,
    connections: AtomicUsize,
    /// Up to where each subscriber has heard its topic.
    cursors: Mutex<Vec<Option<Position>>>,
}

impl Clients {
    /// The network of the `index`th subscriber's present connection, or of another one if there are fewer.
    #[must_use]
    pub fn network(&self, index: usize) -> Option<Network> {
        let networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        networks.get(index.checked_rem(networks.len())?).cloned()
    }

    /// Connections that subscribers have opened so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Has a node replaced by another, or by none: its clients' connections are lost.
    pub fn replace(&self, node: usize, hub: Option<Hub>) {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner)[node] = hub;
    }

    /// Returns when all have heard what was acknowledged, and nothing comes any more.
    async fn until_whole(
        &self,
        topics: &[Topic],
        workload: &Workload,
        acknowledged: &HashMap<Topic, Vec<(Position, String)>>,
    ) {
        let top = |topic: &Topic| {
            let acknowledged = acknowledged.get(topic).into_iter().flatten();
            acknowledged.map(|(position, _)| position.offset).max()
        };
        let subscribers =
            topics.iter().flat_map(|topic| std::iter::repeat_n(top(topic), workload.subscribers));
        let tops: Vec<Option<u64>> = subscribers.collect();
        let mut before = vec![];
        loop {
            let cursors = self.cursors().clone();
            let offsets = cursors.iter().map(|cursor| cursor.map(|cursor| cursor.offset));
            if offsets.zip(&tops).all(|(offset, top)| offset >= *top) && cursors == before {
                return;
            }
            before = cursors;
            tokio::time::sleep(SILENCE).await;
        }
    }

    fn cursors(&self) -> MutexGuard<'_, Vec<Option<Position>>> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hub(&self, attempt: usize) -> Option<Hub> {
        let hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        hubs[attempt % hubs.len()].clone()
    }
}

/// One thing that a subscriber was told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    /// What it misses is not known: a first subscription, or a reset.
    Reset(Position),
    Published(Position, String),
}

/// All that happened.
#[derive(Debug)]
pub struct Outcome {
    /// What each subscriber was told, by topic.
    heard: Vec<(Topic, Vec<Heard>)>,
    /// Publications that were acknowledged, by topic.
    acknowledged: HashMap<Topic, Vec<(Position, String)>>,
    /// Publications that were not.
    pub unacknowledged: usize,
    /// Connections that subscribers opened.
    pub connections: usize,
}

/// What a checked outcome amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Publications, each counted once.
    pub published: usize,
    /// What all subscribers heard of them.
    pub heard: usize,
    /// Times that a subscriber was told that it may have missed something. Beginnings are none.
    pub resets: usize,
}

/// Runs a workload at `hubs`, with `trouble` meanwhile. The trouble has to be over when it returns; the
/// publishers may still publish then.
///
/// # Panics
/// When the subscribers do not have everything in time, or a client's own rules are broken.
pub async fn run<T, F>(hubs: Vec<Hub>, workload: &Workload, trouble: T) -> Outcome
where
    T: FnOnce(Arc<Clients>) -> F,
    F: Future<Output = ()>,
{
    let clients = Arc::new(Clients {
        networks: Mutex::default(),
        hubs: Mutex::new(hubs.into_iter().map(Some).collect()),
        connections: AtomicUsize::new(0),
        cursors: Mutex::new(vec![None; workload.topics * workload.subscribers]),
    });
    let topics: Vec<Topic> =
        (0..workload.topics).filter_map(|topic| Topic::new(format!("t{topic}")).ok()).collect();
    let (stop, stopped) = watch::channel(false);
    let mut subscribers = JoinSet::new();
    for topic in &topics {
        for _ in 0..workload.subscribers {
            let index = subscribers.len();
            subscribers.spawn(subscribe(Arc::clone(&clients), index, topic.clone(), stopped.clone()));
        }
    }
    let mut publishers = JoinSet::new();
    for topic in &topics {
        for publisher in 0..workload.publishers {
            publishers.spawn(publish(Arc::clone(&clients), topic.clone(), publisher, workload.clone()));
        }
    }
    trouble(Arc::clone(&clients)).await;
    let mut acknowledged: HashMap<Topic, Vec<(Position, String)>> = HashMap::new();
    let mut unacknowledged = 0;
    for (topic, published, failed) in publishers.join_all().await {
        acknowledged.entry(topic).or_default().extend(published);
        unacknowledged += failed;
    }
    let _ = timeout(workload.patience, clients.until_whole(&topics, workload, &acknowledged)).await;
    stop.send_replace(true);
    let heard = subscribers.join_all().await;
    Outcome { heard, acknowledged, unacknowledged, connections: clients.connections.load(Ordering::Relaxed) }
}

/// Publishes, at another node if one does not take it: what was acknowledged, and how many were not.
async fn publish(
    clients: Arc<Clients>,
    topic: Topic,
    publisher: usize,
    workload: Workload,
) -> (Topic, Vec<(Position, String)>, usize) {
    let mut acknowledged = Vec::new();
    let mut failed = 0;
    for number in 0..workload.messages {
        let text = format!("{publisher} {number}");
        let published = match clients.hub(publisher) {
            Some(hub) => hub.publish(&topic, text.as_str()).key(&text).await.ok(),
            None => None,
        };
        match published {
            Some(position) => acknowledged.push((position, text)),
            None => failed += 1,
        }
        tokio::time::sleep(workload.pause).await;
    }
    (topic, acknowledged, failed)
}

/// Hears a topic until it is told to stop, over one connection after the other.
async fn subscribe(
    clients: Arc<Clients>,
    index: usize,
    topic: Topic,
    mut stopped: watch::Receiver<bool>,
) -> (Topic, Vec<Heard>) {
    let mut heard = Vec::new();
    let mut cursor = None;
    let mut attempt = index;
    while !*stopped.borrow() {
        if let Some(hub) = clients.hub(attempt) {
            tokio::select! {
                // A connection that fails is one that is followed by another.
                _ = follow(&clients, index, &hub, &topic, &mut cursor, &mut heard) => {}
                _ = stopped.changed() => {}
            }
        }
        attempt += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (topic, heard)
}

/// Hears a topic until the connection is lost.
async fn follow(
    clients: &Clients,
    index: usize,
    hub: &Hub,
    topic: &Topic,
    cursor: &mut Option<Position>,
    heard: &mut Vec<Heard>,
) -> Option<()> {
    let network = Network::new();
    {
        let mut networks = clients.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = (index + 1).saturating_sub(networks.len());
        networks.extend(std::iter::repeat_with(Network::new).take(missing));
        networks[index] = network.clone();
    }
    clients.connections.fetch_add(1, Ordering::Relaxed);
    let server = {
        let hub = hub.clone();
        Server::new().on_request(move |request: Request| hub.clone().serve(request))
    };
    let mut ws = network.connect(&server, "ws://hub.example/").protocols(["hub.v1"]).await.ok()?;
    ws.send(r#"{"op":"auth","id":1}"#).await.ok()?;
    let since = cursor.map(|cursor| cursor.to_string());
    let subscribe = serde_json::json!({"op": "sub", "id": 2, "t": **topic, "since": since});
    ws.send(subscribe.to_string()).await.ok()?;
    loop {
        let (header, payload) = hear(&mut ws).await?;
        let position = |name: &str| header.get(name)?.as_str()?.parse::<Position>().ok();
        if header["t"] == "$all" || header["re"] == 1 {
            continue;
        }
        let told = match (header.get("re"), position("p"), position("pos")) {
            (_, Some(position), _) => Heard::Published(position, payload),
            (Some(_), _, Some(position)) if header["recovered"] == true => {
                assert_eq!(Some(position), *cursor, "recovered from elsewhere");
                continue;
            }
            (_, _, Some(position)) => Heard::Reset(position),
            // Refused: another try, at another node.
            _ => return None,
        };
        *cursor = Some(match &told {
            Heard::Published(position, _) | Heard::Reset(position) => *position,
        });
        clients.cursors()[index] = *cursor;
        heard.push(told);
    }
}

async fn hear(ws: &mut WebSocket) -> Option<(Value, String)> {
    loop {
        let message = ws.recv().await.ok()??.to_string();
        if !message.is_empty() {
            let (header, payload) = message.split_once('\n').unwrap_or((&message, ""));
            return Some((serde_json::from_str(header).ok()?, payload.to_owned()));
        }
    }
}

impl Outcome {
    /// Checks it by the rules above.
    ///
    /// # Panics
    /// When one of them is broken; the message tells which.
    #[must_use]
    pub fn check(&self) -> Summary {
        let mut summary = Summary::default();
        for (topic, acknowledged) in &self.acknowledged {
            let heard: Vec<&Vec<Heard>> =
                self.heard.iter().filter(|(heard, _)| heard == topic).map(|(_, heard)| heard).collect();
            let order = order(topic, acknowledged, &heard);
            summary.published += order.len();
            for heard in heard {
                let (count, resets) = check_run(topic, &order, heard);
                summary.heard += count;
                summary.resets += resets;
            }
        }
        summary
    }
}

/// The topic's one order, by offset: what anybody heard and what was acknowledged.
fn order(
    topic: &Topic,
    acknowledged: &[(Position, String)],
    heard: &[&Vec<Heard>],
) -> BTreeMap<u64, (Position, String)> {
    let heard = heard.iter().flat_map(|heard| heard.iter()).filter_map(|heard| match heard {
        Heard::Published(position, text) => Some((*position, text.clone())),
        Heard::Reset(_) => None,
    });
    let mut order = BTreeMap::new();
    for (position, text) in acknowledged.iter().cloned().chain(heard) {
        let known = order.entry(position.offset).or_insert_with(|| (position, text.clone()));
        assert_eq!(*known, (position, text), "{topic}: two publications at one place");
    }
    let mut texts = HashSet::new();
    let mut last: HashMap<String, usize> = HashMap::new();
    for (position, text) in order.values() {
        assert!(texts.insert(text), "{topic}: {text:?} was published twice, {position} the second time");
        let (publisher, number) =
            text.split_once(' ').unwrap_or_else(|| panic!("{topic}: {text:?} is nobody's"));
        let number: usize = number.parse().unwrap_or_else(|_| panic!("{topic}: {text:?} is nobody's"));
        if let Some(before) = last.insert(publisher.to_owned(), number) {
            assert!(before < number, "{topic}: {text:?} comes after number {before}");
        }
    }
    order
}

/// What one subscriber heard, and how often it was told that it may have missed something.
fn check_run(topic: &Topic, order: &BTreeMap<u64, (Position, String)>, heard: &[Heard]) -> (usize, usize) {
    let mut cursor = None;
    let mut count = 0;
    let mut resets = 0;
    for heard in heard {
        match heard {
            Heard::Reset(position) => {
                resets += usize::from(cursor.is_some());
                cursor = Some(*position);
            }
            Heard::Published(position, text) => {
                let behind = cursor.unwrap_or_else(|| panic!("{topic}: {text:?} without a subscription"));
                let next = order.range(behind.offset + 1..).next().map(|(_, (position, _))| *position);
                assert_eq!(Some(*position), next, "{topic}: {text:?} does not follow {behind}");
                cursor = Some(*position);
                count += 1;
            }
        }
    }
    let top = order.values().next_back().map(|(position, _)| *position);
    if let (Some(cursor), Some(top)) = (cursor, top) {
        assert!(
            cursor.offset >= top.offset,
            "{topic}: a subscriber has everything to {cursor} and not to {top}"
        );
    } else {
        assert!(cursor.is_some(), "{topic}: a subscriber never was one");
    }
    (count, resets)
}
