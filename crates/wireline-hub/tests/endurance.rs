//! What goes on for long, and what goes through real sockets.

#[expect(dead_code, reason = "the client of the hub's tests can do more than is needed here")]
#[path = "hub/client.rs"]
mod client;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    net::TcpSocket,
    time::{sleep, timeout},
};
use wireline::{Config, Server, WebSocket};
use wireline_hub::{History, Hub, TopicRules, node::NodeConfig};

use crate::client::{Client, open, server};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a client of one topic has heard, which are numbers.
#[derive(Debug)]
struct Place {
    position: String,
    number: Option<usize>,
    heard: usize,
}

impl Place {
    fn note(&mut self, position: String, text: &str) {
        let number: usize = text.parse().expect("it is a number");
        assert!(self.number.is_none_or(|last| last + 1 == number), "{number} after {self:?}");
        *self = Self { position, number: Some(number), heard: self.heard + 1 };
    }

    /// Until it is unsubscribed.
    async fn follow(&mut self, client: &mut Client, subscribing: Option<u64>, unsubscribing: u64) {
        loop {
            let said = client.hear().await;
            match said.header.get("re").and_then(Value::as_u64) {
                None => self.note(said.position(), said.text()),
                Some(answered) if answered == unsubscribing => return,
                answered => {
                    assert_eq!(answered, subscribing, "{said:?}");
                    assert_eq!(said.header["recovered"], true, "{said:?}");
                    assert_eq!(said.position(), self.position);
                }
            }
        }
    }
}

const ROUNDS: usize = 25_000;

/// Subscribes where it was, and unsubscribes before it is answered, again and again.
async fn churn(hub: Hub) -> (Client, Place) {
    let mut client = Client::connect(&hub).await;
    let position = client.subscribe("tea").await.position();
    let mut place = Place { position, number: None, heard: 0 };
    let unsubscribe = json!({"op": "unsub", "t": "tea"});
    let unsubscribing = client.request(&unsubscribe, "").await;
    place.follow(&mut client, None, unsubscribing).await;
    for round in 0..ROUNDS {
        let subscribe = json!({"op": "sub", "t": "tea", "since": place.position});
        let subscribing = client.request(&subscribe, "").await;
        if round % 100 == 0 {
            sleep(Duration::from_millis(2)).await;
        }
        let unsubscribing = client.request(&unsubscribe, "").await;
        place.follow(&mut client, Some(subscribing), unsubscribing).await;
    }
    (client, place)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_subscriptions_to_a_topic_that_goes_on_miss_and_double_nothing() {
    const CLIENTS: usize = 4;
    let history = History::messages(1_000_000).bytes(1 << 30).age(Duration::from_secs(3600));
    let hub = open().topics(move |_| TopicRules { history, presence: false }).start();
    let is_over = Arc::new(AtomicBool::new(false));
    let publishing = tokio::spawn({
        let (hub, is_over) = (hub.clone(), Arc::clone(&is_over));
        async move {
            let mut number = 0;
            while !is_over.load(Ordering::SeqCst) {
                hub.publish("tea", number.to_string()).await.expect("it is published");
                number += 1;
                sleep(Duration::from_millis(1)).await;
            }
            number
        }
    });
    let churning: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(churn(hub.clone()))).collect();
    let mut clients = Vec::new();
    for client in churning {
        clients.push(client.await.expect("it misses nothing"));
    }
    is_over.store(true, Ordering::SeqCst);
    let published = publishing.await.expect("all is published");
    for (client, place) in &mut clients {
        client.resume("tea", &place.position).await;
        while place.number != Some(published - 1) {
            let said = client.hear().await;
            place.note(said.position(), said.text());
        }
        assert!(place.heard * 10 > published * 9, "it was there nearly from the beginning: {place:?}");
    }
    eprintln!(
        "{} subscriptions to a topic, {published} publications, none missed or doubled",
        CLIENTS * ROUNDS
    );
    assert!(published > 500, "{published}");
}

const LEN: usize = 10_000;

/// A client whose socket holds little, and that has subscribed.
async fn narrow(hub: &Hub) -> WebSocket {
    let listener = Server::bind(&server(hub), "127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(listener.serve());
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(8 << 10).expect("it can be small");
    let stream = socket.connect(address).await.expect("it is listened to");
    let connecting = wireline::connect("ws://hub.example/").over(stream).protocols(["hub.v1"]);
    let mut ws = connecting.config(Config::client()).await.expect("the server accepts");
    ws.send(r#"{"op":"auth","id":1}"#).await.expect("it is open");
    ws.send(r#"{"op":"sub","id":2,"t":"tea"}"#).await.expect("it is open");
    while hear(&mut ws).await.0["re"] != 2 {}
    ws
}

/// The next thing said, but for where what is broadcast begins: that comes at any time.
async fn hear(ws: &mut WebSocket) -> (Value, String) {
    loop {
        let message = timeout(PATIENCE, ws.recv()).await.expect("it is told in time");
        let message = message.expect("it is open").expect("it is open").to_string();
        let (header, payload) = message.split_once('\n').unwrap_or((&message, ""));
        let header: Value = serde_json::from_str(header).expect("it is JSON");
        if header["ev"] != "sub" {
            return (header, payload.trim_start_matches('0').to_owned());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_socket_is_full_catches_up_or_is_told_what_it_cannot_have() {
    const PUBLICATIONS: usize = 2000;
    const QUEUE: usize = 20 * LEN;
    for (kept, is_kept) in [(10_000, true), (50, false)] {
        let history = History::messages(kept).bytes(1 << 30);
        let config = NodeConfig { queue_limit: QUEUE, ..NodeConfig::default() };
        let hub =
            open().shards(1).node(config).topics(move |_| TopicRules { history, presence: false }).start();
        let mut slow = narrow(&hub).await;
        let mut fast = Client::connect(&hub).await;
        fast.subscribe("tea").await;
        for number in 1..=PUBLICATIONS {
            hub.publish("tea", format!("{number:0>LEN$}")).await.expect("it is published");
            fast.texts(1).await;
        }
        let stats = hub.stats().await;
        assert_eq!(stats.lagging, 1, "20 MB are more than its socket holds: {stats:?}");
        assert!(stats.queued <= QUEUE + LEN, "{stats:?}");
        let mut next = 1;
        let mut resets = 0;
        while next <= PUBLICATIONS {
            let (header, text) = hear(&mut slow).await;
            if header["ev"] == "reset" {
                assert_eq!(header["why"], "window", "{header}");
                resets += 1;
                break;
            }
            assert_eq!(text, next.to_string(), "{header}");
            next += 1;
        }
        assert_eq!(resets, usize::from(!is_kept), "behind {next}");
        hub.publish("tea", "and so on").await.expect("it is published");
        assert_eq!(hear(&mut slow).await.1, "and so on");
        assert_eq!(hub.stats().await.lagging, 0);
    }
}
