//! The timers of all connections of a runtime, in one task.
//!
//! A connection's deadline moves with every message, and a timer of tokio's own for each would cost it
//! 112 bytes. Here it costs 24. Deadlines are rounded up, by a sixteenth of what is left at most, and
//! gathered; when one passes, the connection is asked for its deadline of now, and only if that has
//! passed too is its task called.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use slab::Slab;
use tokio::sync::Notify;

use super::{Link, core::now, runtime::Runtime};

/// Milliseconds since the alarms began.
type Tick = u64;

/// Thirty-four years: a deadline beyond it is looked at then.
const LATEST: Tick = 1 << 40;

/// The alarms of one runtime.
pub(super) struct Alarms {
    began: Instant,
    schedule: Mutex<Schedule>,
    /// There is an earlier alarm than the task waits for.
    changed: Notify,
}

#[derive(Default)]
struct Schedule {
    entries: Slab<Entry>,
    /// Which entries to look at when. An entry that was set to another time since is passed over.
    buckets: BTreeMap<Tick, Vec<u32>>,
    /// The task that looks at them runs.
    is_attended: bool,
}

struct Entry {
    link: Weak<Link>,
    tick: Option<Tick>,
}

/// One connection's alarm; dropped, it is off.
pub(super) struct Alarm {
    runtime: Arc<Runtime>,
    key: u32,
}

impl Alarm {
    /// An alarm that is not set yet.
    pub(super) fn new(runtime: Arc<Runtime>, link: &Arc<Link>) -> Self {
        let entry = Entry { link: Arc::downgrade(link), tick: None };
        let key = runtime.alarms.lock().entries.insert(entry);
        Self { runtime, key: u32::try_from(key).expect("a process has fewer sockets than that") }
    }

    /// Calls the connection's task when its deadline has passed, which is `due` now and may move to later
    /// meanwhile. An alarm that is set for earlier stays.
    pub(super) fn set(&self, due: Instant) {
        Alarms::set(&self.runtime, self.key, due);
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.runtime.alarms.lock().entries.remove(self.key as usize);
    }
}

impl Alarms {
    pub(super) fn new() -> Self {
        Self { began: now(), schedule: Mutex::default(), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(runtime: &Arc<Runtime>, key: u32, due: Instant) {
        let this = &runtime.alarms;
        let tick = this.tick(due);
        let mut schedule = this.lock();
        let Some(entry) = schedule.entries.get_mut(key as usize) else { return };
        if entry.tick.is_some_and(|set| set <= tick) {
            return;
        }
        entry.tick = Some(tick);
        let is_first = schedule.buckets.first_key_value().is_none_or(|(first, _)| tick < *first);
        schedule.buckets.entry(tick).or_default().push(key);
        if !std::mem::replace(&mut schedule.is_attended, true) {
            tokio::spawn(Self::attend(Arc::clone(runtime)));
        } else if is_first {
            this.changed.notify_one();
        }
    }

    /// When to look at what is due at `due`: not before, and not much later.
    fn tick(&self, due: Instant) -> Tick {
        let millis = |time: Duration| Tick::try_from(time.as_millis()).map_or(LATEST, |ms| ms.min(LATEST));
        let left = millis(due.saturating_duration_since(now()));
        let tick = millis(due.saturating_duration_since(self.began)) + 1;
        let granularity = 1 << (left / 16).max(1).ilog2();
        tick.next_multiple_of(granularity)
    }

    fn instant(&self, tick: Tick) -> Instant {
        self.began + Duration::from_millis(tick)
    }

    /// The task: waits for the first alarm, until none is set.
    async fn attend(runtime: Arc<Runtime>) {
        let this = &runtime.alarms;
        while let Some(first) = this.first() {
            let _ = tokio::time::timeout_at(this.instant(first).into(), this.changed.notified()).await;
            while let Some((tick, keys)) = this.take_due(now()) {
                keys.into_iter().for_each(|key| Self::ring(&runtime, key, tick));
            }
        }
    }

    fn first(&self) -> Option<Tick> {
        let mut schedule = self.lock();
        let first = schedule.buckets.first_key_value().map(|(tick, _)| *tick);
        schedule.is_attended = first.is_some();
        first
    }

    /// The first bucket, if its time has come.
    fn take_due(&self, now: Instant) -> Option<(Tick, Vec<u32>)> {
        let mut schedule = self.lock();
        let bucket = schedule.buckets.first_entry()?;
        (self.instant(*bucket.key()) <= now).then(|| bucket.remove_entry())
    }

    /// Has the connection looked at, if it is still this alarm that is set for it.
    fn ring(runtime: &Arc<Runtime>, key: u32, tick: Tick) {
        let link = {
            let mut schedule = runtime.alarms.lock();
            let entry = schedule.entries.get_mut(key as usize).filter(|entry| entry.tick == Some(tick));
            entry.and_then(|entry| {
                entry.tick = None;
                entry.link.upgrade()
            })
        };
        // The entry may have become another connection's by now: that will be looked at too early.
        if let Some(due) = link.and_then(|link| link.check_deadline(now())) {
            Self::set(runtime, key, due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_never_early_and_at_most_a_sixteenth_late() {
        let alarms = Alarms::new();
        for millis in (0..200).chain((200..100_000).step_by(333)) {
            let left = Duration::from_millis(millis);
            let due = now() + left;
            let late = alarms.instant(alarms.tick(due)).checked_duration_since(due);
            let bound = left / 16 + Duration::from_millis(3);
            assert!(late.is_some_and(|late| late <= bound), "{left:?}: {late:?}");
        }
    }

    #[test]
    fn a_deadline_beyond_all_reason_is_kept() {
        let alarms = Alarms::new();
        let due = now().checked_add(Duration::from_secs(1 << 40)).expect("the clock goes that far");
        assert!(alarms.instant(alarms.tick(due)) > now() + Duration::from_secs(1 << 29));
    }
}
