//! A WebSocket in an application of axum's, with its path parameters and its state: the feature `axum`.
//!
//! ```sh
//! cargo run -p wireline --example in_axum
//! ```

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    extract::{Path, State},
    response::IntoResponse,
    routing::{any, get},
};
use tokio::net::TcpListener;
use wireline::Upgrade;

/// How many have come so far.
type Visitors = Arc<AtomicU64>;

async fn chat(
    Path(room): Path<String>,
    State(visitors): State<Visitors>,
    upgrade: Upgrade,
) -> impl IntoResponse {
    let answer = upgrade.on_request(move |req| async move {
        let number = visitors.fetch_add(1, Ordering::Relaxed) + 1;
        let mut ws = req.accept().await?;
        ws.send(format!("welcome to {room}, visitor {number}")).await?;
        while let Some(message) = ws.recv().await? {
            ws.send(message).await?;
        }
        Ok(())
    });
    answer.await
}

pub(crate) fn app() -> Router {
    Router::new()
        .route("/", get(|| async { "there is a WebSocket at /chat/{room}\n" }))
        .route("/chat/{room}", any(chat))
        .with_state(Visitors::default())
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    eprintln!("ws://{}/chat/tea", listener.local_addr()?);
    // With the addresses of who connects, `Request::remote_addr` knows them.
    axum::serve(listener, app().into_make_service_with_connect_info::<SocketAddr>()).await
}
