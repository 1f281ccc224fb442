//! The `wireline` program: a WebSocket server and client for the terminal.

mod bench;
mod connect;
mod hub;
mod key_log;
mod page;
mod serve;
mod size;
mod topics;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// WebSocket from the terminal: serve, connect, measure.
#[derive(Debug, Parser)]
#[command(name = "wireline", version, about, propagate_version = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Connect(connect::ConnectArgs),
    Bench(bench::BenchArgs),
    Subscribe(topics::SubscribeArgs),
    Publish(topics::PublishArgs),
}

fn main() -> ExitCode {
    let args = Args::parse();
    log_warnings();
    match args.command {
        Command::Serve(args) => run(serve::run(args)),
        Command::Connect(args) => run(connect::run(args)),
        Command::Bench(args) => bench::run(args),
        Command::Subscribe(args) => run(topics::subscribe(args)),
        Command::Publish(args) => run(topics::publish(args)),
    }
}

/// What the library has to say goes to standard error; `RUST_LOG` asks for more of it.
fn log_warnings() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("wireline=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
}

/// Runs a command on a runtime that fits the cores it may use: a single one needs no work stealing.
fn run(command: impl Future<Output = ExitCode>) -> ExitCode {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = if cores > 1 {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    match builder.enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => {
            eprintln!("wireline: the runtime could not be started: {error}");
            ExitCode::FAILURE
        }
    }
}
