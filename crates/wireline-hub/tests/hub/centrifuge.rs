//! What Centrifugo's clients do, said by hand.

use std::{collections::VecDeque, time::Duration};

use serde_json::{Value, json};
use wireline::{Config, Message, Request, Server, WebSocket, testing::Network};
use wireline_hub::{Denied, History, Hub, Identity, Member, Memory, TopicRules, node::NodeConfig};

use crate::client::{Client, open};

/// In virtual time: after this nothing is said any more.
const PATIENCE: Duration = Duration::from_secs(120);

fn server(hub: &Hub) -> Server {
    let hub = hub.clone();
    Server::new().on_request(move |req: Request| hub.clone().serve_centrifugo(req))
}

/// A connection, and the network that it goes over.
struct Centrifuge {
    ws: WebSocket,
    network: Network,
    next_id: u64,
    lines: VecDeque<Value>,
}

impl Centrifuge {
    /// Connected, and not known yet.
    async fn open(hub: &Hub) -> Self {
        let network = Network::new();
        let connecting = network.connect(&server(hub), "ws://hub.example/connection/websocket");
        let ws = connecting.config(Config::client()).await.expect("the server accepts");
        Self { ws, network, next_id: 0, lines: VecDeque::new() }
    }

    async fn connect(hub: &Hub) -> Self {
        Self::connect_as(hub, json!({})).await
    }

    async fn connect_as(hub: &Hub, connect: Value) -> Self {
        let mut client = Self::open(hub).await;
        let connected = client.ask(json!({"connect": connect})).await;
        assert_eq!(
            (&connected["connect"]["ping"], &connected["connect"]["pong"]),
            (&json!(25), &json!(true))
        );
        client
    }

    /// Sends a command without waiting for its reply, whose number it gives.
    async fn request(&mut self, mut command: Value) -> u64 {
        self.next_id += 1;
        command["id"] = self.next_id.into();
        self.ws.send(command.to_string()).await.expect("it is open");
        self.next_id
    }

    /// Sends a command; its reply, which must come before anything else.
    async fn ask(&mut self, command: Value) -> Value {
        let id = self.request(command).await;
        let reply = self.hear().await;
        assert_eq!(reply["id"], id, "{reply}");
        reply
    }

    /// The code of the error that a command is answered with.
    async fn error(&mut self, command: Value) -> Value {
        self.ask(command).await["error"]["code"].take()
    }

    async fn subscribe(&mut self, channel: &str) -> Value {
        self.ask(json!({"subscribe": {"channel": channel}})).await["subscribe"].take()
    }

    async fn resume(&mut self, channel: &str, (offset, epoch): &(Value, Value)) -> Value {
        let subscribe = json!({"channel": channel, "recover": true, "offset": offset, "epoch": epoch});
        self.ask(json!({"subscribe": subscribe})).await["subscribe"].take()
    }

    /// The next that is said, which is no Ping.
    async fn hear(&mut self) -> Value {
        let heard = tokio::time::timeout(PATIENCE, async {
            loop {
                let line = self.hear_any().await;
                if line != json!({}) {
                    return line;
                }
                self.ws.send("{}").await.expect("it is open");
            }
        });
        heard.await.expect("something is said")
    }

    async fn hear_any(&mut self) -> Value {
        while self.lines.is_empty() {
            let message = self.ws.recv().await.expect("it is open").expect("it is open");
            let lines = message.as_text().expect("it is text").split('\n');
            self.lines.extend(lines.map(|line| serde_json::from_str(line).expect("it is JSON")));
        }
        self.lines.pop_front().expect("there is one")
    }

    async fn publications(&mut self, count: usize) -> Vec<Value> {
        let mut publications = Vec::new();
        while publications.len() < count {
            let mut said = self.hear().await;
            let publication = said["push"]["pub"].take();
            assert!(publication.is_object(), "{said} is no publication");
            publications.push(publication);
        }
        publications
    }

    async fn data(&mut self, count: usize) -> Vec<Value> {
        self.publications(count).await.iter_mut().map(|publication| publication["data"].take()).collect()
    }

    /// Answers Pings for that time, in which nothing else is said.
    async fn hears_within(&mut self, time: Duration) {
        let heard = tokio::time::timeout(time, self.hear()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    async fn hears_nothing(&mut self) {
        let heard = tokio::time::timeout(Duration::from_secs(2), self.hear()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    /// The code and the reason that the hub closes with.
    async fn closed(&mut self) -> (u16, String) {
        let closed = tokio::time::timeout(PATIENCE, async {
            while let Ok(Some(_)) = self.ws.recv().await {}
            self.ws.closed().await
        });
        let closed = closed.await.expect("it is closed");
        (closed.code.into(), closed.reason.to_string())
    }
}

fn place(of: &Value) -> (Value, Value) {
    (of["offset"].clone(), of["epoch"].clone())
}

fn with_history(messages: usize) -> Hub {
    let rules = TopicRules { history: History::messages(messages), presence: false };
    Hub::builder().topics(move |_| rules).start()
}

#[tokio::test(start_paused = true)]
async fn commands_come_several_to_a_message_and_each_is_answered() {
    let hub = open().start();
    let mut client = Centrifuge::open(&hub).await;
    let lines = [
        json!({"id": 1, "connect": {}}),
        json!({"id": 2, "subscribe": {"channel": "tea"}}),
        json!({"id": 3, "subscribe": {"channel": "tea"}}),
        json!({"id": 4, "nap": {}}),
        json!({"id": 5, "rpc": {"method": "nap"}}),
        json!({"id": 6, "ping": {}}),
        json!({"id": 7, "ping": {}, "connect": {}}),
    ];
    client.ws.send(lines.each_ref().map(Value::to_string).join("\n")).await.expect("it is open");
    let mut replies = vec![Value::Null; 8];
    for _ in lines {
        let reply = client.hear().await;
        let id = usize::try_from(reply["id"].as_u64().expect("it is a number")).expect("it is small");
        replies[id] = reply;
    }
    assert_eq!(replies[1]["connect"]["client"].as_str().map(str::len), Some(32));
    assert_eq!(replies[2]["subscribe"]["recoverable"], true);
    assert_eq!(replies[3]["error"], json!({"code": 105, "message": "already subscribed"}));
    assert_eq!(replies[4]["error"]["code"], 104);
    assert_eq!(replies[5]["error"]["code"], 104);
    assert_eq!(replies[6], json!({"id": 6, "ping": {}}));
    assert_eq!(replies[7]["error"]["code"], 107);
}

#[tokio::test(start_paused = true)]
async fn both_protocols_hear_the_same_in_the_same_order() {
    let hub = open().start();
    let mut one = Client::connect(&hub).await;
    one.subscribe("tea").await;
    let mut other = Centrifuge::connect(&hub).await;
    other.subscribe("tea").await;
    for number in 0..10 {
        one.publish("tea", &json!({"n": number}).to_string()).await;
        other.request(json!({"publish": {"channel": "tea", "data": {"m": number}}})).await;
    }
    let mut heard = Vec::new();
    while heard.len() < 20 {
        let said = other.hear().await;
        let publication = &said["push"]["pub"];
        if publication.is_object() {
            let (offset, epoch) = place(publication);
            let position = format!("{offset}.{}", epoch.as_str().expect("it is text"));
            heard.push((position, publication["data"].to_string()));
        } else {
            assert_eq!(said["publish"], json!({}), "{said}");
        }
    }
    let mut expected = Vec::new();
    while expected.len() < 20 {
        let said = one.hear().await;
        if said.header["t"] == "tea" {
            expected.push((said.position(), said.text().to_owned()));
        }
    }
    assert_eq!(heard, expected);
    assert_eq!(hub.stats().await.frames, 40, "one of each publication, for each protocol");
}

#[tokio::test(start_paused = true)]
async fn who_lost_its_connection_goes_on_behind_its_last_publication() {
    let hub = open().start();
    let mut client = Centrifuge::connect(&hub).await;
    let mut last = place(&client.subscribe("tea").await);
    let mut heard = Vec::new();
    let mut published = 0;
    for round in 0..20 {
        // Some rounds without any publication before the cut, and some without any after it.
        for _ in 0..round % 3 {
            hub.publish("tea", published.to_string()).await.expect("it is published");
            published += 1;
            let publication = client.publications(1).await.remove(0);
            last = place(&publication);
            heard.push(publication["data"].clone());
        }
        client.network.reset();
        let missed = round % 4;
        for _ in 0..missed {
            hub.publish("tea", published.to_string()).await.expect("it is published");
            published += 1;
        }
        client = Centrifuge::connect(&hub).await;
        let subscribed = client.resume("tea", &last).await;
        assert_eq!((&subscribed["recovered"], &subscribed["was_recovering"]), (&json!(true), &json!(true)));
        assert_eq!(place(&subscribed), last, "what follows begins behind it");
        for publication in client.publications(missed).await {
            last = place(&publication);
            heard.push(publication["data"].clone());
        }
    }
    client.hears_nothing().await;
    assert_eq!(heard, (0..published).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_keeps_the_epoch_of_the_reply_is_never_told_that_it_was_recovered() {
    let hub = open().start();
    let mut client = Centrifuge::connect(&hub).await;
    let first = place(&client.subscribe("tea").await);
    hub.publish("tea", "1").await.expect("it is published");
    let last = place(&client.publications(1).await[0]);
    drop(client);
    let mut client = Centrifuge::connect(&hub).await;
    let subscribed = client.resume("tea", &(last.0, first.1.clone())).await;
    assert_eq!((&subscribed["recovered"], &subscribed["was_recovering"]), (&Value::Null, &json!(true)));
    // With nothing heard since, the reply's is the position.
    let mut client = Centrifuge::connect(&hub).await;
    let subscribed = client.resume("tea", &first).await;
    assert_eq!(subscribed["recovered"], true);
    assert_eq!(client.data(1).await, [json!(1)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_kept_any_more_is_not_recovered() {
    let hub = with_history(3);
    let mut client = Centrifuge::connect(&hub).await;
    let start = place(&client.subscribe("tea").await);
    drop(client);
    for number in 0..3 {
        hub.publish("tea", number.to_string()).await.expect("it is published");
    }
    let mut client = Centrifuge::connect(&hub).await;
    assert_eq!(client.resume("tea", &start).await["recovered"], true);
    assert_eq!(client.data(3).await, [json!(0), json!(1), json!(2)]);
    hub.publish("tea", "3").await.expect("it is published");
    let mut client = Centrifuge::connect(&hub).await;
    let subscribed = client.resume("tea", &start).await;
    assert_eq!((&subscribed["recovered"], &subscribed["offset"]), (&Value::Null, &json!(4)));
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn another_life_of_a_topic_with_the_same_offsets_is_not_taken_for_the_first() {
    let memory = Memory::new();
    let node = || {
        let memory = memory.clone();
        Hub::builder().backplane(move |events| memory.node(events)).start()
    };
    let hub = node();
    let mut client = Centrifuge::connect(&hub).await;
    let empty = place(&client.subscribe("tea").await);
    hub.publish("tea", "1").await.expect("it is published");
    let last = place(&client.publications(1).await[0]);
    drop(client);
    memory.forget();
    for text in ["2", "3"] {
        hub.publish("tea", text).await.expect("it is published");
    }
    // By a node that knows nothing of the first life.
    let hub = node();
    for position in [empty, last] {
        let mut client = Centrifuge::connect(&hub).await;
        let subscribed = client.resume("tea", &position).await;
        assert_eq!(
            (&subscribed["recovered"], &subscribed["offset"]),
            (&Value::Null, &json!(2)),
            "{position:?}"
        );
        client.hears_nothing().await;
    }
}

#[tokio::test(start_paused = true)]
async fn at_a_reset_the_subscription_ends_and_begins_anew_unrecovered() {
    let memory = Memory::new();
    let hub = {
        let memory = memory.clone();
        Hub::builder().backplane(move |events| memory.node(events)).start()
    };
    let mut client = Centrifuge::connect(&hub).await;
    client.subscribe("tea").await;
    for text in ["1", "2"] {
        hub.publish("tea", text).await.expect("it is published");
    }
    let last = place(&client.publications(2).await[1]);
    memory.forget();
    hub.publish("tea", "another 1").await.expect("it is published");
    let said = client.hear().await;
    let unsubscribe = json!({"code": 2500, "reason": "insufficient state"});
    assert_eq!(said["push"], json!({"channel": "tea", "unsubscribe": unsubscribe}));
    let subscribed = client.resume("tea", &last).await;
    assert_eq!((&subscribed["recovered"], &subscribed["was_recovering"]), (&Value::Null, &json!(true)));
    hub.publish("tea", "3").await.expect("it is published");
    assert_eq!(client.data(1).await, [json!(3)]);
    assert_eq!(client.error(json!({"subscribe": {"channel": "tea"}})).await, 105);
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_too_far_behind_begins_anew_behind_what_it_cannot_use() {
    const LEN: usize = 10_000;
    let config = NodeConfig { queue_limit: 5 * LEN, ..NodeConfig::default() };
    let rules = TopicRules { history: History::messages(10), presence: false };
    let hub = Hub::builder().topics(move |_| rules).node(config).start();
    let mut slow = Centrifuge::connect(&hub).await;
    let mut last = place(&slow.subscribe("tea").await);
    slow.network.stall();
    for number in 0..300 {
        hub.publish("tea", format!("[{number},\"{}\"]", "x".repeat(LEN))).await.expect("it is published");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    slow.network.resume();
    let mut heard = 0;
    let unsubscribed = loop {
        let said = slow.hear().await;
        let publication = &said["push"]["pub"];
        if !publication.is_object() {
            break said;
        }
        assert_eq!(publication["data"][0], heard, "until then nothing is missing");
        last = place(publication);
        heard += 1;
    };
    assert_eq!(unsubscribed["push"]["unsubscribe"]["code"], 2500);
    // What it is still told of the topic until it has subscribed again lies before the new beginning.
    hub.publish("tea", "\"between\"").await.expect("it is published");
    let subscribe = json!({"channel": "tea", "recover": true, "offset": last.0, "epoch": last.1});
    let id = slow.request(json!({"subscribe": subscribe})).await;
    let mut told = 0;
    let subscribed = loop {
        let said = slow.hear().await;
        if said["id"] == id {
            break said;
        }
        told = said["push"]["pub"]["offset"].as_u64().expect("it is a publication");
    };
    let subscribed = &subscribed["subscribe"];
    assert_eq!((&subscribed["recovered"], &subscribed["was_recovering"]), (&Value::Null, &json!(true)));
    assert!(subscribed["offset"].as_u64() >= Some(told), "{subscribed} after {told}");
    hub.publish("tea", "\"next\"").await.expect("it is published");
    assert_eq!(slow.data(1).await, ["next"]);
}

#[tokio::test(start_paused = true)]
async fn who_wants_all_or_nothing_gets_nothing_unless_it_is_all() {
    let hub = open().start();
    let mut client = Centrifuge::connect(&hub).await;
    let all = |offset: u64, epoch: &Value| json!({"subscribe": {"channel": "tea", "recover": true, "offset": offset, "epoch": epoch, "flag": 2}});
    assert_eq!(client.error(all(0, &json!("_"))).await, 112);
    // It can try again at once, and hears nothing before.
    let (_, epoch) = place(&client.subscribe("tea").await);
    client.ask(json!({"unsubscribe": {"channel": "tea"}})).await;
    assert_eq!(client.ask(all(0, &epoch)).await["subscribe"]["recovered"], true);
    assert_eq!(hub.topics().await[0].1, 1);
    let mut other = Centrifuge::connect(&hub).await;
    assert_eq!(other.error(all(7, &epoch)).await, 112);
    tokio::time::sleep(Duration::from_secs(1)).await;
    other.ask(json!({"ping": {}})).await;
    assert_eq!(hub.topics().await[0].1, 1, "only the other one is subscribed");
}

#[tokio::test(start_paused = true)]
async fn who_unsubscribes_hears_no_more() {
    let hub = open().start();
    let mut client = Centrifuge::connect(&hub).await;
    client.subscribe("tea").await;
    assert_eq!(client.ask(json!({"unsubscribe": {"channel": "tea"}})).await["unsubscribe"], json!({}));
    hub.publish("tea", "unheard").await.expect("it is published");
    client.hears_nothing().await;
    assert_eq!(client.ask(json!({"unsubscribe": {"channel": "tea"}})).await["unsubscribe"], json!({}));
}

#[tokio::test(start_paused = true)]
async fn history_is_given_from_either_end_and_behind_a_place() {
    let hub = with_history(5);
    let mut client = Centrifuge::connect(&hub).await;
    for number in 0..8 {
        hub.publish("tea", number.to_string()).await.expect("it is published");
    }
    let mut ask = async |with: Value| {
        let mut history = with;
        history["channel"] = "tea".into();
        client.ask(json!({"history": history})).await
    };
    let data = |reply: &Value| -> Vec<Value> {
        let publications = reply["history"]["publications"].as_array().expect("it is a list");
        publications.iter().map(|publication| publication["data"].clone()).collect()
    };
    let end = ask(json!({})).await;
    assert_eq!((&end["history"]["offset"], data(&end).len()), (&json!(8), 0));
    let epoch = &end["history"]["epoch"];
    assert_eq!(data(&ask(json!({"limit": -1})).await), [3, 4, 5, 6, 7]);
    assert_eq!(data(&ask(json!({"limit": 2})).await), [3, 4]);
    assert_eq!(data(&ask(json!({"limit": 2, "reverse": true})).await), [7, 6]);
    let since = json!({"offset": 5, "epoch": epoch});
    assert_eq!(data(&ask(json!({"limit": 2, "since": since})).await), [5, 6]);
    assert_eq!(data(&ask(json!({"limit": 9, "since": since, "reverse": true})).await), [3]);
    for since in [json!({"offset": 2, "epoch": epoch}), json!({"offset": 5, "epoch": "_"})] {
        assert_eq!(ask(json!({"limit": 2, "since": since})).await["error"]["code"], 112);
    }
}

#[tokio::test(start_paused = true)]
async fn joins_and_leaves_are_heard_and_who_is_here_can_be_asked() {
    let hub = Hub::builder()
        .topics(|topic| TopicRules { presence: topic.starts_with("chat"), history: History::NONE })
        .on_connect(|connect| async move { Ok(connect.token.map(Member::new)) })
        .start();
    let mut watcher = Centrifuge::connect(&hub).await;
    watcher.subscribe("chat").await;
    let mut ann = Centrifuge::connect_as(&hub, json!({"token": "ann"})).await;
    ann.subscribe("chat").await;
    let info = json!({"user": "ann", "client": "ann"});
    assert_eq!(watcher.hear().await, json!({"push": {"channel": "chat", "join": {"info": info}}}));
    let presence = watcher.ask(json!({"presence": {"channel": "chat"}})).await;
    assert_eq!(presence["presence"], json!({"presence": {"ann": info}}));
    let stats = watcher.ask(json!({"presence_stats": {"channel": "chat"}})).await;
    assert_eq!(stats["presence_stats"], json!({"num_clients": 1, "num_users": 1}));
    drop(ann);
    assert_eq!(watcher.hear().await, json!({"push": {"channel": "chat", "leave": {"info": info}}}));
    // What the topic's rules do not have.
    assert_eq!(watcher.error(json!({"presence": {"channel": "tea"}})).await, 108);
    assert_eq!(watcher.error(json!({"presence_stats": {"channel": "tea"}})).await, 108);
    assert_eq!(watcher.error(json!({"history": {"channel": "tea"}})).await, 108);
}

fn guarded() -> Hub {
    Hub::builder()
        .topics(|_| TopicRules { presence: true, ..TopicRules::default() })
        .on_connect(|connect| async move {
            let name = connect.token.filter(|name| !name.contains('.')).ok_or(Denied)?;
            let user = name.split('-').next().unwrap_or_default().to_owned();
            Ok::<_, Denied>(Identity::from(Member::new(user)).expires_in(Duration::from_secs(60)))
        })
        .on_subscribe(|_, topic| async move { if topic.starts_with("chat") { Ok(()) } else { Err(Denied) } })
        .on_publish(|_, topic| async move { if topic.starts_with("chat") { Ok(()) } else { Err(Denied) } })
        .max_subscriptions(2)
        .start()
}

#[tokio::test(start_paused = true)]
async fn what_is_not_allowed_is_answered_so() {
    let mut ann = Centrifuge::connect_as(&guarded(), json!({"token": "ann"})).await;
    for command in [
        json!({"subscribe": {"channel": "tea"}}),
        json!({"subscribe": {"channel": "$all"}}),
        json!({"publish": {"channel": "tea", "data": 1}}),
        json!({"publish": {"channel": "$all", "data": 1}}),
        json!({"presence": {"channel": "tea"}}),
        json!({"presence_stats": {"channel": "tea"}}),
        json!({"history": {"channel": "tea"}}),
        json!({"sub_refresh": {"channel": "tea", "token": ""}}),
    ] {
        assert_eq!(ann.error(command.clone()).await, 103, "{command}");
    }
    ann.subscribe("chat:1").await;
    ann.subscribe("chat:2").await;
    assert_eq!(ann.ask(json!({"sub_refresh": {"channel": "chat:1"}})).await["sub_refresh"], json!({}));
    let id = ann.request(json!({"subscribe": {"channel": "chat:3"}})).await;
    // Who joined is told meanwhile.
    let mut said = ann.hear().await;
    while said["id"] != id {
        said = ann.hear().await;
    }
    assert_eq!(said["error"]["code"], 106);
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_is_closed_for_good_unless_its_token_is_only_over() {
    let hub = guarded();
    let mut nobody = Centrifuge::open(&hub).await;
    nobody.request(json!({"connect": {}})).await;
    assert_eq!(nobody.closed().await, (3500, "invalid token".to_owned()));
    // {"exp":1000000000}, and one of the year 9999.
    let [over, another] = ["e30.eyJleHAiOjEwMDAwMDAwMDB9.c2ln", "e30.eyJleHAiOjI1MzQwMjMwMDc5OX0.c2ln"];
    let mut ann = Centrifuge::open(&hub).await;
    assert_eq!(ann.error(json!({"connect": {"token": over}})).await, 109);
    assert_eq!(ann.closed().await.0, 3005);
    let mut eve = Centrifuge::open(&hub).await;
    eve.request(json!({"connect": {"token": another}})).await;
    assert_eq!(eve.closed().await.0, 3500);
}

#[tokio::test(start_paused = true)]
async fn a_new_token_in_time_keeps_the_connection_and_another_users_ends_it() {
    let hub = guarded();
    let mut ann = Centrifuge::open(&hub).await;
    let connected = ann.ask(json!({"connect": {"token": "ann"}})).await;
    assert_eq!((&connected["connect"]["expires"], &connected["connect"]["ttl"]), (&json!(true), &json!(50)));
    for _ in 0..5 {
        ann.hears_within(Duration::from_secs(50)).await;
        let refreshed = ann.ask(json!({"refresh": {"token": "ann-again"}})).await;
        assert_eq!(refreshed["refresh"]["client"], connected["connect"]["client"]);
        assert_eq!(refreshed["refresh"]["ttl"], 50);
    }
    ann.request(json!({"refresh": {"token": "bob"}})).await;
    assert_eq!(ann.closed().await.0, 3500);

    let mut late = Centrifuge::connect_as(&hub, json!({"token": "ann"})).await;
    late.hears_within(Duration::from_secs(59)).await;
    assert_eq!(late.closed().await, (3005, "connection expired".to_owned()));
    // Without an end there is nothing to be refreshed.
    let mut ever = Centrifuge::connect(&open().start()).await;
    assert_eq!(ever.error(json!({"refresh": {"token": "x"}})).await, 108);
}

#[tokio::test(start_paused = true)]
async fn a_new_token_takes_away_what_it_does_not_allow_any_more() {
    let hub = Hub::builder()
        .on_connect(|connect| async move {
            let prefix = connect.token.ok_or(Denied)?;
            Ok::<_, Denied>(Identity::anonymous().with(prefix).expires_in(Duration::from_secs(60)))
        })
        .on_subscribe(|client, topic| async move {
            let prefix = client.get::<String>().ok_or(Denied)?;
            if topic.starts_with(&**prefix) { Ok(()) } else { Err(Denied) }
        })
        .start();
    let mut client = Centrifuge::connect_as(&hub, json!({"token": ""})).await;
    client.subscribe("chat:1").await;
    client.subscribe("news").await;
    assert!(client.ask(json!({"refresh": {"token": "chat:"}})).await["refresh"].is_object());
    let unsubscribe = json!({"code": 2000, "reason": "server unsubscribe"});
    assert_eq!(client.hear().await["push"], json!({"channel": "news", "unsubscribe": unsubscribe}));
    for topic in ["news", "chat:1"] {
        hub.publish(topic, json!(topic).to_string()).await.expect("it is published");
    }
    assert_eq!(client.data(1).await, ["chat:1"]);
    client.hears_nothing().await;
    assert_eq!(client.error(json!({"subscribe": {"channel": "news"}})).await, 103);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_the_protocol_ends_the_connection() {
    let hub = open().start();
    for (said, code) in [
        ("tea", 3501),
        ("[]", 3501),
        ("", 3501),
        ("{}", 3501),
        (r#"{"connect":{}}"#, 3501),
        (r#"{"id":1,"subscribe":{"channel":"tea"}}"#, 3501),
        (r#"{"id":1,"subscribe":{"channel":"tea"}}{"id":2,"connect":{}}"#, 3501),
        ("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"connect\":{}}", 3501),
        ("{\"id\":1,\"connect\":{}}\ntea", 3501),
        ("{\"id\":1,\"connect\":{}}\n{\"ping\":{}}", 3501),
        ("{\"id\":1,\"connect\":{}}\n{\"send\":{\"data\":1}}", 3508),
    ] {
        let mut client = Centrifuge::open(&hub).await;
        client.ws.send(said).await.expect("it is open");
        assert_eq!(client.closed().await.0, code, "{said}");
    }
    // As protobuf comes, which is no JSON.
    let mut client = Centrifuge::open(&hub).await;
    client.ws.send(vec![0x08, 0x01, 0x22, 0x00]).await.expect("it is open");
    assert_eq!(client.closed().await.0, 3501);
    let mut client = Centrifuge::connect(&hub).await;
    let large = json!({"id": 2, "publish": {"channel": "tea", "data": "x".repeat(1 << 20)}});
    client.ws.send(large.to_string()).await.expect("it is open");
    assert_eq!(client.closed().await.0, 1009);
    // What came before the nonsense was done, and what came behind it was not.
    let mut watcher = Centrifuge::connect(&hub).await;
    watcher.subscribe("tea").await;
    let mut client = Centrifuge::connect(&hub).await;
    let publish = |data: &str| json!({"id": 9, "publish": {"channel": "tea", "data": data}});
    let lines = format!("{}\ntea\n{}", publish("before"), publish("behind"));
    client.ws.send(lines).await.expect("it is open");
    client.ws.send(publish("later").to_string()).await.expect("it is open");
    assert_eq!(client.closed().await.0, 3501);
    assert_eq!(watcher.data(1).await, ["before"]);
    watcher.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_closed_in_time() {
    let mut client = Centrifuge::open(&open().start()).await;
    let before = tokio::time::Instant::now();
    assert_eq!(client.closed().await, (3502, "stale".to_owned()));
    assert!(before.elapsed() < Duration::from_secs(11));
}

#[tokio::test(start_paused = true)]
async fn a_ping_comes_every_25_seconds_and_who_does_not_answer_is_closed() {
    let mut client = Centrifuge::connect(&open().start()).await;
    for _ in 0..10 {
        let before = tokio::time::Instant::now();
        assert_eq!(client.hear_any().await, json!({}));
        assert!((24..=26).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
        client.ws.send("{}").await.expect("it is open");
    }
    // Whatever is said shows that it is there.
    assert_eq!(client.hear_any().await, json!({}));
    client.request(json!({"ping": {}})).await;
    let before = tokio::time::Instant::now();
    assert_eq!(client.closed().await, (3012, "no pong".to_owned()));
    assert!((34..=36).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_is_drained_sends_its_clients_elsewhere() {
    let hub = open().start();
    let mut client = Centrifuge::connect(&hub).await;
    let draining = tokio::spawn({
        let hub = hub.clone();
        async move { hub.drain(Duration::from_secs(3)).await }
    });
    assert_eq!(client.closed().await, (3001, "shutdown".to_owned()));
    assert_eq!(draining.await.expect("it ends"), 0);
    let refused = Network::new().connect(&server(&hub), "ws://hub.example/connection/websocket").await;
    let Err(wireline::ConnectError::Rejected(response)) = refused else { panic!("{refused:?}") };
    assert_eq!(response.status(), 503);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_too_slow_is_closed_if_that_is_the_policy() {
    let config = NodeConfig {
        queue_limit: 1000,
        lagging: wireline_hub::node::Lagging::Close,
        ..NodeConfig::default()
    };
    let rules = TopicRules { history: History::messages(1), presence: false };
    let hub = Hub::builder().topics(move |_| rules).node(config).start();
    let mut client = Centrifuge::connect(&hub).await;
    client.subscribe("tea").await;
    client.network.stall();
    for _ in 0..100 {
        hub.publish("tea", vec![0; 10_000]).await.expect("it is published");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    client.network.resume();
    assert_eq!(client.closed().await, (3008, "slow".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn the_subprotocol_is_chosen_by_who_offers_it() {
    let hub = Hub::new();
    for (offered, chosen) in [
        (vec![], None),
        (vec!["centrifuge-json"], Some("centrifuge-json")),
        (vec!["centrifuge-protobuf", "centrifuge-json"], Some("centrifuge-json")),
    ] {
        let network = Network::new();
        let connecting = network.connect(&server(&hub), "ws://hub.example/connection/websocket");
        let ws = connecting.protocols(offered).await.expect("the server accepts");
        assert_eq!(ws.socket().protocol(), chosen);
    }
}

#[tokio::test(start_paused = true)]
async fn a_payload_arrives_as_json_whatever_it_is() {
    let hub = Hub::new();
    let mut client = Centrifuge::connect(&hub).await;
    client.subscribe("tea").await;
    for (payload, expected) in [
        (Message::from("{\n\"a\": 1}"), json!({"a": 1})),
        (Message::from("it is\nready"), json!("it is\nready")),
        (Message::from(vec![0xff]), json!({"b64data": "/w=="})),
    ] {
        hub.publish("tea", payload).await.expect("it is published");
        assert_eq!(client.data(1).await, [expected]);
    }
}
