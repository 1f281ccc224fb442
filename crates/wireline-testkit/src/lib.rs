//! What the tests of wireline stand on. Nothing here is published, and nothing here trusts the code
//! under test: frames are built and read by code of its own.
//!
//! - [`Clock`]: time that moves only when a test says so.
//! - [`frames`]: frames as literal bytes, right and deliberately wrong ones.
//! - [`Endpoint`]: one connection that a test talks to in bytes.
//! - [`Pair`]: two connections, one clock, and a wire that can be cut, narrowed and held.
//! - [`RawPeer`]: the other end of a connection under test, on a real socket.
//! - [`drop_after`] and [`Bystander`]: futures that are dropped early, and what they leave behind.
//! - [`allocations`]: what a piece of code asks of the allocator.

pub mod allocations;
mod clock;
mod endpoint;
pub mod frames;
mod pair;
mod polls;
mod raw_peer;

pub use self::{
    clock::Clock,
    endpoint::{Endpoint, Told, put_together},
    frames::{Frame, LengthForm},
    pair::{Pair, Wire},
    polls::{Bystander, drop_after},
    raw_peer::{RawPeer, accept_value},
};
