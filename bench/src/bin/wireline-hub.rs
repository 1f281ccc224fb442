//! wireline's hub: a topic whose subscribers are connections in raw mode, as `PORT publish SIZE INTERVAL_MS`, and
//! compressed with `deflate` behind that.

use std::time::Duration;

use wireline::{Config, Deflate, Request, Server};
use wireline_bench::{behind, deflate};
use wireline_hub::{Hub, Topic};

const TOPIC: &str = "all";

fn main() -> wireline::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run())
}

async fn run() -> wireline::Result<()> {
    let publication = behind("publish").expect("publish SIZE INTERVAL_MS");
    let number = |index: usize| publication[index].parse().expect("a number");
    let (size, interval) = (number(0), Duration::from_millis(number(1) as u64));
    let text = if deflate::is_asked_for() { deflate::json(size) } else { "x".repeat(size) };
    let hub = Hub::new();
    tokio::spawn(publish(hub.clone(), text, interval));
    let topic: Topic = TOPIC.parse().expect("a topic's name");
    Server::new()
        .config(config())
        .on_request(move |req: Request| hub.clone().serve_topic(req, topic.clone(), 0))
        .listen(wireline_bench::address())
        .await
}

fn config() -> Config {
    let window = deflate::WINDOW_BITS;
    let options = Deflate::server()
        .threshold(0)
        .level(deflate::LEVEL)
        .send_window_bits(window)
        .receive_window_bits(window);
    Config::server().deflate(deflate::is_asked_for().then_some(options))
}

async fn publish(hub: Hub, text: String, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        if let Err(error) = hub.publish(TOPIC, text.as_str()).await {
            eprintln!("not published: {error}");
        }
    }
}
