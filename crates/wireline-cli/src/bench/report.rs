//! What a run measured, for people and for programs.

use std::{
    io::{self, Write as _},
    time::{Duration, Instant},
};

use super::{
    histogram::Histogram,
    load::Tally,
    process::{Processes, Usage},
};

/// The counters at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    at: Instant,
    units: u64,
    bytes: u64,
    own: Usage,
    server: Option<Usage>,
}

impl Reading {
    /// Reads the counters; `units` is what the run counts.
    pub(super) fn take(units: u64, tally: &Tally, server: Option<&Processes>) -> io::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            units,
            bytes: tally.bytes,
            own: Processes::own().usage()?,
            // A server that is gone shows in the connections that failed.
            server: server.and_then(|server| server.usage().ok()),
        })
    }
}

/// One figure: its name with its unit, and its value.
#[derive(Debug, Clone, PartialEq)]
struct Figure {
    name: &'static str,
    value: Value,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Count(u64),
    /// A measured number, and with how many decimals it is worth showing.
    Number(f64, usize),
}

/// All figures of a run.
#[derive(Debug, Default)]
pub(super) struct Report {
    figures: Vec<Figure>,
}

impl Report {
    pub(super) fn text(&mut self, name: &'static str, value: impl Into<String>) {
        self.figures.push(Figure { name, value: Value::Text(value.into()) });
    }

    pub(super) fn count(&mut self, name: &'static str, value: u64) {
        self.figures.push(Figure { name, value: Value::Count(value) });
    }

    pub(super) fn number(&mut self, name: &'static str, value: f64, decimals: usize) {
        self.figures.push(Figure { name, value: Value::Number(value, decimals) });
    }

    /// What happened between two readings.
    pub(super) fn window(&mut self, unit: Unit, start: Reading, end: Reading) {
        let seconds = (end.at - start.at).as_secs_f64();
        let units = end.units - start.units;
        self.number("seconds", seconds, 3);
        if unit == Unit::Nothing {
            return self.busy(start, end);
        }
        self.count(unit.plural(), units);
        self.number(unit.per_second(), units as f64 / seconds, 0);
        if end.bytes > 0 {
            self.number("mib_per_second", (end.bytes - start.bytes) as f64 / seconds / f64::from(1 << 20), 1);
        }
        let cost = |ran: Duration| ran.as_secs_f64() * 1e6 / units.max(1) as f64;
        if let (Some(start), Some(end)) = (start.server, end.server) {
            self.number(unit.server_cpu(), cost(end.ran.saturating_sub(start.ran)), 3);
        }
        self.number(unit.load_cpu(), cost(end.own.ran.saturating_sub(start.own.ran)), 3);
        self.busy(start, end);
    }

    /// Which share of a core each side used, and which it would have used if others had not.
    fn busy(&mut self, start: Reading, end: Reading) {
        let percent = |start: Duration, end: Duration, window: Duration| {
            end.saturating_sub(start).as_secs_f64() / window.as_secs_f64() * 100.0
        };
        let window = end.at - start.at;
        if let (Some(start), Some(end)) = (start.server, end.server) {
            self.number("server_busy_percent", percent(start.ran, end.ran, window), 1);
            self.number("server_waited_percent", percent(start.waited, end.waited, window), 1);
        }
        self.number("load_busy_percent", percent(start.own.ran, end.own.ran, window), 1);
        self.number("load_waited_percent", percent(start.own.waited, end.own.waited, window), 1);
    }

    /// The server's memory before the first connection and now.
    pub(super) fn memory(&mut self, before: u64, now: u64, connections: usize) {
        self.count("server_rss_bytes", now);
        let grown = now as f64 - before as f64;
        self.number("server_rss_bytes_per_connection", grown / connections.max(1) as f64, 0);
    }

    /// The latencies of a run at a fixed rate.
    pub(super) fn latencies(&mut self, latencies: &Histogram) {
        for (name, share) in [
            ("latency_p50_us", 0.5),
            ("latency_p99_us", 0.99),
            ("latency_p99_9_us", 0.999),
            ("latency_max_us", 1.0),
        ] {
            if let Some(latency) = latencies.quantile(share) {
                self.number(name, latency.as_secs_f64() * 1e6, 1);
            }
        }
    }

    /// Prints the report as one JSON object on a line, or as a table.
    pub(super) fn print(&self, as_json: bool) -> io::Result<()> {
        let text = if as_json { self.to_json() } else { self.to_table() };
        io::stdout().write_all(text.as_bytes())
    }

    fn to_json(&self) -> String {
        let members = self.figures.iter().map(|Figure { name, value }| match value {
            Value::Text(text) => format!("\"{name}\":\"{}\"", escape(text)),
            Value::Count(count) => format!("\"{name}\":{count}"),
            Value::Number(number, decimals) => format!("\"{name}\":{number:.decimals$}"),
        });
        format!("{{{}}}\n", members.collect::<Vec<_>>().join(","))
    }

    fn to_table(&self) -> String {
        let width = self.figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
        let rows = self.figures.iter().map(|Figure { name, value }| {
            let name = name.replace('_', " ");
            match value {
                Value::Text(text) => format!("{name:width$}  {text}\n"),
                Value::Count(count) => format!("{name:width$}  {count}\n"),
                Value::Number(number, decimals) => format!("{name:width$}  {number:.decimals$}\n"),
            }
        });
        rows.collect()
    }
}

/// What a run counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Messages that arrived.
    Message,
    /// Connections that were opened and closed.
    Handshake,
    /// Connections that are held.
    Nothing,
}

impl Unit {
    const fn plural(self) -> &'static str {
        if matches!(self, Self::Handshake) { "handshakes" } else { "messages" }
    }

    const fn per_second(self) -> &'static str {
        if matches!(self, Self::Handshake) { "handshakes_per_second" } else { "messages_per_second" }
    }

    const fn server_cpu(self) -> &'static str {
        if matches!(self, Self::Handshake) {
            "server_cpu_us_per_handshake"
        } else {
            "server_cpu_us_per_message"
        }
    }

    const fn load_cpu(self) -> &'static str {
        if matches!(self, Self::Handshake) { "load_cpu_us_per_handshake" } else { "load_cpu_us_per_message" }
    }
}

/// Text as it stands between the quotes of a JSON string.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '"' | '\\' => escaped.extend(['\\', letter]),
            control if control.is_control() => escaped.push_str(&format!("\\u{:04x}", u32::from(control))),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at: Instant, seconds: u64, units: u64, ran_ms: u64) -> Reading {
        let usage = |ran_ms| Usage { ran: Duration::from_millis(ran_ms), waited: Duration::from_millis(20) };
        Reading {
            at: at + Duration::from_secs(seconds),
            units,
            bytes: units << 20,
            own: usage(ran_ms),
            server: Some(usage(2 * ran_ms)),
        }
    }

    #[test]
    fn costs_are_those_of_the_window() {
        let (mut report, at) = (Report::default(), Instant::now());
        report.window(Unit::Message, reading(at, 1, 500, 100), reading(at, 3, 1500, 600));
        assert_eq!(
            report.to_json(),
            "{\"seconds\":2.000,\"messages\":1000,\"messages_per_second\":500,\"mib_per_second\":500.0,\
             \"server_cpu_us_per_message\":1000.000,\"load_cpu_us_per_message\":500.000,\
             \"server_busy_percent\":50.0,\"server_waited_percent\":0.0,\
             \"load_busy_percent\":25.0,\"load_waited_percent\":0.0}\n"
        );
    }

    #[test]
    fn json_is_escaped_and_tables_line_up() {
        let mut report = Report::default();
        report.text("first_fault", "a \"quoted\"\nline");
        report.memory(1000, 3000, 2);
        assert_eq!(
            report.to_json(),
            "{\"first_fault\":\"a \\\"quoted\\\"\\u000aline\",\"server_rss_bytes\":3000,\
             \"server_rss_bytes_per_connection\":1000}\n"
        );
        let table = report.to_table();
        assert!(table.contains("server rss bytes                 3000\n"), "{table}");
    }
}
