//! A node's connections, and how much may wait in their queues.

use std::{collections::HashMap, sync::Arc};

use slab::Slab;

use super::{Action, AfterNotice, Entry, NodeConfig, Notice, Outlet, Refused};
use crate::{ConnectionId, Topic};

/// A connection, as a node has it.
#[derive(Debug)]
pub(super) struct Connection<O> {
    pub(super) id: ConnectionId,
    outlet: O,
    /// Bytes in its queue when it was last given something.
    queued: usize,
    /// It will be told when the queue has room.
    awaits_room: bool,
    /// Its place among the subscribers of each topic; `None` while it waits to become one.
    pub(super) subscriptions: HashMap<Topic, Option<usize>>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Connections<O> {
    slab: Slab<Connection<O>>,
    keys: HashMap<ConnectionId, usize>,
    queue_limit: usize,
    budget: usize,
    /// The sum of what they had queued each when they were last given something: not less than what is.
    queued: usize,
    /// So little of the budget is left that only who has nothing queued gets something.
    is_short: bool,
    /// Those who got nothing for that reason.
    starved: Vec<usize>,
}

impl<O: Outlet> Connections<O> {
    pub(super) fn new(config: &NodeConfig) -> Self {
        Self {
            slab: Slab::new(),
            keys: HashMap::new(),
            queue_limit: config.queue_limit,
            budget: config.queue_budget,
            queued: 0,
            is_short: false,
            starved: Vec::new(),
        }
    }

    pub(super) fn insert(&mut self, id: ConnectionId, outlet: O) {
        let connection =
            Connection { id, outlet, queued: 0, awaits_room: false, subscriptions: HashMap::new() };
        let key = self.slab.insert(connection);
        let before = self.keys.insert(id, key);
        debug_assert!(before.is_none(), "{id} is connected twice");
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection<O>> {
        let key = self.keys.remove(&id)?;
        let connection = self.slab.remove(key);
        self.queued -= connection.queued;
        self.starved.retain(|starved| *starved != key);
        Some(connection)
    }

    pub(super) fn key(&self, id: ConnectionId) -> Option<usize> {
        self.keys.get(&id).copied()
    }

    pub(super) fn at(&mut self, key: usize) -> &mut Connection<O> {
        &mut self.slab[key]
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Gives the connection an entry, if there is room for it. If not, `actions` ask to be told when there is.
    pub(super) fn offer(
        &mut self,
        key: usize,
        entry: &Arc<Entry<O::Frames>>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        if self.is_out_of_budget() && self.slab[key].outlet.queued() > 0 {
            if !std::mem::replace(&mut self.slab[key].awaits_room, true) {
                self.starved.push(key);
            }
            return Err(Refused::Full);
        }
        let connection = &mut self.slab[key];
        match connection.outlet.offer(entry, self.queue_limit) {
            Ok(queued) => {
                self.queued = self.queued - connection.queued + queued;
                connection.queued = queued;
                Ok(())
            }
            Err(Refused::Full) => {
                if !std::mem::replace(&mut connection.awaits_room, true) {
                    actions.push(Action::AwaitRoom(connection.id));
                }
                Err(Refused::Full)
            }
            Err(Refused::Closed) => Err(Refused::Closed),
        }
    }

    pub(super) fn tell(&self, key: usize, notice: &Notice) -> AfterNotice {
        self.slab[key].outlet.tell(notice)
    }

    /// The queue of `id` has room.
    pub(super) fn handle_room(&mut self, id: ConnectionId) -> Option<usize> {
        let key = self.key(id)?;
        self.slab[key].awaits_room = false;
        Some(key)
    }

    /// Whether [`take_starved`](Self::take_starved) is to be called soon.
    pub(super) fn has_starved(&self) -> bool {
        !self.starved.is_empty()
    }

    /// Counts anew; those who may try again.
    pub(super) fn take_starved(&mut self) -> Vec<usize> {
        self.recount();
        let starved = std::mem::take(&mut self.starved);
        starved.iter().for_each(|key| self.slab[*key].awaits_room = false);
        starved
    }

    fn is_out_of_budget(&mut self) -> bool {
        if !self.is_short && self.queued > self.budget {
            self.recount();
        }
        self.is_short
    }

    /// Below three quarters the budget counts as kept, so that what a count costs is spread over the last
    /// quarter's bytes.
    fn recount(&mut self) {
        self.queued = 0;
        for (_, connection) in &mut self.slab {
            connection.queued = connection.outlet.queued();
            self.queued += connection.queued;
        }
        self.is_short = self.queued > self.budget / 4 * 3;
    }
}
