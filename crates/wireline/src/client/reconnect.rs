//! A fresh connection after each loss.

use std::{
    fmt,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{StatusCode, header};
use tokio::time::{Instant, sleep_until};
use wireline_proto::CloseCode;

use super::Connect;
use crate::{
    CloseEvent, ConnectError, Result, Socket, WebSocket, driver::Link, entropy, server::LONGEST_TIMEOUT,
    socket::Closing, tls::is_about_certificates,
};

/// After 1012 a client waits for 5 to 30 seconds, so that a server which restarts does not get everyone at
/// once: what the code's registration recommends.
const RESTART: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];

/// The longest `Retry-After` that is kept to. Beyond it the server is asked all the same.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// How long to wait before each attempt to connect again.
///
/// The wait before attempt *n* in a row is random between zero and `base` times two to the *n*, and `max` at
/// most ("full jitter"): of thousands of clients that lost their server in one moment, no two come back in
/// one.
///
/// ```
/// use std::time::Duration;
/// use wireline::Backoff;
///
/// let patient = Backoff::default().base(Duration::from_secs(1)).max(Duration::from_secs(120));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    min_uptime: Duration,
    max_attempts: Option<u32>,
}

impl Default for Backoff {
    /// From half a second on, 30 s at most, counted anew after 10 s of connection, without end.
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            max: Duration::from_secs(30),
            min_uptime: Duration::from_secs(10),
            max_attempts: None,
        }
    }
}

impl Backoff {
    /// The most that the first wait can be (500 ms); it doubles from there.
    #[must_use]
    pub fn base(mut self, base: Duration) -> Self {
        self.base = base.min(LONGEST_TIMEOUT);
        self
    }

    /// The most that any wait can be (30 s), unless the server asks for more.
    #[must_use]
    pub fn max(mut self, max: Duration) -> Self {
        self.max = max.min(LONGEST_TIMEOUT);
        self
    }

    /// How long a connection must have been open for the count to begin anew (10 s): a server that accepts
    /// and falls over at once is no better than one that does not accept.
    #[must_use]
    pub fn min_uptime(mut self, min_uptime: Duration) -> Self {
        self.min_uptime = min_uptime;
        self
    }

    /// Gives up after so many attempts in a row that failed. By default it never does.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// The wait after one more loss than so many in a row.
    fn delay(&self, losses: u32) -> Duration {
        let doubled = self.base.saturating_mul(1_u32.checked_shl(losses).unwrap_or(u32::MAX));
        random(Duration::ZERO, doubled.min(self.max))
    }
}

/// Anything between these two.
fn random(least: Duration, most: Duration) -> Duration {
    least + most.saturating_sub(least).mul_f64(entropy::fraction())
}

/// Why there is to be another attempt.
#[derive(Debug, Clone, Copy)]
pub enum Loss<'l> {
    /// An open connection ended.
    Closed(&'l CloseEvent),
    /// An attempt to connect failed.
    Failed(&'l ConnectError),
}

impl Loss<'_> {
    /// Whether another attempt makes no sense before somebody has changed something: a URL that is none, a
    /// certificate that is not trusted, a 4xx answer but 408, 425 and 429, a server that speaks no WebSocket, a
    /// connection that was closed with 1003, 1008 or 1010.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Closed(event) => matches!(
                event.code,
                CloseCode::UNSUPPORTED_DATA | CloseCode::POLICY_VIOLATION | CloseCode::MANDATORY_EXTENSION
            ),
            Self::Failed(error) => error.is_lasting(),
        }
    }

    /// How long the server wants to be left alone.
    fn wanted_delay(&self, max: Duration) -> Option<Duration> {
        match self {
            Self::Closed(event) => match event.code {
                CloseCode::SERVICE_RESTART => Some(random(RESTART[0], RESTART[1])),
                CloseCode::TRY_AGAIN_LATER => Some(random(max / 2, max)),
                _ => None,
            },
            Self::Failed(error) => error.retry_after(),
        }
    }
}

/// In words, as either has it.
impl fmt::Display for Loss<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(event) => event.fmt(f),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl ConnectError {
    /// Whether another attempt makes no sense before somebody has changed something: see
    /// [`Loss::is_lasting`].
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Url { .. }
            | Self::Protocols(_)
            | Self::InvalidHeader(_)
            | Self::Certificates(_)
            | Self::Handshake(_) => true,
            Self::Rejected(response) | Self::ProxyRejected { response, .. } => !is_passing(response.status()),
            Self::Tls { source, .. } => is_about_certificates(source),
            Self::Dns { .. } | Self::Tcp { .. } | Self::Proxy { .. } | Self::Http(_) | Self::Timeout => false,
        }
    }

    /// What the `Retry-After` of a refusal asks for (RFC 9110 section 10.2.3): seconds, or a date.
    fn retry_after(&self) -> Option<Duration> {
        let (Self::Rejected(response) | Self::ProxyRejected { response, .. }) = self else { return None };
        let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
        let delay = match value.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => {
                let date = httpdate::parse_http_date(value).ok()?;
                date.duration_since(SystemTime::now()).unwrap_or_default()
            }
        };
        Some(delay.min(LONGEST_RETRY_AFTER))
    }
}

/// Whether an answer may be another one soon.
fn is_passing(status: StatusCode) -> bool {
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => false,
        _ => status.is_server_error(),
    }
}

/// Why there is no further connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconnectError {
    /// Connecting failed, for a reason that stays, or as often as was allowed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The last connection was closed, for a reason that stays.
    #[error("the connection is not opened again: {0}")]
    Closed(CloseEvent),
}

type Attempting = Pin<Box<dyn Future<Output = Result<Connect, ConnectError>> + Send>>;
type Opening = Pin<Box<dyn Future<Output = Result<()>> + Send>>;
type OnLoss = Box<dyn FnMut(Loss<'_>, Duration) + Send>;
type OnOpen = Box<dyn FnMut(Socket) -> Opening + Send>;

/// Connections to one place, one after the other; see [`Connect::reconnect`].
pub struct Reconnect {
    connect: Box<dyn FnMut() -> Attempting + Send>,
    backoff: Backoff,
    /// In a row, with connections that were open for too short a time.
    losses: u32,
    failed_attempts: u32,
    /// When the next attempt may begin.
    due: Option<Instant>,
    /// The connection that was given out last, and since when it is open. Not as a handle, which would keep it
    /// open.
    current: Option<(Arc<Link>, Instant)>,
    on_open: Option<OnOpen>,
    on_loss: Option<OnLoss>,
    is_lasting: Box<dyn FnMut(Loss<'_>) -> bool + Send>,
}

impl Connect {
    /// Connects, and again after each loss: [`Reconnect::next`] gives one connection after the other.
    ///
    /// ```no_run
    /// # async fn example() -> wireline::Result<()> {
    /// use wireline::Backoff;
    ///
    /// let mut connections = wireline::connect("wss://example.com/prices").reconnect(Backoff::default());
    /// loop {
    ///     let mut ws = connections.next().await?;
    ///     ws.send("subscribe tea").await?;
    ///     while let Ok(Some(message)) = ws.recv().await {
    ///         println!("{message}");
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// A stream that was given with [`over`](Self::over) serves the first connection; for the others it
    /// connects.
    pub fn reconnect(self, backoff: Backoff) -> Reconnect {
        let again = self.again();
        let mut first = Some(self);
        reconnect_with(backoff, move || ready(Ok(first.take().unwrap_or_else(|| again.again()))))
    }
}

/// As [`Connect::reconnect`], where each attempt is made anew: for a token that expires, or a host that changes.
/// An error of `connect` counts as one of connecting.
///
/// ```no_run
/// # async fn fetch_token() -> Result<String, wireline::ConnectError> { Ok(String::new()) }
/// # async fn example() -> wireline::Result<()> {
/// use wireline::Backoff;
///
/// let mut connections = wireline::reconnect_with(Backoff::default(), || async {
///     let token = fetch_token().await?;
///     Ok(wireline::connect("wss://example.com/chat").header("Authorization", &format!("Bearer {token}")))
/// });
/// let ws = connections.next().await?;
/// # Ok(())
/// # }
/// ```
pub fn reconnect_with<F, A>(backoff: Backoff, mut connect: F) -> Reconnect
where
    F: FnMut() -> A + Send + 'static,
    A: Future<Output = Result<Connect, ConnectError>> + Send + 'static,
{
    Reconnect {
        connect: Box::new(move || Box::pin(connect())),
        backoff,
        losses: 0,
        failed_attempts: 0,
        due: None,
        current: None,
        on_open: None,
        on_loss: None,
        is_lasting: Box::new(|loss| loss.is_lasting()),
    }
}

impl Reconnect {
    /// What to do first on every connection, such as subscribing again, before [`next`](Self::next) gives it.
    /// An error of it closes the connection with 1011 and counts as its loss.
    #[must_use]
    pub fn on_open<F, H>(mut self, mut handler: F) -> Self
    where
        F: FnMut(Socket) -> H + Send + 'static,
        H: Future<Output = Result<()>> + Send + 'static,
    {
        self.on_open = Some(Box::new(move |socket| Box::pin(handler(socket))));
        self
    }

    /// Is told of each loss after which there is another attempt, with the wait before that.
    #[must_use]
    pub fn on_loss(mut self, handler: impl FnMut(Loss<'_>, Duration) + Send + 'static) -> Self {
        self.on_loss = Some(Box::new(handler));
        self
    }

    /// Decides after which losses there is no further attempt, instead of [`Loss::is_lasting`]: a 401 may be
    /// worth another attempt where each has a fresh token.
    #[must_use]
    pub fn give_up_if(mut self, is_lasting: impl FnMut(Loss<'_>) -> bool + Send + 'static) -> Self {
        self.is_lasting = Box::new(is_lasting);
        self
    }

    /// The next connection. The first time it connects at once; then it waits for the end of the connection
    /// that it gave before, however that came, and for the backoff. Whoever wants no further connection
    /// does not call it.
    ///
    /// # Errors
    /// When the reason for a loss is lasting, or the attempts are used up. Called again, it tries again.
    ///
    /// # Cancel safety
    /// Dropped early, an attempt under way is given up; how long to wait, and how often it failed, is kept.
    pub async fn next(&mut self) -> Result<WebSocket, ReconnectError> {
        self.await_end().await?;
        loop {
            if let Some(due) = self.due {
                sleep_until(due).await;
            }
            self.due = None;
            let error = match self.attempt().await {
                Ok(Some(ws)) => return Ok(ws),
                Ok(None) => {
                    self.await_end().await?;
                    continue;
                }
                Err(error) => error,
            };
            let loss = Loss::Failed(&error);
            self.failed_attempts = self.failed_attempts.saturating_add(1);
            let is_last = self.backoff.max_attempts.is_some_and(|most| self.failed_attempts >= most);
            if is_last || (self.is_lasting)(loss) {
                (self.losses, self.failed_attempts) = (0, 0);
                return Err(error.into());
            }
            self.wait_after(loss);
        }
    }

    /// Opens a connection; `None` if it did not get beyond its first words.
    async fn attempt(&mut self) -> Result<Option<WebSocket>, ConnectError> {
        let ws = (self.connect)().await?.await?;
        self.current = Some((Arc::clone(ws.link()), Instant::now()));
        self.failed_attempts = 0;
        let Some(on_open) = &mut self.on_open else { return Ok(Some(ws)) };
        match on_open(ws.socket()).await {
            Ok(()) => Ok(Some(ws)),
            Err(error) => {
                tracing::debug!(%error, "a connection failed at its first words");
                let _ = ws.close_with(CloseCode::INTERNAL_ERROR, "");
                Ok(None)
            }
        }
    }

    /// Waits for the end of the connection that was given last.
    async fn await_end(&mut self) -> Result<(), ReconnectError> {
        let Some((link, since)) = &self.current else { return Ok(()) };
        let event = Closing::new(link).await;
        if since.elapsed() >= self.backoff.min_uptime {
            self.losses = 0;
        }
        self.current = None;
        let loss = Loss::Closed(&event);
        if (self.is_lasting)(loss) {
            return Err(ReconnectError::Closed(event));
        }
        self.wait_after(loss);
        Ok(())
    }

    fn wait_after(&mut self, loss: Loss<'_>) {
        let delay = self.backoff.delay(self.losses);
        let delay = loss.wanted_delay(self.backoff.max).map_or(delay, |wanted| wanted + delay);
        self.losses = self.losses.saturating_add(1);
        self.due = Some(Instant::now() + delay);
        if let Some(on_loss) = &mut self.on_loss {
            on_loss(loss, delay);
        }
    }
}

impl fmt::Debug for Reconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnect")
            .field("backoff", &self.backoff)
            .field("losses", &self.losses)
            .finish_non_exhaustive()
    }
}
