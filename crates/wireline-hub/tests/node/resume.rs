//! Coming late, coming back, and holes.

use std::time::Duration;

use wireline_hub::{
    Event, History, Position, Topic,
    node::{NodeConfig, Start},
};

use crate::world::{Heard, World};

fn world() -> World {
    World::new(NodeConfig::default(), History::messages(5))
}

#[test]
fn everybody_hears_what_is_published_from_now_on_in_one_order() {
    let mut world = world();
    world.publish();
    let [ann, bob] = [world.connect(1), world.connect(2)];
    world.subscribe(ann, Start::Now);
    world.subscribe(bob, Start::Now);
    world.settle();
    world.publish_many(3);
    world.settle();
    assert_eq!(world.words(ann), ["subscribed", "1", "2", "3"]);
    assert_eq!(world.words(bob), ["subscribed", "1", "2", "3"]);
}

#[test]
fn who_is_excepted_does_not_hear_it_and_misses_nothing_else() {
    let mut world = world();
    let [ann, bob] = [world.connect(1), world.connect(2)];
    world.subscribe(ann, Start::Now);
    world.subscribe(bob, Start::Now);
    world.settle();
    world.publish_except(ann);
    world.publish();
    world.settle();
    assert_eq!(world.words(ann), ["subscribed", "1"]);
    assert_eq!(world.words(bob), ["subscribed", "0", "1"]);
}

#[test]
fn who_comes_back_within_the_history_misses_nothing() {
    let mut world = world();
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    world.settle();
    let last = world.publish();
    world.settle();
    assert_eq!(world.words(ann), ["subscribed", "0"]);
    world.disconnect(ann);
    world.publish_many(5);
    world.settle();
    let ann = world.connect(2);
    world.subscribe(ann, Start::After(last));
    world.settle();
    assert_eq!(world.words(ann), ["recovered", "1", "2", "3", "4", "5"]);
    assert_eq!(world.reads, 1, "what the node has itself is not read");
}

#[test]
fn who_comes_back_to_another_node_is_served_by_one_read() {
    let mut world = world();
    let last = world.publish();
    world.publish_many(3);
    let returning: Vec<_> = (0..10_000).map(|id| world.connect(id)).collect();
    for id in &returning {
        world.subscribe(*id, Start::After(last));
    }
    world.settle();
    for id in returning {
        assert_eq!(world.words(id), ["recovered", "1", "2", "3"]);
    }
    assert_eq!(world.reads, 1);
}

#[test]
fn who_was_away_too_long_is_told_so() {
    let mut world = world();
    let ann = world.connect(1);
    let last = world.publish();
    world.publish_many(6);
    world.subscribe(ann, Start::After(last));
    world.settle();
    world.publish();
    world.settle();
    assert_eq!(world.words(ann), ["subscribed", "7"]);
}

#[test]
fn the_entry_at_the_windows_edge_proves_the_one_before_it() {
    let mut world = world();
    let positions: Vec<Position> = (0..6).map(|_| world.publish()).collect();
    let [ann, bob] = [world.connect(1), world.connect(2)];
    world.subscribe(ann, Start::After(positions[0]));
    world.settle();
    assert_eq!(world.words(ann), ["recovered", "1", "2", "3", "4", "5"]);
    let forged = Position { mark: positions[0].mark ^ 1, ..positions[0] };
    world.subscribe(bob, Start::After(forged));
    world.settle();
    assert_eq!(world.words(bob), ["subscribed"]);
}

#[test]
fn a_position_of_another_life_of_the_topic_is_never_recovered() {
    let mut world = world();
    let old: Vec<Position> = (0..3).map(|_| world.publish()).collect();
    world.wipe();
    let empty = world.top();
    for position in &old {
        let id = world.connect(u128::from(position.mark));
        world.subscribe(id, Start::After(*position));
        world.settle();
        assert_eq!(world.words(id), ["subscribed"], "nothing was published since, but something is gone");
    }
    world.publish_many(3);
    world.settle();
    let [ann, bob] = [world.connect(101), world.connect(102)];
    world.subscribe(ann, Start::After(old[1]));
    world.subscribe(bob, Start::After(empty));
    world.settle();
    assert_eq!(world.words(ann), ["subscribed"]);
    assert_eq!(world.words(bob), ["recovered", "3", "4", "5"]);
}

#[test]
fn a_late_comer_gets_as_much_of_the_past_as_it_asks_for() {
    let mut world = world();
    world.publish_many(9);
    for (id, count, expected) in [(1, 0, 9..9), (2, 2, 7..9), (3, 5, 4..9), (4, 100, 4..9)] {
        let id = world.connect(id);
        world.subscribe(id, Start::Last(count));
        world.settle();
        let heard = world.words(id);
        assert_eq!(
            heard[1..],
            expected.map(|number| number.to_string()).collect::<Vec<_>>(),
            "the last {count}"
        );
    }
    assert!(world.reads <= 2, "{} reads", world.reads);
}

#[test]
fn a_lost_delivery_is_read_once_for_all_subscribers() {
    let mut world = world();
    let all: Vec<_> = (0..50).map(|id| world.connect(id)).collect();
    all.iter().for_each(|id| world.subscribe(*id, Start::Now));
    world.settle();
    let reads = world.reads;
    world.publish();
    world.publish();
    world.wire.pop_front();
    world.publish();
    world.settle();
    for id in all {
        assert_eq!(world.words(id), ["subscribed", "0", "1", "2"]);
    }
    assert_eq!(world.reads, reads + 1);
}

#[test]
fn a_lost_last_delivery_is_found_when_the_topic_is_silent() {
    let mut world = world();
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    world.settle();
    world.publish();
    world.wire.clear();
    world.advance(Duration::from_secs(20));
    assert_eq!(world.words(ann), ["subscribed", "0"]);
}

#[test]
fn what_was_lost_while_the_backplane_was_away_is_read_when_it_is_back() {
    let mut world = world();
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    world.settle();
    world.publish_many(3);
    world.wire.clear();
    world.wire.extend([Event::Down, Event::Up]);
    world.settle();
    assert_eq!(world.words(ann), ["subscribed", "0", "1", "2"]);
}

#[test]
fn more_than_a_page_is_read_page_by_page_and_more_than_the_history_is_a_reset() {
    let mut world = world();
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    world.settle();
    world.publish_many(5);
    world.wire.clear();
    world.publish();
    world.settle();
    let heard = world.heard(ann);
    assert!(matches!(heard[..], [Heard::Subscribed { .. }, Heard::Reset { .. }]), "{heard:?}");
    world.publish();
    world.settle();
    assert_eq!(world.words(ann), ["6"]);
}

#[test]
fn deliveries_that_come_twice_or_late_change_nothing() {
    let mut world = world();
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    world.settle();
    world.publish_many(3);
    let first = world.wire[0].clone();
    world.wire.swap(1, 2);
    world.wire.extend([first.clone(), first]);
    world.settle();
    assert_eq!(world.words(ann), ["subscribed", "0", "1", "2"]);
}

#[test]
fn a_delivery_that_comes_twice_costs_no_read() {
    let mut world = world();
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    world.settle();
    let reads = world.reads;
    world.publish_many(3);
    let all = world.wire.clone();
    world.wire.extend(all);
    world.settle();
    assert_eq!(world.words(ann), ["subscribed", "0", "1", "2"]);
    assert_eq!(world.reads, reads);
}

#[test]
fn what_is_lost_while_the_engine_is_being_read_is_read_again() {
    let mut world = world();
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    world.settle();
    world.wire.push_back(Event::Up);
    assert!(world.deliver() && world.serve(), "the engine has answered, and the answer is on its way");
    world.publish();
    world.wire.clear();
    world.wire.push_back(Event::Up);
    assert!(world.deliver() && world.answer());
    world.advance(Duration::from_secs(1));
    assert_eq!(world.words(ann), ["subscribed", "0"]);
}

#[test]
fn more_than_can_be_held_while_the_engine_is_being_read_is_read_afterwards() {
    let mut world = World::new(NodeConfig::default(), History::messages(1000));
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    world.settle();
    world.wire.push_back(Event::Up);
    assert!(world.deliver() && world.serve(), "the engine has answered, and the answer is on its way");
    world.publish_many(500);
    while world.deliver() {}
    assert!(world.answer());
    world.settle();
    let expected: Vec<_> = (0..500).map(|number| number.to_string()).collect();
    assert_eq!(world.words(ann)[1..], expected);
}

#[test]
fn a_broker_that_comes_up_empty_is_a_reset_for_everybody() {
    let mut world = world();
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    world.settle();
    world.publish_many(3);
    world.settle();
    world.wipe();
    world.publish();
    world.settle();
    assert_eq!(world.words(ann), ["subscribed", "0", "1", "2", "Rollback"]);
    world.publish();
    world.settle();
    assert_eq!(world.words(ann), ["4"]);
}

#[test]
fn a_broker_that_fails_is_asked_again_and_who_waits_too_long_is_refused() {
    let mut world = world();
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    assert!(world.fail() && world.answer());
    world.advance(Duration::from_millis(100));
    assert_eq!(world.words(ann), ["subscribed"]);

    let mut world = self::world();
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    world.now += Duration::from_secs(5);
    world.node.handle_timeout(world.now);
    assert_eq!(world.words(ann), ["Unavailable"]);
    world.subscribe(ann, Start::Now);
    world.settle();
    assert_eq!(world.words(ann), ["subscribed"], "a refusal is not the end");
}

#[test]
fn a_topic_is_kept_up_for_a_while_and_then_given_up() {
    let mut world = world();
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    world.settle();
    assert!(world.unsubscribe(ann));
    assert!(!world.unsubscribe(ann));
    world.advance(Duration::from_secs(1));
    assert_eq!(world.node.size().topics, 1);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.node.size().topics, 0);
    world.publish();
    assert!(world.wire.is_empty(), "nobody hears it");
    world.words(ann);
    world.subscribe(ann, Start::Last(1));
    world.settle();
    assert_eq!(world.words(ann), ["subscribed", "0"]);
}

#[test]
fn who_subscribes_twice_is_refused_the_second_time() {
    let mut world = world();
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    world.subscribe(ann, Start::Now);
    world.settle();
    world.publish();
    world.settle();
    assert_eq!(world.words(ann), ["AlreadySubscribed", "subscribed", "0"]);
}

#[test]
fn history_is_limited_by_bytes_and_by_age_too() {
    let by_bytes = History::messages(100).bytes(30);
    let mut world = World::new(NodeConfig::default(), by_bytes);
    let ann = world.connect(1);
    world.subscribe(ann, Start::Last(100));
    world.settle();
    world.publish_many(9);
    world.settle();
    let bob = world.connect(2);
    world.subscribe(bob, Start::Last(100));
    assert_eq!(world.words(bob), ["subscribed", "6", "7", "8"], "of ten bytes each");

    let by_age = History::messages(100).age(Duration::from_secs(10));
    let mut world = World::new(NodeConfig::default(), by_age);
    let ann = world.connect(1);
    world.subscribe(ann, Start::Last(100));
    world.settle();
    world.publish();
    world.settle();
    world.advance(Duration::from_secs(6));
    world.publish();
    world.settle();
    world.advance(Duration::from_secs(6));
    let bob = world.connect(2);
    world.subscribe(bob, Start::Last(100));
    assert_eq!(world.words(bob), ["subscribed", "1"]);
}

#[test]
fn who_leaves_at_a_reset_hears_nothing_more_and_can_subscribe_again() {
    let mut world = world();
    let [ann, bob] = [world.connect(1), world.connect(2)];
    world.queues[&ann].borrow_mut().leaves_at_reset = true;
    world.subscribe_as(ann, Start::Now, Some("ann"));
    world.subscribe(bob, Start::Now);
    world.settle();
    world.publish();
    world.settle();
    world.wipe();
    world.wire.push_back(Event::Up);
    world.settle();
    world.publish();
    world.settle();
    assert_eq!(world.words(ann), ["subscribed", "0", "Rollback"]);
    assert_eq!(world.words(bob), ["subscribed", "0", "Rollback", "1"]);
    assert!(!world.unsubscribe(ann), "it is over");
    world.subscribe_as(ann, Start::Now, Some("ann"));
    world.settle();
    world.publish();
    world.settle();
    assert_eq!(world.words(ann), ["subscribed", "2"]);
    // When all have left nobody is subscribed for them.
    world.unsubscribe(bob);
    world.wipe();
    world.wire.push_back(Event::Up);
    world.settle();
    assert_eq!(world.words(ann), ["Rollback"]);
    world.advance(Duration::from_secs(3));
    assert!(world.node.topics().is_empty());
}

#[test]
fn who_does_not_want_to_wait_any_more_is_answered() {
    let mut world = world();
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    assert!(world.unsubscribe(ann));
    assert_eq!(world.words(ann), ["Withdrawn"]);
    world.settle();
    world.publish();
    world.settle();
    assert!(world.words(ann).is_empty());
}

#[test]
fn what_the_hub_itself_subscribes_to_waits_for_as_long_as_it_takes() {
    let mut world = world();
    world.topic = Topic::new("$all").expect("it is a name");
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    for _ in 0..100 {
        while world.fail() || world.answer() {}
        world.wait(Duration::from_secs(1));
    }
    assert!(world.words(ann).is_empty(), "nobody is told of a request that nobody made");
    world.settle();
    world.advance(Duration::from_secs(10));
    world.publish();
    world.settle();
    assert_eq!(world.words(ann), ["subscribed", "0"]);
}
