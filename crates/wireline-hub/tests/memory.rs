//! The backplane of one process does what every backplane must.

use wireline_hub::{Memory, backplane_conformance};

backplane_conformance!(async { Memory::new() });
