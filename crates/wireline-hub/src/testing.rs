//! For the tests of backplanes and of what stands on them. With the feature `testing`, which belongs among the
//! `dev-dependencies`.
//!
//! - [`conformance`]: what every backplane must do, as one suite over an [`Engine`].
//! - [`Faults`]: a backplane that loses, doubles and delays what it delivers, and fails to answer.
//! - [`decode_anything`]: all that decodes what others say, for fuzz targets.
//! - [`workload`]: publishers and subscribers of several nodes, and a checker of all that they heard.

pub mod conformance;
mod decoders;
mod faults;
pub mod workload;

use std::{future::Future, sync::Arc};

pub use self::{
    decoders::decode_anything,
    faults::{Faults, FaultyNode, Rates},
};
use crate::{Backplane, Events, Memory};

/// An engine whose backplane is tested.
pub trait Engine: Clone + Send + Sync + 'static {
    /// Connects one more node to it.
    fn node(&self, events: Events) -> impl Future<Output = Arc<dyn Backplane>> + Send;

    /// Has it lose all that it has, as if it came up empty after a crash; false if that cannot be done.
    fn forget(&self) -> impl Future<Output = bool> + Send;
}

impl Engine for Memory {
    async fn node(&self, events: Events) -> Arc<dyn Backplane> {
        Arc::new(Self::node(self, events))
    }

    async fn forget(&self) -> bool {
        Self::forget(self);
        true
    }
}
