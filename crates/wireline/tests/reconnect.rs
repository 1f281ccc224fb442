//! A fresh connection after each loss: when, how often, and when not.

use std::{
    future::{Future, IntoFuture as _},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::StatusCode;
use tokio::{sync::mpsc, time::Instant};
use wireline::{
    Backoff, CloseCause, Config, ConnectError, Error, Loss, Message, Reconnect, ReconnectError, Request,
    Server, connect, reconnect_with, testing::Network,
};

/// Time enough for anything: most of it is virtual.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(3600), future).await.expect("this takes too long")
}

fn echo() -> Server {
    Server::new().on_message(|socket, message| async move {
        socket.send(message).await?;
        Ok(())
    })
}

/// Connections to `server` over `network`.
fn connections(network: &Network, server: &Server, backoff: Backoff) -> Reconnect {
    let (network, server) = (network.clone(), server.clone());
    reconnect_with(backoff, move || {
        let connecting = network.connect(&server, "ws://test.example/");
        async move { Ok(connecting) }
    })
}

/// Losses in words, each with the wait behind it.
type Losses = Arc<Mutex<Vec<(String, Duration)>>>;

fn noting(connections: Reconnect) -> (Reconnect, Losses) {
    let losses = Losses::default();
    let noted = Arc::clone(&losses);
    let connections = connections
        .on_loss(move |loss, delay| noted.lock().expect("no panic").push((loss.to_string(), delay)));
    (connections, losses)
}

/// A server that answers its requests with these, one after the other, and accepts all behind them.
fn answering(answers: Vec<(u16, Option<&'static str>)>) -> (Server, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = Server::new().on_request(move |req: Request| {
        let answer = answers.get(count.fetch_add(1, Ordering::Relaxed)).copied();
        async move {
            let Some((status, retry_after)) = answer else {
                let mut ws = req.accept().await?;
                while ws.recv().await?.is_some() {}
                return Ok(());
            };
            let reject = req.reject(StatusCode::from_u16(status).expect("it is one"));
            match retry_after {
                Some(value) => reject.header("Retry-After", value).await,
                None => reject.await,
            }
        }
    });
    (server, asked)
}

#[tokio::test(start_paused = true)]
async fn each_loss_and_each_return_is_seen_and_messages_flow_in_between() {
    let (network, server) = (Network::new(), echo());
    let (mut connections, losses) = noting(connections(&network, &server, Backoff::default()));
    for round in 0..50 {
        let mut ws = soon(connections.next()).await.expect("it comes back");
        let message = Message::from(format!("round {round}"));
        ws.send(message.clone()).await.expect("it is open");
        assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(message));
        network.reset();
        let lost = soon(ws.recv()).await.expect_err("it is lost");
        assert!(matches!(lost.close_event().cause, Some(CloseCause::Transport(_))), "{lost}");
        assert_eq!(losses.lock().expect("no panic").len(), round, "one for each that was seen");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_attempt_is_made_at_once_and_the_waits_are_random_and_double() {
    let (network, before) = (Network::new(), Instant::now());
    let (server, asked) = answering(vec![(503, None); 400]);
    let backoff = Backoff::default().base(Duration::from_secs(1)).max(Duration::from_secs(16));
    let (mut connections, losses) = noting(connections(&network, &server, backoff));
    soon(connections.next()).await.expect("it comes at last");
    assert_eq!(asked.load(Ordering::Relaxed), 401);
    let losses = losses.lock().expect("no panic");
    let delays: Vec<_> = losses.iter().map(|(_, delay)| *delay).collect();
    assert!(before.elapsed() >= delays.iter().sum(), "they were waited for");
    for (n, delay) in delays.iter().enumerate() {
        let most = Duration::from_secs(1 << n.min(4));
        assert!(*delay <= most, "the {n}th is {delay:?}");
    }
    // Full jitter: all over the range, from next to nothing on.
    let late = &delays[4..];
    let mean = late.iter().sum::<Duration>() / u32::try_from(late.len()).expect("few");
    assert!((Duration::from_secs(6)..Duration::from_secs(10)).contains(&mean), "{mean:?}");
    assert!(late.iter().any(|delay| *delay < Duration::from_secs(2)), "{late:?}");
    assert!(late.iter().any(|delay| *delay > Duration::from_secs(14)), "{late:?}");
    assert!(losses[0].0.contains("503"), "{}", losses[0].0);
}

#[tokio::test(start_paused = true)]
async fn only_a_connection_that_held_for_a_while_begins_the_count_anew() {
    let (network, server) = (Network::new(), echo());
    let backoff = Backoff::default()
        .base(Duration::from_secs(1))
        .max(Duration::from_secs(1 << 20))
        .min_uptime(Duration::from_secs(60));
    let (mut connections, losses) = noting(connections(&network, &server, backoff));
    for uptime in [0, 0, 0, 0, 59, 59, 59, 59, 61, 0] {
        let mut ws = soon(connections.next()).await.expect("it comes back");
        let _ = tokio::time::timeout(Duration::from_secs(uptime), ws.recv()).await;
        network.reset();
    }
    soon(connections.next()).await.expect("it comes back");
    let losses = losses.lock().expect("no panic");
    assert!(losses[..8].iter().any(|(_, delay)| *delay > Duration::from_secs(2)), "{losses:?}");
    assert!(losses[8].1 <= Duration::from_secs(1), "{losses:?}");
    assert!(losses[9].1 <= Duration::from_secs(2), "{losses:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_when_to_come_again_is_kept_to() {
    let in_a_minute = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60)).leak();
    let (server, _) =
        answering(vec![(503, Some("7")), (429, Some("120")), (503, Some(in_a_minute)), (503, Some("soon"))]);
    let backoff = Backoff::default().base(Duration::from_millis(1));
    let (mut connections, losses) = noting(connections(&Network::new(), &server, backoff));
    soon(connections.next()).await.expect("it comes at last");
    let losses = losses.lock().expect("no panic");
    for (n, least) in [7, 120, 50, 0].into_iter().enumerate() {
        let range = Duration::from_secs(least)..=Duration::from_secs(least + 11);
        assert!(range.contains(&losses[n].1), "{losses:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_restarts_or_is_busy_is_given_time() {
    for (code, least, most) in [(1012, 5, 31), (1013, 15, 31), (1001, 0, 1), (1000, 0, 1), (4000, 0, 1)] {
        let server = Server::new().on_request(move |req: Request| async move {
            let ws = req.accept().await?;
            ws.close_with(code, "")?;
            ws.closed().await;
            Ok(())
        });
        let backoff = Backoff::default().base(Duration::from_secs(1));
        let (mut connections, losses) = noting(connections(&Network::new(), &server, backoff));
        let mut ws = soon(connections.next()).await.expect("it is let in");
        assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
        soon(connections.next()).await.expect("it is let in again");
        let delay = losses.lock().expect("no panic")[0].1;
        let range = Duration::from_secs(least)..=Duration::from_secs(most);
        assert!(range.contains(&delay), "{code}: {delay:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_by_itself_ends_it() {
    let network = Network::new();
    for status in [301, 400, 401, 403, 404, 426, 501] {
        let (server, asked) = answering(vec![(status, None)]);
        let mut connections = connections(&network, &server, Backoff::default());
        let error = soon(connections.next()).await.expect_err("it stays so");
        assert!(matches!(error, ReconnectError::Connect(ConnectError::Rejected(_))), "{error}");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        // Who calls again has changed something.
        soon(connections.next()).await.expect("it lets us in now");
    }
    for code in [1003, 1008, 1010] {
        let server = Server::new().on_request(move |req: Request| async move {
            let ws = req.accept().await?;
            ws.close_with(code, "no")?;
            ws.closed().await;
            Ok(())
        });
        let mut connections = connections(&network, &server, Backoff::default());
        let mut ws = soon(connections.next()).await.expect("it is let in");
        assert_eq!(soon(ws.recv()).await.expect("it is clean"), None);
        let error = soon(connections.next()).await.expect_err("it stays so");
        assert!(matches!(error, ReconnectError::Closed(event) if event.code == code), "{code}");
    }
    let mut connections = connect("ftp://nowhere").reconnect(Backoff::default());
    let error = soon(connections.next()).await.expect_err("it is no URL");
    assert!(matches!(error, ReconnectError::Connect(ConnectError::Url { .. })), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_application_may_judge_otherwise_and_send_a_fresh_token_each_time() {
    let server = Server::new().on_request(|req: Request| async move {
        if req.header("Authorization") != Some("Bearer 3") {
            return req.reject(StatusCode::UNAUTHORIZED).await;
        }
        req.accept().run().await
    });
    let (network, mut token) = (Network::new(), 0);
    let mut connections = reconnect_with(Backoff::default(), move || {
        token += 1;
        let connecting = network.connect(&server, "ws://test.example/");
        // Fetching a token takes its time.
        async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(connecting.header("Authorization", &format!("Bearer {token}")))
        }
    })
    .give_up_if(|loss| matches!(loss, Loss::Failed(ConnectError::Url { .. })));
    soon(connections.next()).await.expect("the third is right");
}

#[tokio::test(start_paused = true)]
async fn after_so_many_failures_it_gives_up() {
    let (server, asked) = answering(vec![(503, None); 3]);
    let backoff = Backoff::default().max_attempts(2);
    let mut connections = connections(&Network::new(), &server, backoff);
    let error = soon(connections.next()).await.expect_err("two have failed");
    assert!(matches!(error, ReconnectError::Connect(ConnectError::Rejected(_))), "{error}");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    // The count begins anew, and the next but one is let in.
    soon(connections.next()).await.expect("the fourth is let in");
}

#[tokio::test(start_paused = true)]
async fn the_first_words_are_said_on_every_connection_before_it_is_given() {
    let (heard, mut hear) = mpsc::unbounded_channel();
    let server = Server::new().on_message(move |_, message| {
        heard.send(message).expect("it is heard");
        async { Ok(()) }
    });
    let network = Network::new();
    let subscriptions = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&subscriptions);
    let mut connections = connections(&network, &server, Backoff::default()).on_open(move |socket| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        async move {
            if n == 1 {
                return Err(Error::other("not this time"));
            }
            socket.send(format!("subscribe {n}")).await?;
            Ok(())
        }
    });
    for n in [0, 2, 3] {
        let ws = soon(connections.next()).await.expect("it comes back");
        assert_eq!(subscriptions.load(Ordering::Relaxed), n + 1);
        assert_eq!(soon(hear.recv()).await, Some(Message::from(format!("subscribe {n}"))));
        drop(ws);
    }
}

#[tokio::test(start_paused = true)]
async fn first_words_that_always_fail_use_up_the_attempts() {
    let (network, server) = (Network::new(), echo());
    let mut connections = connections(&network, &server, Backoff::default().max_attempts(3))
        .on_open(|_| async { Err(Error::other("not this time either")) });
    let error = soon(connections.next()).await.expect_err("three have failed");
    assert!(matches!(error, ReconnectError::OnOpen(_)), "{error}");
    assert!(error.to_string().contains("not this time either"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_up_until_its_end_and_not_until_somebody_looks() {
    let server = Server::new().on_request(|req: Request| async move {
        req.accept().await?.close_with(4000, "enough")?;
        Ok(())
    });
    let backoff = Backoff::default();
    let (mut connections, losses) = noting(connections(&Network::new(), &server, backoff));
    for _ in 0..12 {
        let mut ws = soon(connections.next()).await.expect("it comes back");
        let _ = soon(ws.recv()).await;
        drop(ws);
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    // Each wait would be one after a first loss otherwise.
    let longest = losses.lock().expect("no panic").iter().map(|(_, delay)| *delay).max();
    assert!(longest > Some(Duration::from_secs(2)), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn attempts_that_are_given_up_are_no_more_frequent_than_those_that_fail() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&attempts);
    let mut connections = reconnect_with(Backoff::default(), move || {
        count.fetch_add(1, Ordering::Relaxed);
        async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Ok(connect("ws://test.example/"))
        }
    });
    for _ in 0..600 {
        let _ = tokio::time::timeout(Duration::from_secs(1), connections.next()).await;
    }
    let attempts = attempts.load(Ordering::Relaxed);
    assert!((10..150).contains(&attempts), "{attempts}");
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_while_it_waits_waits_no_shorter() {
    let (server, asked) = answering(vec![(503, Some("100"))]);
    let mut connections = connections(&Network::new(), &server, Backoff::default());
    let before = Instant::now();
    while tokio::time::timeout(Duration::from_secs(7), connections.next()).await.is_err() {
        assert!(before.elapsed() < Duration::from_secs(200));
    }
    assert!(before.elapsed() >= Duration::from_secs(100), "{:?}", before.elapsed());
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_somebody_still_has_is_waited_for() {
    let (network, server) = (Network::new(), echo());
    let mut connections = connections(&network, &server, Backoff::default());
    let ws = soon(connections.next()).await.expect("it is let in");
    tokio::time::timeout(Duration::from_secs(100), connections.next()).await.expect_err("it is open");
    // All handles are dropped: it is closed, and the next may come.
    drop(ws);
    soon(connections.next()).await.expect("it is let in");
}

#[tokio::test(start_paused = true)]
async fn a_network_that_is_away_for_an_hour_is_waited_for() {
    let (network, server) = (Network::new(), echo());
    let (mut connections, losses) = noting(connections(&network, &server, Backoff::default()));
    let mut ws = soon(connections.next()).await.expect("it is let in");
    network.stall();
    assert!(soon(ws.recv()).await.is_err(), "keepalive has found out");
    let back = network.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(3000)).await;
        back.resume();
    });
    let mut ws = soon(connections.next()).await.expect("it is back");
    ws.send("hello again").await.expect("it is open");
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(Message::from("hello again")));
    let attempts = losses.lock().expect("no panic").len();
    // One in 10 s of handshake and 15 s of waiting, on average.
    assert!((80..200).contains(&attempts), "{attempts}");
}

/// A server in a runtime of its own, which can be killed as a process is.
fn start(address: SocketAddr) -> (tokio::runtime::Runtime, SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it starts");
    let listener = {
        let _in = runtime.enter();
        // The port may be busy for a moment.
        (0..100)
            .find_map(|_| {
                let bound = echo().config(Config::server()).bind(address).ok();
                if bound.is_none() {
                    std::thread::sleep(Duration::from_millis(10));
                }
                bound
            })
            .expect("the port is free")
    };
    let address = listener.local_addr().expect("it is bound");
    runtime.spawn(listener.serve());
    (runtime, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_restarted_fifty_times() {
    let (restart, restarts) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let servers = std::thread::spawn(move || {
        let (mut runtime, address) = start(SocketAddr::from(([127, 0, 0, 1], 0)));
        tell.send(address).expect("it is heard");
        loop {
            runtime.block_on(async {
                while restarts.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
            drop(runtime);
            if restarts.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected) {
                return;
            }
            runtime = start(address).0;
        }
    });
    let address = told.recv().expect("it listens");
    let backoff = Backoff::default().base(Duration::from_millis(5)).max(Duration::from_millis(50));
    let mut connections = connect(format!("ws://{address}/")).reconnect(backoff);
    let in_time = Duration::from_secs(10);
    for round in 0..=50 {
        let mut ws =
            tokio::time::timeout(in_time, connections.next()).await.expect("no hang").expect("it comes back");
        for n in 0..20 {
            let message = Message::from(format!("{round} {n}"));
            ws.send(message.clone()).await.expect("it is open");
            let received = tokio::time::timeout(in_time, ws.recv()).await.expect("no hang");
            assert_eq!(received.expect("no loss"), Some(message));
        }
        if round < 50 {
            restart.send(()).expect("it is there");
            tokio::time::timeout(in_time, ws.recv()).await.expect("no hang").expect_err("it was killed");
        }
    }
    drop(restart);
    servers.join().expect("no panic");
    // Nobody is there any more.
    connect(format!("ws://{address}/")).into_future().await.expect_err("it is gone");
}
