//! From one node of a hub to another: `memory`, `nats URL` or `redis URL`. What one node publishes is received by a
//! client of the other over a WebSocket, and all of it is checked. Prints one line of JSON: how long that takes at a
//! fixed rate, and how many a second there can be.

use std::time::{Duration, Instant};

use tokio::{task::JoinSet, time::timeout};
use wireline::{Request, Server, WebSocket};
use wireline_hub::{History, Hub, HubBuilder, Memory, Nats, Redis, Topic, TopicRules};

const TOPIC: &str = "all";

/// Bytes of each publication, of which the first 20 are its number.
const LEN: usize = 100;

/// How long a publication may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// For the latency: one each so often.
const INTERVAL: Duration = Duration::from_millis(1);
const AT_A_FIXED_RATE: u64 = 3000;

/// For the rate: so many on their way at a time, for so long.
const IN_FLIGHT: usize = 256;
const FULL_SPEED: Duration = Duration::from_secs(4);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [here, there] = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["memory"] => {
            let memory = Memory::new();
            [(); 2].map(|()| {
                let memory = memory.clone();
                Hub::builder().backplane(move |events| memory.node(events))
            })
        }
        ["nats", url] => [over_nats(url).await?, over_nats(url).await?],
        ["redis", url] => [over_redis(url)?, over_redis(url)?],
        _ => return Err("the arguments: memory, nats URL or redis URL".into()),
    };
    // Kept, so that a client that is behind for a moment reads on.
    let rules = TopicRules { history: History::messages(1000), presence: false };
    let [here, there] = [here, there].map(|hub| hub.topics(move |_| rules).start());
    let mut client = subscribe(there).await?;
    let mut number = warm_up(&here, &mut client).await?;
    let mut latencies = Vec::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    for _ in 0..AT_A_FIXED_RATE {
        ticks.tick().await;
        let began = Instant::now();
        let published = tokio::spawn(publish(here.clone(), number));
        receive(&mut client, number).await?;
        latencies.push(began.elapsed());
        published.await??;
        number += 1;
    }
    latencies.sort();
    let at = |share: f64| latencies[(latencies.len() as f64 * share) as usize].as_micros();
    let (p50, p99) = (at(0.5), at(0.99));
    let a_second = full_speed(here, client, number).await?;
    println!(r#"{{"latency_p50_us":{p50},"latency_p99_us":{p99},"publications_per_second":{a_second:.0}}}"#);
    Ok(())
}

async fn over_nats(url: &str) -> Result<HubBuilder> {
    let nats = Nats::connect(url).await?;
    Ok(Hub::builder().backplane(move |events| nats.node(events)))
}

fn over_redis(url: &str) -> Result<HubBuilder> {
    let redis = Redis::new(url)?;
    Ok(Hub::builder().backplane(move |events| redis.node(events)))
}

async fn subscribe(hub: Hub) -> Result<WebSocket> {
    let topic: Topic = TOPIC.parse()?;
    let server = Server::new().on_request(move |req: Request| hub.clone().serve_topic(req, topic.clone(), 0));
    let listener = server.bind("127.0.0.1:0")?;
    let url = format!("ws://{}/", listener.local_addr()?);
    tokio::spawn(listener.serve());
    Ok(wireline::connect(url).await?)
}

/// Publishes until one arrives; the number of the next.
async fn warm_up(hub: &Hub, client: &mut WebSocket) -> Result<u64> {
    for number in 0.. {
        publish(hub.clone(), number).await?;
        let received = timeout(Duration::from_millis(200), client.recv()).await;
        if received.is_ok_and(|message| message.is_ok_and(|message| message.is_some())) {
            return Ok(number + 1);
        }
    }
    unreachable!("there are enough numbers")
}

async fn publish(hub: Hub, number: u64) -> Result<()> {
    let text = format!("{number:020}{}", ".".repeat(LEN - 20));
    timeout(PATIENCE, hub.publish(TOPIC, text).into_future()).await??;
    Ok(())
}

/// Takes the next message, which must be this one.
async fn receive(client: &mut WebSocket, number: u64) -> Result<()> {
    let message = timeout(PATIENCE, client.recv()).await??.ok_or("the hub closed")?;
    let received: u64 =
        message.as_text().and_then(|text| text.get(..20)).ok_or("not as published")?.parse()?;
    if received == number { Ok(()) } else { Err(format!("{received} instead of {number}").into()) }
}

/// Publications a second, each of which arrived. They are on their way side by side, in any order, so they are counted.
async fn full_speed(hub: Hub, mut client: WebSocket, first: u64) -> Result<f64> {
    let (began, mut publishing) = (Instant::now(), JoinSet::new());
    let mut numbers = first..;
    let (mut sent, mut received) = (0, 0);
    while began.elapsed() < FULL_SPEED || received < sent {
        while sent < received + IN_FLIGHT && began.elapsed() < FULL_SPEED {
            publishing.spawn(publish(hub.clone(), numbers.next().ok_or("there are no more numbers")?));
            sent += 1;
        }
        timeout(PATIENCE, client.recv()).await??.ok_or("the hub closed")?;
        received += 1;
        while let Some(published) = publishing.try_join_next() {
            published??;
        }
    }
    let a_second = received as f64 / began.elapsed().as_secs_f64();
    publishing.join_all().await.into_iter().collect::<Result<Vec<()>>>()?;
    Ok(a_second)
}
