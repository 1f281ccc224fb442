//! The event loop: one thread, one epoll instance, edge-triggered.
//!
//! A message must cost the load less than it costs the server, or the load is what is measured. So a wake
//! is one read and one write however many messages they carry, nothing is kept for a message that is sent,
//! and the clock is read once for a batch of events.

use std::{
    io,
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use mio::{Events, Poll, Token, event::Event};

use super::{
    connection::{Buffers, Connection, Stage},
    fault::Fault,
    histogram::Histogram,
    payload::Payload,
    receivers::{Answers, ControlOnly, Deliveries, Publication},
    schedule::Schedule,
    target::Target,
};

/// How many events one system call may bring: enough for its cost to vanish among theirs.
const EVENTS_CAPACITY: usize = 1024;

/// How many opening handshakes go on at once: fewer than any server's accept queue holds.
const OPENING_AT_ONCE: usize = 100;

/// How long opening connections may stand still before the load gives up.
const OPENING_PATIENCE: Duration = Duration::from_secs(10);

/// How long answers that are still out at the end are waited for.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// How long servers may take to close their connections at the end.
const CLOSING_PATIENCE: Duration = Duration::from_secs(2);

/// How long to sleep when something else than the sockets must be looked at now and then.
const GLANCE: Duration = Duration::from_millis(20);

/// What the connections are used for.
#[derive(Debug)]
pub(super) enum Work {
    /// Each keeps so many messages in flight, and every answer must equal its message.
    Echo {
        /// How many messages are out on each connection.
        in_flight: u32,
    },
    /// The same, but messages go out when they are due, whether answers came or not.
    Rate {
        /// Messages a second over all connections.
        rate_hz: u32,
    },
    /// They receive what the server publishes.
    Subscribe(Publication),
    /// They do nothing but answer pings.
    Idle,
    /// They are opened and closed over and over.
    Handshakes,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Messages that arrived and were right.
    pub(super) messages: u64,
    /// Payload bytes of those messages.
    pub(super) bytes: u64,
    /// Closing handshakes that completed.
    pub(super) closed: u64,
    /// Connections that failed.
    pub(super) faults: u64,
    /// Why the first of them failed.
    pub(super) first_fault: Option<Fault>,
    /// Latencies of the messages that were due while they were recorded.
    pub(super) latencies: Histogram,
}

/// A load: its connections and what they do.
#[derive(Debug)]
pub(super) struct Load {
    poll: Poll,
    target: Target,
    address: SocketAddr,
    work: Work,
    payload: Payload,
    buffers: Buffers,
    connections: Vec<Option<Connection>>,
    opened: usize,
    live: usize,
    /// Whether answers are followed by new messages, and closed connections by new ones.
    running: bool,
    schedule: Option<Schedule>,
    /// Since when latencies are recorded.
    recording_since: Option<Instant>,
    /// What has happened so far.
    pub(super) tally: Tally,
}

impl Load {
    /// A load that has not begun.
    pub(super) fn new(target: Target, address: SocketAddr, work: Work, payload: Payload) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            target,
            address,
            work,
            payload,
            buffers: Buffers::new(),
            connections: Vec::new(),
            opened: 0,
            live: 0,
            running: false,
            schedule: None,
            recording_since: None,
            tally: Tally::default(),
        })
    }

    /// Opens `count` connections, some at a time.
    pub(super) fn open(&mut self, count: usize) -> Result<(), String> {
        let mut events = Events::with_capacity(EVENTS_CAPACITY);
        let mut progress = (0, Instant::now());
        while self.opened < count {
            while self.connections.len() < count.min(self.opened + OPENING_AT_ONCE) {
                self.connections.push(None);
                self.start(self.connections.len() - 1);
            }
            self.turn(&mut events, GLANCE).map_err(|error| error.to_string())?;
            if let Some(fault) = &self.tally.first_fault {
                let url = self.target.url();
                return Err(format!("{url}: connection {} of {count} failed: {fault}", self.opened + 1));
            }
            if self.opened > progress.0 {
                progress = (self.opened, Instant::now());
            } else if progress.1.elapsed() > OPENING_PATIENCE {
                return Err(format!(
                    "only {} of {count} connections opened; then the server stalled",
                    self.opened
                ));
            }
        }
        Ok(())
    }

    /// Has the open connections begin their work.
    pub(super) fn begin(&mut self) {
        self.running = true;
        let in_flight = match self.work {
            Work::Echo { in_flight } => u64::from(in_flight),
            Work::Rate { rate_hz } => {
                self.schedule = Some(Schedule::new(Instant::now(), rate_hz, self.connections.len()));
                0
            }
            Work::Subscribe(_) | Work::Idle | Work::Handshakes => 0,
        };
        for index in 0..self.connections.len() {
            if matches!(self.work, Work::Handshakes) {
                self.close(index);
            } else {
                self.owe(index, in_flight);
                self.flush(index);
            }
        }
    }

    /// From here on latencies are recorded.
    pub(super) fn record_latencies(&mut self) {
        self.recording_since = Some(Instant::now());
    }

    /// Works until `deadline`, or until no connection is left.
    pub(super) fn work_until(&mut self, deadline: Instant) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_CAPACITY);
        loop {
            let now = Instant::now();
            if now >= deadline || self.live == 0 {
                return Ok(());
            }
            self.send_due(now);
            let left = deadline - now;
            let timeout = self.schedule.as_ref().map_or(left, |schedule| left.min(schedule.sleep(now)));
            self.turn(&mut events, timeout)?;
        }
    }

    /// Sends nothing more, and waits for the answers that are out; how many never came.
    pub(super) fn drain(&mut self) -> io::Result<u64> {
        self.running = false;
        if matches!(self.work, Work::Echo { .. }) {
            self.connections.iter_mut().flatten().for_each(|connection| connection.outgoing.cancel());
        }
        let mut events = Events::with_capacity(EVENTS_CAPACITY);
        let deadline = Instant::now() + DRAIN_PATIENCE;
        loop {
            let unanswered = match self.work {
                Work::Echo { .. } | Work::Rate { .. } => self.unanswered(),
                Work::Subscribe(_) | Work::Idle | Work::Handshakes => 0,
            };
            if unanswered == 0 || Instant::now() >= deadline {
                return Ok(unanswered);
            }
            self.turn(&mut events, GLANCE)?;
        }
    }

    /// Closes all connections, and waits for the servers to do so.
    pub(super) fn close_all(&mut self) -> io::Result<()> {
        self.running = false;
        for index in 0..self.connections.len() {
            self.close(index);
        }
        let mut events = Events::with_capacity(EVENTS_CAPACITY);
        let deadline = Instant::now() + CLOSING_PATIENCE;
        while self.live > 0 && Instant::now() < deadline {
            self.turn(&mut events, GLANCE)?;
        }
        Ok(())
    }

    /// The fewest and the most messages that a connection has received.
    pub(super) fn received(&self) -> Option<(u64, u64)> {
        let received = self.connections.iter().flatten().map(|connection| connection.received);
        Some((received.clone().min()?, received.max()?))
    }

    /// Waits for events, and serves them.
    fn turn(&mut self, events: &mut Events, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in &*events {
            self.serve(event);
        }
        Ok(())
    }

    /// Begins to open the connection at `index`.
    fn start(&mut self, index: usize) {
        match Connection::start(
            &self.target,
            self.address,
            self.payload.is_compressed(),
            self.poll.registry(),
            Token(index),
        ) {
            Ok(connection) => {
                self.connections[index] = Some(connection);
                self.live += 1;
            }
            Err(fault) => self.fail(index, fault),
        }
    }

    /// Serves one connection that has something to read or room to write.
    #[inline]
    fn serve(&mut self, event: &Event) {
        let index = event.token().0;
        let Some(connection) = &mut self.connections[index] else { return };
        let result = match &connection.stage {
            Stage::Open => self.exchange(index, event.is_read_closed()),
            Stage::Connecting | Stage::AwaitingResponse => self.shake_hands(index, event),
            Stage::AwaitingClose | Stage::AwaitingEof => self.await_close(index, event),
        };
        if let Err(fault) = result {
            self.fail(index, fault);
        }
    }

    fn shake_hands(&mut self, index: usize, event: &Event) -> Result<(), Fault> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        if !connection.shake_hands(&mut self.buffers)? {
            return Ok(());
        }
        self.opened += 1;
        if self.running && matches!(self.work, Work::Handshakes) {
            self.close(index);
            return Ok(());
        }
        self.exchange(index, event.is_read_closed())
    }

    /// Takes what arrived on an open connection, and sends what follows from it.
    #[inline]
    fn exchange(&mut self, index: usize, fin_arrived: bool) -> Result<(), Fault> {
        let Some(Connection { wire, control, received, .. }) = &mut self.connections[index] else {
            return Ok(());
        };
        let received_before = *received;
        let buffers = &mut self.buffers;
        let is_open = match &mut self.work {
            Work::Echo { .. } | Work::Rate { .. } => {
                wire.read(buffers, fin_arrived, &mut Answers { payload: &self.payload, received, control })
            }
            Work::Subscribe(publication) => {
                let bytes = &mut self.tally.bytes;
                wire.read(buffers, fin_arrived, &mut Deliveries { publication, received, bytes, control })
            }
            Work::Idle | Work::Handshakes => wire.read(buffers, fin_arrived, &mut ControlOnly(control)),
        }?;
        if let Some(code) = control.close {
            return Err(Fault::Closed(code));
        }
        if !is_open {
            return Err(Fault::Eof);
        }
        let arrived = received_before..*received;
        self.account(index, arrived)?;
        self.try_flush(index)
    }

    /// Counts messages that arrived, and owes those that follow them.
    #[inline]
    fn account(&mut self, index: usize, arrived: Range<u64>) -> Result<(), Fault> {
        let count = arrived.end - arrived.start;
        self.tally.messages += count;
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        match self.work {
            Work::Echo { .. } | Work::Rate { .. } if arrived.end > connection.outgoing.begun() => {
                return Err(Fault::UnexpectedMessage);
            }
            Work::Echo { .. } => {
                self.tally.bytes += count * self.payload.len() as u64;
                if self.running {
                    connection.outgoing.owe(count);
                }
            }
            Work::Rate { .. } => {
                self.tally.bytes += count * self.payload.len() as u64;
                self.record(index, arrived);
            }
            Work::Subscribe(_) | Work::Idle | Work::Handshakes => {}
        }
        Ok(())
    }

    /// Records the latencies of answers that arrived now.
    fn record(&mut self, index: usize, arrived: Range<u64>) {
        let (Some(schedule), Some(since)) = (&self.schedule, self.recording_since) else { return };
        let now = Instant::now();
        for sequence in arrived {
            let due = schedule.due_on(index, sequence);
            if due >= since {
                let latency = now.saturating_duration_since(due);
                self.tally.latencies.record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
            }
        }
    }

    /// Sends the messages that are due at a fixed rate: in one write what is due on one connection.
    fn send_due(&mut self, now: Instant) {
        let Some(schedule) = &mut self.schedule else { return };
        let due = schedule.take_due(now);
        let first = schedule.connection(due.start);
        let count = usize::try_from(due.end - due.start).unwrap_or(usize::MAX);
        let connections = self.connections.len();
        for step in 0..count {
            self.owe((first + step) % connections, 1);
        }
        for step in 0..count.min(connections) {
            self.flush((first + step) % connections);
        }
    }

    /// Has the connection at `index` send so many messages more.
    fn owe(&mut self, index: usize, messages: u64) {
        if let Some(connection) = &mut self.connections[index] {
            connection.outgoing.owe(messages);
        }
    }

    /// Sends what the connection at `index` has to send.
    fn flush(&mut self, index: usize) {
        if let Err(fault) = self.try_flush(index) {
            self.fail(index, fault);
        }
    }

    #[inline]
    fn try_flush(&mut self, index: usize) -> Result<(), Fault> {
        match &mut self.connections[index] {
            Some(connection) => connection.flush(&self.payload, &mut self.buffers),
            None => Ok(()),
        }
    }

    /// Begins the closing handshake of the connection at `index`, or gives up an opening one.
    fn close(&mut self, index: usize) {
        let Some(connection) = &mut self.connections[index] else { return };
        match connection.stage {
            Stage::Open => {
                connection.close();
                self.flush(index);
            }
            Stage::Connecting | Stage::AwaitingResponse => self.release(index),
            Stage::AwaitingClose | Stage::AwaitingEof => {}
        }
    }

    fn await_close(&mut self, index: usize, event: &Event) -> Result<(), Fault> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        let Connection { wire, control, .. } = connection;
        let is_open = wire.read(&mut self.buffers, event.is_read_closed(), &mut ControlOnly(control))?;
        if control.close.is_some() && matches!(connection.stage, Stage::AwaitingClose) {
            connection.stage = Stage::AwaitingEof;
            self.tally.closed += 1;
        }
        if is_open {
            return connection.flush(&self.payload, &mut self.buffers);
        }
        if !matches!(connection.stage, Stage::AwaitingEof) {
            return Err(Fault::Eof);
        }
        self.release(index);
        if self.running {
            self.start(index);
        }
        Ok(())
    }

    /// How many answers are out.
    fn unanswered(&self) -> u64 {
        let connections = self.connections.iter().flatten();
        connections.map(|connection| connection.outgoing.promised() - connection.received).sum()
    }

    /// Counts a connection as failed and lets go of it.
    fn fail(&mut self, index: usize, fault: Fault) {
        self.release(index);
        self.tally.faults += 1;
        self.tally.first_fault.get_or_insert(fault);
    }

    /// Closes the socket at `index`.
    fn release(&mut self, index: usize) {
        if self.connections[index].take().is_some() {
            self.live -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        thread,
    };

    use wireline_proto::{
        Opcode,
        frame::{FrameHeader, MAX_HEADER_LEN},
        handshake::UpgradeRequest,
        mask::apply_mask,
    };

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    /// A server that takes one connection at a time and gives every message to `answer` before it goes back.
    fn serve(answer: fn(&mut Vec<u8>)) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || listener.incoming().for_each(|stream| drop(echo(stream.unwrap(), answer))));
        address
    }

    fn echo(mut stream: TcpStream, answer: fn(&mut Vec<u8>)) -> io::Result<()> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            request.extend_from_slice(&byte);
        }
        shake_hands(&mut stream, &String::from_utf8(request).unwrap())?;
        loop {
            let mut head = [0; 2];
            stream.read_exact(&mut head)?;
            let mut key = [0; 4];
            stream.read_exact(&mut key)?;
            let mut payload = vec![0; usize::from(head[1] & 0x7F)];
            stream.read_exact(&mut payload)?;
            apply_mask(&mut payload, key, 0);
            let opcode = Opcode::from_bits(head[0] & 0x0F).unwrap();
            if !opcode.is_control() {
                answer(&mut payload);
            }
            let mut header = [0; MAX_HEADER_LEN];
            let header_len = FrameHeader::new(opcode, payload.len() as u64).encode(&mut header);
            stream.write_all(&header[..header_len])?;
            stream.write_all(&payload)?;
            if opcode == Opcode::Close {
                return Ok(());
            }
        }
    }

    fn shake_hands(stream: &mut TcpStream, request: &str) -> io::Result<()> {
        let fields = request.lines().filter_map(|line| line.split_once(": "));
        let head = fields.fold(http::Request::get("/"), |head, (name, value)| head.header(name, value));
        let (response, _) = UpgradeRequest::check(&head.body(()).unwrap()).unwrap().accept(None).unwrap();
        write!(stream, "HTTP/1.1 101 Switching Protocols\r\n")?;
        for (name, value) in response.headers() {
            write!(stream, "{name}: {}\r\n", value.to_str().unwrap())?;
        }
        write!(stream, "\r\n")
    }

    /// The tally of `work` on one connection for a short time, and how many answers stayed out.
    fn run(work: Work, answer: fn(&mut Vec<u8>)) -> (Tally, u64) {
        let target = Target::parse("ws://127.0.0.1/").unwrap();
        let mut load = Load::new(target, serve(answer), work, Payload::text(20)).unwrap();
        load.open(1).unwrap();
        load.begin();
        load.record_latencies();
        load.work_until(Instant::now() + SHORT).unwrap();
        let unanswered = load.drain().unwrap();
        load.close_all().unwrap();
        assert_eq!(load.live, 0);
        (load.tally, unanswered)
    }

    #[test]
    fn right_answers_are_counted() {
        let (tally, unanswered) = run(Work::Echo { in_flight: 3 }, |_| {});
        assert!(tally.messages >= 3, "{tally:?}");
        assert_eq!((tally.bytes, tally.faults, unanswered), (tally.messages * 20, 0, 0));
    }

    #[test]
    fn a_wrong_byte_is_a_fault() {
        let (tally, _) = run(Work::Echo { in_flight: 1 }, |payload| payload[19] ^= 1);
        assert_eq!((tally.messages, tally.first_fault), (0, Some(Fault::WrongContent)));
    }

    #[test]
    fn a_missing_byte_is_a_fault() {
        let (tally, _) = run(Work::Echo { in_flight: 1 }, |payload| payload.truncate(19));
        assert_eq!((tally.messages, tally.first_fault), (0, Some(Fault::WrongContent)));
    }

    #[test]
    fn a_stall_is_charged_to_the_messages_that_were_due() {
        let (tally, unanswered) = run(Work::Rate { rate_hz: 1000 }, |_| thread::sleep(SHORT / 5));
        // Six messages are answered in the time in which fifty are due; the last ones wait for the others.
        assert_eq!((tally.faults, unanswered), (0, 0));
        assert!(tally.latencies.quantile(1.0).unwrap() > 2 * SHORT, "{tally:?}");
    }

    #[test]
    fn handshakes_follow_each_other() {
        let (tally, _) = run(Work::Handshakes, |_| {});
        assert!(tally.closed > 1, "{tally:?}");
        assert_eq!(tally.first_fault, None);
    }
}
