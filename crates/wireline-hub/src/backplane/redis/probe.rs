//! Whether a node still hears: it says something to itself, and listens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use super::{commands::Commands, scripts::Scripts};

/// How often, and how long it is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProbeTimes {
    pub(super) every: Duration,
    pub(super) patience: Duration,
}

/// A connection that may hear no more although it is open: a replica that was detached from its master, or a network
/// that eats packets, tells nobody.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    commands: Arc<Commands>,
    channel: String,
    times: ProbeTimes,
    ear: Arc<Ear>,
}

/// What was heard.
#[derive(Debug, Default)]
struct Ear {
    /// Messages of any channel.
    messages: AtomicU64,
    /// The number of the last probe that came back.
    echo: AtomicU64,
    echoed: Notify,
}

impl Probe {
    pub(super) fn new(commands: Arc<Commands>, channel: String, times: ProbeTimes) -> Self {
        Self { commands, channel, times, ear: Arc::default() }
    }

    /// The channel that it is on.
    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// Something was heard.
    pub(super) fn note_message(&self) {
        self.ear.messages.fetch_add(1, Ordering::Relaxed);
    }

    /// A probe came back.
    pub(super) fn note_echo(&self, probe: &[u8]) {
        if let Some(number) = str::from_utf8(probe).ok().and_then(|number| number.parse().ok()) {
            self.ear.echo.fetch_max(number, Ordering::Relaxed);
            self.ear.echoed.notify_one();
        }
    }

    /// Waits until the next probe is due.
    pub(super) async fn rest(&self) {
        tokio::time::sleep(self.times.every).await;
    }

    /// Says something: whether it is heard. While other things come in it may be behind them.
    pub(super) async fn is_heard(&self) -> bool {
        let number = self.ear.echo.load(Ordering::Relaxed) + 1;
        let say = async {
            let script = |_| {
                let mut script = Scripts::shared().probe.prepare_invoke();
                script.arg(&self.channel).arg(number);
                script
            };
            if let Err(error) = self.commands.run::<i64>(script).await {
                tracing::debug!(%error, "a probe was not sent");
            }
        };
        let heard = async {
            while self.ear.echo.load(Ordering::Relaxed) < number {
                self.ear.echoed.notified().await;
            }
        };
        tokio::pin!(heard);
        let mut before = self.ear.messages.load(Ordering::Relaxed);
        // An attempt that is given up with the connection needs not to have answered.
        let said = timeout(self.times.patience, async { tokio::join!(say, &mut heard) }).await;
        let mut is_heard = said.is_ok();
        loop {
            let messages = self.ear.messages.load(Ordering::Relaxed);
            if is_heard || messages == before {
                return is_heard;
            }
            before = messages;
            is_heard = timeout(self.times.patience, &mut heard).await.is_ok();
        }
    }
}
