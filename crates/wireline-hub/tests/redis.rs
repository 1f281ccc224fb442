//! The backplane over Redis or Valkey, with real servers: it does what every backplane must, and loses nothing that it
//! acknowledged whatever becomes of the server.

#[path = "broker/redis.rs"]
mod broker;
#[path = "broker/process.rs"]
mod process;
#[path = "broker/proxy.rs"]
mod proxy;

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::timeout;
use wireline::{Request, Server, WebSocket, testing::Network};
use wireline_hub::{
    Backplane, BackplaneError, Content, Event, Events, History, Hub, Member, Outgoing, PresenceRow,
    PublicationId, Redis, Topic, TopicRules,
    backplane::EventReceiver,
    backplane_conformance,
    node::NodeConfig,
    testing::{
        Engine,
        workload::{Clients, Outcome, Summary, Workload, run},
    },
};

use self::{
    broker::{Keeps, RedisServer, Sentinels},
    proxy::Proxy,
};

/// How long anything may take to be noticed, by the probe's default times.
const NOTICE: Duration = Duration::from_secs(18);

/// A server, with all the nodes that are connected to it.
#[derive(Clone)]
struct Broker {
    server: Arc<RedisServer>,
    nodes: Arc<Mutex<Vec<Weak<dyn Backplane>>>>,
}

impl Broker {
    fn start() -> Self {
        Self { server: Arc::new(RedisServer::start(Keeps::Nothing)), nodes: Arc::default() }
    }
}

impl Engine for Broker {
    async fn node(&self, events: Events) -> Arc<dyn Backplane> {
        let node: Arc<dyn Backplane> = Arc::new(redis(&self.server.url()).node(events));
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&node));
        node
    }

    async fn forget(&self) -> bool {
        self.server.kill();
        self.server.start_again();
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for node in nodes.iter().filter_map(Weak::upgrade) {
            while node.read(&topic("up"), None, 0).await.is_err() {
                wait(10).await;
            }
        }
        true
    }
}

backplane_conformance!(in_real_time: async { Broker::start() });

fn redis(url: &str) -> Redis {
    Redis::new(url).expect("it is a URL")
}

fn url_of(proxy: &Proxy) -> String {
    format!("redis://127.0.0.1:{}/", proxy.port())
}

/// One that notices soon when it is deaf.
fn attentive(url: &str) -> Redis {
    redis(url).probe(Duration::from_secs(1), Duration::from_secs(1))
}

fn topic(name: &str) -> Topic {
    Topic::new(name).expect("it is a name")
}

fn outgoing(text: &str) -> Outgoing {
    Outgoing { id: PublicationId::random(), content: Content::Message(text.into()), except: None }
}

async fn wait(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

/// All that is published is kept: nobody needs a reset but for what the server loses.
fn keeping_everything() -> History {
    History::messages(10_000).age(Duration::from_secs(3600))
}

/// A hub that finds out by its backplane alone that something is missing: nothing is checked because it is silent.
fn hub(redis: Redis, history: History) -> Hub {
    let node = NodeConfig { idle_check: Duration::from_secs(3600), ..NodeConfig::default() };
    Hub::builder()
        .backplane(move |events| redis.node(events))
        .topics(move |_| TopicRules { history, presence: false })
        .node(node)
        .shards(2)
        .start()
}

fn workload(milliseconds: usize) -> Workload {
    const PAUSE: usize = 20;
    Workload {
        topics: 3,
        publishers: 3,
        messages: milliseconds / PAUSE,
        pause: Duration::from_millis(PAUSE as u64),
        subscribers: 4,
        patience: Duration::from_secs(15),
    }
}

/// Two nodes, while something happens.
async fn with_two_nodes<F>(nodes: [Redis; 2], workload: Workload, trouble: F) -> (Outcome, Summary)
where
    F: Future<Output = ()>,
{
    let hubs = nodes.map(|redis| hub(redis, keeping_everything())).to_vec();
    let outcome = run(hubs, &workload, |_: Arc<Clients>| trouble).await;
    let summary = outcome.check();
    eprintln!("{summary:?}, {} not acknowledged", outcome.unacknowledged);
    (outcome, summary)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_again_and_again_and_keeps_all_loses_and_doubles_nothing() {
    let server = RedisServer::start(Keeps::Everything);
    let nodes = [redis(&server.url()), redis(&server.url())];
    let (outcome, summary) = with_two_nodes(nodes, workload(6000), async {
        for outage in [0, 200, 1000, 50, 400] {
            wait(600).await;
            server.kill();
            wait(outage).await;
            server.start_again();
        }
    })
    .await;
    assert_eq!(summary.resets, 0, "all that was acknowledged is kept");
    assert!(outcome.unacknowledged > 0, "it was away");
    assert!(summary.published > 500, "{summary:?}");
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

/// How long the server is away each time, in milliseconds.
const TEN_OUTAGES: [u64; 10] = [0, 100, 200, 300, 500, 50, 400, 0, 250, 150];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_at_a_thousand_messages_a_second_lose_and_double_nothing() {
    let server = RedisServer::start(Keeps::Everything);
    let nodes = [redis(&server.url()), redis(&server.url())];
    let (outcome, summary) = with_two_nodes(nodes, crowd(14), async {
        for outage in TEN_OUTAGES {
            wait(1000).await;
            server.kill();
            wait(outage).await;
            server.start_again();
        }
    })
    .await;
    eprintln!("Redis killed 10 times: {summary:?}, {} not acknowledged", outcome.unacknowledged);
    assert_eq!(summary.resets, 0, "all that was acknowledged is kept");
    assert!(outcome.unacknowledged > 0, "it was away");
    assert!(summary.published > 10_000, "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_comes_up_empty_loses_nothing_but_at_resets() {
    let server = RedisServer::start(Keeps::Nothing);
    let nodes = [redis(&server.url()), redis(&server.url())];
    let (_, summary) = with_two_nodes(nodes, workload(5000), async {
        for outage in [0, 500, 100] {
            wait(1000).await;
            server.kill();
            wait(outage).await;
            server.start_again();
        }
    })
    .await;
    // Each time, everybody of every topic; who was slow to come back may be told of two at once.
    assert!((2 * 12..=3 * 12).contains(&summary.resets), "{summary:?}");
    assert!(summary.published > 500, "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_in_its_tracks_and_goes_on_loses_and_doubles_nothing() {
    let server = RedisServer::start(Keeps::Nothing);
    let nodes = [attentive(&server.url()), attentive(&server.url())];
    let (outcome, summary) = with_two_nodes(nodes, workload(8000), async {
        // Shorter than an answer may take, and longer than all that is waited for.
        for outage in [1000, 4500] {
            wait(500).await;
            server.signal("STOP");
            wait(outage).await;
            server.signal("CONT");
        }
    })
    .await;
    assert_eq!(summary.resets, 0);
    assert!(outcome.unacknowledged > 0, "it did not answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_the_server_ends_are_opened_again_and_nothing_is_missed() {
    let server = RedisServer::start(Keeps::Nothing);
    let nodes = [redis(&server.url()), redis(&server.url())];
    let mut killed = 0;
    let (_, summary) = with_two_nodes(nodes, workload(3000), async {
        for round in 0..8 {
            wait(250).await;
            let kind = if round % 4 == 3 { "normal" } else { "pubsub" };
            let answer = server.command(&["CLIENT", "KILL", "TYPE", kind]);
            killed += answer.trim_start_matches(':').parse::<usize>().expect("a number of connections");
        }
    })
    .await;
    assert_eq!(summary.resets, 0);
    assert!(killed >= 20, "{killed} connections were ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_eats_one_nodes_packets_loses_and_doubles_nothing() {
    let server = RedisServer::start(Keeps::Nothing);
    let proxy = Proxy::start(server.port()).await;
    let nodes = [attentive(&url_of(&proxy)), attentive(&server.url())];
    let (_, summary) = with_two_nodes(nodes, workload(8000), async {
        for outage in [500, 5000] {
            wait(500).await;
            proxy.silence();
            wait(outage).await;
            proxy.release();
        }
    })
    .await;
    assert_eq!(summary.resets, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_slow_or_carries_one_way_only_loses_and_doubles_nothing() {
    let server = RedisServer::start(Keeps::Nothing);
    let proxy = Proxy::start(server.port()).await;
    let nodes = [attentive(&url_of(&proxy)), attentive(&server.url())];
    let (_, summary) = with_two_nodes(nodes, workload(10_000), async {
        // Slow, and then slower than what is said to oneself may take.
        for latency in [200, 1200] {
            proxy.delay(Duration::from_millis(latency));
            wait(2500).await;
        }
        proxy.delay(Duration::ZERO);
        wait(500).await;
        proxy.silence_answers();
        wait(3000).await;
        proxy.release();
    })
    .await;
    assert_eq!(summary.resets, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hears_by_a_replica_that_is_detached_notices_and_goes_where_the_name_leads_now() {
    let (master, replica) = (RedisServer::start(Keeps::Nothing), RedisServer::start(Keeps::Nothing));
    replica.follow(&master);
    let proxy = Proxy::start(replica.port()).await;
    let by_replica = attentive(&master.url()).hear(&url_of(&proxy)).expect("it is a URL");
    let (_, summary) = with_two_nodes([by_replica, attentive(&master.url())], workload(4000), async {
        wait(1000).await;
        assert_eq!(replica.command(&["REPLICAOF", "NO", "ONE"]), "+OK");
        // The connections stay, and nothing comes over them any more.
        proxy.lead_to(master.port(), false);
        wait(500).await;
    })
    .await;
    assert_eq!(summary.resets, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_deaf_says_so_by_the_probes_default_times_until_it_hears_again() {
    let (master, replica) = (RedisServer::start(Keeps::Nothing), RedisServer::start(Keeps::Nothing));
    replica.follow(&master);
    let (events, mut told) = Events::channel(100);
    let node = redis(&master.url()).hear(&replica.url()).expect("it is a URL").node(events);
    let tea = topic("tea");
    node.subscribe(&tea).await.expect("the server is there");
    let position = node.publish(&tea, outgoing("1"), keeping_everything()).await.expect("it is there");
    assert!(matches!(next(&mut told).await, Event::Published(heard) if heard.position == position));

    assert_eq!(replica.command(&["REPLICAOF", "NO", "ONE"]), "+OK");
    let position = node.publish(&tea, outgoing("2"), keeping_everything()).await.expect("it is there");
    assert_eq!(next(&mut told).await, Event::Down);
    wait(3000).await;
    replica.follow(&master);
    assert_eq!(next(&mut told).await, Event::Up, "not before it hears again");
    let page = node.read(&tea, None, 1).await.expect("the server is there");
    assert_eq!(page.top, position);
    let position = node.publish(&tea, outgoing("3"), keeping_everything()).await.expect("it is there");
    assert!(matches!(next(&mut told).await, Event::Published(heard) if heard.position == position));
}

#[tokio::test]
async fn who_hears_what_it_says_is_not_deaf_though_nothing_is_answered() {
    let server = RedisServer::start(Keeps::Nothing);
    let proxy = Proxy::start(server.port()).await;
    let (events, mut told) = Events::channel(100);
    let node = attentive(&url_of(&proxy)).hear(&server.url()).expect("it is a URL").node(events);
    let tea = topic("tea");
    node.subscribe(&tea).await.expect("the server is there");
    node.read(&tea, None, 0).await.expect("the server is there");
    proxy.silence_answers();
    wait(4000).await;
    let other = redis(&server.url()).node(Events::channel(100).0);
    let position = other.publish(&tea, outgoing("1"), History::default()).await.expect("it is there");
    assert!(matches!(next(&mut told).await, Event::Published(heard) if heard.position == position));
}

/// What it answers when it does.
async fn retry<T>(ask: impl AsyncFn() -> Result<T, BackplaneError>) -> T {
    let asking = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => assert!(error.is_temporary(), "{error}"),
            }
            wait(10).await;
        }
    };
    timeout(NOTICE, asking).await.expect("it takes it in time")
}

async fn next(events: &mut EventReceiver) -> Event {
    timeout(NOTICE, events.recv()).await.expect("it is told in time").expect("the node is there")
}

/// A client of `hub.v1` that has subscribed, and what it was answered.
async fn subscribe(hub: &Hub, topic: &str, since: Option<&str>) -> (WebSocket, Value) {
    let hub = hub.clone();
    let server = Server::new().on_request(move |request: Request| hub.clone().serve(request));
    let connecting = Network::new().connect(&server, "ws://hub.example/").protocols(["hub.v1"]);
    let mut ws = connecting.await.expect("it accepts");
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
        let heard = timeout(NOTICE, ws.recv()).await.expect("it is told in time");
        let heard = heard.expect("it is connected").expect("it is connected").to_string();
        let (header, payload) = heard.split_once('\n').unwrap_or((&heard, ""));
        let Ok(header) = serde_json::from_str::<Value>(header) else { continue };
        if header["t"] != "$all" {
            return (header, payload.to_owned());
        }
    }
}

/// Hears publications of these texts, and nothing else: their positions.
async fn hear_texts(ws: &mut WebSocket, texts: &[&str]) -> Vec<String> {
    let mut positions = Vec::new();
    for text in texts {
        let (header, payload) = hear(ws).await;
        assert_eq!(payload, *text, "{header}");
        positions.push(header["p"].as_str().expect("it has a position").to_owned());
    }
    positions
}

/// Publishes as soon as the server takes it.
async fn publish(hub: &Hub, topic: &str, texts: &[&str]) {
    for text in texts {
        let publishing = async {
            while hub.publish(topic, *text).key(text).await.is_err() {
                wait(50).await;
            }
        };
        timeout(NOTICE, publishing).await.expect("the server is there");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_takes_back_what_was_acknowledged_is_told_as_a_reset_to_all_who_heard_it() {
    let (master, replica) = (RedisServer::start(Keeps::Nothing), RedisServer::start(Keeps::Nothing));
    let proxy = Proxy::start(master.port()).await;
    let hubs = [
        hub(redis(&url_of(&proxy)), keeping_everything()),
        hub(redis(&url_of(&proxy)), keeping_everything()),
    ];
    let (mut one, _) = subscribe(&hubs[0], "tea", None).await;
    let (mut other, _) = subscribe(&hubs[1], "tea", None).await;
    publish(&hubs[0], "tea", &["1", "2"]).await;
    replica.follow(&master);
    assert_eq!(replica.command(&["REPLICAOF", "NO", "ONE"]), "+OK");
    // The master takes more, which the replica never sees.
    publish(&hubs[1], "tea", &["3", "4"]).await;
    let positions = hear_texts(&mut one, &["1", "2", "3", "4"]).await;
    assert_eq!(hear_texts(&mut other, &["1", "2", "3", "4"]).await, positions);

    proxy.lead_to(replica.port(), true);
    publish(&hubs[0], "tea", &["5", "6", "7"]).await;
    for ws in [&mut one, &mut other] {
        let (header, _) = hear(ws).await;
        assert_eq!((&header["ev"], &header["t"]), (&json!("reset"), &json!("tea")), "{header}");
    }
    publish(&hubs[0], "tea", &["8"]).await;
    for ws in [&mut one, &mut other] {
        // A part of the new order, from where the reset was on, without a hole up to its end.
        let mut texts = vec![];
        while texts.last().is_none_or(|text| text != "8") {
            texts.push(hear(ws).await.1);
        }
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert!(["5", "6", "7", "8"].ends_with(&texts), "{texts:?}");
    }
    for hub in &hubs {
        for taken_back in &positions[2..] {
            let (_ws, answer) = subscribe(hub, "tea", Some(taken_back)).await;
            assert_eq!(answer["recovered"], false, "{taken_back} is not there: {answer}");
        }
        let (mut ws, answer) = subscribe(hub, "tea", Some(&positions[1])).await;
        assert_eq!(answer["recovered"], true, "{answer}");
        hear_texts(&mut ws, &["5", "6", "7", "8"]).await;
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_told_of_and_everything_fails_at_once_until_it_is_back() {
    let server = RedisServer::start(Keeps::Nothing);
    let (events, mut told) = Events::channel(100);
    let node = redis(&server.url()).node(events);
    let tea = topic("tea");
    node.subscribe(&tea).await.expect("the server is there");
    server.kill();
    assert_eq!(next(&mut told).await, Event::Down);
    let _ = node.read(&tea, None, 0).await;
    let began = Instant::now();
    for _ in 0..100 {
        let published = node.publish(&tea, outgoing("lost"), History::default()).await;
        assert!(matches!(published, Err(BackplaneError::Unavailable(_))), "{published:?}");
        assert!(matches!(node.read(&tea, None, 1).await, Err(BackplaneError::Unavailable(_))));
        assert!(matches!(node.subscribe(&tea).await, Err(BackplaneError::Unavailable(_))));
    }
    assert!(began.elapsed() < Duration::from_secs(1), "300 failures took {:?}", began.elapsed());
    server.start_again();
    assert_eq!(next(&mut told).await, Event::Up);
    retry(|| node.publish(&tea, outgoing("kept"), History::default())).await;
    assert!(matches!(next(&mut told).await, Event::Published(_)), "it is subscribed again");
    let page = node.read(&tea, None, 10).await.expect("it is back");
    assert_eq!(page.items.len(), 1, "what failed did not happen");
}

#[tokio::test]
async fn what_was_not_answered_in_time_is_published_once_when_it_is_tried_again() {
    let server = RedisServer::start(Keeps::Nothing);
    let node = redis(&server.url()).node(Events::channel(100).0);
    let (tea, once) = (topic("tea"), outgoing("once"));
    node.read(&tea, None, 0).await.expect("the server is there");
    server.signal("STOP");
    let published = node.publish(&tea, once.clone(), History::default()).await;
    assert!(matches!(published, Err(BackplaneError::Unknown(_))), "{published:?}");
    server.signal("CONT");
    let first = node.publish(&tea, once.clone(), History::default()).await.expect("it goes on");
    node.publish(&tea, outgoing("next"), History::default()).await.expect("it goes on");
    assert_eq!(node.publish(&tea, once, History::default()).await, Ok(first));
    let page = node.read(&tea, None, 10).await.expect("it goes on");
    assert_eq!(page.items.iter().map(|item| item.position).next(), Some(first));
    assert_eq!(page.items.len(), 2);
}

#[tokio::test]
async fn what_was_held_up_on_a_connection_that_was_given_up_is_not_done_when_it_comes() {
    let server = RedisServer::start(Keeps::Nothing);
    let proxy = Proxy::start(server.port()).await;
    let node = redis(&url_of(&proxy)).node(Events::channel(100).0);
    let tea = topic("tea");
    let row = |names: &[&str]| {
        let members = names.iter().map(|name| Member::new(*name)).collect();
        [PresenceRow { topic: tea.clone(), members }]
    };
    node.publish(&tea, outgoing("1"), History::default()).await.expect("the server is there");
    node.lease(&row(&["ann", "bob"]), NOTICE).await.expect("the server is there");
    proxy.hold();
    let (late, alone) = (outgoing("late"), row(&["bob"]));
    let (published, told) =
        tokio::join!(node.publish(&tea, late, History::default()), node.lease(&alone, NOTICE));
    assert!(matches!(published, Err(BackplaneError::Unknown(_))), "{published:?}");
    assert!(matches!(told, Err(BackplaneError::Unknown(_))), "{told:?}");
    node.publish(&tea, outgoing("2"), History::default()).await.expect("there is another connection");
    node.lease(&row(&[]), NOTICE).await.expect("there is another connection");
    proxy.release();
    wait(500).await;
    let page = node.read(&tea, None, 10).await.expect("the server is there");
    let texts = page.items.into_iter().map(|item| item.content);
    assert_eq!(texts.collect::<Vec<_>>(), ["1", "2"].map(|text| Content::Message(text.into())));
    assert_eq!(node.presence(&tea).await, Ok(vec![]));
}

#[tokio::test]
async fn what_the_server_will_never_take_is_refused_for_good() {
    let server = RedisServer::start(Keeps::Nothing);
    let node = redis(&server.url()).node(Events::channel(100).0);
    let tea = topic("tea");
    let limit = 8 << 20;
    let refused = node.publish(&tea, outgoing(&"x".repeat(limit + 1)), History::default()).await;
    assert_eq!(refused, Err(BackplaneError::TooLarge { len: limit + 1, limit }));
    let published = node.publish(&tea, outgoing(&"x".repeat(limit)), History::NONE).await;
    assert!(published.is_ok(), "{published:?}");

    assert_eq!(server.command(&["SET", "wireline:t:foreign", "1"]), "+OK");
    let refused = node.publish(&topic("foreign"), outgoing("1"), History::default()).await;
    assert!(matches!(refused, Err(BackplaneError::Denied(_))), "{refused:?}");

    assert_eq!(server.command(&["CONFIG", "SET", "requirepass", "secret"]), "+OK");
    let stranger = redis(&server.url()).node(Events::channel(100).0);
    let refused = stranger.publish(&tea, outgoing("1"), History::default()).await;
    assert!(matches!(refused, Err(BackplaneError::Denied(_))), "{refused:?}");
    assert!(Redis::new("nats://127.0.0.1/").is_err());
}

#[tokio::test]
async fn a_server_that_is_full_or_follows_another_may_take_it_later() {
    let (server, master) = (RedisServer::start(Keeps::Nothing), RedisServer::start(Keeps::Nothing));
    let node = redis(&server.url()).node(Events::channel(100).0);
    let tea = topic("tea");
    for (refuse, allow) in [
        (&["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]),
        (&["REPLICAOF", "127.0.0.1", &*master.port().to_string(), ""], &["REPLICAOF", "NO", "ONE", ""]),
    ] {
        assert_eq!(server.command(refuse), "+OK");
        let id = outgoing("1");
        let refused = node.publish(&tea, id.clone(), History::default()).await;
        assert!(matches!(refused, Err(BackplaneError::Unavailable(_))), "{refused:?}");
        assert_eq!(server.command(allow), "+OK");
        let position = retry(|| node.publish(&tea, id.clone(), History::default())).await;
        let page = node.read(&tea, None, 1).await.expect("it is there");
        assert_eq!(page.top, position, "what was refused did not happen");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_sentinels_move_the_master_the_nodes_follow_and_nothing_is_missed() {
    let (first, second) = (RedisServer::start(Keeps::Everything), RedisServer::start(Keeps::Everything));
    second.follow(&first);
    let sentinels = Sentinels::start(&first);
    let hubs = [1, 2].map(|_| hub(attentive(&sentinels.url()), keeping_everything()));
    let (mut one, _) = subscribe(&hubs[0], "tea", None).await;
    let (mut other, _) = subscribe(&hubs[1], "tea", None).await;
    publish(&hubs[0], "tea", &["1", "2"]).await;
    until(|| second.has_all_of(&first)).await;
    let began = Instant::now();
    first.kill();
    publish(&hubs[0], "tea", &["3"]).await;
    eprintln!("a failover by Sentinels took {:?}", began.elapsed());
    publish(&hubs[1], "tea", &["4"]).await;
    assert_eq!(second.command(&["EXISTS", "wireline:t:tea"]), ":1");
    // The first one is made a replica of the second, which goes in its turn.
    first.start_again();
    until(|| first.command(&["SET", "mine", "1"]).starts_with("-READONLY")).await;
    until(|| first.has_all_of(&second)).await;
    second.kill();
    publish(&hubs[1], "tea", &["5"]).await;
    publish(&hubs[0], "tea", &["6"]).await;
    for ws in [&mut one, &mut other] {
        hear_texts(ws, &["1", "2", "3", "4", "5", "6"]).await;
    }
}

async fn until(is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(30), "the Sentinels do not do it");
        wait(50).await;
    }
}

#[tokio::test]
async fn over_tls_it_is_the_same_and_who_is_not_trusted_is_not_spoken_to() {
    let server = RedisServer::start_encrypted();
    let (url, certificate) = server.encrypted();
    let (events, mut told) = Events::channel(100);
    let both = redis(&url).root_certificates(certificate).hear(&url).expect("it is a URL");
    let node = both.node(events);
    let tea = topic("tea");
    node.subscribe(&tea).await.expect("it is trusted");
    let position = node.publish(&tea, outgoing("hot"), History::default()).await.expect("it is trusted");
    assert!(matches!(next(&mut told).await, Event::Published(heard) if heard.position == position));
    let stranger = redis(&url).node(Events::channel(1).0);
    let refused = stranger.read(&tea, None, 1).await;
    assert!(matches!(refused, Err(BackplaneError::Unavailable(_))), "{refused:?}");
}

#[tokio::test]
async fn a_name_that_was_only_asked_for_does_not_stay_for_long() {
    let server = RedisServer::start(Keeps::Nothing);
    let node = redis(&server.url()).node(Events::channel(100).0);
    let tea = topic("tea");
    let time = || -> u64 {
        let left = server.command(&["PTTL", "wireline:t:tea"]);
        left.trim_start_matches(':').parse().expect("milliseconds")
    };
    let beginning = node.read(&tea, None, 10).await.expect("it is there").top;
    assert!(time() <= 120_000);
    let page = node.read(&tea, Some(beginning), 10).await.expect("it is there");
    assert!(page.proven, "{page:?}");
    for history in [History::NONE, History::messages(5)] {
        node.publish(&tea, outgoing("hot"), history).await.expect("it is there");
        assert!(time() > 12 * 3600 * 1000, "what was published to keeps its place");
        node.read(&tea, None, 10).await.expect("it is there");
        assert!(time() > 12 * 3600 * 1000);
        server.command(&["DEL", "wireline:t:tea"]);
        node.read(&tea, None, 10).await.expect("it is there");
    }
}

#[tokio::test]
async fn nothing_stays_at_the_server_for_ever_and_what_the_limits_do_not_allow_goes_at_once() {
    let server = RedisServer::start(Keeps::Nothing);
    let node = redis(&server.url()).node(Events::channel(100).0);
    let len = |topic: &str| server.command(&["XLEN", &format!("wireline:t:{topic}")]);
    for (name, history, kept) in [
        ("none", History::NONE, ":0"),
        ("number", History::messages(7), ":7"),
        ("size", History::messages(100).bytes(2000), ":20"),
        ("too-small", History::messages(100).bytes(99), ":0"),
    ] {
        for _ in 0..200 {
            node.publish(&topic(name), outgoing(&"x".repeat(100)), history).await.expect("it is there");
        }
        assert_eq!(len(name), kept, "{name}");
    }
    // One that is large takes the place of many that are small.
    let history = History::messages(100).bytes(2000);
    node.publish(&topic("size"), outgoing(&"x".repeat(1950)), history).await.expect("it is there");
    assert_eq!(len("size"), ":1");
    let brief = History::messages(100).age(Duration::from_millis(200));
    for _ in 0..50 {
        node.publish(&topic("age"), outgoing("old"), brief).await.expect("it is there");
    }
    wait(400).await;
    node.publish(&topic("age"), outgoing("new"), brief).await.expect("it is there");
    assert_eq!(len("age"), ":1");

    let memory = server.command(&["MEMORY", "USAGE", "wireline:t:none"]);
    let bytes = memory.trim_start_matches(':').parse::<usize>().expect("a number of bytes");
    assert!(bytes < 500, "{bytes} bytes for a topic without history");
    let members = vec![Member::new("ann")];
    node.lease(&[PresenceRow { topic: topic("none"), members }], NOTICE).await.expect("it is there");
    let script = "local stay = 0 for _, key in ipairs(redis.call('KEYS', '*')) do \
                  if redis.call('PTTL', key) < 0 then stay = stay + 1 end end return stay";
    assert_eq!(server.command(&["EVAL", &format!("\"{script}\""), "0"]), ":0");
}
