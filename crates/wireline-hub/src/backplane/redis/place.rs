//! Where the server is: at an address, or where Sentinels say.

use std::{collections::HashMap, time::Duration};

use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError};
use tokio::{task::JoinSet, time::timeout};

use super::InvalidRedisUrl;

/// How long Sentinels may take to answer. Raised, one that hangs holds up each connection for longer.
const PATIENCE: Duration = Duration::from_millis(400);

/// The port of a Sentinel whose URL has none.
const SENTINEL_PORT: u16 = 26379;

/// Where to connect to.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Server(Client),
    /// The master of a service, as these say.
    Service {
        sentinels: Vec<Client>,
        name: String,
        /// Who connects to the master, and to which database. Its address means nothing.
        login: Box<ConnectionInfo>,
    },
}

impl Place {
    /// Of a URL: `redis://user:password@host:port/database`, or
    /// `redis+sentinel://user:password@host:port,host:port/service/database`.
    pub(super) fn new(url: &str) -> Result<Self, InvalidRedisUrl> {
        match url.strip_prefix("redis+sentinel://") {
            Some(rest) => service(rest),
            None => Ok(Self::Server(open(url)?)),
        }
    }

    pub(super) fn database(&self) -> i64 {
        match self {
            Self::Server(client) => client.get_connection_info().redis_settings().db(),
            Self::Service { login, .. } => login.redis_settings().db(),
        }
    }

    /// The server as it is now.
    pub(super) async fn find(&self) -> Result<Client, RedisError> {
        match self {
            Self::Server(client) => Ok(client.clone()),
            Self::Service { sentinels, name, login } => {
                let address = master(sentinels, name).await?;
                Client::open(ConnectionInfo::clone(login).set_addr(address))
            }
        }
    }
}

fn open(url: &str) -> Result<Client, InvalidRedisUrl> {
    Client::open(url).map_err(|error| InvalidRedisUrl(error.to_string()))
}

fn service(rest: &str) -> Result<Place, InvalidRedisUrl> {
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
        if has_port {
            open(&format!("redis://{host}"))
        } else {
            open(&format!("redis://{host}:{SENTINEL_PORT}"))
        }
    };
    let login = open(&format!("redis://{login}localhost/{database}"))?;
    Ok(Place::Service {
        sentinels: hosts.split(',').map(sentinel).collect::<Result<_, _>>()?,
        name: name.to_owned(),
        login: Box::new(login.get_connection_info().clone()),
    })
}

/// What most of those say that answer in time: one that was cut off may still name the master before.
async fn master(sentinels: &[Client], name: &str) -> Result<ConnectionAddr, RedisError> {
    let mut asking = JoinSet::new();
    for sentinel in sentinels {
        asking.spawn(ask(sentinel.clone(), name.to_owned()));
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
    most.map(|((host, port), _)| ConnectionAddr::Tcp(host, port)).ok_or(failure)
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
        let Place::Service { sentinels, name, login } = place else { panic!("it names Sentinels") };
        let addresses: Vec<_> =
            sentinels.iter().map(|sentinel| sentinel.get_connection_info().addr().to_string()).collect();
        assert_eq!(addresses, ["one:26379", "10.0.0.2:7000", "::1:7001"]);
        assert_eq!(name, "cache");
        assert_eq!(login.redis_settings().username(), Some("ann"));
        assert_eq!(login.redis_settings().password(), Some("s@crit"));
        let Place::Service { login, .. } = Place::new("redis+sentinel://one/cache").expect("it is a URL")
        else {
            panic!("it names Sentinels")
        };
        assert_eq!((login.redis_settings().db(), login.redis_settings().password()), (0, None));
    }

    #[test]
    fn what_names_no_sentinel_or_no_service_is_no_url() {
        for url in
            ["redis+sentinel://", "redis+sentinel://one", "redis+sentinel:///cache", "redis+sentinel://one/"]
        {
            assert!(Place::new(url).is_err(), "{url}");
        }
    }
}
