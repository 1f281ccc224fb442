//! Who may do what.

use std::{fmt, future::Future, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use http::{Extensions, HeaderMap, Uri};
use tokio::time::Instant;

use crate::{ConnectionId, Member, Topic};

/// Somebody who wants to connect.
#[derive(Debug, Clone)]
pub struct Connect {
    /// What was asked for, with its query.
    pub uri: Uri,
    /// The request's headers: cookies, `Authorization`.
    pub headers: HeaderMap,
    /// The client's address, where there is one.
    pub client_ip: Option<IpAddr>,
    /// The token of `hub.v1`'s `auth`; browsers cannot send headers of their own.
    pub token: Option<String>,
}

/// Who somebody is, as the application's connect hook has it.
///
/// ```
/// use std::time::Duration;
/// use wireline_hub::{Identity, Member};
///
/// #[derive(Clone)]
/// struct Rooms(Vec<String>);
///
/// let ann = Identity::from(Member::new("ann"))
///     .with(Rooms(vec!["kitchen".into()]))
///     .expires_in(Duration::from_secs(3600));
/// # drop(ann);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Identity {
    user: Option<Member>,
    expires: Option<Instant>,
    extensions: Extensions,
}

impl Identity {
    /// Nobody in particular.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Something that the other hooks will want: [`Client::get`] finds it by its type, of which there is one.
    #[must_use]
    pub fn with<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.extensions.insert(value);
        self
    }

    /// Ends the connection after that time, with 3003: the client is to come back with a new token.
    #[must_use]
    pub fn expires_in(mut self, time: Duration) -> Self {
        self.expires = Instant::now().checked_add(time);
        self
    }

    pub(crate) fn expires(&self) -> Option<Instant> {
        self.expires
    }
}

impl From<Member> for Identity {
    fn from(user: Member) -> Self {
        Some(user).into()
    }
}

impl From<Option<Member>> for Identity {
    fn from(user: Option<Member>) -> Self {
        Self { user, ..Self::default() }
    }
}

/// Somebody who is connected. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<ClientParts>,
}

#[derive(Debug)]
struct ClientParts {
    id: ConnectionId,
    identity: Identity,
    client_ip: Option<IpAddr>,
}

impl Client {
    pub(crate) fn new(id: ConnectionId, identity: Identity, client_ip: Option<IpAddr>) -> Self {
        Self { inner: Arc::new(ClientParts { id, identity, client_ip }) }
    }

    /// What the connect hook has [put with it](Identity::with).
    #[must_use]
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.inner.identity.extensions.get()
    }

    /// The connection.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.inner.id
    }

    /// Who it is, as the connect hook has it; `None` if that did not say.
    #[must_use]
    pub fn user(&self) -> Option<&Member> {
        self.inner.identity.user.as_ref()
    }

    /// The client's address, where there is one.
    #[must_use]
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.inner.client_ip
    }
}

/// No.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not allowed")]
pub struct Denied;

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Denied>> + Send>>;
type OnConnect = dyn Fn(Connect) -> Answer<Identity> + Send + Sync;
type OnTopic = dyn Fn(Client, Topic) -> Answer<()> + Send + Sync;

/// The application's hooks.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    connect: Option<Arc<OnConnect>>,
    subscribe: Option<Arc<OnTopic>>,
    publish: Option<Arc<OnTopic>>,
}

impl Hooks {
    pub(crate) fn on_connect<F, A, I>(&mut self, hook: F)
    where
        F: Fn(Connect) -> A + Send + Sync + 'static,
        A: Future<Output = Result<I, Denied>> + Send + 'static,
        I: Into<Identity>,
    {
        self.connect = Some(Arc::new(move |connect| {
            let answer = hook(connect);
            Box::pin(async move { answer.await.map(Into::into) })
        }));
    }

    pub(crate) fn on_subscribe<F, A>(&mut self, hook: F)
    where
        F: Fn(Client, Topic) -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), Denied>> + Send + 'static,
    {
        self.subscribe = Some(Arc::new(move |client, topic| Box::pin(hook(client, topic))));
    }

    pub(crate) fn on_publish<F, A>(&mut self, hook: F)
    where
        F: Fn(Client, Topic) -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), Denied>> + Send + 'static,
    {
        self.publish = Some(Arc::new(move |client, topic| Box::pin(hook(client, topic))));
    }

    /// Who it is. Without a hook anybody may connect, as nobody in particular.
    pub(crate) async fn connect(&self, connect: Connect) -> Result<Identity, Denied> {
        match &self.connect {
            Some(hook) => hook(connect).await,
            None => Ok(Identity::anonymous()),
        }
    }

    /// Without a hook anybody may hear any topic but the hub's own.
    pub(crate) async fn subscribe(&self, client: &Client, topic: &Topic) -> Result<(), Denied> {
        match &self.subscribe {
            _ if topic.is_reserved() => Err(Denied),
            Some(hook) => hook(client.clone(), topic.clone()).await,
            None => Ok(()),
        }
    }

    /// Without a hook no client may publish.
    pub(crate) async fn publish(&self, client: &Client, topic: &Topic) -> Result<(), Denied> {
        match &self.publish {
            Some(hook) if !topic.is_reserved() => hook(client.clone(), topic.clone()).await,
            _ => Err(Denied),
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("connect", &self.connect.is_some())
            .field("subscribe", &self.subscribe.is_some())
            .field("publish", &self.publish.is_some())
            .finish()
    }
}
