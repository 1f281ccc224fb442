//! Nodes of a hub as programs, over a real broker: one is killed, or stopped for longer than its lease, while clients
//! talk. Nobody misses or doubles anything, and who is here is told once.

#[expect(dead_code, reason = "the brokers' tests do more with them")]
#[path = "../../wireline-hub/tests/broker/nats.rs"]
mod broker;
#[path = "../../wireline-hub/tests/broker/process.rs"]
mod process;
#[expect(dead_code, reason = "the brokers' tests do more with it")]
#[path = "../../wireline-hub/tests/broker/proxy.rs"]
mod proxy;

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::timeout};
use wireline::Backoff;
use wireline_hub::{
    Member,
    client::{Client, Event, Subscription},
};

use self::{broker::nats_server, proxy::Proxy};

const TOPIC: &str = "chat:1";

/// How long a node's word on who is there holds without another, and how often the others look whether it does.
const LEASE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_secs(5);

const PATIENCE: Duration = Duration::from_secs(30);

/// `wireline serve --hub` over a broker; killed with this, as by `kill -9`.
struct Node {
    child: Child,
    port: u16,
}

impl Node {
    fn start(broker: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_wireline"))
            .args(["serve", "127.0.0.1:0", "--hub", "--nats", broker, "--history", "1000"])
            .env_remove("WIRELINE_HUB_KEY")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut said = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("it says something");
        // Read on, so that it is never blocked.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let address = line.split(&['/', ' '][..]).find_map(|word| word.parse::<std::net::SocketAddr>().ok());
        let port = address.unwrap_or_else(|| panic!("{line}")).port();
        Self { child, port }
    }

    fn signal(&self, signal: &str) {
        let status =
            Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{signal}");
    }

    /// As who runs it ends it: the clients are told to go, and it ends when they have.
    fn end(mut self) {
        self.signal("TERM");
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}");
    }

    fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn client(port: u16, name: &'static str) -> Client {
    let backoff = Backoff::default().base(Duration::from_millis(20)).max(Duration::from_millis(200));
    let connect = Client::connect(format!("ws://127.0.0.1:{port}/hub")).backoff(backoff);
    let connecting = connect.token(move || async move { Ok(name.to_owned()) });
    timeout(PATIENCE, connecting.into_future()).await.expect("it answers").expect("it connects")
}

/// What one who listens was told.
#[derive(Debug, Default)]
struct Told {
    texts: Vec<String>,
    joins: Vec<String>,
    leaves: Vec<String>,
    resets: usize,
}

/// Listens until nothing was said for two seconds after `is_over`.
fn listen(mut subscription: Subscription, is_over: Arc<AtomicBool>) -> JoinHandle<Told> {
    tokio::spawn(async move {
        let mut told = Told::default();
        loop {
            let Ok(event) = timeout(Duration::from_secs(2), subscription.recv()).await else {
                if is_over.load(Ordering::SeqCst) {
                    return told;
                }
                continue;
            };
            match event.expect("it goes on").expect("it is not closed") {
                Event::Message { message, .. } => told.texts.push(message.to_string()),
                Event::Join { member, .. } => told.joins.push(member.name().to_owned()),
                Event::Leave { member, .. } => told.leaves.push(member.name().to_owned()),
                _ => told.resets += 1,
            }
        }
    })
}

/// Publishes number after number until `is_over`; how many there were.
fn publish(client: Client, is_over: Arc<AtomicBool>, published: Arc<AtomicUsize>) -> JoinHandle<usize> {
    tokio::spawn(async move {
        let mut number = 0;
        while !is_over.load(Ordering::SeqCst) {
            client.publish(TOPIC, number.to_string()).await.expect("it is published");
            number += 1;
            published.store(number, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        number
    })
}

async fn names(client: &Client) -> Vec<String> {
    let members = client.presence(TOPIC).await.expect("it is told");
    members.iter().map(|member: &Member| member.name().to_owned()).collect()
}

async fn until_here(client: &Client, wanted: &[&str]) -> Duration {
    let began = Instant::now();
    loop {
        let names = names(client).await;
        if names == wanted {
            return began.elapsed();
        }
        assert!(began.elapsed() < LEASE + Duration::from_secs(10), "{names:?} are here, and not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn assert_whole(told: &Told, published: usize) {
    let wrong = (0..).zip(&told.texts).find(|(number, text)| number.to_string() != **text);
    assert_eq!((wrong, told.texts.len(), told.resets), (None::<(usize, _)>, published, 0));
}

fn count(names: &[String], name: &str) -> usize {
    names.iter().filter(|other| *other == name).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_is_missed_by_nobody_and_who_was_there_alone_leaves_once() {
    let broker = nats_server();
    let (first, second) = (Node::start(&broker.url()), Node::start(&broker.url()));
    let proxy = Proxy::start(first.port).await;
    // Ann moves from the first node to the second; Bob is at the second; Cat is at the first, and does not come back.
    let ann = client(proxy.port(), "ann").await;
    let bob = client(second.port, "bob").await;
    let cat = client(first.port, "cat").await;
    let (is_over, published) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let ann_hears = listen(ann.subscribe(TOPIC).await.expect("it is granted"), Arc::clone(&is_over));
    let bob_hears = listen(bob.subscribe(TOPIC).await.expect("it is granted"), Arc::clone(&is_over));
    let cats = cat.subscribe(TOPIC).await.expect("it is granted");
    until_here(&bob, &["ann", "bob", "cat"]).await;
    let publishing = publish(ann.clone(), Arc::clone(&is_over), Arc::clone(&published));
    while published.load(Ordering::SeqCst) < 100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    first.kill();
    proxy.lead_to(second.port, true);
    drop((cats, cat));
    let gone_after = until_here(&bob, &["ann", "bob"]).await;
    // That it is told, too.
    tokio::time::sleep(LOOK + Duration::from_secs(2)).await;
    is_over.store(true, Ordering::SeqCst);
    let published = publishing.await.expect("all is published");
    let (ann_told, bob_told) = (ann_hears.await.expect("it ends"), bob_hears.await.expect("it ends"));
    eprintln!("a node killed: {published} publications, none lost or doubled; gone after {gone_after:?}");
    assert!(published > 200, "{published}");
    assert_whole(&ann_told, published);
    assert_whole(&bob_told, published);
    for told in [&ann_told, &bob_told] {
        assert_eq!(count(&told.leaves, "cat"), 1, "{:?} {:?}", told.joins, told.leaves);
        assert_eq!(count(&told.leaves, "bob"), 0, "{:?} {:?}", told.joins, told.leaves);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_stopped_for_longer_than_its_lease_comes_back_whole() {
    let broker = nats_server();
    let (first, second) = (Node::start(&broker.url()), Node::start(&broker.url()));
    // Cat is at the first node, and stays; Dan is there too, and goes while it is stopped.
    let [cat, dan] = [client(first.port, "cat").await, client(first.port, "dan").await];
    let bob = client(second.port, "bob").await;
    let (is_over, published) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let cat_hears = listen(cat.subscribe(TOPIC).await.expect("it is granted"), Arc::clone(&is_over));
    let dans = dan.subscribe(TOPIC).await.expect("it is granted");
    let bob_hears = listen(bob.subscribe(TOPIC).await.expect("it is granted"), Arc::clone(&is_over));
    until_here(&bob, &["bob", "cat", "dan"]).await;
    let publishing = publish(bob.clone(), Arc::clone(&is_over), Arc::clone(&published));
    first.signal("STOP");
    let gone_after = until_here(&bob, &["bob"]).await;
    drop((dans, dan));
    tokio::time::sleep(LOOK + Duration::from_secs(2)).await;
    first.signal("CONT");
    let back_after = until_here(&bob, &["bob", "cat"]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(names(&bob).await, ["bob", "cat"], "who went meanwhile is not told of");
    is_over.store(true, Ordering::SeqCst);
    let published = publishing.await.expect("all is published");
    let (cat_told, bob_told) = (cat_hears.await.expect("it ends"), bob_hears.await.expect("it ends"));
    eprintln!(
        "a node stopped: {published} publications, none lost or doubled; gone after {gone_after:?}, back after {back_after:?}"
    );
    assert_whole(&cat_told, published);
    assert_whole(&bob_told, published);
    assert_eq!(count(&bob_told.leaves, "dan"), 1, "{:?} {:?}", bob_told.joins, bob_told.leaves);
    assert_eq!(count(&bob_told.leaves, "cat"), 1, "{:?} {:?}", bob_told.joins, bob_told.leaves);
    assert!(count(&bob_told.joins, "cat") >= 1, "{:?} {:?}", bob_told.joins, bob_told.leaves);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_started_again_one_after_the_other_lose_and_double_nothing() {
    const NODES: usize = 3;
    let broker = nats_server();
    let mut nodes: Vec<Node> = (0..NODES).map(|_| Node::start(&broker.url())).collect();
    let mut ways = Vec::new();
    for node in &nodes {
        ways.push(Proxy::start(node.port).await);
    }
    let (is_over, published) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let (mut clients, mut hearing) = (Vec::new(), Vec::new());
    for (index, name) in ["ann", "bob", "cat", "dan", "eve", "fay"].into_iter().enumerate() {
        let client = client(ways[index % NODES].port(), name).await;
        hearing.push(listen(client.subscribe(TOPIC).await.expect("it is granted"), Arc::clone(&is_over)));
        clients.push(client);
    }
    let publishing = publish(clients[0].clone(), Arc::clone(&is_over), Arc::clone(&published));
    for index in 0..NODES {
        tokio::time::sleep(Duration::from_secs(2)).await;
        // Who is told to go finds another node.
        ways[index].lead_to(nodes[(index + 1) % NODES].port, false);
        let next = Node::start(&broker.url());
        let before = std::mem::replace(&mut nodes[index], next);
        tokio::task::spawn_blocking(move || before.end()).await.expect("it ends well");
        ways[index].lead_to(nodes[index].port, false);
    }
    until_here(&clients[0], &["ann", "bob", "cat", "dan", "eve", "fay"]).await;
    is_over.store(true, Ordering::SeqCst);
    let published = publishing.await.expect("all is published");
    for hears in hearing {
        assert_whole(&hears.await.expect("it ends"), published);
    }
    eprintln!(
        "{NODES} nodes started again: {published} publications to {} clients, none lost or doubled",
        clients.len()
    );
    assert!(published > 100, "{published}");
}
