//! Who is present, in two kinds of buckets: a row for each topic and node, and a lease for each node, which the broker
//! forgets by itself when its time is over. Clocks need not agree.
//!
//! A row counts if its node's lease is there and has the row's number. The number is new when a lease had ended, so that
//! rows from before do not come back with it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, task::JoinSet};

use super::{
    Engine,
    names::{bucket_stream, node_of_row},
    store::{Store, Stored},
    streams::{self, ROWS_LIFETIME},
};
use crate::{BackplaneError, Member, NodeId, NodeRow, PresenceRow, Topic, entropy};

/// Rows that are written at the same time. Raised, a node with many topics burdens the broker more.
const MAX_WRITES: usize = 64;

/// A node has its rows written again so often in their lifetime.
const REWRITES: u32 = 2;

/// A node's lease, and what it knows of it.
#[derive(Debug)]
pub(super) struct Lease {
    node: NodeId,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    number: u64,
    /// The bucket that the lease is in.
    ttl_ms: u64,
    /// When all rows were written, or are about to be.
    written: Instant,
}

/// A row, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    /// Of the lease that it is kept by.
    number: u64,
    /// Where that is.
    ttl_ms: u64,
    members: Vec<String>,
}

impl Lease {
    pub(super) fn new(node: NodeId) -> Self {
        let state = State { number: 0, ttl_ms: 0, written: Instant::now() };
        Self { node, state: Mutex::new(state) }
    }

    /// What [`Backplane::lease`](crate::Backplane::lease) does.
    pub(super) async fn renew(
        &self,
        engine: &Arc<Engine>,
        rows: &[PresenceRow],
        ttl: Duration,
    ) -> Result<bool, BackplaneError> {
        let mut state = self.state.lock().await;
        // The shortest that the broker knows.
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(100);
        if state.ttl_ms != ttl_ms {
            engine.ensure(streams::leases(&engine.names, ttl_ms, &engine.limits)).await?;
            *state = State { number: 0, ttl_ms, written: Instant::now() };
        }
        let is_there = match find(engine, ttl_ms, self.node).await {
            Ok(number) => number == Some(state.number),
            // The bucket itself is gone, which a broker that came up empty has not got.
            Err(BackplaneError::Unavailable(_)) => {
                engine.ensure(streams::leases(&engine.names, ttl_ms, &engine.limits)).await?;
                false
            }
            Err(error) => return Err(error),
        };
        if !is_there {
            state.number = u64::from(entropy::mark());
            state.written = Instant::now();
        }
        write_all(engine, self.node, rows, &state).await?;
        let lease = engine.names.lease(ttl_ms, self.node);
        engine.put(&lease, None, Bytes::from(state.number.to_string())).await?;
        // Before the broker forgets rows that have not changed for so long, the node writes them again.
        let is_due = state.written.elapsed() > ROWS_LIFETIME / REWRITES;
        if is_due {
            state.written = Instant::now();
        }
        Ok(is_there && !is_due)
    }

    /// Ends it: the node has no members any more.
    pub(super) async fn end(&self, engine: &Engine) {
        let state = self.state.lock().await;
        if state.ttl_ms > 0 {
            // Else its time does it.
            let lease = engine.names.lease(state.ttl_ms, self.node);
            let _ = leases(engine, state.ttl_ms).purge(&lease).await;
        }
    }
}

fn leases(engine: &Engine, ttl_ms: u64) -> Store {
    Store::new(bucket_stream(&engine.names.leases_bucket(ttl_ms)), Arc::clone(&engine.requests))
}

fn rows(engine: &Engine) -> Store {
    Store::new(bucket_stream(&engine.names.rows_bucket()), Arc::clone(&engine.requests))
}

/// The number of a node's lease, if it has one.
async fn find(engine: &Engine, ttl_ms: u64, node: NodeId) -> Result<Option<u64>, BackplaneError> {
    let stored = leases(engine, ttl_ms).last(&engine.names.lease(ttl_ms, node)).await?;
    Ok(stored.and_then(|stored| std::str::from_utf8(&stored.payload).ok()?.parse().ok()))
}

async fn write_all(
    engine: &Arc<Engine>,
    node: NodeId,
    rows: &[PresenceRow],
    state: &State,
) -> Result<(), BackplaneError> {
    for rows in rows.chunks(MAX_WRITES) {
        let mut writing = JoinSet::new();
        for row in rows {
            let (engine, subject) = (Arc::clone(engine), engine.names.row(&row.topic, node));
            let members: Vec<String> = row.members.iter().map(|member| member.name().to_owned()).collect();
            let row = Row { number: state.number, ttl_ms: state.ttl_ms, members };
            writing.spawn(async move { write(&engine, &subject, &row).await });
        }
        while let Some(written) = writing.join_next().await {
            written.map_err(|error| BackplaneError::Unknown(error.to_string()))??;
        }
    }
    Ok(())
}

async fn write(engine: &Engine, subject: &str, row: &Row) -> Result<(), BackplaneError> {
    if row.members.is_empty() {
        return rows(engine).purge(subject).await;
    }
    let json = serde_json::to_vec(row).map_err(|error| BackplaneError::Denied(error.to_string()))?;
    engine.put(subject, None, json.into()).await.map(drop)
}

/// What [`Backplane::presence`](crate::Backplane::presence) answers.
pub(super) async fn read(engine: &Engine, topic: &Topic) -> Result<Vec<NodeRow>, BackplaneError> {
    let store = rows(engine);
    let all = store.run(&engine.names.rows_of(topic), 1, u64::MAX, usize::MAX).await?;
    let mut leases = HashMap::new();
    let mut found = Vec::new();
    for stored in all {
        let Some((node, row)) = parse(&stored) else { continue };
        let number = match leases.get(&node) {
            Some(number) => *number,
            None => *leases.entry(node).or_insert(find(engine, row.ttl_ms, node).await?),
        };
        if number == Some(row.number) {
            let members = row.members.into_iter().map(Member::new).collect();
            found.push(NodeRow { node, lease: u32::try_from(row.number).unwrap_or_default(), members });
        } else {
            // The row of a node that is gone: this very one, not what the node may have written since. Else who reads
            // next does it.
            let _ = store.forget(stored.sequence).await;
        }
    }
    found.sort_by_key(|row| row.node);
    Ok(found)
}

fn parse(stored: &Stored) -> Option<(NodeId, Row)> {
    Some((node_of_row(&stored.subject)?, serde_json::from_slice(&stored.payload).ok()?))
}
