//! The backplane over NATS, with real servers: it does what every backplane must, and loses nothing that it acknowledged
//! whatever becomes of the broker.

#[path = "broker/nats.rs"]
mod broker;
#[path = "broker/process.rs"]
mod process;
#[expect(dead_code, reason = "it can do more than is needed here")]
#[path = "broker/proxy.rs"]
mod proxy;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use wireline::{Request, Server, WebSocket, testing::Network};
use wireline_hub::{
    Backplane, BackplaneError, Content, Event, Events, History, Hub, Nats, Outgoing, PublicationId, Topic,
    TopicRules, backplane_conformance,
    testing::{
        Engine,
        workload::{Clients, Outcome, Workload, run},
    },
};

use self::{
    broker::{NatsServer, nats_server, nats_server_with},
    proxy::Proxy,
};

/// More than any test publishes to a topic.
const MESSAGES: usize = 10_000;

/// How long it may take until everybody knows that the broker is away, or there.
const NOTICE: Duration = Duration::from_secs(20);

async fn connect(url: &str) -> Nats {
    Nats::connect(url).max_messages(MESSAGES).await.expect("the broker is there")
}

/// A broker, with all that are connected to it.
#[derive(Clone)]
struct Broker {
    server: Arc<NatsServer>,
    connected: Arc<Mutex<Vec<Nats>>>,
}

impl Broker {
    fn new() -> Self {
        Self { server: Arc::new(nats_server()), connected: Arc::default() }
    }

    async fn until_connected(&self, wanted: bool) {
        let connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all = async {
            for nats in connected {
                while nats.is_connected() != wanted {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        };
        tokio::time::timeout(NOTICE, all).await.expect("it is noticed");
    }
}

impl Engine for Broker {
    async fn node(&self, events: Events) -> Arc<dyn Backplane> {
        let nats = connect(&self.server.url()).await;
        self.connected.lock().unwrap_or_else(PoisonError::into_inner).push(nats.clone());
        Arc::new(nats.node(events))
    }

    async fn forget(&self) -> bool {
        self.server.kill();
        self.server.forget();
        self.until_connected(false).await;
        self.server.start();
        self.until_connected(true).await;
        true
    }
}

backplane_conformance!(in_real_time: async { Broker::new() });

fn workload(seconds: usize) -> Workload {
    const PAUSE_MS: usize = 20;
    Workload {
        topics: 3,
        publishers: 3,
        messages: seconds * 1000 / PAUSE_MS,
        pause: Duration::from_millis(PAUSE_MS as u64),
        subscribers: 4,
        patience: Duration::from_secs(30),
    }
}

/// Two hundred subscribers on two nodes, and about a thousand publications a second.
fn crowd(seconds: usize) -> Workload {
    const PAUSE_MS: usize = 36;
    Workload {
        topics: 20,
        publishers: 2,
        messages: seconds * 1000 / PAUSE_MS,
        pause: Duration::from_millis(PAUSE_MS as u64),
        subscribers: 10,
        patience: Duration::from_secs(60),
    }
}

/// How long the broker is away each time, in milliseconds.
const TEN_OUTAGES: [u64; 10] = [0, 100, 200, 300, 500, 50, 400, 0, 250, 150];

/// All that is published is kept: nobody needs a reset but for what the broker loses.
fn keeping_everything() -> History {
    History::messages(MESSAGES).age(Duration::from_secs(3600))
}

fn hub(nats: Nats, history: History) -> Hub {
    Hub::builder()
        .backplane(move |events| nats.node(events))
        .topics(move |_| TopicRules { history, presence: false })
        .shards(2)
        .start()
}

/// Two nodes at these addresses of a broker, while something happens to it.
async fn with_two_nodes<T, F>(urls: [String; 2], workload: Workload, trouble: T) -> Outcome
where
    T: FnOnce(Arc<Clients>) -> F,
    F: Future<Output = ()>,
{
    let mut hubs = Vec::new();
    for url in urls {
        hubs.push(hub(connect(&url).await, keeping_everything()));
    }
    run(hubs, &workload, trouble).await
}

/// Everybody heard all that came after he did, and nobody was told that something may be missing.
fn assert_whole(outcome: &Outcome, least: usize) {
    let summary = outcome.check();
    assert_eq!(summary.resets, 0, "all that was acknowledged is kept");
    assert!(summary.published >= least, "{summary:?}");
}

async fn wait(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

fn topic(name: &str) -> Topic {
    Topic::new(name).expect("it is a name")
}

fn outgoing(text: &str) -> Outgoing {
    Outgoing { id: PublicationId::random(), content: Content::Message(text.into()), except: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_again_and_again_and_comes_back_loses_and_doubles_nothing() {
    let server = Arc::new(nats_server());
    let broker = Arc::clone(&server);
    let outcome = with_two_nodes([server.url(), server.url()], workload(12), |_| async move {
        for outage in [0, 200, 1000, 50, 2000, 400] {
            wait(1000).await;
            broker.kill();
            wait(outage).await;
            broker.start();
        }
        wait(1000).await;
    })
    .await;
    assert!(outcome.unacknowledged > 0, "it was away");
    assert_whole(&outcome, 2000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_slow_or_carries_one_way_only_loses_and_doubles_nothing() {
    let server = nats_server();
    let proxy = Proxy::start(server.port()).await;
    let url = format!("nats://127.0.0.1:{}", proxy.port());
    let outcome = with_two_nodes([url, server.url()], workload(20), |_| async move {
        // Slow, and then slower than what is said to oneself may take.
        for (latency, time) in [(200, 2500), (6000, 8000)] {
            proxy.delay(Duration::from_millis(latency));
            wait(time).await;
        }
        proxy.delay(Duration::ZERO);
        wait(500).await;
        proxy.silence_answers();
        wait(6000).await;
        proxy.release();
    })
    .await;
    assert_whole(&outcome, 2000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_at_a_thousand_messages_a_second_lose_and_double_nothing() {
    let server = Arc::new(nats_server());
    let broker = Arc::clone(&server);
    let outcome = with_two_nodes([server.url(), server.url()], crowd(14), |_| async move {
        for outage in TEN_OUTAGES {
            wait(1000).await;
            broker.kill();
            wait(outage).await;
            broker.start();
        }
    })
    .await;
    let summary = outcome.check();
    eprintln!("NATS killed 10 times: {summary:?}, {} not acknowledged", outcome.unacknowledged);
    assert!(outcome.unacknowledged > 0, "it was away");
    assert_whole(&outcome, 10_000);
}

/// Three servers that are one broker.
fn cluster() -> [Arc<NatsServer>; 3] {
    let routes = [(); 3].map(|()| process::free_port());
    let names = routes.map(|port| format!("nats-route://127.0.0.1:{port}")).join(", ");
    [0, 1, 2].map(|number| {
        let route = routes[number];
        let configuration = format!(
            "server_name: s{number}\ncluster {{ name: hub, listen: \"127.0.0.1:{route}\", routes: [{names}] }}\n"
        );
        Arc::new(nats_server_with(&configuration))
    })
}

/// As soon as the servers have agreed on who leads.
async fn connect_to_cluster(urls: &str) -> Nats {
    let began = Instant::now();
    loop {
        match Nats::connect(urls).max_messages(MESSAGES).replicas(3).await {
            Ok(nats) => return nats,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(60), "{error}"),
        }
        wait(500).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_loses_one_server_after_the_other_loses_and_doubles_nothing() {
    let servers = cluster();
    let urls = servers.each_ref().map(|server| server.url()).join(",");
    let mut hubs = Vec::new();
    for _ in 0..2 {
        hubs.push(hub(connect_to_cluster(&urls).await, keeping_everything()));
    }
    let (killed, watched) = (servers.clone(), hubs.clone());
    let outcome = run(hubs, &workload(45), |_| async move {
        // One of them leads each stream, whichever it is.
        for (number, server) in killed.iter().enumerate() {
            wait(1000).await;
            server.kill();
            wait(3000).await;
            server.start();
            let began = Instant::now();
            for hub in &watched {
                while hub.publish("probe", "").await.is_err() {
                    // The servers take up to nine seconds to elect a leader, and do so for each stream.
                    assert!(
                        began.elapsed() < Duration::from_secs(60),
                        "server {number}: the cluster is away"
                    );
                    wait(100).await;
                }
            }
            eprintln!("server {number} killed: there again {:?} after it was started", began.elapsed());
        }
    })
    .await;
    let summary = outcome.check();
    eprintln!("a cluster, three kills: {summary:?}, {} not acknowledged", outcome.unacknowledged);
    assert_whole(&outcome, 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_in_its_tracks_and_goes_on_loses_and_doubles_nothing() {
    let server = Arc::new(nats_server());
    let broker = Arc::clone(&server);
    let outcome = with_two_nodes([server.url(), server.url()], workload(16), |_| async move {
        // Shorter than an answer may take, and longer than a connection may be silent.
        for outage in [1000, 12_000] {
            wait(1000).await;
            broker.signal("STOP");
            wait(outage).await;
            broker.signal("CONT");
        }
        wait(1000).await;
    })
    .await;
    assert!(outcome.unacknowledged > 0, "it did not answer");
    assert_whole(&outcome, 2000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_eats_one_nodes_packets_loses_and_doubles_nothing() {
    let server = nats_server();
    let proxy = Proxy::start(server.port()).await;
    let url = format!("nats://127.0.0.1:{}", proxy.port());
    let outcome = with_two_nodes([url, server.url()], workload(18), |_| async move {
        for outage in [1000, 13_000] {
            wait(1000).await;
            proxy.silence();
            wait(outage).await;
            proxy.release();
        }
        wait(1000).await;
    })
    .await;
    assert_whole(&outcome, 2000);
}

/// A client of `hub.v1` that has subscribed, and what it was answered.
async fn subscribe(hub: &Hub, topic: &str, since: Option<&str>) -> (WebSocket, Value) {
    let hub = hub.clone();
    let server = Server::new().on_request(move |request: Request| hub.clone().serve(request));
    let mut ws =
        Network::new().connect(&server, "ws://hub.example/").protocols(["hub.v1"]).await.expect("it accepts");
    ws.send(r#"{"op":"auth","id":1}"#).await.expect("it is connected");
    let subscribe = json!({"op": "sub", "id": 2, "t": topic, "since": since});
    ws.send(subscribe.to_string()).await.expect("it is connected");
    loop {
        let (header, _) = hear(&mut ws).await;
        if header["re"] == 2 {
            return (ws, header);
        }
    }
}

async fn hear(ws: &mut WebSocket) -> (Value, String) {
    loop {
        let heard = tokio::time::timeout(NOTICE, ws.recv()).await.expect("it is told in time");
        let heard = heard.expect("it is connected").expect("it is connected").to_string();
        let (header, payload) = heard.split_once('\n').unwrap_or((&heard, ""));
        let Ok(header) = serde_json::from_str::<Value>(header) else { continue };
        if header["t"] != "$all" {
            return (header, payload.to_owned());
        }
    }
}

/// Publishes as soon as the broker takes it.
async fn publish(hub: &Hub, topic: &str, text: &str) {
    let publishing = async {
        while hub.publish(topic, text).await.is_err() {
            wait(50).await;
        }
    };
    tokio::time::timeout(NOTICE, publishing).await.expect("the broker is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_comes_up_empty_is_told_as_a_reset_and_nobody_is_recovered() {
    let server = nats_server();
    for (name, history) in [("tea", keeping_everything()), ("news", History::NONE)] {
        let (one, other) =
            (hub(connect(&server.url()).await, history), hub(connect(&server.url()).await, history));
        let (_early, before_all) = subscribe(&one, name, None).await;
        let (mut live, _) = subscribe(&one, name, None).await;
        let mut positions = vec![before_all["pos"].as_str().expect("it has a position").to_owned()];
        for text in ["1", "2", "3"] {
            publish(&other, name, text).await;
            let (header, payload) = hear(&mut live).await;
            assert_eq!(payload, text, "{header}");
            positions.push(header["p"].as_str().expect("it has a position").to_owned());
        }
        server.kill();
        server.forget();
        server.start();
        for text in ["4", "5", "6", "7"] {
            publish(&other, name, text).await;
        }
        let (header, _) = hear(&mut live).await;
        assert_eq!(header["ev"], "reset", "{header}");
        for position in positions {
            for hub in [&one, &other] {
                let (_ws, answer) = subscribe(hub, name, Some(&position)).await;
                assert_eq!(answer["recovered"], false, "{position} is from before: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn a_broker_that_is_away_is_told_of_and_publishing_fails_at_once_until_it_is_back() {
    let broker = Broker::new();
    let (events, mut told) = Events::channel(100);
    let node = broker.node(events).await;
    let topic = topic("tea");
    broker.server.kill();
    assert_eq!(told.recv().await, Some(Event::Down));
    let began = Instant::now();
    for _ in 0..100 {
        let published = node.publish(&topic, outgoing("lost"), History::default()).await;
        assert!(matches!(published, Err(BackplaneError::Unavailable(_))), "{published:?}");
        assert!(matches!(node.read(&topic, None, 1).await, Err(BackplaneError::Unavailable(_))));
        assert!(matches!(node.subscribe(&topic).await, Err(BackplaneError::Unavailable(_))));
    }
    assert!(began.elapsed() < Duration::from_secs(1), "300 failures took {:?}", began.elapsed());
    broker.server.start();
    assert_eq!(told.recv().await, Some(Event::Up));
    node.publish(&topic, outgoing("kept"), History::default()).await.expect("it is back");
    let page = node.read(&topic, None, 10).await.expect("it is back");
    assert_eq!(page.items.len(), 1, "what failed did not happen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_delivered_before_it_is_told_that_something_may_be_missing() {
    let broker = Broker::new();
    let (events, mut told) = Events::channel(10_000);
    let node = broker.node(events).await;
    let other: Arc<dyn Backplane> = broker.node(Events::channel(1).0).await;
    let topic = topic("tea");
    node.subscribe(&topic).await.expect("the broker is there");
    for round in 0..5 {
        broker.server.kill();
        assert_eq!(told.recv().await, Some(Event::Down), "round {round}");
        broker.server.start();
        let publishing = tokio::spawn({
            let (other, topic) = (Arc::clone(&other), topic.clone());
            async move {
                loop {
                    let _ = other.publish(&topic, outgoing("after"), History::default()).await;
                    wait(1).await;
                }
            }
        });
        assert_eq!(told.recv().await, Some(Event::Up), "round {round}");
        let heard = tokio::time::timeout(NOTICE, told.recv()).await;
        assert!(matches!(heard, Ok(Some(Event::Published(_)))), "round {round}: {heard:?}");
        publishing.abort();
        let _ = publishing.await;
        while tokio::time::timeout(Duration::from_millis(300), told.recv()).await.is_ok() {}
    }
}

#[tokio::test]
async fn what_was_not_answered_in_time_is_published_once_when_it_is_tried_again() {
    let broker = Broker::new();
    let node = broker.node(Events::channel(100).0).await;
    let (topic, once) = (topic("tea"), outgoing("once"));
    broker.server.signal("STOP");
    wait(200).await;
    let published = node.publish(&topic, once.clone(), History::default()).await;
    assert!(matches!(published, Err(BackplaneError::Unknown(_))), "{published:?}");
    broker.server.signal("CONT");
    let first = node.publish(&topic, once.clone(), History::default()).await.expect("it goes on");
    node.publish(&topic, outgoing("next"), History::default()).await.expect("it goes on");
    assert_eq!(node.publish(&topic, once, History::default()).await, Ok(first));
    let page = node.read(&topic, None, 10).await.expect("it goes on");
    assert_eq!(page.items.len(), 2);
    assert_eq!(page.items[0].position, first);
}

#[tokio::test]
async fn a_publication_that_is_too_large_is_refused_with_the_limit() {
    let broker = Broker::new();
    let node = broker.node(Events::channel(100).0).await;
    let topic = topic("tea");
    let refused = node.publish(&topic, outgoing(&"x".repeat(2 << 20)), History::default()).await;
    let Err(BackplaneError::TooLarge { len, limit }) = refused else { panic!("{refused:?}") };
    assert_eq!(len, 2 << 20);
    let published = node.publish(&topic, outgoing(&"x".repeat(limit)), History::default()).await;
    assert!(published.is_ok(), "{limit} bytes: {published:?}");
    let refused = node.publish(&topic, outgoing(&"x".repeat(limit + 1)), History::default()).await;
    assert_eq!(refused, Err(BackplaneError::TooLarge { len: limit + 1, limit }));
}

#[tokio::test]
async fn what_the_broker_does_not_permit_is_denied_at_once() {
    let server = nats_server_with(
        r#"authorization { users = [
            { user: "hub", password: "a:b", permissions: { publish: { deny: ["hub.keep.secret"] } } }
        ] }"#,
    );
    let nats = connect(&format!("nats://hub:a%3Ab@127.0.0.1:{}", server.port())).await;
    let node = nats.node(Events::channel(100).0);
    let began = Instant::now();
    let published = node.publish(&topic("secret"), outgoing("1"), History::default()).await;
    assert!(matches!(published, Err(BackplaneError::Denied(_))), "{published:?}");
    assert!(began.elapsed() < Duration::from_secs(1), "it took {:?}", began.elapsed());
    node.publish(&topic("tea"), outgoing("1"), History::default()).await.expect("it is permitted");
}

#[tokio::test]
async fn streams_that_somebody_takes_away_are_made_again() {
    let server = nats_server();
    let node = connect(&server.url()).await.node(Events::channel(100).0);
    let topic = topic("tea");
    let first = node.publish(&topic, outgoing("1"), History::default()).await.expect("the broker is there");
    say(server.port(), "$JS.API.STREAM.DELETE.hub-keep").await;
    let publishing = async {
        while node.publish(&topic, outgoing("2"), History::default()).await.is_err() {
            wait(10).await;
        }
    };
    tokio::time::timeout(NOTICE, publishing).await.expect("they are made again");
    let page = node.read(&topic, Some(first), 10).await.expect("the broker is there");
    assert!(!page.proven, "{first} is gone");
    assert_eq!(page.items.len(), 1);
}

#[tokio::test]
async fn what_a_node_has_no_room_for_is_told_and_can_be_read() {
    const FLOOD: usize = 5000;
    let server = Arc::new(nats_server());
    let (events, mut told) = Events::channel(2 * FLOOD);
    let node = connect(&server.url()).await.node(events);
    let topic = topic("tea");
    node.subscribe(&topic).await.expect("the broker is there");
    let start = node.read(&topic, None, 0).await.expect("the broker is there").top;
    // This test's thread does nothing else meanwhile, its connections included.
    let url = server.url();
    std::thread::spawn(move || flood(&url, FLOOD)).join().expect("it publishes");
    let mut heard = 0;
    loop {
        match tokio::time::timeout(NOTICE, told.recv()).await.expect("it is told").expect("the node is there")
        {
            Event::Published(_) => heard += 1,
            Event::SuspectAll => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(heard < FLOOD, "nothing was dropped");
    let page = node.read(&topic, Some(start), FLOOD).await.expect("the broker is there");
    assert_eq!((page.proven, page.items.len()), (true, FLOOD));
}

/// Publishes so many to `tea`, many at a time.
#[tokio::main(flavor = "current_thread")]
async fn flood(url: &str, count: usize) {
    let node = Arc::new(connect(url).await.node(Events::channel(100).0));
    for numbers in (0..count).collect::<Vec<_>>().chunks(500) {
        let mut publishing = tokio::task::JoinSet::new();
        for number in numbers {
            let (node, outgoing) = (Arc::clone(&node), outgoing(&number.to_string()));
            publishing
                .spawn(async move { node.publish(&topic("tea"), outgoing, keeping_everything()).await });
        }
        while let Some(published) = publishing.join_next().await {
            published.expect("it is published").expect("the broker is there");
        }
    }
}

/// Publishes nothing at a subject, by hand.
async fn say(port: u16, subject: &str) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the broker is there");
    let said = format!("CONNECT {{\"verbose\":false}}\r\nPUB {subject} 0\r\n\r\nPING\r\n");
    stream.write_all(said.as_bytes()).await.expect("the broker is there");
    let mut heard = String::new();
    while !heard.contains("PONG") {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.expect("the broker is there");
        heard.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}
