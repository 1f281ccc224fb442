//! What a node promises, without IO and under virtual time.

mod model;
mod presence;
mod resume;
mod slow;
mod world;
