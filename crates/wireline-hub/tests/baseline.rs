//! What is used is given back: files, tasks and memory, of nodes whose brokers went and came. A process of its own, since
//! all of that is counted for the process.

#[expect(dead_code, reason = "the brokers' tests do more with it")]
#[path = "broker/nats.rs"]
mod nats;
#[path = "broker/process.rs"]
mod process;
#[expect(dead_code, reason = "the brokers' tests do more with it")]
#[path = "broker/redis.rs"]
mod redis;

use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use wireline::{Request, Server, testing::Network};
use wireline_hub::{Hub, Nats, Redis};

use self::{
    nats::{NatsServer, nats_server},
    redis::{Keeps, RedisServer},
};

const CLIENTS: usize = 50;
const ROUNDS: usize = 5;

/// Clients of a hub, whose broker goes and comes again.
async fn use_hub(hub: Hub, restart: impl FnOnce()) {
    let serving = hub.clone();
    let server = Server::new().on_request(move |request: Request| serving.clone().serve(request));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let connecting = Network::new().connect(&server, "ws://hub.example/").protocols(["hub.v1"]);
        let ws = connecting.await.expect("it accepts");
        ws.send(r#"{"op":"auth","id":1}"#).await.expect("it is open");
        ws.send(format!(r#"{{"op":"sub","id":2,"t":"t{number}"}}"#)).await.expect("it is open");
        clients.push(ws);
    }
    publish(&hub).await;
    restart();
    publish(&hub).await;
}

/// To all topics, as soon as the broker takes it.
async fn publish(hub: &Hub) {
    for number in 0..CLIENTS {
        let began = Instant::now();
        while hub.publish(format!("t{number}"), "x".repeat(10_000)).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(30), "the broker does not come back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn use_all(nats: &NatsServer, redis: &RedisServer) {
    let connected = Nats::connect(nats.url()).await.expect("the broker is there");
    let hub = Hub::builder().backplane(move |events| connected.node(events)).shards(2).start();
    let restart = || {
        nats.kill();
        nats.start();
    };
    use_hub(hub, restart).await;
    let connected = Redis::new(&redis.url()).expect("it is a URL");
    let hub = Hub::builder().backplane(move |events| connected.node(events)).shards(2).start();
    let restart = || {
        redis.kill();
        redis.start_again();
    };
    use_hub(hub, restart).await;
}

fn files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("it is Linux").count()
}

/// Bytes of resident memory.
fn memory() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("it is Linux");
    let pages: usize =
        statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_tasks_and_memory_are_given_back() {
    let (nats, redis) = (nats_server(), RedisServer::start(Keeps::Everything));
    use_all(&nats, &redis).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = (files(), tasks(), memory());
    for _ in 0..ROUNDS {
        use_all(&nats, &redis).await;
    }
    let began = Instant::now();
    while files() > before.0 || tasks() > before.1 {
        let after = (files(), tasks());
        assert!(began.elapsed() < Duration::from_secs(20), "{before:?} files and tasks became {after:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let grown = memory().saturating_sub(before.2);
    eprintln!(
        "after {ROUNDS} brokers of each kind: {} files, {} tasks, {grown} bytes more",
        files(),
        tasks()
    );
    assert!(grown < 16 << 20, "{grown} bytes");
}
