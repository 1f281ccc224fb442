//! How long a socket lives to which nobody refers (rule L13), and what it leaves behind.

use std::sync::{Arc, Weak};

use wireline::browser::{EventType, ReadyState, WebSocket};
use wireline_testkit::Frame;

use crate::peers::{Told, a_while, asked, echo, handled, open, opened, signal, soon, until, wait_for};

#[tokio::test]
async fn l13_an_open_socket_that_nobody_refers_or_listens_to_is_closed_without_a_code() {
    let (url, talk) = opened(|mut peer| {
        peer.expect(&Frame::text("last words"));
        peer.expect(&Frame::close_payload(""));
    });
    let socket = open(&url).await;
    let other = socket.clone();
    drop(socket);
    assert_eq!(other.ready_state(), ReadyState::Open);
    other.send("last words").expect("a clone keeps it open");
    drop(other);
    talk.over().await;
}

#[tokio::test]
async fn l13_a_connecting_socket_that_nobody_refers_or_listens_to_is_given_up() {
    let (arrived, has_arrived) = tokio::sync::oneshot::channel();
    let (url, talk) = asked(move |mut peer| {
        let _ = arrived.send(());
        peer.read_to_end()
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    soon(has_arrived).await.expect("the request comes");
    drop(socket);
    assert_eq!(talk.over().await, b"");
}

#[tokio::test]
async fn l13_a_socket_that_somebody_listens_to_goes_on() {
    let told = Told::default();
    let listening = told.clone();
    let socket = WebSocket::new(echo()).expect("the URL is good");
    socket.on_open(|socket| socket.send("1").expect("it is open"));
    socket.on_message(move |socket, event| {
        listening.add(event.data.to_string());
        let number: u32 = event.data.as_text().and_then(|text| text.parse().ok()).expect("a number");
        socket.send((number + 1).to_string()).expect("it is open");
    });
    drop(socket);
    until(|| told.lines().len() >= 10).await;
    assert_eq!(told.lines()[..3], ["1", "2", "3"]);
}

/// Which listener keeps a socket, and how long.
#[tokio::test]
async fn l13_a_listener_to_what_cannot_come_any_more_does_not_count() {
    // `open` counts until it was told.
    let (url, talk) = opened(|mut peer| peer.expect(&Frame::close_payload("")));
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut tell = Some(tell);
    let socket = WebSocket::new(url).expect("the URL is good");
    socket.on_open(move |_| {
        if let Some(tell) = tell.take() {
            let _ = tell.send(());
        }
    });
    drop(socket);
    soon(told).await.expect("open was told");
    talk.over().await;
    // Each of the others counts while the socket is open.
    for event_type in [EventType::Message, EventType::Error, EventType::Close] {
        let (dropped, is_dropped) = signal();
        let (url, talk) = opened(move |mut peer| {
            wait_for(&is_dropped);
            peer.send(&Frame::ping("there?"));
            peer.expect(&Frame::pong("there?"));
        });
        let socket = open(&url).await;
        socket.add_event_listener(event_type, |_, _| {});
        drop(socket);
        a_while().await;
        dropped.send(()).expect("the peer waits");
        talk.over().await;
    }
    // And not any more once it is removed.
    let (url, talk) = opened(|mut peer| {
        peer.send(&Frame::text("go"));
        peer.expect(&Frame::close_payload(""));
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    socket.on_message(|socket, _| socket.remove_handler(EventType::Message));
    drop(socket);
    talk.over().await;
}

/// The last reference is dropped as soon as the state is seen to change, so now and then between that and the
/// listener's call. There is nothing to stop the socket with in between, so it takes many of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn l13_a_listener_to_open_finds_it_open_though_the_last_reference_is_dropped_meanwhile() {
    let url = echo();
    let state_in_listener = async |url: &str| {
        let socket = WebSocket::new(url).expect("the URL is good");
        let (tell, told) = tokio::sync::oneshot::channel();
        let mut tell = Some(tell);
        socket.on_open(move |socket| {
            if let Some(tell) = tell.take() {
                let _ = tell.send(socket.ready_state());
            }
        });
        let dropping = tokio::task::spawn_blocking(move || {
            while socket.ready_state() == ReadyState::Connecting {
                std::hint::spin_loop();
            }
        });
        let state = soon(told).await.expect("open is told");
        soon(dropping).await.expect("no panic");
        state
    };
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move {
                for _ in 0..150 {
                    assert_eq!(state_in_listener(&url).await, ReadyState::Open);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("each was open");
    }
}

#[tokio::test]
async fn l13_a_stream_of_events_listens_to_all_until_it_is_dropped() {
    let (url, talk) = opened(|mut peer| {
        peer.send(&Frame::text("hello"));
        peer.expect(&Frame::close_payload(""));
    });
    let mut events = WebSocket::new(url).expect("the URL is good").events();
    let told: Vec<_> = [soon(events.next_event()).await, soon(events.next_event()).await]
        .iter()
        .flatten()
        .map(crate::peers::line)
        .collect();
    assert_eq!(told, ["open", "message hello"]);
    a_while().await;
    drop(events);
    talk.over().await;
}

#[tokio::test]
async fn after_close_all_listeners_are_dropped_though_they_refer_to_the_socket() {
    let url = handled(|ws| async move {
        ws.close();
        ws.closed().await;
        Ok(())
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let owned = Arc::new(());
    let watch: Weak<()> = Arc::downgrade(&owned);
    let (own, told) = (socket.clone(), Told::default());
    let on_close = told.clone();
    socket.on_close(move |_, _| on_close.add(format!("{:?} {owned:?}", own.ready_state())));
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["Closed ()"]);
    assert!(watch.upgrade().is_none(), "the handler is dropped");
    // And one that comes too late is dropped at once.
    let owned = Arc::new(());
    let watch = Arc::downgrade(&owned);
    socket.on_close(move |_, _| drop(Arc::clone(&owned)));
    assert!(watch.upgrade().is_none(), "it will never be called");
    assert!(soon(socket.events().next_event()).await.is_none());
}

#[test]
fn a_socket_ends_without_an_event_when_its_runtime_does() {
    let build = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it can be");
    let runtime = build();
    let (socket, told) = runtime.block_on(async {
        let socket = open(&echo()).await;
        let told = Told::by(&socket);
        (socket, told)
    });
    drop(runtime);
    assert_eq!(socket.ready_state(), ReadyState::Closed);
    socket.send("late").expect("that is no error");
    socket.close();
    let close = build().block_on(soon(socket.closed()));
    assert_eq!(crate::peers::closing_line(&close), "close 1006 not clean");
    assert!(told.lines().is_empty());
}

/// The task of the socket was never polled.
#[test]
fn a_socket_that_was_made_as_its_last_act_by_a_runtime_is_closed_too() {
    let build = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it can be");
    let runtime = build();
    let told = Told::default();
    let owned = Arc::new(());
    let watch = Arc::downgrade(&owned);
    let socket = runtime.block_on(async {
        let socket = WebSocket::new("ws://127.0.0.1:1/").expect("the URL is good");
        let (own, on_close) = (socket.clone(), told.clone());
        socket.on_close(move |_, _| on_close.add(format!("{own:?} {owned:?}")));
        socket
    });
    drop(runtime);
    assert_eq!(socket.ready_state(), ReadyState::Closed);
    let close = build().block_on(soon(socket.closed()));
    assert_eq!(crate::peers::closing_line(&close), "close 1006 not clean");
    assert!(told.lines().is_empty());
    assert!(watch.upgrade().is_none(), "the handler is dropped");
}

/// Nobody else has it then but who was given it.
#[tokio::test]
async fn a_socket_whose_making_panics_is_closed() {
    let kept = Arc::new(std::sync::Mutex::new(None));
    let keep = Arc::clone(&kept);
    let panics = move |socket: &WebSocket| {
        *keep.lock().expect("nothing panics here") = Some(socket.clone());
        panic!("as this test wants");
    };
    let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        WebSocket::from_connect(wireline::connect("ws://127.0.0.1:1/"), panics)
    }));
    assert!(made.is_err());
    let socket = kept.lock().expect("nothing panics here").take().expect("it was kept");
    assert_eq!(socket.ready_state(), ReadyState::Closed);
    assert_eq!(soon(socket.closed()).await.code, 1006);
}
