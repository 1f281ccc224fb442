//! What a process uses, as Linux counts it.
//!
//! CPU time comes from `schedstat`, which counts nanoseconds, and not from `stat`, which counts ticks of
//! ten milliseconds.

use std::{fs, io, time::Duration};

/// What a process has had of the processors.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    /// How long its living threads have run, in user space and in the kernel.
    pub(super) ran: Duration,
    /// How long they could have run while others had their processor.
    pub(super) waited: Duration,
}

/// A process that is watched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    pid: u32,
}

impl Process {
    /// The process with this id, if it can be read.
    pub(super) fn new(pid: u32) -> Result<Self, String> {
        let process = Self { pid };
        match process.usage() {
            Ok(_) => Ok(process),
            Err(error) => Err(format!("cannot read the CPU time of process {pid}: {error}")),
        }
    }

    /// The process itself.
    pub(super) fn own() -> Self {
        Self { pid: std::process::id() }
    }

    /// What it has had of the processors so far.
    pub(super) fn usage(self) -> io::Result<Usage> {
        let mut usage = Usage::default();
        for task in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            // A thread may end between the listing and the reading.
            let Ok(schedstat) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            let mut nanos = schedstat.split_ascii_whitespace().map_while(|field| field.parse().ok());
            let (Some(ran), Some(waited)) = (nanos.next(), nanos.next()) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            usage.ran += Duration::from_nanos(ran);
            usage.waited += Duration::from_nanos(waited);
        }
        Ok(usage)
    }

    /// Its resident memory in bytes.
    pub(super) fn resident(self) -> io::Result<u64> {
        // The roll-up is exact; the status line lags behind by some pages for each core.
        let (text, label) = match fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)) {
            Ok(text) => (text, "Rss:"),
            Err(_) => (fs::read_to_string(format!("/proc/{}/status", self.pid))?, "VmRSS:"),
        };
        let kib = text.lines().find_map(|line| first_number(line.strip_prefix(label)?));
        kib.map(|kib| kib * 1024).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

fn first_number(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn this_process_uses_memory_and_time() {
        let process = Process::own();
        let resident = process.resident().unwrap();
        assert!((100_000..100_000_000_000).contains(&resident), "{resident}");
        let before = process.usage().unwrap().ran;
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {}
        assert!(process.usage().unwrap().ran > before);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(Process::new(u32::MAX).is_err());
    }
}
