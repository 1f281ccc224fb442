//! Where the server is, at an address or where Sentinels say, and whom to trust there.

use std::{collections::HashMap, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError,
    TlsCertificates,
};
use tokio::{task::JoinSet, time::timeout};

use super::InvalidRedisUrl;

/// How long Sentinels may take to answer. Raised, one that hangs holds up each connection for longer.
const PATIENCE: Duration = Duration::from_millis(400);

/// The port of a Sentinel whose URL has none.
const SENTINEL_PORT: u16 = 26379;

/// Where to connect to, and whom to trust there.
#[derive(Debug, Clone)]
pub(super) struct Place {
    kind: Kind,
    /// Certificates of authorities in PEM, in the place of the system's.
    roots: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
enum Kind {
    Server(Box<ConnectionInfo>),
    /// The master of a service, as these say.
    Service {
        sentinels: Vec<ConnectionInfo>,
        name: String,
        /// Who connects to the master, and to which database. Of its address it is only true whether it is encrypted.
        login: Box<ConnectionInfo>,
    },
}

impl Place {
    /// Of a URL: `redis://user:password@host:port/database`, or
    /// `redis+sentinel://user:password@host:port,host:port/service/database`, or the same with `rediss` for TLS.
    pub(super) fn new(url: &str) -> Result<Self, InvalidRedisUrl> {
        let kind = match url.split_once("+sentinel://") {
            Some((scheme @ ("redis" | "rediss"), rest)) => service(scheme, rest)?,
            _ => Kind::Server(Box::new(open(url)?)),
        };
        Ok(Self { kind, roots: None })
    }

    /// Trusts these authorities, and no others.
    pub(super) fn trusting(self, roots: Vec<u8>) -> Self {
        Self { roots: Some(roots), ..self }
    }

    /// Trusts whom `other` trusts.
    pub(super) fn trusting_as(self, other: &Self) -> Self {
        Self { roots: other.roots.clone(), ..self }
    }

    pub(super) fn database(&self) -> i64 {
        let (Kind::Server(login) | Kind::Service { login, .. }) = &self.kind;
        login.redis_settings().db()
    }

    /// The server as it is now.
    pub(super) async fn find(&self) -> Result<Client, RedisError> {
        match &self.kind {
            Kind::Server(server) => self.client(ConnectionInfo::clone(server)),
            Kind::Service { sentinels, name, login } => {
                let sentinels: Result<_, _> =
                    sentinels.iter().map(|sentinel| self.client(sentinel.clone())).collect();
                let (host, port) = master(sentinels?, name).await?;
                let address = match login.addr().clone() {
                    ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                        ConnectionAddr::TcpTls { host, port, insecure, tls_params }
                    }
                    _ => ConnectionAddr::Tcp(host, port),
                };
                self.client(ConnectionInfo::clone(login).set_addr(address))
            }
        }
    }

    fn client(&self, server: ConnectionInfo) -> Result<Client, RedisError> {
        if !matches!(server.addr(), ConnectionAddr::TcpTls { .. }) {
            return Client::open(server);
        }
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // The client has no other way to say with what. Somebody else may have been first.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        match &self.roots {
            Some(roots) => {
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(roots.clone()) };
                Client::build_with_tls(server, certificates)
            }
            None => Client::open(server),
        }
    }
}

fn open(url: &str) -> Result<ConnectionInfo, InvalidRedisUrl> {
    url.into_connection_info().map_err(|error| InvalidRedisUrl(error.to_string()))
}

fn service(scheme: &str, rest: &str) -> Result<Kind, InvalidRedisUrl> {
    let wanted = || InvalidRedisUrl("redis+sentinel://host:port,host:port/service is wanted".to_owned());
    let (authority, path) = rest.split_once('/').ok_or_else(wanted)?;
    let (name, database) = path.split_once('/').unwrap_or((path, "0"));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (format!("{login}@"), hosts),
        None => (String::new(), authority),
    };
    if name.is_empty() || hosts.is_empty() {
        return Err(wanted());
    }
    let sentinel = |host: &str| {
        // A port is behind the last colon, unless that is within an address of IPv6.
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        open(&if has_port {
            format!("{scheme}://{host}")
        } else {
            format!("{scheme}://{host}:{SENTINEL_PORT}")
        })
    };
    Ok(Kind::Service {
        sentinels: hosts.split(',').map(sentinel).collect::<Result<_, _>>()?,
        name: name.to_owned(),
        login: Box::new(open(&format!("{scheme}://{login}localhost/{database}"))?),
    })
}

/// What most of those say that answer in time: one that was cut off may still name the master before.
async fn master(sentinels: Vec<Client>, name: &str) -> Result<(String, u16), RedisError> {
    let mut asking = JoinSet::new();
    for sentinel in sentinels {
        asking.spawn(ask(sentinel, name.to_owned()));
    }
    let mut votes: HashMap<(String, u16), usize> = HashMap::new();
    let mut failure = RedisError::from((ErrorKind::Io, "no Sentinel answers in time"));
    let _ = timeout(PATIENCE, async {
        while let Some(answer) = asking.join_next().await {
            match answer {
                Ok(Ok(address)) => *votes.entry(address).or_default() += 1,
                Ok(Err(error)) => failure = error,
                Err(_) => {}
            }
        }
    })
    .await;
    let most = votes.into_iter().max_by_key(|(_, votes)| *votes);
    most.map(|(address, _)| address).ok_or(failure)
}

async fn ask(sentinel: Client, name: String) -> Result<(String, u16), RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    let mut connection = sentinel.get_multiplexed_async_connection_with_config(&config).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(&name);
    let answer: Option<(String, u16)> = question.query_async(&mut connection).await?;
    answer.ok_or_else(|| (ErrorKind::Io, "a Sentinel knows no service of this name", name).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels_are_named_with_what_is_needed_to_log_in() {
        let url = "redis+sentinel://ann:s%40crit@one,10.0.0.2:7000,[::1]:7001/cache/3";
        let place = Place::new(url).expect("it is a URL");
        assert_eq!(place.database(), 3);
        let Kind::Service { sentinels, name, login } = place.kind else { panic!("it names Sentinels") };
        let addresses: Vec<_> = sentinels.iter().map(|sentinel| sentinel.addr().to_string()).collect();
        assert_eq!(addresses, ["one:26379", "10.0.0.2:7000", "::1:7001"]);
        assert_eq!(name, "cache");
        assert_eq!(login.redis_settings().username(), Some("ann"));
        assert_eq!(login.redis_settings().password(), Some("s@crit"));
        let place = Place::new("rediss+sentinel://one/cache").expect("it is a URL");
        let Kind::Service { sentinels, login, .. } = place.kind else { panic!("it names Sentinels") };
        for place in [&sentinels[0], &*login] {
            assert!(matches!(place.addr(), ConnectionAddr::TcpTls { .. }), "{:?}", place.addr());
        }
        assert_eq!((login.redis_settings().db(), login.redis_settings().password()), (0, None));
    }

    #[test]
    fn what_names_no_sentinel_or_no_service_is_no_url() {
        for url in [
            "redis+sentinel://",
            "redis+sentinel://one",
            "redis+sentinel:///cache",
            "redis+sentinel://one/",
            "http+sentinel://one/cache",
        ] {
            assert!(Place::new(url).is_err(), "{url}");
        }
    }
}
