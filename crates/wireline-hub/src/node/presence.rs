//! Who is present on a node's connections, and what the engine has to be told of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::PresenceUpdate;
use crate::{Member, PresenceRow, Topic};

/// A lease is renewed so often in its time, and so often others look whether it was.
pub(super) const RENEWALS: u32 = 3;

/// The members of each topic, with how many connections each has.
#[derive(Debug)]
pub(super) struct Presence {
    topics: BTreeMap<Topic, BTreeMap<Member, usize>>,
    /// Rows that the engine does not have as they are.
    changed: BTreeSet<Topic>,
    joined: BTreeSet<(Topic, Member)>,
    left: BTreeSet<(Topic, Member)>,
    delay: Duration,
    lease: Duration,
    /// When the next update is due.
    due: Option<Instant>,
    /// The last one is being told, in which these have joined.
    is_telling: bool,
    telling: BTreeSet<(Topic, Member)>,
    /// Who was here under a lease that has ended, until the engine has the rows under the next.
    lost: BTreeSet<(Topic, Member)>,
}

impl Presence {
    pub(super) fn new(delay: Duration, lease: Duration) -> Self {
        Self {
            topics: BTreeMap::new(),
            changed: BTreeSet::new(),
            joined: BTreeSet::new(),
            left: BTreeSet::new(),
            delay,
            lease,
            due: None,
            is_telling: false,
            telling: BTreeSet::new(),
            lost: BTreeSet::new(),
        }
    }

    /// One more connection of `member` hears the topic.
    pub(super) fn join(&mut self, topic: &Topic, member: &Member, now: Instant) {
        let count = self.topics.entry(topic.clone()).or_default().entry(member.clone()).or_default();
        *count += 1;
        if *count == 1 {
            let change = (topic.clone(), member.clone());
            if !self.left.remove(&change) {
                self.joined.insert(change);
            }
            self.change(topic, now);
        }
    }

    /// One connection of `member` less.
    pub(super) fn leave(&mut self, topic: &Topic, member: &Member, now: Instant) {
        let Some(members) = self.topics.get_mut(topic) else { return };
        let Some(count) = members.get_mut(member) else { return };
        *count -= 1;
        if *count == 0 {
            members.remove(member);
            if members.is_empty() {
                self.topics.remove(topic);
            }
            let change = (topic.clone(), member.clone());
            if !self.joined.remove(&change) {
                self.left.insert(change);
            }
            self.change(topic, now);
        }
    }

    /// Somebody says that `member` has left. If it is here, that is put right.
    pub(super) fn hear_leave(&mut self, topic: &Topic, member: &Member, now: Instant) {
        if self.topics.get(topic).is_some_and(|members| members.contains_key(member)) {
            self.joined.insert((topic.clone(), member.clone()));
            self.change(topic, now);
        }
    }

    /// The engine may have lost the rows.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.changed.extend(self.topics.keys().cloned());
        if !self.changed.is_empty() {
            self.hasten(now + self.delay);
        }
    }

    /// The engine and the topics know what the last update said. `is_kept`: the engine still has the rows that it
    /// was told before.
    pub(super) fn handle_told(&mut self, is_kept: bool, now: Instant) {
        self.is_telling = false;
        let told = std::mem::take(&mut self.telling);
        if !is_kept {
            let members = |(topic, members): (&Topic, &BTreeMap<Member, usize>)| {
                members.keys().map(|member| (topic.clone(), member.clone())).collect::<Vec<_>>()
            };
            let before = self.topics.iter().flat_map(members).chain(self.left.iter().cloned());
            self.lost = before.filter(|member| !told.contains(member)).collect();
            self.doubt(now);
        }
    }

    /// When [`take_update`](Self::take_update) is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| !self.is_telling)
    }

    /// What the engine is to be told, if it is time for that.
    pub(super) fn take_update(&mut self, now: Instant) -> Option<PresenceUpdate> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        self.is_telling = true;
        self.due = (!self.topics.is_empty()).then(|| now + self.lease / RENEWALS);
        // Whoever was here under a lease that has ended and is not under the next is missed by those who hear the topic.
        let lost = std::mem::take(&mut self.lost);
        self.left.retain(|member| !lost.contains(member));
        self.telling.clone_from(&self.joined);
        let rows = std::mem::take(&mut self.changed).into_iter().map(|topic| {
            let members = self.topics.get(&topic).map(|members| members.keys().cloned().collect());
            PresenceRow { topic, members: members.unwrap_or_default() }
        });
        Some(PresenceUpdate {
            rows: rows.collect(),
            lease: self.lease,
            joined: std::mem::take(&mut self.joined).into_iter().collect(),
            left: std::mem::take(&mut self.left).into_iter().collect(),
        })
    }

    fn change(&mut self, topic: &Topic, now: Instant) {
        self.changed.insert(topic.clone());
        self.hasten(now + self.delay);
    }

    fn hasten(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(100);
    const LEASE: Duration = Duration::from_secs(15);

    fn topic() -> Topic {
        Topic::new("tea").expect("it is a name")
    }

    fn ann() -> Member {
        Member::new("ann")
    }

    /// The update that is due, which is told at once.
    fn take(presence: &mut Presence, now: Instant) -> Option<PresenceUpdate> {
        let update = presence.take_update(now);
        presence.handle_told(true, now);
        update
    }

    #[test]
    fn one_update_is_told_at_a_time() {
        let start = Instant::now();
        let mut presence = Presence::new(DELAY, LEASE);
        presence.join(&topic(), &ann(), start);
        presence.take_update(start + DELAY).expect("it is due");
        presence.leave(&topic(), &ann(), start + DELAY);
        assert_eq!(presence.due(), None);
        assert!(presence.take_update(start + LEASE).is_none());
        presence.handle_told(true, start);
        let update = presence.take_update(start + LEASE).expect("it is due");
        assert_eq!(update.left, [(topic(), ann())]);
    }

    #[test]
    fn a_member_on_two_connections_joins_once_and_leaves_once() {
        let start = Instant::now();
        let mut presence = Presence::new(DELAY, LEASE);
        presence.join(&topic(), &ann(), start);
        presence.join(&topic(), &ann(), start);
        assert!(take(&mut presence, start).is_none(), "changes are collected first");
        let update = take(&mut presence, start + DELAY).expect("it is due");
        assert_eq!(update.joined, [(topic(), ann())]);
        assert_eq!(update.rows, [PresenceRow { topic: topic(), members: vec![ann()] }]);
        presence.leave(&topic(), &ann(), start + DELAY);
        assert!(take(&mut presence, start + 2 * DELAY).is_none(), "one connection is left");
        presence.leave(&topic(), &ann(), start + 2 * DELAY);
        let update = take(&mut presence, start + 3 * DELAY).expect("it is due");
        assert_eq!(update.left, [(topic(), ann())]);
        assert_eq!(update.rows, [PresenceRow { topic: topic(), members: vec![] }]);
        assert_eq!(presence.due(), None, "nobody is here, so there is nothing to renew");
    }

    #[test]
    fn who_leaves_and_comes_back_at_once_did_neither() {
        let start = Instant::now();
        let mut presence = Presence::new(DELAY, LEASE);
        presence.join(&topic(), &ann(), start);
        take(&mut presence, start + DELAY).expect("it is due");
        presence.leave(&topic(), &ann(), start + DELAY);
        presence.join(&topic(), &ann(), start + DELAY);
        let update = take(&mut presence, start + 2 * DELAY).expect("the row is written again");
        assert!(update.joined.is_empty() && update.left.is_empty(), "{update:?}");
    }

    #[test]
    fn a_lease_is_renewed_while_somebody_is_here() {
        let start = Instant::now();
        let mut presence = Presence::new(DELAY, LEASE);
        presence.join(&topic(), &ann(), start);
        take(&mut presence, start + DELAY).expect("it is due");
        assert_eq!(presence.due(), Some(start + DELAY + LEASE / RENEWALS));
        let renewal = take(&mut presence, start + LEASE).expect("it is due");
        assert!(renewal.rows.is_empty(), "the engine has the rows");
        presence.doubt(start + LEASE);
        assert_eq!(take(&mut presence, start + LEASE + DELAY).expect("it is due").rows.len(), 1);
    }

    #[test]
    fn a_node_whose_lease_had_ended_tells_all_its_rows_again() {
        let start = Instant::now();
        let mut presence = Presence::new(DELAY, LEASE);
        presence.join(&topic(), &ann(), start);
        take(&mut presence, start + DELAY).expect("it is due");
        presence.take_update(start + 2 * LEASE).expect("it is due");
        presence.handle_told(false, start + 2 * LEASE);
        let update = take(&mut presence, start + 2 * LEASE + DELAY).expect("it is due");
        assert_eq!(update.rows, [PresenceRow { topic: topic(), members: vec![ann()] }]);
        assert!(
            update.joined.is_empty(),
            "if anybody said that she left, that is contradicted when it is heard"
        );
    }

    #[test]
    fn who_leaves_after_the_lease_had_ended_is_missed_by_others_and_not_told_of_twice() {
        let start = Instant::now();
        let mut presence = Presence::new(DELAY, LEASE);
        presence.join(&topic(), &ann(), start);
        presence.join(&topic(), &Member::new("bob"), start);
        take(&mut presence, start + DELAY).expect("it is due");
        let late = start + 2 * LEASE;
        presence.take_update(late).expect("it is due");
        presence.handle_told(false, late);
        presence.leave(&topic(), &ann(), late);
        let update = take(&mut presence, late + DELAY).expect("it is due");
        assert!(update.left.is_empty(), "{update:?}");
        assert_eq!(update.rows, [PresenceRow { topic: topic(), members: vec![Member::new("bob")] }]);
        presence.leave(&topic(), &Member::new("bob"), late + DELAY);
        let update = take(&mut presence, late + 2 * DELAY).expect("it is due");
        assert_eq!(update.left, [(topic(), Member::new("bob"))], "he was here under this one");
    }

    #[test]
    fn who_leaves_soon_after_the_first_lease_began_is_told_of() {
        let start = Instant::now();
        let mut presence = Presence::new(DELAY, LEASE);
        presence.join(&topic(), &ann(), start);
        presence.take_update(start + DELAY).expect("it is due");
        presence.handle_told(false, start + DELAY);
        presence.leave(&topic(), &ann(), start + DELAY);
        let update = take(&mut presence, start + 2 * DELAY).expect("it is due");
        assert_eq!(update.left, [(topic(), ann())]);
    }

    #[test]
    fn a_leave_that_is_not_true_is_contradicted() {
        let start = Instant::now();
        let mut presence = Presence::new(DELAY, LEASE);
        presence.hear_leave(&topic(), &ann(), start);
        assert_eq!(presence.due(), None, "who is not here has left");
        presence.join(&topic(), &ann(), start);
        take(&mut presence, start + DELAY).expect("it is due");
        presence.hear_leave(&topic(), &ann(), start + DELAY);
        let update = take(&mut presence, start + 2 * DELAY).expect("it is due");
        assert_eq!(update.joined, [(topic(), ann())]);
    }
}
