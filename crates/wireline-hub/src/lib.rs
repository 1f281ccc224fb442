//! Topics over WebSockets.

mod authorize;
pub mod backplane;
#[cfg(feature = "client")]
pub mod client;
mod entropy;
mod history;
mod hub;
pub mod node;
mod position;
mod protocol;
mod publication;
#[cfg(feature = "testing")]
pub mod testing;
mod topic;

#[cfg(feature = "nats")]
pub use self::backplane::{ConnectNats, ConnectNatsError, Nats};
/// The client for browsers and Node: an ES module, to be served to pages. What it does is said in it, and in the types beside
/// it (`js/wireline-hub.d.ts`).
pub const JAVASCRIPT_CLIENT: &str = include_str!("../js/wireline-hub.js");

#[cfg(feature = "redis")]
pub use self::backplane::{InvalidRedisUrl, Redis};
pub use self::{
    authorize::{Client, Connect, Denied, Identity},
    backplane::{Backplane, BackplaneError, Event, Events, Memory, NodeId, NodeRow, Page, PresenceRow},
    history::History,
    hub::{Hub, HubBuilder, HubStats, Publish, PublishError, TopicRules},
    position::{InvalidPosition, Position, Predecessor},
    publication::{ConnectionId, Content, Member, Outgoing, Publication, PublicationId},
    topic::{InvalidTopic, MAX_TOPIC_LEN, Topic},
};
