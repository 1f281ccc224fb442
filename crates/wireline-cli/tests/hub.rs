//! `wireline serve --hub` as a program: publishing over HTTP, hearing it over WebSockets, and who may do what.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use wireline::{ConnectError, Message, WebSocket, connect};

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("this takes too long")
}

/// The program, ended with this.
struct Program {
    child: Child,
    addr: SocketAddr,
}

impl Program {
    fn start(options: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_wireline"))
            .args(["serve", "127.0.0.1:0", "--hub"])
            .args(options)
            .env_remove("WIRELINE_HUB_KEY")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut said = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("it says something");
        let addr = line.split(&['/', ' '][..]).find_map(|word| word.parse().ok());
        // Read on, so that it is never blocked.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self { child, addr: addr.unwrap_or_else(|| panic!("{line}")) }
    }

    /// The status, and the body in JSON.
    fn ask(&self, head: &str, body: &str) -> (u16, Value) {
        let host = if head.contains("\nHost:") { String::new() } else { format!("Host: {}\r\n", self.addr) };
        let mut stream = TcpStream::connect(self.addr).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("it is some time");
        let head = head.replace('\n', "\r\n");
        let length = body.len();
        write!(stream, "{head}\r\n{host}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}")
            .expect("it is open");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let status =
            answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("it has a status");
        let (_, body) = answer.split_once("\r\n\r\n").expect("the head has an end");
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    async fn open(&self, token: Option<&str>) -> WebSocket {
        let url = format!("ws://{}/hub", self.addr);
        let mut ws = soon(async { connect(url).protocols(["hub.v1"]).await }).await.expect("it is let in");
        say(&mut ws, &json!({"op": "auth", "id": 1, "token": token})).await;
        ws
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn say(ws: &mut WebSocket, command: &Value) {
    soon(ws.send(command.to_string())).await.expect("it is open");
}

/// The next thing said, as its header and its payload, but for where what is broadcast begins: that comes at any time.
async fn hear(ws: &mut WebSocket) -> (Value, String) {
    loop {
        let message = soon(ws.recv()).await.expect("no loss").expect("it is open").to_string();
        let (header, payload) = message.split_once('\n').unwrap_or((&message, ""));
        let header: Value = serde_json::from_str(header).expect("it is JSON");
        if header["ev"] != "sub" {
            return (header, payload.to_owned());
        }
    }
}

async fn subscribe(ws: &mut WebSocket, topic: &str) -> Value {
    say(ws, &json!({"op": "sub", "id": 7, "t": topic})).await;
    loop {
        let (header, _) = hear(ws).await;
        if header["re"] == 7 {
            return header;
        }
    }
}

#[tokio::test]
async fn what_is_published_over_http_is_heard_over_websockets() {
    let program = Program::start(&[]);
    let mut ann = program.open(Some("ann")).await;
    assert!(subscribe(&mut ann, "news").await["pos"].is_string());
    let url = format!("ws://{}/topic/news?last=5", program.addr);
    let mut raw = soon(async { connect(url).await }).await.expect("it is let in");
    let (status, first) = program.ask("POST /publish?topic=news&key=1 HTTP/1.1", "Grüße");
    assert_eq!(status, 200, "{first}");
    let (header, payload) = hear(&mut ann).await;
    assert_eq!((&header["t"], &header["p"], &*payload), (&json!("news"), &first["pos"], "Grüße"));
    assert_eq!(soon(raw.recv()).await.expect("no loss"), Some(Message::from("Grüße")));
    // The same again is published once.
    assert_eq!(program.ask("POST /publish?topic=news&key=1 HTTP/1.1", "Grüße"), (200, first));
    let bytes = "POST /publish?topic=news HTTP/1.1\nContent-Type: application/octet-stream";
    assert_eq!(program.ask(bytes, "raw").0, 200);
    assert_eq!(soon(raw.recv()).await.expect("no loss"), Some(Message::from(&b"raw"[..])));
    let topics = json!({"topics": [{"topic": "news", "subscribers": 2}]});
    assert_eq!(program.ask("GET /topics HTTP/1.1", ""), (200, topics));
    let (_, stats) = program.ask("GET /stats HTTP/1.1", "");
    assert_eq!((&stats["connections"], &stats["publications"]), (&json!(2), &json!(3)));
    assert_eq!(program.ask("GET /health HTTP/1.1", "").0, 200);
    assert_eq!(program.ask("GET /ready HTTP/1.1", ""), (200, json!({"leaving": false, "backplane": true})));
}

#[tokio::test]
async fn centrifugos_clients_have_a_path_of_their_own() {
    let program = Program::start(&[]);
    let url = format!("ws://{}/connection/websocket", program.addr);
    let mut client = soon(async { connect(url).await }).await.expect("it is let in");
    say(&mut client, &json!({"id": 1, "connect": {"token": "ann"}})).await;
    assert_eq!(hear(&mut client).await.0["connect"]["pong"], true);
    say(&mut client, &json!({"id": 2, "subscribe": {"channel": "news"}})).await;
    assert_eq!(hear(&mut client).await.0["subscribe"]["recoverable"], true);
    assert_eq!(program.ask("POST /publish?topic=news HTTP/1.1", "{\"tea\": 1}").0, 200);
    let (heard, _) = hear(&mut client).await;
    assert_eq!(heard["push"]["pub"]["data"], json!({"tea": 1}));
    say(&mut client, &json!({"id": 3, "publish": {"channel": "news", "data": 1}})).await;
    assert_eq!(hear(&mut client).await.0["error"]["code"], 103);
}

#[tokio::test]
async fn a_chat_needs_no_token_and_tells_who_is_there() {
    let program = Program::start(&[]);
    let mut ann = program.open(Some("ann")).await;
    subscribe(&mut ann, "chat:1").await;
    let mut bob = program.open(Some("bob")).await;
    soon(bob.send("{\"op\":\"pub\",\"id\":8,\"t\":\"chat:1\"}\nhello")).await.expect("it is open");
    loop {
        let (header, payload) = hear(&mut ann).await;
        if header["t"] == "chat:1" && header["ev"].is_null() {
            assert_eq!(payload, "hello");
            break;
        }
    }
    // Joins are collected for a moment.
    let here = json!({"topic": "chat:1", "members": ["ann"]});
    soon(async {
        while program.ask("GET /presence?topic=chat:1 HTTP/1.1", "") != (200, here.clone()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // Elsewhere only the server's owner speaks.
    soon(bob.send("{\"op\":\"pub\",\"id\":9,\"t\":\"news\"}\nhello")).await.expect("it is open");
    loop {
        let (header, _) = hear(&mut bob).await;
        if header["re"] == 9 {
            assert_eq!(header["err"]["code"], "forbidden");
            break;
        }
    }
}

#[test]
fn bad_requests_are_told_what_is_wrong() {
    let program = Program::start(&[]);
    let long_key = format!("POST /publish?topic=news&key={} HTTP/1.1", "k".repeat(129));
    for (head, status) in [
        (&*long_key, 400),
        ("POST /publish HTTP/1.1", 400),
        ("POST /publish?topic= HTTP/1.1", 400),
        ("POST /publish?topic=%00 HTTP/1.1", 400),
        ("POST /publish?topic=$all HTTP/1.1", 403),
        ("GET /publish?topic=news HTTP/1.1", 405),
        ("POST /topics HTTP/1.1", 405),
        ("GET /presence HTTP/1.1", 400),
        ("GET /nothing HTTP/1.1", 404),
        // A page of somebody else's, and a name of somebody else's that leads here.
        ("POST /publish?topic=news HTTP/1.1\nOrigin: https://evil.example", 403),
        ("POST /publish?topic=news HTTP/1.1\nX-Forwarded-For: 203.0.113.7", 403),
        ("GET /topics HTTP/1.1\nHost: evil.example", 403),
    ] {
        let (seen, body) = program.ask(head, "words");
        assert_eq!(seen, status, "{head}: {body}");
        assert!(status == 404 || body["error"].is_string(), "{head}: {body}");
    }
}

#[test]
fn with_a_key_only_its_owner_publishes() {
    let program = Program::start(&["--hub-key", "open sesame"]);
    for (head, status) in [
        ("POST /publish?topic=news HTTP/1.1", 401),
        ("POST /publish?topic=news HTTP/1.1\nAuthorization: Bearer open", 401),
        ("GET /topics HTTP/1.1", 401),
        ("GET /presence?topic=news HTTP/1.1", 401),
        ("POST /publish?topic=news HTTP/1.1\nAuthorization: Bearer open sesame", 200),
        ("GET /topics HTTP/1.1\nAuthorization: Bearer open sesame", 200),
        ("GET /stats HTTP/1.1", 200),
        ("GET /health HTTP/1.1", 200),
    ] {
        assert_eq!(program.ask(head, "words").0, status, "{head}");
    }
}

#[tokio::test]
async fn with_tokens_each_hears_and_says_what_its_token_allows() {
    const SECRET: &str = "a secret of thirty-two bytes and more";
    let directory = std::env::temp_dir().join(format!("wireline-hub-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("it can be made");
    let file = directory.join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).expect("it can be written");
    let program = Program::start(&["--token-secret", file.to_str().expect("it is text")]);
    std::fs::remove_dir_all(&directory).expect("it was read");
    let token = |lifetime: u64| {
        let exp = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs() + lifetime;
        let claims =
            json!({"sub": "ann", "exp": exp, "subscribe": ["news", "chat:*"], "publish": ["chat:ann"]});
        encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))
            .expect("it is signed")
    };
    for bad in [None, Some("ann"), Some("a.b.c")] {
        let mut ws = program.open(bad).await;
        let (header, _) = hear(&mut ws).await;
        assert_eq!(header["err"]["code"], "unauthorized");
        assert_eq!(soon(ws.closed()).await.code, 3501);
    }
    let mut ann = program.open(Some(&token(3600))).await;
    assert!(subscribe(&mut ann, "chat:lobby").await["pos"].is_string());
    assert_eq!(subscribe(&mut ann, "secrets").await["err"]["code"], "forbidden");
    for (topic, answer) in [("chat:ann", "pos"), ("chat:lobby", "err")] {
        let publish = json!({"op": "pub", "id": 9, "t": topic});
        soon(ann.send(format!("{publish}\nhello"))).await.expect("it is open");
        loop {
            let (header, _) = hear(&mut ann).await;
            if header["re"] == 9 {
                assert!(!header[answer].is_null(), "{topic}: {header}");
                break;
            }
        }
    }
    // Raw mode has no words for a token: the query has one.
    let open = async |path: String| connect(format!("ws://{}{path}", program.addr)).await;
    match soon(open("/topic/news".into())).await {
        Err(ConnectError::Rejected(response)) => assert_eq!(response.status(), 401),
        other => panic!("{other:?}"),
    }
    soon(open(format!("/topic/news?token={}", token(3600)))).await.expect("it is let in");
    match soon(open(format!("/topic/secrets?token={}", token(3600)))).await {
        Err(ConnectError::Rejected(response)) => assert_eq!(response.status(), 403),
        other => panic!("{other:?}"),
    }
    // A token's time is its connection's.
    let brief = program.open(Some(&token(1))).await;
    assert_eq!(soon(brief.closed()).await.code, 3003);
}

#[test]
fn a_secret_that_is_none_is_told() {
    for options in [["--token-secret", "/nowhere/secret"], ["--token-key", "/dev/null"], ["--hub-key", " "]] {
        let output = Command::new(env!("CARGO_BIN_EXE_wireline"))
            .args(["serve", "127.0.0.1:0", "--hub"])
            .args(options)
            .output()
            .expect("it runs");
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(options[1]) && said.starts_with("wireline: "), "{said}");
    }
}

/// Runs the program to its end; whether it went well, and what it printed.
fn run(arguments: &[&str], input: &str) -> (bool, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_wireline"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn topics_are_heard_and_published_from_the_terminal() {
    let program = Program::start(&[]);
    let url = format!("ws://{}/hub", program.addr);
    let (went_well, _, said) = run(&["publish", &url, "chat:1", "one word"], "");
    assert!(went_well, "{said}");
    let (went_well, _, said) = run(&["publish", &url, "chat:1"], "line 1\n\nGrüße\n");
    assert!(went_well, "{said}");
    let heard = run(&["subscribe", &url, "chat:1", "--last", "10", "--count", "4"], "");
    assert_eq!((heard.0, &*heard.1), (true, "one word\nline 1\n\nGrüße\n"), "{}", heard.2);
    let (went_well, printed, said) =
        run(&["subscribe", &url, "chat:1", "--last", "1", "--count", "1", "--positions"], "");
    assert!(went_well && printed.ends_with("\tGrüße\n"), "{printed} {said}");
    // Where nobody may.
    let (went_well, _, said) = run(&["publish", &url, "news", "words"], "");
    assert!(!went_well && said.contains("forbidden"), "{said}");
    let (went_well, _, said) = run(&["subscribe", &format!("ws://{}/nothing", program.addr), "news"], "");
    assert!(!went_well && said.contains("404"), "{said}");
}
