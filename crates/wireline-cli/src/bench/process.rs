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

/// Processes that are watched as one.
#[derive(Debug)]
pub(super) struct Processes {
    pids: Vec<u32>,
}

impl Processes {
    /// The processes with these ids, if they can be read.
    pub(super) fn new(pids: &[u32]) -> Result<Self, String> {
        for pid in pids {
            usage(*pid).map_err(|error| format!("cannot read the CPU time of process {pid}: {error}"))?;
        }
        Ok(Self { pids: pids.to_vec() })
    }

    /// This process.
    pub(super) fn own() -> Self {
        Self { pids: vec![std::process::id()] }
    }

    /// What they have had of the processors so far. Only the first one's waiting counts: the others may have waited
    /// for it.
    pub(super) fn usage(&self) -> io::Result<Usage> {
        let mut usages = self.pids.iter().map(|pid| usage(*pid));
        let first = usages.next().unwrap_or_else(|| Ok(Usage::default()))?;
        let others = usages.map(|usage| Ok(usage?.ran)).sum::<io::Result<Duration>>()?;
        Ok(Usage { ran: first.ran + others, ..first })
    }

    /// Their resident memory in bytes.
    pub(super) fn resident(&self) -> io::Result<u64> {
        self.pids.iter().map(|pid| resident(*pid)).sum()
    }
}

fn usage(pid: u32) -> io::Result<Usage> {
    let mut usage = Usage::default();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
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

fn resident(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    // A thread of the kernel's has no memory of its own.
    let Some(lagging) = kib(&status, "VmRSS:") else { return Ok(0) };
    // The roll-up is exact; the status line lags behind by some pages for each core.
    let exact = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    Ok(exact.ok().and_then(|text| kib(&text, "Rss:")).unwrap_or(lagging) * 1024)
}

fn kib(text: &str, label: &str) -> Option<u64> {
    text.lines().find_map(|line| first_number(line.strip_prefix(label)?))
}

fn first_number(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Child, Command},
        thread,
        time::Instant,
    };

    use super::*;

    /// A process that is always busy, with one thread, so that what it has used never becomes less.
    struct Busy(Child);

    impl Busy {
        fn start() -> Self {
            Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
        }
    }

    impl Drop for Busy {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn await_that(condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_process_uses_memory_and_time() {
        let busy = Busy::start();
        let process = Processes::new(&[busy.0.id()]).unwrap();
        await_that(|| process.usage().unwrap().ran > Duration::from_millis(20));
        let resident = process.resident().unwrap();
        assert!((100_000..100_000_000_000).contains(&resident), "{resident}");
    }

    #[test]
    fn processes_are_counted_together() {
        let (one, other) = (Busy::start(), Busy::start());
        let watch = |pids: &[u32]| Processes::new(pids).unwrap();
        let (alone, both) = (watch(&[one.0.id()]), watch(&[one.0.id(), other.0.id()]));
        await_that(|| watch(&[other.0.id()]).usage().unwrap().ran > Duration::from_millis(20));
        let ran = alone.usage().unwrap().ran;
        assert!(both.usage().unwrap().ran >= ran + Duration::from_millis(20));
        assert!(both.resident().unwrap() > alone.resident().unwrap());
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        let error = Processes::new(&[std::process::id(), u32::MAX]).unwrap_err();
        assert!(error.contains(&u32::MAX.to_string()), "{error}");
    }
}
