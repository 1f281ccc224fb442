//! Ten thousand clients that lose their connections at the same moment, while something is published.

#[expect(dead_code, reason = "the tests of the backplane do more with it")]
#[path = "broker/nats.rs"]
mod broker;
#[path = "broker/process.rs"]
mod process;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use wireline_hub::{
    History, Hub, Nats, TopicRules,
    testing::{
        Faults,
        workload::{Clients, Workload, run},
    },
};

use self::broker::nats_server;

const TOPICS: usize = 10;
const SUBSCRIBERS: usize = 1000;
const NODES: u64 = 2;

async fn until_connected(clients: &Clients, wanted: usize) {
    let began = Instant::now();
    while clients.connections() < wanted {
        assert!(began.elapsed() < Duration::from_secs(90), "{} connections", clients.connections());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_clients_that_are_cut_at_once_come_back_whole_and_the_broker_hardly_notices() {
    let server = nats_server();
    // None: it counts what the broker is asked for.
    let faults = Faults::new(1);
    let history = History::messages(1000);
    let mut hubs = Vec::new();
    for _ in 0..NODES {
        let (nats, faults) =
            (Nats::connect(server.url()).await.expect("the broker is there"), faults.clone());
        let hub = Hub::builder()
            .backplane(move |events| faults.node(events, |events| nats.node(events)))
            .topics(move |_| TopicRules { history, presence: false });
        hubs.push(hub.start());
    }
    let workload = Workload {
        topics: TOPICS,
        publishers: 1,
        messages: 40,
        pause: Duration::from_millis(400),
        subscribers: SUBSCRIBERS,
        patience: Duration::from_secs(60),
    };
    let reads = Arc::new(AtomicU64::new(u64::MAX));
    let (counted, counting) = (Arc::clone(&reads), faults.clone());
    let began = Instant::now();
    let outcome = run(hubs, &workload, |clients| async move {
        let all = TOPICS * SUBSCRIBERS;
        until_connected(&clients, all).await;
        // Until the last of them have subscribed, too.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (before, cut) = (counting.reads(), Instant::now());
        for index in 0..all {
            clients.network(index).expect("it is connected").reset();
        }
        until_connected(&clients, 2 * all).await;
        eprintln!("{all} are connected again after {:?}", cut.elapsed());
        tokio::time::sleep(Duration::from_secs(2)).await;
        counted.store(counting.reads() - before, Ordering::SeqCst);
    })
    .await;
    let (summary, reads) = (outcome.check(), reads.load(Ordering::SeqCst));
    eprintln!("{summary:?}, {} connections, {reads} reads, {:?}", outcome.connections, began.elapsed());
    assert_eq!(summary.resets, 0, "nobody missed anything");
    assert_eq!(summary.published, TOPICS * 40);
    assert!(outcome.connections >= 2 * TOPICS * SUBSCRIBERS, "{} connections", outcome.connections);
    assert!(reads <= NODES * TOPICS as u64, "{reads} reads");
}
