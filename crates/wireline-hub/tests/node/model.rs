//! Whatever is lost, doubled, late, refused or forgotten, in whatever order: nobody misses, doubles or swaps
//! anything but at a reset, and once things work again everybody has everything.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use wireline_hub::{
    ConnectionId, Event, History, Position,
    node::{NodeConfig, Start},
};

use crate::world::{Heard, World};

/// Clients, each with one connection at a time.
const CLIENTS: u8 = 3;

#[derive(Debug, Clone)]
enum Step {
    Publish,
    PublishExcept(u8),
    /// The node hears an event, or the network loses, doubles or delays it.
    Deliver,
    Lose,
    Double,
    Delay,
    /// The broker does what it was asked for, or does not, and the node hears of it.
    Serve,
    Fail,
    Answer,
    Flap,
    Wipe,
    /// A client's connection is lost, and the client comes back from where it was.
    Reconnect(u8),
    /// A client starts from scratch.
    Restart(u8, u8),
    Unsubscribe(u8),
    Read(u8),
    Wait(u16),
}

fn step(with_wipes: bool) -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    prop_oneof![
        12 => Just(Step::Publish),
        2 => client.clone().prop_map(Step::PublishExcept),
        12 => Just(Step::Deliver),
        2 => Just(Step::Lose),
        1 => Just(Step::Double),
        1 => Just(Step::Delay),
        8 => Just(Step::Serve),
        1 => Just(Step::Fail),
        8 => Just(Step::Answer),
        1 => Just(Step::Flap),
        1 => Just(if with_wipes { Step::Wipe } else { Step::Flap }),
        3 => client.clone().prop_map(Step::Reconnect),
        2 => (client.clone(), 0..8u8).prop_map(|(client, last)| Step::Restart(client, last)),
        1 => client.clone().prop_map(Step::Unsubscribe),
        6 => client.prop_map(Step::Read),
        4 => (0..4000u16).prop_map(Step::Wait),
    ]
}

/// A client that follows its topic as a client should.
#[derive(Debug, Default)]
struct Client {
    connection: Option<ConnectionId>,
    /// The place up to which it has everything.
    cursor: Option<Position>,
    is_subscribed: bool,
    resets: usize,
}

struct Run {
    world: World,
    clients: BTreeMap<u8, Client>,
    next_connection: u128,
}

impl Run {
    fn new(queue_limit: usize, history: usize) -> Self {
        let config = NodeConfig { queue_limit, ..NodeConfig::default() };
        let world = World::new(config, History::messages(history));
        let clients = (0..CLIENTS).map(|client| (client, Client::default())).collect();
        let mut run = Self { world, clients, next_connection: 0 };
        (0..CLIENTS).for_each(|client| run.open(client, Start::Now));
        run
    }

    fn open(&mut self, client: u8, start: Start) {
        self.next_connection += 1;
        let id = self.world.connect(self.next_connection);
        self.world.subscribe(id, start);
        let client = self.clients.get_mut(&client).expect("there is one");
        client.connection = Some(id);
        client.is_subscribed = true;
    }

    /// The client reads what has arrived.
    fn read(&mut self, client: u8) {
        let client = self.clients.get_mut(&client).expect("there is one");
        let Some(id) = client.connection else { return };
        let heard = self.world.heard(id);
        Self::take(&self.world, client, id, &heard);
    }

    fn take(world: &World, client: &mut Client, id: ConnectionId, heard: &[Heard]) {
        client.resets += heard.iter().filter(|heard| matches!(heard, Heard::Reset { .. })).count();
        client.cursor = world.follow(id, client.cursor, heard);
        if heard.iter().any(|heard| matches!(heard, Heard::Refused(_))) {
            client.is_subscribed = false;
        }
    }

    /// The connection is lost with all that was queued.
    fn lose(&mut self, client: u8) {
        let client = self.clients.get_mut(&client).expect("there is one");
        let Some(id) = client.connection.take() else { return };
        let heard = self.world.disconnect(id);
        Self::take(&self.world, client, id, &heard);
    }

    fn reconnect(&mut self, client: u8) {
        self.lose(client);
        let cursor = self.clients[&client].cursor;
        self.open(client, cursor.map_or(Start::Now, Start::After));
    }

    fn step(&mut self, step: &Step) {
        let world = &mut self.world;
        match *step {
            Step::Publish => world.publish_many(1),
            Step::PublishExcept(client) => {
                let except = self.clients[&client].connection.unwrap_or(ConnectionId(0));
                world.publish_except(except);
            }
            Step::Deliver => _ = world.deliver(),
            Step::Lose => _ = world.wire.pop_front(),
            Step::Double => {
                let first = world.wire.front().cloned();
                world.wire.extend(first);
            }
            Step::Delay => {
                if let Some(first) = world.wire.pop_front() {
                    world.wire.push_back(first);
                }
            }
            Step::Serve => _ = world.serve(),
            Step::Fail => _ = world.fail(),
            Step::Answer => _ = world.answer(),
            Step::Flap => world.wire.extend([Event::Down, Event::Up]),
            Step::Wipe => world.wipe(),
            Step::Reconnect(client) => self.reconnect(client),
            Step::Restart(client, last) => {
                self.lose(client);
                self.open(client, Start::Last(last.into()));
            }
            Step::Unsubscribe(client) => {
                self.read(client);
                let id = self.clients[&client].connection.expect("it has one");
                self.world.unsubscribe(id);
                self.read(client);
                self.clients.get_mut(&client).expect("there is one").is_subscribed = false;
            }
            Step::Read(client) => self.read(client),
            Step::Wait(milliseconds) => {
                // Time passes, and nothing arrives by itself.
                world.now += Duration::from_millis(milliseconds.into());
                world.node.handle_timeout(world.now);
            }
        }
    }

    /// Everything works again, for long enough.
    fn finish(&mut self) {
        for _ in 0..10 {
            for client in 0..CLIENTS {
                self.read(client);
                if !self.clients[&client].is_subscribed {
                    self.reconnect(client);
                }
            }
            self.world.settle();
            self.world.advance(Duration::from_secs(10));
        }
        (0..CLIENTS).for_each(|client| self.read(client));
        for client in self.clients.values() {
            let id = client.connection.expect("it has one");
            let cursor = client.cursor.expect("it was subscribed");
            assert!(
                self.world.is_complete(id, cursor),
                "{id} has everything to {cursor} and not to {}",
                self.world.top()
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_out_of_order_but_at_a_reset(
        steps in prop::collection::vec(step(true), 0..120),
        queue in 1..60usize,
        history in 0..12usize,
    ) {
        let mut run = Run::new(queue, history);
        steps.iter().for_each(|step| run.step(step));
        run.finish();
    }

    #[test]
    fn with_enough_history_and_a_broker_that_forgets_nothing_there_is_no_reset(
        steps in prop::collection::vec(step(false), 0..120),
        queue in 1..60usize,
    ) {
        let mut run = Run::new(queue, 10_000);
        steps.iter().for_each(|step| run.step(step));
        run.finish();
        for client in run.clients.values() {
            prop_assert_eq!(client.resets, 0);
        }
    }
}
