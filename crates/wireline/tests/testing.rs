//! The kit for the tests of applications: everything in memory, under virtual time, the same every time.

use std::{
    future::Future,
    time::{Duration, Instant as RealInstant},
};

use tokio::time::Instant;
use wireline::{
    CloseCause, Config, ConnectError, Deflate, Keepalive, Message, ReadyState, Request, Server,
    testing::{self, Network},
};

/// Time enough for anything, since it costs none.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(3600), future).await.expect("this takes too long")
}

#[tokio::test(start_paused = true)]
async fn two_ends_talk_and_close_and_no_time_passes() {
    let before = Instant::now();
    let (mut client, mut server) = testing::pair().await;
    client.send("from the client").await.expect("it is open");
    server.send(vec![1; 1_000_000]).await.expect("it is open");
    assert_eq!(soon(server.recv()).await.expect("no loss"), Some(Message::from("from the client")));
    assert_eq!(soon(client.recv()).await.expect("no loss"), Some(Message::from(vec![1; 1_000_000])));
    client.close_with(4000, "done").expect("it can be sent");
    let ends = soon(async { tokio::join!(server.recv(), client.recv()) }).await;
    assert_eq!((ends.0.expect("it is clean"), ends.1.expect("it is clean")), (None, None));
    assert_eq!((server.closed().await.code, client.closed().await.code), (4000.into(), 4000.into()));
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_servers_routes_origins_and_answers_are_tested_without_a_socket() {
    let server = Server::new().route("/chat/{room}", |req: Request| async move {
        if req.header("Authorization").is_none() {
            return req.reject(http::StatusCode::UNAUTHORIZED).await;
        }
        let greeting = format!("{} from {:?}", req.param("room").unwrap_or_default(), req.remote_addr());
        req.accept().protocol("chat").await?.send(greeting).await?;
        Ok(())
    });
    let url = "ws://test.example/chat/tea";
    let connecting = testing::connect(&server, url).protocols(["chat"]).header("Authorization", "me");
    let mut ws = soon(connecting.into_future()).await.expect("it is let in");
    let greeting = Message::from("tea from Some(192.0.2.1:49152)");
    assert_eq!(soon(ws.recv()).await.expect("no loss"), Some(greeting));
    for (connecting, status) in [
        (testing::connect(&server, url), 401),
        (testing::connect(&server, "ws://test.example/elsewhere"), 404),
        (testing::connect(&server, url).origin("https://evil.example"), 403),
    ] {
        match soon(connecting.into_future()).await {
            Err(ConnectError::Rejected(response)) => assert_eq!(response.status(), status),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn latency_is_there_to_the_millisecond() {
    let network = Network::new();
    network.set_latency(Duration::from_millis(70));
    let before = Instant::now();
    let (mut client, server) = network.pair(Config::client(), Config::server()).await;
    // The request and its answer.
    assert_eq!(before.elapsed(), Duration::from_millis(140));
    assert_eq!(client.ping().await.expect("it is open"), Duration::from_millis(140));
    let before = Instant::now();
    server.send("hello").await.expect("it is open");
    soon(client.recv()).await.expect("no loss");
    assert_eq!(before.elapsed(), Duration::from_millis(70));
}

#[tokio::test(start_paused = true)]
async fn a_cable_that_is_pulled_is_found_by_keepalive_at_both_ends() {
    let network = Network::new();
    let keepalive = Keepalive { interval: Duration::from_secs(60), timeout: Duration::from_secs(30) };
    let [client, server] = [Config::client(), Config::server()].map(|config| config.keepalive(keepalive));
    let (mut client, mut server) = network.pair(client, server).await;
    network.stall();
    client.send("into nothing").await.expect("nobody knows yet");
    let (real, before) = (RealInstant::now(), Instant::now());
    let ends = soon(async { tokio::join!(client.recv(), server.recv()) }).await;
    for end in [ends.0, ends.1] {
        let error = end.expect_err("it is lost");
        assert!(matches!(error.close_event().cause, Some(CloseCause::PingTimeout)), "{error}");
    }
    let elapsed = before.elapsed();
    assert!((Duration::from_secs(90)..=Duration::from_secs(100)).contains(&elapsed), "{elapsed:?}");
    assert!(real.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_during_a_stall_arrives_after_it() {
    let network = Network::new();
    let (mut client, mut server) = network.pair(Config::client(), Config::server()).await;
    network.stall();
    client.send("one").await.expect("nobody knows");
    server.send("two").await.expect("nobody knows");
    tokio::time::timeout(Duration::from_secs(15), server.recv()).await.expect_err("nothing arrives");
    network.resume();
    assert_eq!(soon(server.recv()).await.expect("no loss"), Some(Message::from("one")));
    assert_eq!(soon(client.recv()).await.expect("no loss"), Some(Message::from("two")));
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_told_to_both_and_new_connections_can_be_made() {
    let network = Network::new();
    let (mut client, mut server) = network.pair(Config::client(), Config::server()).await;
    network.reset();
    let ends = soon(async { tokio::join!(client.recv(), server.recv()) }).await;
    for end in [ends.0, ends.1] {
        let error = end.expect_err("it is lost");
        assert!(matches!(error.close_event().cause, Some(CloseCause::Transport(_))), "{error:?}");
        assert_eq!(error.close_event().code, 1006);
    }
    let (client, _server) = network.pair(Config::client(), Config::server()).await;
    assert_eq!(client.ready_state(), ReadyState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_times_out() {
    let network = Network::new();
    network.stall();
    let before = Instant::now();
    let connecting = network.connect(&Server::new(), "ws://test.example/");
    let error = soon(connecting.into_future()).await.expect_err("nothing arrives");
    assert!(matches!(error, ConnectError::Timeout), "{error}");
    assert_eq!(before.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the network did not connect them")]
async fn a_pair_on_a_network_that_stalls_is_a_panic_and_no_wait_without_end() {
    let network = Network::new();
    network.stall();
    let _ = soon(network.pair(Config::client(), Config::server())).await;
}

#[tokio::test(start_paused = true)]
async fn a_latency_beyond_all_measure_is_a_year() {
    let network = Network::new();
    let (mut client, server) = network.pair(Config::client(), Config::server()).await;
    network.set_latency(Duration::MAX);
    let before = Instant::now();
    server.send("at last").await.expect("it is open");
    let ending = client.recv().await.expect_err("keepalive finds nobody");
    assert!(before.elapsed() < Duration::from_secs(60), "{ending}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_holds_the_sender_up() {
    let (client, mut server) = testing::pair().await;
    let flood = async {
        for _ in 0..100 {
            client.send(vec![1; 50_000]).await.expect("it is open");
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), flood).await.is_err());
    assert!(client.buffered_amount() < 200_000);
    // What arrived is there all the same.
    assert_eq!(soon(server.recv()).await.expect("no loss").map(|message| message.len()), Some(50_000));
}

#[tokio::test(start_paused = true)]
async fn compression_and_limits_are_as_configured() {
    let client = Config::client().deflate(Deflate::client());
    let server = Config::server().deflate(Deflate::server()).max_message_size(2000);
    let (client, mut server) = Network::new().pair(client, server).await;
    assert!(client.extensions().starts_with("permessage-deflate"));
    client.send("x".repeat(2000)).await.expect("it is open");
    assert_eq!(soon(server.recv()).await.expect("no loss"), Some(Message::from("x".repeat(2000))));
    assert!(client.deflate_totals().is_some());
    client.send("x".repeat(2001)).await.expect("it is open");
    soon(server.recv()).await.expect_err("it is too long");
    assert_eq!(soon(client.closed()).await.code, 1009);
}

#[tokio::test(start_paused = true)]
async fn a_servers_shutdown_is_tested_with_its_grace() {
    let server = Server::new().on_request(|req: Request| async move {
        let _ws = req.accept().await?;
        std::future::pending().await
    });
    let network = Network::new();
    let ws = soon(network.connect(&server, "ws://test.example/").into_future()).await.expect("it is let in");
    network.stall();
    let before = Instant::now();
    let drained = server.handle().shutdown(Duration::from_secs(3)).await;
    assert_eq!((drained.connections, drained.cut, before.elapsed()), (1, 1, Duration::from_secs(3)));
    drop(ws);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_leaves_during_a_stall_is_not_noticed_before_its_end() {
    let network = Network::new();
    let (client, mut server) = network.pair(Config::client(), Config::server()).await;
    network.stall();
    client.abort();
    drop(client);
    server.send("into nothing").await.expect("nobody knows");
    let error = soon(server.recv()).await.expect_err("keepalive finds out");
    assert!(matches!(error.close_event().cause, Some(CloseCause::PingTimeout)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_an_end_left_arrives_though_the_other_end_writes() {
    let network = Network::new();
    network.set_latency(Duration::from_millis(100));
    let (client, mut server) = network.pair(Config::client(), Config::server()).await;
    client.send("goodbye").await.expect("it is open");
    tokio::task::yield_now().await;
    client.abort();
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.send("are you there").await.expect("nobody knows yet");
    assert_eq!(soon(server.recv()).await.expect("it was sent"), Some(Message::from("goodbye")));
    soon(server.recv()).await.expect_err("it was no closing handshake");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_that_ends_wakes_who_waits() {
    let network = Network::new();
    let (mut client, server) = network.pair(Config::client(), Config::server()).await;
    let network_of_another = network.clone();
    let stalling = tokio::spawn(async move {
        for n in 0..3000_u32 {
            network_of_another.stall();
            server.send(n.to_string()).await.expect("it is open");
            tokio::task::yield_now().await;
            network_of_another.resume();
        }
        server
    });
    for n in 0..3000_u32 {
        let received = tokio::time::timeout(Duration::from_secs(5), client.recv()).await;
        assert_eq!(received.expect("it is woken").expect("no loss"), Some(Message::from(n.to_string())));
    }
    stalling.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn no_redirect_leads_out_of_memory() {
    let server = Server::new().on_request(|req: Request| async move {
        req.reject(http::StatusCode::FOUND).header("Location", "ws://127.0.0.1:9/").await
    });
    let connecting = testing::connect(&server, "ws://test.example/").redirects(3);
    match soon(connecting.into_future()).await {
        Err(ConnectError::Rejected(response)) => assert_eq!(response.status(), 302),
        other => panic!("{other:?}"),
    }
}
