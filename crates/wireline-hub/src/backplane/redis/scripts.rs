//! What the server runs, each in one step.

use std::sync::LazyLock;

use redis::Script;

/// The scripts. The server is told one when it does not know it.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) connect: Script,
    pub(super) publish: Script,
    pub(super) read: Script,
    pub(super) lease: Script,
    pub(super) presence: Script,
    pub(super) probe: Script,
}

impl Scripts {
    pub(super) fn shared() -> &'static Self {
        static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
            connect: Script::new(include_str!("connect.lua")),
            publish: Script::new(concat!(
                include_str!("fence.lua"),
                include_str!("stream.lua"),
                include_str!("publish.lua")
            )),
            read: Script::new(concat!(include_str!("stream.lua"), include_str!("read.lua"))),
            lease: Script::new(concat!(include_str!("fence.lua"), include_str!("lease.lua"))),
            presence: Script::new(include_str!("presence.lua")),
            probe: Script::new(include_str!("probe.lua")),
        });
        &SCRIPTS
    }
}
