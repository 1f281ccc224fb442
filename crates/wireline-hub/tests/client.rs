//! The client in Rust, over loopback, against real hubs: what it hears and publishes, whatever happens to connections.

#[expect(dead_code, reason = "the way to a broker can do more than is needed here")]
#[path = "broker/proxy.rs"]
mod proxy;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;
use wireline::{Backoff, Request, Server, ServerHandle};
use wireline_hub::{
    Denied, History, Hub, HubBuilder, Member, Memory, TopicRules,
    client::{Client, ClientError, ConnectClient, Event, Subscription},
};

use crate::proxy::Proxy;

const PATIENCE: Duration = Duration::from_secs(30);

/// A hub whose clients may publish, whose topics are kept, and who the token says.
fn open(history: History) -> HubBuilder {
    Hub::builder()
        .topics(move |_| TopicRules { history, presence: true })
        .on_connect(|connect| async move {
            match connect.token.as_deref() {
                Some("nobody") => Err(Denied),
                token => Ok(token.map(Member::new)),
            }
        })
        .on_publish(|_, _| async { Ok(()) })
}

/// A hub that is listened to.
struct Node {
    hub: Hub,
    port: u16,
    handle: ServerHandle,
}

impl Node {
    fn start(hub: Hub) -> Self {
        let serving = hub.clone();
        let server = Server::new().on_request(move |req: Request| serving.clone().serve(req));
        let listener = server.bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let handle = listener.handle();
        tokio::spawn(listener.serve());
        Self { hub, port, handle }
    }
}

/// A client that comes back soon.
fn connect(port: u16) -> ConnectClient {
    let backoff = Backoff::default().base(Duration::from_millis(5)).max(Duration::from_millis(50));
    Client::connect(format!("ws://127.0.0.1:{port}/")).backoff(backoff)
}

async fn next(subscription: &mut Subscription) -> Event {
    let event = timeout(PATIENCE, subscription.recv()).await.expect("something happens");
    event.expect("it goes on").expect("it is not closed")
}

/// The next message, past who comes and leaves.
async fn next_text(subscription: &mut Subscription) -> String {
    loop {
        match next(subscription).await {
            Event::Message { message, .. } => return message.to_string(),
            Event::Join { .. } | Event::Leave { .. } => {}
            event => panic!("{event:?}"),
        }
    }
}

#[tokio::test]
async fn clients_hear_each_other_and_who_is_here() {
    let node = Node::start(open(History::NONE).start());
    let ann = connect(node.port).token(|| async { Ok("ann".to_owned()) }).await.expect("it connects");
    let bob = connect(node.port).token(|| async { Ok("bob".to_owned()) }).await.expect("it connects");
    let mut tea = ann.subscribe("tea").await.expect("it is granted");
    let _bobs = bob.subscribe("tea").await.expect("it is granted");
    let mut joined = Vec::new();
    while joined.len() < 2 {
        if let Event::Join { member, .. } = next(&mut tea).await {
            joined.push(member.name().to_owned());
        }
    }
    joined.sort();
    assert_eq!(joined, ["ann", "bob"]);
    let names = ann.presence("tea").await.expect("it is told");
    assert_eq!(names.iter().map(Member::name).collect::<Vec<_>>(), ["ann", "bob"]);
    let position = bob.publish("tea", "is there any?").await.expect("it is published");
    let Event::Message { message, position: heard } = next(&mut tea).await else { panic!("no message") };
    assert_eq!((message.as_text(), heard), (Some("is there any?"), position));
    ann.publish("tea", vec![0xff_u8, 0]).without_echo().await.expect("it is published");
    bob.publish("tea", "yes").await.expect("it is published");
    assert_eq!(next_text(&mut tea).await, "yes", "its own it did not want");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_fifty_times_lose_and_double_nothing() {
    const PUBLICATIONS: usize = 1000;
    const CUTS: usize = 50;
    let node = Node::start(open(History::messages(2000)).start());
    let proxy = Proxy::start(node.port).await;
    let reader = connect(proxy.port()).await.expect("it connects");
    let writer = connect(proxy.port()).await.expect("it connects");
    let mut tea = reader.subscribe("tea").await.expect("it is granted");
    let published = Arc::new(AtomicUsize::new(0));
    let publishing = tokio::spawn({
        let published = Arc::clone(&published);
        async move {
            for number in 0..PUBLICATIONS {
                writer.publish("tea", number.to_string()).await.expect("it is published");
                published.store(number + 1, Ordering::SeqCst);
            }
        }
    });
    let cutting = tokio::spawn(async move {
        for cut in 0..CUTS {
            // Spread over all of it, however fast that goes.
            while published.load(Ordering::SeqCst) < cut * PUBLICATIONS / CUTS {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            proxy.lead_to(node.port, true);
        }
        proxy
    });
    let mut heard = Vec::new();
    while heard.len() < PUBLICATIONS {
        heard.push(next_text(&mut tea).await.parse::<usize>().expect("a number"));
    }
    publishing.await.expect("all is published");
    let _proxy = cutting.await.expect("all is cut");
    eprintln!("{CUTS} cuts of two clients, {PUBLICATIONS} publications, {} heard", heard.len());
    assert!(heard.into_iter().eq(0..PUBLICATIONS), "each once, in order");
    let silence = timeout(Duration::from_millis(300), tea.recv()).await;
    assert!(silence.is_err(), "nothing is left: {silence:?}");
}

#[tokio::test]
async fn a_node_that_is_gone_is_followed_by_another_without_a_reset() {
    let memory = Memory::new();
    let [first, second] = [(); 2].map(|()| {
        let memory = memory.clone();
        Node::start(open(History::messages(100)).backplane(move |events| memory.node(events)).start())
    });
    let proxy = Proxy::start(first.port).await;
    let client = connect(proxy.port()).await.expect("it connects");
    let mut tea = client.subscribe("tea").await.expect("it is granted");
    first.hub.publish("tea", "one").await.expect("it is published");
    assert_eq!(next_text(&mut tea).await, "one");
    proxy.lead_to(second.port, true);
    first.handle.shutdown(Duration::ZERO).await;
    drop(first.hub);
    second.hub.publish("tea", "two").await.expect("it is published");
    assert_eq!(next_text(&mut tea).await, "two");
    client.publish("tea", "three").await.expect("it is published");
    assert_eq!(next_text(&mut tea).await, "three");
}

#[tokio::test]
async fn what_is_broadcast_is_heard_over_all_connections() {
    let node = Node::start(open(History::messages(10)).start());
    let proxy = Proxy::start(node.port).await;
    let client = connect(proxy.port()).await.expect("it connects");
    let mut broadcasts = client.broadcasts();
    // Its connection is subscribed soon.
    while node.hub.topics().await.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.hub.broadcast("one").await.expect("it is published");
    assert_eq!(next_text(&mut broadcasts).await, "one");
    proxy.lead_to(node.port, true);
    node.hub.broadcast("two").await.expect("it is published");
    assert_eq!(next_text(&mut broadcasts).await, "two", "it was away, and goes on");
    client.close().await;
    assert!(matches!(broadcasts.recv().await, Ok(None)));
    assert!(matches!(client.broadcasts().recv().await, Ok(None)), "nothing will be broadcast to it");
}

#[tokio::test]
async fn a_node_that_is_drained_is_left_for_another() {
    let memory = Memory::new();
    let [first, second] = [(); 2].map(|()| {
        let memory = memory.clone();
        Node::start(open(History::messages(100)).backplane(move |events| memory.node(events)).start())
    });
    let proxy = Proxy::start(first.port).await;
    let client = connect(proxy.port()).await.expect("it connects");
    let mut tea = client.subscribe("tea").await.expect("it is granted");
    proxy.lead_to(second.port, false);
    let left = first.hub.drain(Duration::from_millis(100)).await;
    assert_eq!(left, 0, "all went in time");
    second.hub.publish("tea", "here").await.expect("it is published");
    assert_eq!(next_text(&mut tea).await, "here");
}

#[tokio::test]
async fn what_is_not_kept_any_more_is_a_reset() {
    let node = Node::start(open(History::messages(5)).start());
    let proxy = Proxy::start(node.port).await;
    let client = connect(proxy.port()).await.expect("it connects");
    let mut tea = client.subscribe("tea").await.expect("it is granted");
    node.hub.publish("tea", "first").await.expect("it is published");
    assert_eq!(next_text(&mut tea).await, "first");
    // Nobody listens there: the client stays away.
    proxy.lead_to(1, true);
    for number in 0..20 {
        node.hub.publish("tea", number.to_string()).await.expect("it is published");
    }
    proxy.lead_to(node.port, true);
    let event = loop {
        match next(&mut tea).await {
            Event::Join { .. } | Event::Leave { .. } => {}
            event => break event,
        }
    };
    assert!(matches!(event, Event::Reset { .. }), "{event:?}");
    node.hub.publish("tea", "anew").await.expect("it is published");
    assert_eq!(next_text(&mut tea).await, "anew");
}

#[tokio::test]
async fn a_subscription_that_is_not_read_catches_up_and_holds_up_no_other() {
    let node = Node::start(open(History::messages(1000)).start());
    let client = connect(node.port).await.expect("it connects");
    let mut slow = client.subscribe("tea").capacity(4).await.expect("it is granted");
    let mut fast = client.subscribe("milk").await.expect("it is granted");
    for number in 0..200 {
        node.hub.publish("tea", number.to_string()).await.expect("it is published");
        node.hub.publish("milk", number.to_string()).await.expect("it is published");
        assert_eq!(next_text(&mut fast).await, number.to_string());
    }
    for number in 0..200 {
        assert_eq!(next_text(&mut slow).await, number.to_string());
    }
}

#[tokio::test]
async fn who_is_refused_does_not_try_again() {
    let node = Node::start(open(History::NONE).start());
    let asked = Arc::new(AtomicUsize::new(0));
    let token = {
        let asked = Arc::clone(&asked);
        move || {
            asked.fetch_add(1, Ordering::SeqCst);
            async { Ok("nobody".to_owned()) }
        }
    };
    let refused = timeout(PATIENCE, connect(node.port).token(token).into_future()).await;
    let error = refused.expect("it ends").expect_err("it is refused");
    assert_eq!(error.code(), Some("unauthorized"), "{error:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "once was enough");
}

#[tokio::test]
async fn a_topic_that_is_forbidden_is_an_error_and_the_client_goes_on() {
    let hub = open(History::NONE)
        .on_subscribe(|_, topic| async move { if &*topic == "secret" { Err(Denied) } else { Ok(()) } });
    let node = Node::start(hub.start());
    let client = connect(node.port).await.expect("it connects");
    let error = client.subscribe("secret").await.expect_err("it is forbidden");
    assert!(
        matches!(&error, ClientError::Refused { code, is_temporary: false } if code == "forbidden"),
        "{error:?}"
    );
    client.subscribe("tea").await.expect("another is not");
    assert!(matches!(client.subscribe("").await, Err(ClientError::Topic(_))));
}

#[tokio::test]
async fn the_last_handle_closes_the_connection() {
    let node = Node::start(open(History::NONE).start());
    let client = connect(node.port).await.expect("it connects");
    let mut tea = client.subscribe("tea").await.expect("it is granted");
    drop(client.clone());
    let [socket] = &node.handle.sockets()[..] else { panic!("one connection is open") };
    client.close().await;
    assert!(matches!(tea.recv().await, Ok(None)), "a subscription of a closed client ends");
    let event = timeout(PATIENCE, socket.closed()).await.expect("it is closed");
    assert_eq!((u16::from(event.code), event.was_clean), (1000, true));
    let client = connect(node.port).await.expect("it connects");
    let [socket] = &node.handle.sockets()[..] else { panic!("one connection is open") };
    drop(client);
    let event = timeout(PATIENCE, socket.closed()).await.expect("it is closed");
    assert_eq!((u16::from(event.code), event.was_clean), (1000, true));
}
