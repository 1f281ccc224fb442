//! Who is here, as the topic's subscribers hear it.

use std::time::Duration;

use wireline_hub::{
    Content, History, Member, NodeId, NodeRow,
    node::{NodeConfig, Start},
};

use crate::world::World;

fn world() -> World {
    World::new(NodeConfig::default(), History::messages(5))
}

#[test]
fn joins_and_leaves_are_told_once_for_each_member() {
    let mut world = world();
    let [first, second] = [world.connect(1), world.connect(2)];
    world.subscribe_as(first, Start::Now, Some("ann"));
    world.subscribe_as(second, Start::Now, Some("ann"));
    world.settle();
    world.advance(Duration::from_millis(100));
    let topic = world.topic.clone();
    let joined: Vec<_> = world.told_presence.iter().flat_map(|update| update.joined.clone()).collect();
    assert_eq!(joined, [(topic.clone(), Member::new("ann"))]);
    world.unsubscribe(first);
    world.advance(Duration::from_secs(1));
    assert!(world.told_presence.iter().all(|update| update.left.is_empty()), "she is still here");
    world.disconnect(second);
    world.advance(Duration::from_secs(1));
    let left: Vec<_> = world.told_presence.iter().flat_map(|update| update.left.clone()).collect();
    assert_eq!(left, [(topic, Member::new("ann"))]);
}

#[test]
fn joins_and_leaves_come_in_the_order_of_the_topic() {
    let mut world = world();
    let ann = world.connect(1);
    world.subscribe(ann, Start::Now);
    world.settle();
    world.publish();
    world.publish_content(Content::Join(Member::new("bob")), None);
    world.publish();
    world.publish_content(Content::Leave(Member::new("bob")), None);
    world.settle();
    assert_eq!(world.words(ann), ["subscribed", "0", "+bob", "1", "-bob"]);
}

#[test]
fn a_node_contradicts_when_somebody_who_is_here_is_said_to_have_left() {
    let mut world = world();
    let ann = world.connect(1);
    world.subscribe_as(ann, Start::Now, Some("ann"));
    world.settle();
    world.advance(Duration::from_secs(1));
    world.told_presence.clear();
    world.publish_content(Content::Leave(Member::new("ann")), None);
    world.settle();
    world.advance(Duration::from_secs(1));
    let joined: usize = world.told_presence.iter().map(|update| update.joined.len()).sum();
    assert_eq!(joined, 1);
}

#[test]
fn the_lease_is_renewed_before_it_ends() {
    let mut world = world();
    let ann = world.connect(1);
    world.subscribe_as(ann, Start::Now, Some("ann"));
    world.settle();
    world.advance(Duration::from_secs(60));
    assert_eq!(NodeConfig::default().presence_lease, Duration::from_secs(15));
    let renewals = world.told_presence.len();
    assert!(renewals >= 8, "{renewals} in a minute");
}

#[test]
fn when_a_node_is_gone_it_is_said_once_of_each_of_its_members() {
    let mut world = world();
    let [ann, bob] = [Member::new("ann"), Member::new("bob")];
    let dead = NodeId(1);
    world.rows = vec![
        NodeRow { node: dead, lease: 1, members: vec![ann.clone(), bob.clone()] },
        NodeRow { node: NodeId(2), lease: 2, members: vec![bob] },
    ];
    let watcher = world.connect(1);
    world.subscribe(watcher, Start::Now);
    world.settle();
    world.advance(Duration::from_secs(10));
    world.rows.remove(0);
    world.advance(Duration::from_secs(4));
    assert!(world.told_gone.is_empty(), "she may be leaving by herself");
    world.advance(Duration::from_secs(60));
    assert_eq!(world.told_gone, [(ann, dead)], "bob is at another node, too");
}
