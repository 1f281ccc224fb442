//! A hub on a port: `hub.v1` at `/`, one topic in raw mode at `/raw/{topic}`, and the time in the topic `clock`.
//!
//!     cargo run -p wireline-hub --example hub -- 127.0.0.1:8080
//!     wireline connect ws://127.0.0.1:8080/raw/clock

use std::time::{Duration, SystemTime};

use wireline::{Request, Server};
use wireline_hub::{Hub, Topic};

#[tokio::main]
async fn main() -> wireline::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".into());
    // Clients may publish wherever the clock does not.
    let hub = Hub::builder()
        .on_publish(
            |_, topic| async move { if &*topic == "clock" { Err(wireline_hub::Denied) } else { Ok(()) } },
        )
        .start();
    tokio::spawn(tell_time(hub.clone()));
    let raw = hub.clone();
    Server::new()
        .route("/", move |req: Request| hub.clone().serve(req))
        .route("/raw/{topic}", move |req: Request| serve_raw(raw.clone(), req))
        .listen(&*addr)
        .await
}

async fn serve_raw(hub: Hub, req: Request) -> wireline::Result<()> {
    match req.param("topic").and_then(|name| Topic::new(name).ok()) {
        Some(topic) => hub.serve_topic(req, topic, 0).await,
        None => req.reject(http::StatusCode::NOT_FOUND).await,
    }
}

async fn tell_time(hub: Hub) {
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    loop {
        every_second.tick().await;
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if let Err(error) = hub.publish("clock", format!("{} seconds", time.as_secs())).await {
            tracing::warn!(%error, "nobody hears what time it is");
        }
    }
}
