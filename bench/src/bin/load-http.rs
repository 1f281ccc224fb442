//! A load over the versions of HTTP, ten WebSockets on a connection where there can be several: `http1`, `http2` or
//! `http3 CERTIFICATE` behind the arguments that every client has. Over HTTP/2 it is [`wireline_bench::http2`], else
//! made of wireline's client. It checks every answer; what it costs itself is told too.

use std::sync::LazyLock;

use wireline::{Client, ClientTls, Config, Connect};
use wireline_bench::{
    behind,
    client::{Conversation, Outcome, run, run_sharing},
    http2,
};

/// WebSockets that share a connection.
const SHARING: u64 = 10;

/// One for each connection; enough of them.
static CLIENTS: LazyLock<Vec<Client>> = LazyLock::new(|| (0..1000).map(|_| Client::new()).collect());

static TLS: LazyLock<Option<ClientTls>> = LazyLock::new(|| {
    let [certificate, ..] = &behind("http3")?[..] else { return None };
    Some(ClientTls::with_ca_file(certificate).expect("a certificate"))
});

fn main() {
    match behind("http2") {
        Some(_) => run_sharing(SHARING, http2::talk),
        None => run(talk),
    }
}

fn connect(conversation: &Conversation) -> Connect {
    let client = &CLIENTS[(conversation.number / SHARING) as usize];
    if behind("http1").is_some() {
        client.connect(conversation.url())
    } else {
        let tls = TLS.clone().expect("http1, http2 or http3 CERTIFICATE");
        client.connect(conversation.url().replace("ws:", "wss:")).tls(tls).http3()
    }
}

async fn talk(mut conversation: Conversation) -> Outcome {
    let config = Config::client().max_message_size(wireline_bench::MAX_MESSAGE_SIZE);
    let mut ws = connect(&conversation).config(config).await?;
    for _ in 0..conversation.in_flight {
        ws.send(conversation.message()).await?;
    }
    while let Some(message) = ws.recv().await? {
        conversation.answer(message.as_bytes());
        ws.send(conversation.message()).await?;
    }
    Ok(())
}
