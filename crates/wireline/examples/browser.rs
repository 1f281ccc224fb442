//! The tutorial's client as it stands there, for a browser: handlers for the four events. Start the `server`
//! example first.
#![allow(clippy::print_stdout, reason = "an example says what it sees")]

use wireline::browser::WebSocket;

#[tokio::main(flavor = "current_thread")]
async fn main() -> wireline::Result<()> {
    let socket = WebSocket::with_protocols("ws://127.0.0.1:8080/", "echo-protocol")?;

    socket.on_open(|socket| {
        println!("[open] Connection established");
        println!("Sending to server");
        if let Err(exception) = socket.send("My name is John") {
            println!("{exception}");
        }
    });

    socket.on_message(|socket, event| {
        println!("[message] Data received from server: {}", event.data);
        socket.close();
    });

    socket.on_close(|_, event| {
        if event.was_clean {
            println!("[close] Connection closed cleanly, code={} reason={}", event.code, event.reason);
        } else {
            // The server's process was killed, or the network is down: event.code is 1006 then.
            println!("[close] Connection died");
        }
    });

    socket.on_error(|_, error| println!("[error] {}", error.message()));

    socket.closed().await;
    Ok(())
}
