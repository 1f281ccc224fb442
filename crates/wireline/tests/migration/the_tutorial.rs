//! What `docs/migration/from-the-tutorial.md` shows.
#![allow(clippy::print_stdout, reason = "the guide's programs say what they see")]

use http::StatusCode;
use wireline::{Message, Request, Server, browser::WebSocket};

fn origin_is_allowed(_origin: Option<&str>) -> bool {
    true
}

pub(crate) fn in_event_style() -> Server {
    Server::new()
        .dangerous_any_origin() // since on_request looks at the origin itself
        .on_request(|req: Request| async move {
            if !origin_is_allowed(req.origin()) {
                println!("Connection from origin {:?} rejected.", req.origin());
                return req.reject(StatusCode::FORBIDDEN).await;
            }
            println!("Connection accepted.");
            req.accept().protocol("echo-protocol").run().await
        })
        .on_message(|socket, message| async move {
            match &message {
                Message::Text(text) => println!("Received Message: {text}"),
                Message::Binary(bytes) => println!("Received Binary Message of {} bytes", bytes.len()),
            }
            socket.send(message).await?;
            Ok(())
        })
        .on_close(|socket, close| async move {
            println!("Peer {:?} disconnected: {close}", socket.client_ip());
        })
}

pub(crate) fn in_a_loop() -> Server {
    Server::new().on_request(|req: Request| async move {
        let mut ws = req.accept().protocol("echo-protocol").await?;
        while let Some(message) = ws.recv().await? {
            ws.send(message).await?;
        }
        Ok(())
    })
}

pub(crate) fn client(url: &str) -> wireline::Result<WebSocket> {
    let socket = WebSocket::with_protocols(url, "echo-protocol")?;

    socket.on_open(|socket| {
        println!("[open] Connection established");
        socket.send("My name is John").expect("it is open");
    });
    socket.on_message(|socket, event| {
        println!("[message] Data received from server: {}", event.data);
        socket.close();
    });
    socket.on_close(|_, event| {
        if event.was_clean {
            println!("[close] Connection closed cleanly, code={} reason={}", event.code, event.reason);
        } else {
            println!("[close] Connection died");
        }
    });
    socket.on_error(|_, error| println!("[error] {}", error.message()));

    Ok(socket)
}

pub(crate) async fn client_in_a_loop(url: &str) -> wireline::Result<()> {
    let mut ws = wireline::connect(url).protocols(["echo-protocol"]).await?;
    ws.send("My name is John").await?;
    while let Some(message) = ws.recv().await? {
        println!("Data received from server: {message}");
        ws.close();
    }
    println!("{}", ws.closed().await);
    Ok(())
}
