//! `wireline serve --hub`: topics, in the place of the echo.

mod http;
mod tokens;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::http::StatusCode;
use wireline::{Error, Request, Result, Server};
use wireline_hub::{Connect, Denied, History, Hub, HubBuilder, Identity, Nats, Redis, Topic, TopicRules};

use self::{
    http::Desk,
    tokens::{Grants, Tokens},
};

/// Topics that tell who is there, and where clients may publish without a token: a chat to try it.
const OPEN_TOPICS: &str = "chat:";

/// The environment's word for `--hub-key`.
const KEY_VARIABLE: &str = "WIRELINE_HUB_KEY";

/// Topics, in the place of the echo.
#[derive(Debug, clap::Args)]
pub(crate) struct HubArgs {
    /// Serve topics instead of the echo: the subprotocol hub.v1 at /hub, Centrifugo's protocol in JSON at
    /// /connection/websocket, one topic a connection at /topic/NAME, and a chat for browsers at /
    #[arg(long)]
    hub: bool,

    /// Share topics with other nodes over this server of NATS with JetStream, such as `nats://127.0.0.1:4222`
    #[arg(long, value_name = "URL", requires = "hub", conflicts_with = "redis")]
    nats: Option<String>,

    /// Share topics with other nodes over this server of Redis or Valkey, such as `redis://127.0.0.1:6379`, or the master
    /// that Sentinels name: `redis+sentinel://HOST:26379,HOST:26379/SERVICE`
    #[arg(long, value_name = "URL", requires = "hub")]
    redis: Option<String>,

    /// Who says this key (`Authorization: Bearer KEY`) may publish by POST /publish and ask for /topics and
    /// /presence; $WIRELINE_HUB_KEY stands for it. Without one anybody may who reaches a loopback address
    #[arg(long, value_name = "KEY", requires = "hub")]
    hub_key: Option<String>,

    /// Let in only clients with a JSON Web Token that was signed with the secret in this file (HMAC). Its claims:
    /// `sub`, the user; `exp`; `subscribe` and `publish`, lists of topics, where `*` at the end stands for anything
    #[arg(long, value_name = "FILE", requires = "hub", conflicts_with = "token_key")]
    token_secret: Option<PathBuf>,

    /// The same, with a signature that this public key verifies (PEM; RSA or EC)
    #[arg(long, value_name = "FILE", requires = "hub")]
    token_key: Option<PathBuf>,

    /// At Ctrl-C or SIGTERM, send clients away one by one over so many seconds: they come back, to other nodes if there
    /// are any
    #[arg(long, value_name = "SECONDS", default_value_t = 2, requires = "hub")]
    drain: u64,

    /// Publications to keep of each topic, for five minutes, for those who come late or come back
    #[arg(long, value_name = "COUNT", default_value_t = 100, requires = "hub")]
    history: usize,
}

/// A hub with what belongs to it.
#[derive(Clone)]
pub(crate) struct Service {
    hub: Hub,
    desk: Arc<Desk>,
    is_leaving: Arc<AtomicBool>,
    drain: Duration,
}

impl HubArgs {
    pub(crate) fn is_wanted(&self) -> bool {
        self.hub
    }

    /// Starts the hub of a server that is to listen on `addr`.
    pub(crate) async fn start(&self, addr: SocketAddr) -> Result<Service> {
        let history = if self.history == 0 { History::NONE } else { History::messages(self.history) };
        let builder = Hub::builder()
            .topics(move |topic| TopicRules { history, presence: topic.starts_with(OPEN_TOPICS) });
        let builder = self.connect(builder).await?;
        let builder = match Tokens::load(self.token_secret.as_deref(), self.token_key.as_deref())? {
            Some(tokens) => {
                let tokens = Arc::new(tokens);
                builder
                    .on_connect(move |connect| {
                        let tokens = Arc::clone(&tokens);
                        async move { tokens.identify(&connect) }
                    })
                    .on_subscribe(|client, topic| async move {
                        client.get::<Grants>().filter(|grants| grants.hears(&topic)).map(drop).ok_or(Denied)
                    })
                    .on_publish(|client, topic| async move {
                        client.get::<Grants>().filter(|grants| grants.speaks(&topic)).map(drop).ok_or(Denied)
                    })
            }
            None => builder
                .on_connect(|connect| async move { Ok::<_, Denied>(nickname(&connect)) })
                .on_publish(|_, topic| async move {
                    if topic.starts_with(OPEN_TOPICS) { Ok(()) } else { Err(Denied) }
                }),
        };
        let key = self.hub_key.clone().or_else(|| std::env::var(KEY_VARIABLE).ok());
        if key.as_ref().is_some_and(|key| key.trim().is_empty()) {
            return Err(Error::other("the hub's key is empty: anybody could say it"));
        }
        let hub = builder.start();
        let is_leaving = Arc::<AtomicBool>::default();
        let desk = Desk::new(hub.clone(), key, addr.ip().is_loopback(), Arc::clone(&is_leaving));
        Ok(Service { hub, desk: Arc::new(desk), is_leaving, drain: Duration::from_secs(self.drain) })
    }
}

impl HubArgs {
    /// With what carries publications between nodes, if anything does.
    async fn connect(&self, builder: HubBuilder) -> Result<HubBuilder> {
        if let Some(url) = &self.nats {
            let nats = Nats::connect(url.as_str()).await;
            let nats = nats.map_err(|error| Error::other(format!("{}: {error}", without_password(url))))?;
            return Ok(builder.backplane(move |events| nats.node(events)));
        }
        if let Some(url) = &self.redis {
            let redis = Redis::new(url);
            let redis = redis.map_err(|error| Error::other(format!("{}: {error}", without_password(url))))?;
            return Ok(builder.backplane(move |events| redis.node(events)));
        }
        Ok(builder)
    }
}

/// What can be shown of a URL.
fn without_password(url: &str) -> &str {
    url.rsplit('@').next().unwrap_or(url)
}

/// Without tokens everybody is who they say: a name in the place of one.
fn nickname(connect: &Connect) -> Identity {
    const LONGEST: usize = 64;
    let name = connect.token.as_deref().filter(|name| (1..=LONGEST).contains(&name.len()));
    name.map_or_else(Identity::anonymous, |name| wireline_hub::Member::new(name).into())
}

impl Service {
    /// The server that speaks for it.
    pub(crate) fn attach(&self, server: Server) -> Server {
        let (hub, centrifugo, raw) = (self.hub.clone(), self.hub.clone(), self.hub.clone());
        let desk = Arc::clone(&self.desk);
        server
            .route("/hub", move |req: Request| hub.clone().serve(req))
            .route("/connection/websocket", move |req: Request| centrifugo.clone().serve_centrifugo(req))
            .route("/topic/{topic}", move |req: Request| serve_topic(raw.clone(), req))
            .on_http(move |request| {
                let desk = Arc::clone(&desk);
                async move { desk.respond(&request).await }
            })
    }

    /// Sends all clients away, to other nodes.
    pub(crate) async fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
        let left = self.hub.drain(self.drain).await;
        if left > 0 {
            eprintln!("{left} clients of topics did not go");
        }
    }
}

/// One topic, beginning with the newest `?last=` of its publications.
async fn serve_topic(hub: Hub, req: Request) -> Result<()> {
    let last = url::form_urlencoded::parse(req.query().unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "last")
        .map_or(Ok(0), |(_, value)| value.parse());
    let (Some(Ok(topic)), Ok(last)) = (req.param("topic").map(Topic::new), last) else {
        return req.reject(StatusCode::BAD_REQUEST).body("no such topic, or last is no number\n").await;
    };
    hub.serve_topic(req, topic, last).await
}
