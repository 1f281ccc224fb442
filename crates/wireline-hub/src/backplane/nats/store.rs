//! A stream of the broker's, as one that is read.

use std::{sync::Arc, time::SystemTime};

use async_nats::{
    HeaderMap, Message, StatusCode,
    jetstream::{
        self,
        message::StreamMessage,
        stream::{LastRawMessageErrorKind, RawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{envelope, link::Link};
use crate::{BackplaneError, History, Position};

/// Messages that are asked for at once. Raised, it is memory for each topic that is read.
const BATCH: usize = 256;

/// Their bytes: an answer ends with the message that exceeds them.
const BATCH_BYTES: usize = 4 << 20;

/// A message that a stream keeps.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) subject: String,
    pub(super) sequence: u64,
    /// When the broker took it, by its clock.
    pub(super) time: SystemTime,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Stored {
    /// The mark is zero if it is no publication of a hub's.
    pub(super) fn position(&self) -> Position {
        let mark = envelope::envelope(&self.headers).map_or(0, |envelope| envelope.mark);
        Position::new(self.sequence, mark)
    }

    /// What its publisher wanted to be kept.
    pub(super) fn history(&self) -> History {
        envelope::envelope(&self.headers).map_or(History::NONE, |envelope| envelope.history)
    }
}

impl From<StreamMessage> for Stored {
    fn from(message: StreamMessage) -> Self {
        Self {
            subject: message.subject.to_string(),
            sequence: message.sequence,
            time: message.time.into(),
            headers: message.headers,
            payload: message.payload,
        }
    }
}

/// A stream. What is asked of it is answered by any of its replicas, which may lag behind the leader by a moment.
#[derive(Debug)]
pub(super) struct Store {
    name: String,
    direct_get: String,
    link: Arc<Link>,
}

impl Store {
    pub(super) fn new(name: String, link: Arc<Link>) -> Self {
        let direct_get = format!("$JS.API.DIRECT.GET.{name}");
        Self { name, direct_get, link }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The newest message of a subject.
    pub(super) async fn last(&self, subject: &str) -> Result<Option<Stored>, BackplaneError> {
        self.ask(&json!({ "last_by_subj": subject })).await
    }

    /// The newest message of a subject, by the leader's word.
    pub(super) async fn last_at_leader(&self, subject: &str) -> Result<Option<Stored>, BackplaneError> {
        let asking = async {
            match self.stream().await?.get_last_raw_message_by_subject(subject).await {
                Ok(message) => Ok(Some(message.into())),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(BackplaneError::Unavailable(error.to_string())),
            }
        };
        self.link.bounded(asking).await
    }

    /// The first message of a subject from a sequence on.
    pub(super) async fn next(&self, subject: &str, from: u64) -> Result<Option<Stored>, BackplaneError> {
        self.ask(&json!({ "seq": from.max(1), "next_by_subj": subject })).await
    }

    /// The message of a sequence.
    pub(super) async fn at(&self, sequence: u64) -> Result<Option<Stored>, BackplaneError> {
        self.ask(&json!({ "seq": sequence })).await
    }

    /// The message of a sequence, by the leader's word: what it has acknowledged, it has.
    pub(super) async fn at_leader(&self, sequence: u64) -> Result<Option<Stored>, BackplaneError> {
        let asking = async {
            let stream = self.stream().await?;
            match stream.get_raw_message(sequence).await {
                Ok(message) => Ok(Some(message.into())),
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(BackplaneError::Unknown(error.to_string())),
            }
        };
        self.link.bounded(asking).await
    }

    /// Has it forget a subject.
    pub(super) async fn purge(&self, subject: &str) -> Result<(), BackplaneError> {
        let purging = async {
            let purged = self.stream().await?.purge().filter(subject).await;
            purged.map(drop).map_err(|error| BackplaneError::Unknown(error.to_string()))
        };
        self.link.bounded(purging).await
    }

    /// Has it forget one message.
    pub(super) async fn forget(&self, sequence: u64) -> Result<(), BackplaneError> {
        let forgetting = async {
            let forgotten = self.stream().await?.delete_message(sequence).await;
            forgotten.map(drop).map_err(|error| BackplaneError::Unknown(error.to_string()))
        };
        self.link.bounded(forgetting).await
    }

    async fn stream(&self) -> Result<Stream<()>, BackplaneError> {
        let context = jetstream::new(self.link.client.clone());
        let stream = context.get_stream_no_info(&self.name).await;
        stream.map_err(|error| BackplaneError::Unavailable(error.to_string()))
    }

    /// A subject's messages of these sequences, the first and the last one included: at most `max`, in order.
    pub(super) async fn run(
        &self,
        subject: &str,
        first: u64,
        last: u64,
        max: usize,
    ) -> Result<Vec<Stored>, BackplaneError> {
        let mut run: Vec<Stored> = Vec::new();
        let mut from = first.max(1);
        // The first one alone: most often it is behind the last already.
        let mut wanted = 1;
        while run.len() < max && from <= last {
            let before = run.len();
            for stored in self.some(subject, from, wanted.min(max - before)).await? {
                if stored.sequence > last {
                    return Ok(run);
                }
                from = stored.sequence + 1;
                run.push(stored);
            }
            if run.len() == before {
                break;
            }
            wanted = usize::try_from(last.saturating_sub(from) + 1).unwrap_or(BATCH).min(BATCH);
        }
        Ok(run)
    }

    /// At least one of a subject's messages from a sequence on, if there are any, and at most `max`: in one answer if
    /// the server can.
    async fn some(&self, subject: &str, from: u64, max: usize) -> Result<Vec<Stored>, BackplaneError> {
        let is_batch = max > 1 && self.link.client.is_server_compatible(2, 11, 0);
        if !is_batch {
            return Ok(self.next(subject, from).await?.into_iter().collect());
        }
        let question =
            json!({ "seq": from, "next_by_subj": subject, "batch": max, "max_bytes": BATCH_BYTES });
        let answers = self.link.request_batch(&self.direct_get, question.to_string().into()).await?;
        answers.into_iter().map(stored).collect()
    }

    async fn ask(&self, question: &Value) -> Result<Option<Stored>, BackplaneError> {
        let answer = self.link.request(&self.direct_get, None, question.to_string().into()).await?;
        match answer.status {
            None | Some(StatusCode::OK) => stored(answer).map(Some),
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(status) => Err(BackplaneError::Unavailable(format!("{} answers {status}", self.name))),
        }
    }
}

fn stored(message: Message) -> Result<Stored, BackplaneError> {
    let message = StreamMessage::try_from(message);
    message.map(Stored::from).map_err(|error| BackplaneError::Unknown(error.to_string()))
}
