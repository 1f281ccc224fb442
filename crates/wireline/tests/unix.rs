//! WebSockets over a Unix socket.
#![cfg(unix)]

use std::time::Duration;

use wireline::{Request, Server, connect};

#[tokio::test]
async fn a_unix_socket_carries_messages_and_a_clean_close() {
    let path = std::env::temp_dir().join(format!("wireline-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let server = Server::new().on_request(|req: Request| async move {
        assert_eq!((req.host(), req.path(), req.remote_addr()), ("example.com", "/chat", None));
        let mut ws = req.accept().await?;
        while let Some(message) = ws.recv().await? {
            ws.send(message).await?;
        }
        Ok(())
    });
    let listener = server.bind_unix(&path).expect("the path is free");
    assert!(listener.local_addr().is_err());
    tokio::spawn(listener.serve());
    let talk = async {
        let mut ws = connect("ws://example.com/chat").unix_socket(&path).await.expect("the server accepts");
        assert_eq!(ws.remote_addr(), None);
        for message in ["", "there", &"x".repeat(300_000)] {
            ws.send(message).await.expect("it is open");
            assert_eq!(ws.recv().await.expect("it is open"), Some(message.into()));
        }
        ws.close_with(4000, "done").expect("it can be sent");
        assert_eq!(ws.recv().await.expect("it was clean"), None);
        assert_eq!(ws.closed().await.code, 4000);
    };
    tokio::time::timeout(Duration::from_secs(8), talk).await.expect("this takes too long");
    std::fs::remove_file(&path).expect("the socket was there");
}
