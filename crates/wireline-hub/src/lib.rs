//! Topics over WebSockets.

mod authorize;
pub mod backplane;
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

#[cfg(feature = "redis")]
pub use self::backplane::{InvalidRedisUrl, Redis};
pub use self::{
    authorize::{Client, Connect, Denied},
    backplane::{Backplane, BackplaneError, Event, Events, Memory, NodeId, NodeRow, Page, PresenceRow},
    history::History,
    hub::{Hub, HubBuilder, HubStats, Publish, PublishError, TopicRules},
    position::{InvalidPosition, Position, Predecessor},
    publication::{ConnectionId, Content, Member, Outgoing, Publication, PublicationId},
    topic::{InvalidTopic, MAX_TOPIC_LEN, Topic},
};
