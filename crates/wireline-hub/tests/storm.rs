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
        workload::{Workload, run},
    },
};

use self::broker::nats_server;

const TOPICS: usize = 10;
const SUBSCRIBERS: usize = 1000;
const NODES: u64 = 2;

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
        // All have subscribed.
        tokio::time::sleep(Duration::from_secs(8)).await;
        let before = counting.reads();
        for index in 0..TOPICS * SUBSCRIBERS {
            clients.network(index).expect("it is connected").reset();
        }
        tokio::time::sleep(Duration::from_secs(6)).await;
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
