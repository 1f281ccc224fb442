//! One message of any length, sent, sent back and checked, in constant memory.
//!
//!     cargo run --release --example stream -- 10000000000
//!
//! It tells by how much this process, which is both ends, grew meanwhile, and fails if that is over 8 MiB.
#![allow(clippy::print_stdout, reason = "an example says what it sees")]

use std::{
    error::Error,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use wireline::{Config, MessageKind, Request, Server, connect};

/// What both ends may have grown by, in bytes.
const ALLOWED: u64 = 8 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let len = std::env::args().nth(1).map_or(Ok(1_000_000_000), |arg| arg.parse())?;
    let listener = Server::new()
        .config(Config::server().receive_in_pieces(true))
        .on_request(echo)
        .bind("127.0.0.1:0")?;
    let url = format!("ws://{}", listener.local_addr()?);
    tokio::spawn(listener.serve());

    let mut ws = connect(url).config(Config::client().receive_in_pieces(true).deflate(None)).await?;
    // Each way once, so that what both ends hold anyhow is there.
    exchange(&mut ws, 1 << 20).await?;
    let (before, begun) = (resident_bytes()?, Instant::now());
    exchange(&mut ws, len).await?;
    let (grown, seconds) = (resident_bytes()?.saturating_sub(before), begun.elapsed().as_secs_f64());
    println!("{len} bytes there and back in {seconds:.1} s; grown by {grown} bytes");
    if grown > ALLOWED {
        return Err(format!("more than {ALLOWED}").into());
    }
    Ok(())
}

/// Sends back what comes, while it comes.
async fn echo(req: Request) -> wireline::Result<()> {
    let mut ws = req.accept().await?;
    let socket = ws.socket();
    while let Some(mut reader) = ws.recv_reader().await? {
        let mut writer = socket.message_writer(reader.kind());
        while let Some(chunk) = reader.chunk().await? {
            writer.write_piece(chunk).await?;
        }
        writer.finish().await?;
    }
    Ok(())
}

/// Sends `len` bytes and compares what comes back.
async fn exchange(ws: &mut wireline::WebSocket, len: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
    let socket = ws.socket();
    let sent = tokio::spawn(async move {
        let mut writer = socket.message_writer(MessageKind::Binary);
        tokio::io::copy(&mut Pattern(0).take(len), &mut writer).await?;
        writer.shutdown().await
    });
    let mut reader = ws.recv_reader().await?.ok_or("the server closed the connection")?;
    let (mut received, mut expected, mut buffer) = (0, Pattern(0), vec![0; 64 << 10]);
    while let Some(chunk) = reader.chunk().await? {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let count = rest.len().min(buffer.len());
            expected.read_exact(&mut buffer[..count]).await?;
            if rest[..count] != buffer[..count] {
                return Err(format!("other bytes came back after {received}").into());
            }
            received += count as u64;
            rest = &rest[count..];
        }
    }
    sent.await??;
    if received == len { Ok(()) } else { Err(format!("{received} bytes came back of {len}").into()) }
}

/// Bytes that differ from place to place, endlessly.
struct Pattern(u64);

impl AsyncRead for Pattern {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Word by word, from wherever the last read ended within one.
        while buf.remaining() > 0 {
            let word = (self.0 / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
            let rest = &word[usize::try_from(self.0 % 8).unwrap_or(0)..];
            let rest = &rest[..rest.len().min(buf.remaining())];
            buf.put_slice(rest);
            self.0 += rest.len() as u64;
        }
        Poll::Ready(Ok(()))
    }
}

/// What this process holds in memory.
fn resident_bytes() -> Result<u64, Box<dyn Error + Send + Sync>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("Linux tells")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
