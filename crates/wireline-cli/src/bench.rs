//! `wireline bench`: load for a WebSocket server, and what it cost the server.
//!
//! Connections are opened, messages sent, and every byte that comes back is checked against what was sent.
//! What a message costs the server is read from its process (`--pid`), because CPU time is the figure
//! that says how far a server carries: throughput only says which side was slower, and a load that runs
//! out of its own core (`load busy percent`) measures itself.

mod connection;
mod fault;
mod handshake;
mod histogram;
mod incoming;
mod inflate;
mod json;
mod load;
mod masks;
mod outgoing;
mod payload;
mod process;
mod receivers;
mod report;
mod schedule;
mod target;
mod tls;

use std::{
    error::Error,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use self::{
    load::{Load, Work},
    payload::Payload,
    process::Processes,
    receivers::Publication,
    report::{Reading, Report, Unit},
    target::Target,
};

/// The longest message, in bytes.
const MAX_SIZE: u64 = 1 << 30;

/// The longest compressed message, in bytes.
const MAX_JSON_SIZE: u64 = 64 << 10;

/// Puts load on a WebSocket server and says what a message cost.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// The server: `ws://host[:port][/path]`, or the same with `wss://`
    #[arg(value_parser = Target::parse)]
    url: Target,

    /// Trust the certificates in this PEM file, and no others; `wss://` needs it
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    #[command(flatten)]
    plan: Plan,
}

/// What to do to the server.
#[derive(Debug, clap::Args)]
struct Plan {
    /// How many connections to open
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,

    /// How many messages each connection has in flight
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,

    /// The length of each message in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 20, value_parser = clap::value_parser!(u64).range(..=MAX_SIZE))]
    size: u64,

    #[command(flatten)]
    kind: Kind,

    #[command(flatten)]
    scenario: Scenario,

    /// With --subscribe: every message must have this length, and all must be the same
    #[arg(long, value_name = "BYTES", requires = "subscribe")]
    expect_size: Option<usize>,

    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    duration: Duration,

    /// How long to work before measuring
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    warmup: Duration,

    /// The server's process on this machine: reports its CPU time and memory; given again, those of all
    #[arg(long)]
    pid: Vec<u32>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What messages are.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Kind {
    /// Send text: UTF-8 of letters of one to four bytes (the default)
    #[arg(long)]
    text: bool,

    /// Send bytes
    #[arg(long)]
    binary: bool,

    /// Send JSON, compressed with permessage-deflate; a server that does not agree to it is refused
    #[arg(long)]
    json_deflate: bool,
}

/// What to do instead of waiting for an answer before sending the next message.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Scenario {
    /// Send so many messages a second in all, whether answers come or not, and report latencies
    #[arg(long, value_name = "MESSAGES_PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,

    /// Hold idle connections
    #[arg(long)]
    idle: bool,

    /// Open and close connections, so many at a time
    #[arg(long)]
    handshakes: bool,

    /// Only receive, and count what the server sends
    #[arg(long)]
    subscribe: bool,
}

/// Runs the load; the exit status is 1 if anything was wrong.
pub(crate) fn run(args: BenchArgs) -> ExitCode {
    let target = args.url.trusting(args.ca.as_deref());
    match target.map_err(Into::into).and_then(|target| measure(target, &args.plan)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            // Nothing is left to be done for a closed stderr.
            let _ = writeln!(io::stderr(), "wireline bench: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the load and prints the report; whether all went well.
fn measure(target: Target, plan: &Plan) -> Result<bool, Box<dyn Error>> {
    if plan.kind.json_deflate && plan.size > MAX_JSON_SIZE {
        return Err(format!("--json-deflate: at most {MAX_JSON_SIZE} bytes a message").into());
    }
    let server = if plan.pid.is_empty() { None } else { Some(Processes::new(&plan.pid)?) };
    let address = target.resolve()?;
    let resident_before = server.as_ref().and_then(|server| server.resident().ok());
    let connections = usize::try_from(plan.connections).unwrap_or(usize::MAX);
    let mut report = plan.report();
    if target.trust().is_some() {
        report.text("tls", tls::VERSION);
    }
    let mut load = Load::new(target, address, plan.work(), plan.payload())?;
    load.open(connections)?;
    let did_work = work(plan, &mut load, server.as_ref(), &mut report)?;
    let resident_now = server.as_ref().and_then(|server| server.resident().ok());
    if let (Some(before), Some(now)) = (resident_before, resident_now) {
        report.memory(before, now, connections);
    }
    let unanswered = load.drain()?;
    let is_well = did_work && unanswered == 0 && load.tally.faults == 0;
    plan.conclude(&mut report, &load, unanswered);
    report.print(plan.json)?;
    load.close_all()?;
    Ok(is_well)
}

/// Warms up, works, and reports the window between; whether anything was done in it.
fn work(plan: &Plan, load: &mut Load, server: Option<&Processes>, report: &mut Report) -> io::Result<bool> {
    let unit = plan.scenario.unit();
    let units = |load: &Load| if unit == Unit::Handshake { load.tally.closed } else { load.tally.messages };
    load.begin();
    load.work_until(Instant::now() + plan.warmup)?;
    load.record_latencies();
    let units_before = units(load);
    let start = Reading::take(units_before, &load.tally, server)?;
    load.work_until(Instant::now() + plan.duration)?;
    let end = Reading::take(units(load), &load.tally, server)?;
    report.window(unit, start, end);
    Ok(unit == Unit::Nothing || units(load) > units_before)
}

impl Plan {
    fn work(&self) -> Work {
        match self.scenario {
            Scenario { rate: Some(rate_hz), .. } => Work::Rate { rate_hz },
            Scenario { idle: true, .. } => Work::Idle,
            Scenario { handshakes: true, .. } => Work::Handshakes,
            Scenario { subscribe: true, .. } => Work::Subscribe(Publication::new(self.expect_size)),
            Scenario { .. } => Work::Echo { in_flight: self.in_flight },
        }
    }

    fn payload(&self) -> Payload {
        let len_bytes = usize::try_from(self.size).unwrap_or(usize::MAX);
        if self.kind.json_deflate {
            Payload::json(len_bytes)
        } else if self.kind.binary {
            Payload::binary(len_bytes)
        } else {
            Payload::text(len_bytes)
        }
    }

    /// A report that says what was asked for.
    fn report(&self) -> Report {
        let mut report = Report::default();
        report.text("scenario", self.scenario.name());
        report.count("connections", u64::from(self.connections));
        if self.scenario.sends() {
            report.count("size_bytes", self.size);
            report.text("kind", self.kind.name());
            match self.scenario.rate {
                Some(rate_hz) => report.count("rate_per_second", u64::from(rate_hz)),
                None => report.count("in_flight", u64::from(self.in_flight)),
            }
        }
        report
    }

    /// Adds what is known at the end only.
    fn conclude(&self, report: &mut Report, load: &Load, unanswered: u64) {
        if self.scenario.rate.is_some() {
            report.latencies(&load.tally.latencies);
        }
        if let (true, Some((fewest, most))) = (self.scenario.subscribe, load.received()) {
            report.count("fewest_messages_of_a_connection", fewest);
            report.count("most_messages_of_a_connection", most);
        }
        if self.scenario.sends() {
            report.count("unanswered", unanswered);
        }
        report.count("failed_connections", load.tally.faults);
        if let Some(fault) = &load.tally.first_fault {
            report.text("first_failure", fault.to_string());
        }
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self { json_deflate: true, .. } => "compressed JSON",
            Self { binary: true, .. } => "binary",
            Self { .. } => "text",
        }
    }
}

impl Scenario {
    fn name(&self) -> &'static str {
        match self {
            Self { rate: Some(_), .. } => "rate",
            Self { idle: true, .. } => "idle",
            Self { handshakes: true, .. } => "handshakes",
            Self { subscribe: true, .. } => "subscribe",
            Self { .. } => "echo",
        }
    }

    fn sends(&self) -> bool {
        !self.idle && !self.handshakes && !self.subscribe
    }

    fn unit(&self) -> Unit {
        match self {
            Self { idle: true, .. } => Unit::Nothing,
            Self { handshakes: true, .. } => Unit::Handshake,
            Self { .. } => Unit::Message,
        }
    }
}

/// Seconds, fractions allowed, up to a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err("between 0 and 86400 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}
