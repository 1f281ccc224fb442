//! Topics over WebSockets.

pub mod backplane;
mod entropy;
mod history;
pub mod node;
mod position;
mod publication;
mod topic;

pub use self::{
    backplane::{Backplane, BackplaneError, Event, Events, Memory, NodeId, NodeRow, Page, PresenceRow},
    history::History,
    position::{InvalidPosition, Position, Predecessor},
    publication::{ConnectionId, Content, Member, Outgoing, Publication, PublicationId},
    topic::{InvalidTopic, MAX_TOPIC_LEN, Topic},
};
