//! wireline's echo server: the loop of its README. `PORT publish SIZE INTERVAL_MS` is a publisher. With
//! `deflate` behind that it compresses, with `tls CERTIFICATE KEY` it speaks TLS, and with `http3` HTTP/3 too; with
//! `http2` it speaks HTTP/2; with `multi-thread` it runs on two threads instead of one.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::runtime;
use wireline::{Config, Deflate, Prepared, Request, Server, ServerTls, Socket};
use wireline_bench::{behind, deflate, tls};

/// How many threads `multi-thread` stands for.
const THREADS: usize = 2;

fn main() -> wireline::Result<()> {
    let mut builder = runtime::Builder::new_current_thread();
    if behind("multi-thread").is_some() {
        builder = runtime::Builder::new_multi_thread();
        builder.worker_threads(THREADS);
    }
    builder.enable_all().build()?.block_on(run())
}

async fn run() -> wireline::Result<()> {
    let Some(publication) = behind("publish") else { return serve_echo(server()?).await };
    let number = |index: usize| publication[index].parse().expect("a number");
    serve_publications(server()?, number(0), Duration::from_millis(number(1) as u64)).await
}

fn server() -> wireline::Result<Server> {
    let window = deflate::WINDOW_BITS;
    let options = Deflate::server()
        .threshold(0)
        .level(deflate::LEVEL)
        .send_window_bits(window)
        .receive_window_bits(window);
    let options = deflate::is_asked_for().then_some(options);
    let server = Server::new().config(Config::server().max_message_size(16 << 20).deflate(options));
    let server = if behind("http2").is_some() { server.cleartext_http2() } else { server };
    let Some([certificate, key]) = tls::files() else { return Ok(server) };
    let server = server.tls(ServerTls::from_pem_files(certificate, key)?);
    Ok(if behind("http3").is_some() { server.http3() } else { server })
}

async fn serve_echo(server: Server) -> wireline::Result<()> {
    server
        .on_request(|req: Request| async move {
            let mut ws = req.accept().await?;
            while let Some(message) = ws.recv().await? {
                ws.send(message).await?;
            }
            Ok(())
        })
        .listen(wireline_bench::address())
        .await
}

async fn serve_publications(server: Server, size: usize, interval: Duration) -> wireline::Result<()> {
    let subscribers: Arc<Mutex<Vec<Socket>>> = Arc::default();
    let text = if deflate::is_asked_for() { deflate::json(size) } else { "x".repeat(size) };
    tokio::spawn(publish(Arc::clone(&subscribers), text, interval));
    server
        .on_request(move |req: Request| {
            let subscribers = Arc::clone(&subscribers);
            async move {
                let mut ws = req.accept().await?;
                subscribers.lock().expect("nobody panics").push(ws.socket());
                while ws.recv().await?.is_some() {}
                Ok(())
            }
        })
        .listen(wireline_bench::address())
        .await
}

async fn publish(subscribers: Arc<Mutex<Vec<Socket>>>, text: String, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        let message = Prepared::new(text.as_str());
        let mut subscribers = subscribers.lock().expect("nobody panics");
        subscribers.retain(|socket| socket.try_send_prepared(&message).is_ok());
    }
}
