//! Subscribing, publishing, coming back.

use std::time::Duration;

use serde_json::json;
use wireline::{Config, Message};
use wireline_hub::{History, Hub, TopicRules};

use crate::client::{Client, open, topic};

#[tokio::test(start_paused = true)]
async fn what_is_published_is_heard_by_all_subscribers_in_one_order() {
    let hub = open().start();
    let [mut ann, mut bob, mut eve] =
        [Client::connect(&hub).await, Client::connect(&hub).await, Client::connect(&hub).await];
    ann.subscribe("tea").await;
    bob.subscribe("tea").await;
    eve.subscribe("coffee").await;
    for number in 0..20 {
        ann.publish("tea", &format!("ann {number}")).await;
        bob.publish("tea", &format!("bob {number}")).await;
        hub.publish("tea", format!("hub {number}")).await.expect("it is published");
    }
    let mut heard = Vec::new();
    for client in [&mut ann, &mut bob] {
        let mut said = Vec::new();
        while said.len() < 60 {
            let next = client.hear().await;
            if next.header.get("re").is_none() {
                said.push((next.position(), next.text().to_owned()));
            }
        }
        heard.push(said);
    }
    assert_eq!(heard[0], heard[1]);
    for publisher in ["ann", "bob", "hub"] {
        let own: Vec<_> =
            heard[0].iter().map(|(_, text)| text).filter(|text| text.starts_with(publisher)).collect();
        let expected: Vec<_> = (0..20).map(|number| format!("{publisher} {number}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>(), "each publisher's come in order");
    }
    eve.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_payload_arrives_as_it_was_sent() {
    let hub = open().start();
    let mut client = Client::connect(&hub).await;
    client.subscribe("tea").await;
    for payload in [Message::from("κόσμε\n\n"), Message::from(vec![0, 0xff, b'\n']), Message::from("")] {
        hub.publish("tea", payload.clone()).await.expect("it is published");
        let heard = client.ws.recv().await.expect("it is open").expect("it is open");
        let line = heard.as_bytes().iter().position(|byte| *byte == b'\n').expect("there is a line") + 1;
        assert_eq!(&heard.as_bytes()[line..], payload.as_bytes());
        assert_eq!(heard.as_text().is_some(), payload.as_text().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_publisher_hears_its_own_unless_it_asks_not_to() {
    let hub = open().start();
    let [mut ann, mut bob] = [Client::connect(&hub).await, Client::connect(&hub).await];
    ann.subscribe("tea").await;
    bob.subscribe("tea").await;
    ann.ask(&json!({"op": "pub", "t": "tea", "echo": false}), "for the others").await;
    hub.publish("tea", "for all").await.expect("it is published");
    assert_eq!(ann.texts(1).await, ["for all"]);
    assert_eq!(bob.texts(2).await, ["for the others", "for all"]);
}

#[tokio::test(start_paused = true)]
async fn who_unsubscribes_hears_no_more() {
    let hub = open().start();
    let mut client = Client::connect(&hub).await;
    client.subscribe("tea").await;
    let answer = client.ask(&json!({"op": "unsub", "t": "tea"}), "").await;
    assert!(answer.header.get("err").is_none(), "{answer:?}");
    hub.publish("tea", "unheard").await.expect("it is published");
    client.hears_nothing().await;
    let again = client.ask(&json!({"op": "unsub", "t": "tea"}), "").await;
    assert_eq!(again.error(), "not_subscribed");
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_reaches_every_connection() {
    let hub = open().start();
    let [mut ann, mut bob] = [Client::connect(&hub).await, Client::connect(&hub).await];
    hub.broadcast("hear, hear").await.expect("it is published");
    assert_eq!(ann.texts(1).await, ["hear, hear"]);
    assert_eq!(bob.texts(1).await, ["hear, hear"]);
    let denied = ann.ask(&json!({"op": "pub", "t": "$all"}), "me too").await;
    assert_eq!(denied.error(), "forbidden", "only the server broadcasts");
}

#[tokio::test(start_paused = true)]
async fn who_lost_its_connection_goes_on_where_it_was() {
    let hub = open().start();
    let mut client = Client::connect(&hub).await;
    client.subscribe("tea").await;
    hub.publish("tea", "0").await.expect("it is published");
    let last = client.hear().await.position();
    client.network.reset();
    drop(client);
    for number in 1..=50 {
        hub.publish("tea", number.to_string()).await.expect("it is published");
    }
    let mut client = Client::connect(&hub).await;
    let answer = client.resume("tea", &last).await;
    assert_eq!(answer.header["recovered"], true);
    assert_eq!(answer.position(), last, "what follows begins behind it");
    let expected: Vec<_> = (1..=50).map(|number| number.to_string()).collect();
    assert_eq!(client.texts(50).await, expected);
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn who_lost_its_connection_misses_no_broadcast() {
    let hub = open().start();
    let mut client = Client::connect(&hub).await;
    hub.broadcast("0").await.expect("it is published");
    let last = client.hear().await.position();
    drop(client);
    hub.broadcast("1").await.expect("it is published");
    let mut client = Client::open(&hub, Config::client()).await;
    client.ask(&json!({"op": "auth", "all": last}), "").await;
    assert_eq!(client.hear().await.header["recovered"], true);
    assert_eq!(client.texts(1).await, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn who_was_away_too_long_is_told_that_something_is_missing() {
    let rules = TopicRules { history: History::messages(10).age(Duration::from_secs(60)), presence: false };
    let hub = open().topics(move |_| rules).start();
    let old = hub.publish("tea", "old").await.expect("it is published").to_string();
    for number in 0..11 {
        hub.publish("tea", number.to_string()).await.expect("it is published");
    }
    let mut client = Client::connect(&hub).await;
    let answer = client.resume("tea", &old).await;
    assert_eq!(answer.header["recovered"], false);
    hub.publish("tea", "new").await.expect("it is published");
    assert_eq!(client.texts(1).await, ["new"]);

    // The same by age.
    let last = hub.publish("tea", "last").await.expect("it is published").to_string();
    hub.publish("tea", "missed").await.expect("it is published");
    tokio::time::sleep(Duration::from_secs(61)).await;
    hub.publish("tea", "later").await.expect("it is published");
    let mut late = Client::connect(&hub).await;
    assert_eq!(late.resume("tea", &last).await.header["recovered"], false);
    late.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_late_comer_may_ask_for_the_past() {
    let hub = open().start();
    for number in 0..10 {
        hub.publish("tea", number.to_string()).await.expect("it is published");
    }
    let mut client = Client::connect(&hub).await;
    client.ask(&json!({"op": "sub", "t": "tea", "last": 3}), "").await;
    hub.publish("tea", "10").await.expect("it is published");
    assert_eq!(client.texts(4).await, ["7", "8", "9", "10"]);
    let page = hub.history(&topic(), 2).await.expect("it is there");
    assert_eq!(page.items.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_twice_with_one_key_is_published_once() {
    let hub = open().start();
    let [mut ann, mut bob] = [Client::connect(&hub).await, Client::connect(&hub).await];
    bob.subscribe("tea").await;
    let request = json!({"op": "pub", "t": "tea", "key": "k"});
    let first = ann.ask(&request, "once").await.position();
    assert_eq!(ann.ask(&request, "once").await.position(), first);
    let other = bob.request(&request, "bob's own").await;
    assert!(other > 0);
    let position = hub.publish("tea", "server").key("k").await.expect("it is published");
    assert_eq!(hub.publish("tea", "server").key("k").await, Ok(position));
    let mut texts = Vec::new();
    while texts.len() < 3 {
        let said = bob.hear().await;
        if said.header.get("re").is_none() {
            texts.push(said.text().to_owned());
        }
    }
    texts.sort();
    assert_eq!(texts, ["bob's own", "once", "server"], "nobody's key is another's");
    bob.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn one_frame_is_made_of_each_publication_whatever_the_number_of_subscribers() {
    const SUBSCRIBERS: u64 = 200;
    let hub = open().start();
    let mut clients = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let mut client = Client::connect(&hub).await;
        client.subscribe("tea").await;
        clients.push(client);
    }
    for number in 0..10 {
        hub.publish("tea", number.to_string()).await.expect("it is published");
    }
    for client in &mut clients {
        assert_eq!(client.texts(10).await.len(), 10);
    }
    let stats = hub.stats().await;
    assert_eq!((stats.frames, stats.deliveries), (10, 10 * SUBSCRIBERS));
}

#[tokio::test(start_paused = true)]
async fn a_page_hears_that_the_connection_stands() {
    let hub = open().start();
    let mut client = Client::connect(&hub).await;
    let before = tokio::time::Instant::now();
    assert_eq!(client.ws.recv().await.expect("it is open"), Some("".into()));
    assert!(before.elapsed() <= Duration::from_secs(25));
}

#[tokio::test(start_paused = true)]
async fn a_connection_has_a_number_of_topics_at_most() {
    let hub = open().max_subscriptions(3).start();
    let mut client = Client::connect(&hub).await;
    client.subscribe("1").await;
    client.subscribe("2").await;
    assert_eq!(client.subscribe("3").await.error(), "too_many_subscriptions", "broadcasts are one, too");
    assert_eq!(client.subscribe("2").await.error(), "subscribed");
    client.ask(&json!({"op": "unsub", "t": "1"}), "").await;
    assert_eq!(client.subscribe("3").await.header["recovered"], false);
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_nobody_hears_any_more_is_given_up() {
    let hub = open().start();
    let mut client = Client::connect(&hub).await;
    client.subscribe("tea").await;
    assert_eq!(hub.stats().await.topics, 2);
    drop(client);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(hub.stats().await.topics, 0);
}

#[tokio::test(start_paused = true)]
async fn a_topics_name_that_is_none_is_an_error() {
    let hub = Hub::new();
    assert!(hub.publish("", "x").await.is_err());
    assert!(hub.publish(topic(), "x").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_is_drained_sends_its_clients_away_one_by_one() {
    let hub = Hub::new();
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::connect(&hub).await);
    }
    let before = tokio::time::Instant::now();
    let draining = tokio::spawn({
        let hub = hub.clone();
        async move { hub.drain(Duration::from_secs(60)).await }
    });
    let mut went = Vec::new();
    for client in &mut clients {
        let bye = client.hear().await;
        assert_eq!((&bye.header["ev"], &bye.header["retry"]), (&json!("bye"), &json!([0, 1000])));
        assert_eq!(client.close_code().await, 3004);
        went.push(before.elapsed());
    }
    assert_eq!(draining.await.expect("it does not panic"), 0);
    // Spread over the time, and within it.
    let last = went.last().copied().unwrap_or_default();
    assert!((Duration::from_secs(20)..Duration::from_secs(61)).contains(&last), "{last:?}");
    let refused =
        wireline::testing::Network::new().connect(&crate::client::server(&hub), "ws://hub.example/");
    match refused.protocols(["hub.v1"]).await {
        Err(wireline::ConnectError::Rejected(response)) => {
            assert_eq!(
                (response.status().as_u16(), &response.headers()["retry-after"]),
                (503, &"1".parse().expect("it is one"))
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_understood_is_answered_and_the_others_go_on() {
    let hub = open().start();
    let mut client = Client::connect(&hub).await;
    client.subscribe("tea").await;
    for nonsense in [
        json!({"op": "nap"}),
        json!({"op": "sub"}),
        json!({"op": "sub", "t": ""}),
        json!({"op": "sub", "t": "coffee", "since": "yesterday"}),
        json!({"op": "pub", "t": 7}),
    ] {
        assert_eq!(client.ask(&nonsense, "").await.error(), "malformed");
    }
    hub.publish("tea", "still here").await.expect("it is published");
    assert_eq!(client.texts(1).await, ["still here"]);
}
