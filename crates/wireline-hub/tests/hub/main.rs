//! A hub and its clients, in memory and under virtual time.

mod authorization;
mod centrifuge;
mod client;
mod documentation;
mod presence;
mod raw;
mod slow;
mod topics;
mod two_nodes;
