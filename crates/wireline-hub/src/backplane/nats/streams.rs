//! The streams that a hub needs, and how it sets them up.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    context::GetStreamErrorKind,
    stream::{Config, DiscardPolicy, Republish, StorageType},
};

use super::{
    Limits,
    names::{Names, bucket_stream},
};

/// How long the broker knows a second attempt to publish as one.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Bytes that the broker has in memory of topics without history, one publication of each, and as many of rows of
/// presence. Beyond, it forgets the oldest. Raised, it is the broker's memory, which is set aside.
const MEMORY_LIMIT: i64 = 64 << 20;

/// Bytes of leases: some ten thousand nodes.
const LEASES_LIMIT: i64 = 4 << 20;

/// How long rows of presence are kept that nobody writes again; nodes do so much more often.
pub(super) const ROWS_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Publications that are kept: told at once to those who hear their topics.
pub(super) fn kept(names: &Names, limits: &Limits) -> Config {
    Config {
        name: names.kept_stream(),
        subjects: vec![names.all_kept()],
        max_messages_per_subject: i64::try_from(limits.messages).unwrap_or(i64::MAX),
        max_bytes: limits.bytes,
        republish: republish(names, names.all_kept()),
        ..config(limits)
    }
}

/// The newest publication of each topic without history, which is enough to know where it stands.
pub(super) fn passed(names: &Names, limits: &Limits) -> Config {
    Config {
        name: names.passed_stream(),
        subjects: vec![names.all_passed()],
        max_messages_per_subject: 1,
        max_bytes: MEMORY_LIMIT,
        storage: StorageType::Memory,
        republish: republish(names, names.all_passed()),
        ..config(limits)
    }
}

/// Who is where.
pub(super) fn rows(names: &Names, limits: &Limits) -> Config {
    bucket(&names.rows_bucket(), ROWS_LIFETIME, limits)
}

/// Which nodes are there: the broker itself forgets those that have not said so for `ttl_ms`.
pub(super) fn leases(names: &Names, ttl_ms: u64, limits: &Limits) -> Config {
    let bucket = bucket(&names.leases_bucket(ttl_ms), Duration::from_millis(ttl_ms), limits);
    Config { max_bytes: LEASES_LIMIT, ..bucket }
}

fn bucket(name: &str, max_age: Duration, limits: &Limits) -> Config {
    Config {
        name: bucket_stream(name),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        max_bytes: MEMORY_LIMIT,
        storage: StorageType::Memory,
        max_age,
        duplicate_window: DUPLICATE_WINDOW.min(max_age),
        allow_rollup: true,
        ..config(limits)
    }
}

fn config(limits: &Limits) -> Config {
    Config {
        discard: DiscardPolicy::Old,
        storage: StorageType::File,
        max_age: limits.age,
        num_replicas: limits.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        max_messages: -1,
        ..Config::default()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it is what a stream's configuration has")]
fn republish(names: &Names, source: String) -> Option<Republish> {
    Some(Republish { source, destination: names.all_heard(), headers_only: false })
}

/// Has the broker have the stream. One that is there already is taken as it is, whoever set its limits, if it does what
/// is needed. What it is.
pub(super) async fn ensure(
    context: &jetstream::Context,
    wanted: Config,
) -> Result<Config, async_nats::Error> {
    let found = match context.get_stream(&wanted.name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(error) if is_missing(&error.kind()) => {
            context.create_stream(wanted.clone()).await?.cached_info().config.clone()
        }
        Err(error) => return Err(error.into()),
    };
    let needs = |config: &Config| {
        let republish = config.republish.as_ref().map(|republish| republish.destination.clone());
        (config.subjects.clone(), config.allow_direct, republish)
    };
    if needs(&found) == needs(&wanted) {
        Ok(found)
    } else {
        Err(format!("the stream {} is there, and set up otherwise: see `nats stream info`", wanted.name)
            .into())
    }
}

fn is_missing(error: &GetStreamErrorKind) -> bool {
    let GetStreamErrorKind::JetStream(error) = error else { return false };
    error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND
}
