//! wireline's echo server: the loop of its README, on one thread. And a publisher: `PORT publish SIZE
//! INTERVAL_MS`. With `deflate` behind that it compresses.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use wireline::{Config, Deflate, Prepared, Request, Server, Socket};
use wireline_bench::deflate;

#[tokio::main(flavor = "current_thread")]
async fn main() -> wireline::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "deflate").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [port] => serve_echo(port).await,
        [port, "publish", size, interval_ms] => {
            let number = |text: &str| text.parse().expect("a number");
            serve_publications(port, number(size), Duration::from_millis(number(interval_ms) as u64)).await
        }
        _ => panic!("usage: wireline PORT [publish SIZE INTERVAL_MS]"),
    }
}

fn server() -> Server {
    let window = deflate::WINDOW_BITS;
    let options = Deflate::server()
        .threshold(0)
        .level(deflate::LEVEL)
        .send_window_bits(window)
        .receive_window_bits(window);
    let options = deflate::is_asked_for().then_some(options);
    Server::new().config(Config::server().max_message_size(16 << 20).deflate(options))
}

async fn serve_echo(port: &str) -> wireline::Result<()> {
    server()
        .on_request(|req: Request| async move {
            let mut ws = req.accept().await?;
            while let Some(message) = ws.recv().await? {
                ws.send(message).await?;
            }
            Ok(())
        })
        .listen(format!("127.0.0.1:{port}"))
        .await
}

async fn serve_publications(port: &str, size: usize, interval: Duration) -> wireline::Result<()> {
    let subscribers: Arc<Mutex<Vec<Socket>>> = Arc::default();
    let text = if deflate::is_asked_for() { deflate::json(size) } else { "x".repeat(size) };
    tokio::spawn(publish(Arc::clone(&subscribers), text, interval));
    server()
        .on_request(move |req: Request| {
            let subscribers = Arc::clone(&subscribers);
            async move {
                let mut ws = req.accept().await?;
                subscribers.lock().expect("nobody panics").push(ws.socket());
                while ws.recv().await?.is_some() {}
                Ok(())
            }
        })
        .listen(format!("127.0.0.1:{port}"))
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
