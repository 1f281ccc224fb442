//! Connections that do not read as fast as their topics go.

use std::time::Duration;

use wireline_hub::{
    History,
    node::{Lagging, NodeConfig, Start},
};

use crate::world::World;

/// Bytes of each publication.
const LEN: usize = 10;

fn config(queue_limit: usize) -> NodeConfig {
    NodeConfig { queue_limit, ..NodeConfig::default() }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn a_slow_connection_costs_its_queue_and_catches_up_when_it_reads() {
    let mut world = World::new(config(3 * LEN), History::messages(100));
    let [slow, fast] = [world.connect(1), world.connect(2)];
    world.subscribe(slow, Start::Now);
    world.subscribe(fast, Start::Now);
    world.settle();
    let mut heard = Vec::new();
    for _ in 0..50 {
        world.publish();
        world.settle();
        heard.extend(world.words(fast));
    }
    assert_eq!(heard[1..], numbers(0..50), "nobody waits for the slow one");
    assert_eq!(world.node.size().lagging, 1);
    assert!(world.most_queued(slow) <= 3 * LEN, "{} bytes", world.most_queued(slow));
    assert_eq!(world.words(slow)[1..], numbers(0..50));
    assert!(world.most_queued(slow) <= 3 * LEN, "{} bytes", world.most_queued(slow));
    assert_eq!(world.node.size().lagging, 0);
    world.publish();
    world.settle();
    assert_eq!(world.words(slow), numbers(50..51));
}

#[test]
fn one_that_is_behind_the_window_gets_a_reset_and_goes_on_from_the_end() {
    let mut world = World::new(config(3 * LEN), History::messages(5));
    let slow = world.connect(1);
    world.subscribe(slow, Start::Now);
    world.settle();
    world.publish_many(9);
    world.settle();
    assert_eq!(world.words(slow), ["subscribed", "0", "1", "2", "Window"]);
    world.publish();
    world.settle();
    assert_eq!(world.words(slow), ["9"]);
    assert!(world.closed.is_empty());
}

#[test]
fn or_is_closed_if_that_is_the_policy() {
    let config = NodeConfig { lagging: Lagging::Close, ..config(3 * LEN) };
    let mut world = World::new(config, History::messages(5));
    let slow = world.connect(1);
    world.subscribe(slow, Start::Now);
    world.settle();
    world.publish_many(9);
    world.settle();
    assert_eq!(world.words(slow), ["subscribed", "0", "1", "2"]);
    assert_eq!(world.closed, [slow]);
}

#[test]
fn without_history_a_slow_connection_is_told_that_it_missed_something() {
    let mut world = World::new(config(LEN), History::NONE);
    let slow = world.connect(1);
    world.subscribe(slow, Start::Now);
    world.settle();
    world.publish_many(3);
    world.settle();
    assert_eq!(world.words(slow), ["subscribed", "0", "Window"]);
}

#[test]
fn all_queues_together_keep_to_the_nodes_budget() {
    const CONNECTIONS: u128 = 20;
    let config = NodeConfig { queue_budget: 40 * LEN, ..config(20 * LEN) };
    let mut world = World::new(config, History::messages(1000));
    let all: Vec<_> = (0..CONNECTIONS).map(|id| world.connect(id)).collect();
    all.iter().for_each(|id| world.subscribe(*id, Start::Now));
    world.settle();
    for _ in 0..100 {
        world.publish();
        world.settle();
    }
    let queued: usize = all.iter().map(|id| world.most_queued(*id)).sum();
    assert!(queued <= 60 * LEN, "{queued} bytes: the budget, and one publication for each");
    let mut heard = vec![Vec::new(); all.len()];
    for _ in 0..3000 {
        world.advance(Duration::from_millis(50));
        for (heard, id) in heard.iter_mut().zip(&all) {
            heard.extend(world.words(*id));
        }
    }
    for heard in heard {
        assert_eq!(heard[1..], numbers(0..100), "everybody gets everything in the end");
    }
}

#[test]
fn a_publication_larger_than_the_queue_goes_out_alone() {
    let mut world = World::new(config(LEN / 2), History::messages(100));
    let slow = world.connect(1);
    world.subscribe(slow, Start::Now);
    world.settle();
    world.publish_many(3);
    world.settle();
    assert_eq!(world.words(slow), ["subscribed", "0", "1", "2"]);
    assert_eq!(world.most_queued(slow), LEN);
}
