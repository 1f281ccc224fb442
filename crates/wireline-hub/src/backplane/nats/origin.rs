//! Where topics stand of which nothing was published.
//!
//! An origin is a random mark that is kept in both streams, among the publications. Who is told that a topic is empty
//! gets the newest origin as its position. As long as that origin is kept nothing that was published later can be
//! gone for its age or for want of room, since streams forget in order: so whoever comes back with it can be told
//! what he missed, or that there is nothing. A broker that comes up empty has lost it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{Engine, store::Stored};
use crate::{BackplaneError, Position, entropy};

/// An origin is replaced when it has reached this share of the age at which it is forgotten.
const SHARE: u32 = 2;

/// The position of a topic that is empty.
pub(super) async fn position(engine: &Engine) -> Result<Position, BackplaneError> {
    let mark = match newest(engine).await? {
        Some((mark, _)) => mark,
        None => create(engine).await?,
    };
    Ok(Position::new(0, mark))
}

/// The newest origin, with its sequence among what is kept; `None` if there is none, or it is old.
pub(super) async fn newest(engine: &Engine) -> Result<Option<(u32, u64)>, BackplaneError> {
    let Some(stored) = engine.kept.last(&engine.names.origins_kept()).await? else { return Ok(None) };
    let Some(mark) = mark(&stored) else { return Ok(None) };
    let age = SystemTime::now().duration_since(stored.time).unwrap_or(Duration::ZERO);
    let is_old = age > engine.limits.age / SHARE;
    Ok((!is_old && is_passed(engine, mark).await?).then_some((mark, stored.sequence)))
}

/// Whether nothing that was published after somebody was told this mark has been forgotten, but for topics' limits of
/// their own.
pub(super) async fn is_kept(engine: &Engine, wanted: u32) -> Result<bool, BackplaneError> {
    if !is_passed(engine, wanted).await? {
        return Ok(false);
    }
    let origins = engine.kept.run(&engine.names.origins_kept(), 1, u64::MAX, usize::MAX).await?;
    Ok(origins.iter().any(|stored| mark(stored) == Some(wanted)))
}

async fn is_passed(engine: &Engine, mark: u32) -> Result<bool, BackplaneError> {
    Ok(engine.passed.last(&engine.names.origin_passed(mark)).await?.is_some())
}

/// Nodes that do so at once make one each: both are good.
async fn create(engine: &Engine) -> Result<u32, BackplaneError> {
    let mark = entropy::mark();
    let payload = || Bytes::from(format!("{mark:08x}"));
    engine.put(&engine.names.origin_passed(mark), None, payload()).await?;
    engine.put(&engine.names.origins_kept(), None, payload()).await?;
    Ok(mark)
}

fn mark(stored: &Stored) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(&stored.payload).ok()?, 16).ok()
}
