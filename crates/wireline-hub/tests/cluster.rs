//! Two nodes over one backplane, while it fails in every way, and connections and nodes with it. What everybody heard
//! is checked against the one order of each topic.

use std::{sync::Arc, time::Duration};

use wireline_hub::{
    History, Hub, Memory, TopicRules,
    testing::{
        Faults, Rates,
        workload::{Clients, Outcome, Summary, Workload, run},
    },
};

const MESSAGES: usize = 60;

fn workload() -> Workload {
    Workload {
        topics: 3,
        publishers: 3,
        messages: MESSAGES,
        pause: Duration::from_millis(20),
        subscribers: 4,
        patience: Duration::from_secs(60),
    }
}

/// All that is published is kept: nobody ever needs a reset.
fn keeping_everything() -> History {
    History::messages(100_000).age(Duration::from_secs(3600))
}

fn node(memory: &Memory, faults: &Faults, history: History) -> Hub {
    let (memory, faults) = (memory.clone(), faults.clone());
    Hub::builder()
        .backplane(move |events| faults.node(events, |events| memory.node(events)))
        .topics(move |_| TopicRules { history, presence: false })
        .shards(2)
        .start()
}

/// Two nodes, and what is done to them.
async fn with_two_nodes<T, F>(seed: u64, history: History, trouble: T) -> (Outcome, u64)
where
    T: FnOnce(Memory, Faults, Arc<Clients>) -> F,
    F: Future<Output = ()>,
{
    let (memory, faults) = (Memory::new(), Faults::new(seed));
    let hubs = vec![node(&memory, &faults, history), node(&memory, &faults, history)];
    let outcome = run(hubs, &workload(), |clients| trouble(memory, faults.clone(), clients)).await;
    (outcome, faults.count())
}

/// Everything is there, and everybody heard all that came after he did.
fn assert_whole(outcome: &Outcome) -> Summary {
    let summary = outcome.check();
    let Workload { topics, publishers, .. } = workload();
    assert!(summary.published + outcome.unacknowledged >= topics * publishers * MESSAGES, "{summary:?}");
    summary
}

async fn wait(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[tokio::test(start_paused = true)]
async fn without_faults_everybody_hears_everything() {
    let (outcome, faults) = with_two_nodes(1, keeping_everything(), |_, _, _| async {}).await;
    let summary = assert_whole(&outcome);
    assert_eq!((faults, summary.resets, outcome.unacknowledged), (0, 0, 0));
    assert_eq!(outcome.connections, 12);
}

#[tokio::test(start_paused = true)]
async fn deliveries_that_are_lost_doubled_and_late_are_healed() {
    let mut faults = 0;
    for seed in 0..10 {
        let rates = Rates { lose: 0.1, double: 0.1, delay: 0.1, ..Rates::default() };
        let (outcome, count) = with_two_nodes(seed, keeping_everything(), |_, faults, _| async move {
            faults.set(rates);
            wait(2000).await;
            faults.set(Rates::default());
        })
        .await;
        assert_eq!(assert_whole(&outcome).resets, 0);
        faults += count;
    }
    assert!(faults > 1000, "{faults} faults");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_refuses_or_does_not_answer_loses_and_doubles_nothing_that_it_acknowledged() {
    for seed in 0..10 {
        let rates = Rates { refuse: 0.2, unknown: 0.2, lose: 0.05, ..Rates::default() };
        let (outcome, faults) = with_two_nodes(seed, keeping_everything(), |_, faults, _| async move {
            faults.set(rates);
            wait(2000).await;
            faults.set(Rates::default());
        })
        .await;
        assert_eq!(assert_whole(&outcome).resets, 0);
        assert!(outcome.unacknowledged > 0 && faults > 100, "{faults} faults");
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_goes_away_and_comes_back_is_caught_up_with_whether_it_says_so_or_not() {
    for is_told in [true, false] {
        let (outcome, _) = with_two_nodes(3, keeping_everything(), |_, faults, _| async move {
            for outage in [10, 100, 400, 50] {
                wait(100).await;
                faults.cut(true, is_told);
                wait(outage).await;
                faults.cut(false, is_told);
            }
        })
        .await;
        assert_eq!(assert_whole(&outcome).resets, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_lost_are_resumed_at_the_other_node() {
    let (outcome, _) = with_two_nodes(4, keeping_everything(), |_, _, clients| async move {
        for index in 0..40 {
            wait(25).await;
            if let Some(network) = clients.network(index) {
                network.reset();
            }
        }
    })
    .await;
    assert_eq!(assert_whole(&outcome).resets, 0);
    assert!(outcome.connections >= 40, "{} connections", outcome.connections);
}

#[tokio::test(start_paused = true)]
async fn clients_that_stall_catch_up() {
    let (outcome, _) = with_two_nodes(5, keeping_everything(), |_, _, clients| async move {
        wait(10).await;
        for index in 0..6 {
            let network = clients.network(index).expect("everybody is connected by now");
            network.stall();
            wait(150).await;
            network.resume();
        }
    })
    .await;
    assert_eq!(assert_whole(&outcome).resets, 0);
}

#[tokio::test(start_paused = true)]
async fn everything_at_once_with_little_history_loses_nothing_but_at_resets() {
    let mut resets = 0;
    let history = History::messages(8);
    for seed in 0..20 {
        let rates = Rates { lose: 0.1, double: 0.05, delay: 0.1, refuse: 0.1, unknown: 0.1 };
        let (outcome, faults) = with_two_nodes(seed, history, |_, faults, clients| async move {
            faults.set(rates);
            for index in 0..30 {
                wait(40).await;
                if let Some(network) = clients.network(index * 7) {
                    network.reset();
                }
                faults.cut(index % 5 == 4, index % 2 == 0);
            }
            faults.set(Rates::default());
            faults.cut(false, true);
        })
        .await;
        assert!(faults > 100, "{faults} faults");
        resets += outcome.check().resets;
    }
    assert!(resets > 0, "with so little history some things cannot be proven");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_killed_and_one_that_takes_its_place_lose_nothing() {
    let (memory, faults) = (Memory::new(), Faults::new(6));
    let hubs =
        vec![node(&memory, &faults, keeping_everything()), node(&memory, &faults, keeping_everything())];
    let outcome = run(hubs, &workload(), |clients| async move {
        for round in 0..4 {
            wait(200).await;
            clients.replace(round % 2, None);
            for index in 0..12 {
                if let Some(network) = clients.network(index) {
                    network.reset();
                }
            }
            wait(100).await;
            clients.replace(round % 2, Some(node(&memory, &faults, keeping_everything())));
        }
    })
    .await;
    assert_eq!(outcome.check().resets, 0);
}
