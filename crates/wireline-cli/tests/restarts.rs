//! A client that comes back, and a server that is killed and started again, with messages flowing.

use std::{
    net::{Ipv4Addr, TcpListener},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};
use wireline::{Backoff, Message, WebSocket, connect};

/// How often the server is killed.
const KILLS: u32 = 50;

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// The program as a server, ended with this.
struct Program(Child);

impl Program {
    fn kill(&mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it has ended");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(port: u16) -> Program {
    let started = Command::new(env!("CARGO_BIN_EXE_wireline"))
        .args(["serve", &format!("127.0.0.1:{port}"), "--quiet"])
        .stderr(Stdio::null())
        .spawn();
    Program(started.expect("the program starts"))
}

/// Sends and receives, until the connection is lost; how many messages came back.
async fn talk(ws: &mut WebSocket) -> u32 {
    for sent in 0.. {
        let message = Message::from(format!("message {sent}"));
        if ws.send(message.clone()).await.is_err() {
            return sent;
        }
        match ws.recv().await {
            Ok(Some(echo)) => assert_eq!(echo, message),
            Ok(None) => panic!("nobody has closed it"),
            Err(lost) => {
                assert_eq!(lost.close_event().code, 1006, "{lost}");
                return sent;
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
    unreachable!("it does not stop by itself")
}

#[tokio::test]
async fn each_loss_and_each_return_is_seen_though_the_server_is_killed_fifty_times() {
    let port = free_port();
    let backoff = Backoff::default().base(Duration::from_millis(20)).max(Duration::from_millis(100));
    let mut connections = connect(format!("ws://127.0.0.1:{port}/")).reconnect(backoff);
    let mut server = start(port);
    let mut talked = 0;
    for kill in 0..KILLS {
        let began = Instant::now();
        let mut ws = timeout(Duration::from_secs(10), connections.next())
            .await
            .unwrap_or_else(|_| panic!("it does not come back after {kill} kills"))
            .expect("a loss passes");
        let killing = async {
            sleep(Duration::from_millis(u64::from(kill % 7) * 10)).await;
            server.kill();
        };
        let (messages, ()) = timeout(Duration::from_secs(10), async { tokio::join!(talk(&mut ws), killing) })
            .await
            .unwrap_or_else(|_| panic!("the loss is not seen after {kill} kills and {:?}", began.elapsed()));
        talked += u32::from(messages > 0);
        server = start(port);
    }
    // Those that were killed at once may not have said anything.
    assert!(talked > KILLS / 2, "{talked}");
}
