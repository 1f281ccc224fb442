//! Handlers, listeners and streams, side by side.

use std::time::Duration;

use wireline::browser::{Event, EventType, WebSocket};
use wireline_testkit::Frame;

use crate::peers::{Told, a_while, handled, line, opened, signal, soon, until, wait_for};

/// A server that sends these texts and then closes.
fn saying(texts: &'static [&'static str]) -> String {
    handled(move |ws| async move {
        for text in texts {
            ws.send(*text).await?;
        }
        ws.close();
        ws.closed().await;
        Ok(())
    })
}

#[tokio::test]
async fn listeners_are_called_in_the_order_in_which_they_came_handlers_among_them() {
    let socket = WebSocket::new(saying(&["hi"])).expect("the URL is good");
    let told = Told::default();
    let say = |word: &'static str| {
        let told = told.clone();
        move || told.add(word)
    };
    let (first, handler, last, replaced) = (say("first"), say("handler"), say("last"), say("replaced"));
    socket.add_event_listener(EventType::Message, move |_, _| first());
    socket.on_message(move |_, _| replaced());
    socket.add_event_listener(EventType::Message, move |_, _| last());
    // A new handler has the place of the old one.
    socket.on_message(move |_, _| handler());
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["first", "handler", "last"]);
}

#[tokio::test]
async fn a_handler_that_was_removed_comes_back_at_the_end() {
    let socket = WebSocket::new(saying(&["hi"])).expect("the URL is good");
    let told = Told::default();
    let (listener, handler) = (told.clone(), told.clone());
    socket.on_message(|_, _| panic!("it was removed"));
    socket.add_event_listener(EventType::Message, move |_, _| listener.add("listener"));
    socket.remove_handler(EventType::Message);
    socket.on_message(move |_, _| handler.add("handler"));
    socket.remove_handler(EventType::Open);
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["listener", "handler"]);
}

#[tokio::test]
async fn a_listener_can_be_added_and_removed_while_an_event_is_told() {
    let socket = WebSocket::new(saying(&["one", "two"])).expect("the URL is good");
    let told = Told::default();
    let (adding, mut removing) = (told.clone(), None);
    socket.add_event_listener(EventType::Message, move |socket, event| {
        adding.add(format!("first {}", line(event)));
        if let Some(id) = removing.take() {
            socket.remove_event_listener(id);
        }
        let added = adding.clone();
        // It gets the next event, and not this one.
        removing = Some(socket.add_event_listener(EventType::Message, move |_, event| {
            added.add(format!("added {}", line(event)));
        }));
    });
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["first message one", "first message two"]);
}

#[tokio::test]
async fn a_listener_that_one_before_it_removes_is_not_called_and_those_behind_it_are() {
    let socket = WebSocket::new(saying(&["one", "two"])).expect("the URL is good");
    let told = Told::default();
    let (removed, last) = (told.clone(), told.clone());
    let (tell, told_id) = std::sync::mpsc::channel();
    socket.add_event_listener(EventType::Message, move |socket, _| {
        if let Ok(id) = told_id.try_recv() {
            socket.remove_event_listener(id);
        }
    });
    let id = socket.add_event_listener(EventType::Message, move |_, _| removed.add("removed"));
    socket.add_event_listener(EventType::Message, move |_, event| last.add(line(event)));
    tell.send(id).expect("the first listener has the other end");
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["message one", "message two"]);
}

#[tokio::test]
async fn a_listener_can_replace_and_remove_itself() {
    let socket = WebSocket::new(saying(&["one", "two", "three"])).expect("the URL is good");
    let told = Told::default();
    let handler = told.clone();
    socket.on_message(move |socket, event| {
        handler.add(format!("old {}", event.data));
        let next = handler.clone();
        socket.on_message(move |socket, event| {
            next.add(format!("new {}", event.data));
            socket.remove_handler(EventType::Message);
        });
    });
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["old one", "new two"]);
}

#[tokio::test]
async fn a_listener_that_panics_does_not_keep_the_others_from_their_events() {
    let socket = WebSocket::new(saying(&["one", "two"])).expect("the URL is good");
    socket.add_event_listener(EventType::Message, |_, event| panic!("{}: as this test wants", line(event)));
    let told = Told::by(&socket);
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["open", "message one", "message two", "close 1005 clean"]);
}

#[tokio::test]
async fn a_handler_that_is_set_by_an_earlier_event_gets_the_next() {
    let (url, talk) = opened(|mut peer| peer.shut_down());
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = Told::default();
    let on_close = told.clone();
    let mut on_close = Some(on_close);
    socket.on_error(move |socket, _| {
        if let Some(told) = on_close.take() {
            socket.on_close(move |_, close| told.add(close.code.to_string()));
        }
    });
    soon(socket.closed()).await;
    assert_eq!(told.lines(), ["1006"]);
    talk.over().await;
}

#[tokio::test]
async fn a_stream_gives_what_listeners_get_and_each_stream_all_of_it() {
    let socket = WebSocket::new(saying(&["one", "two"])).expect("the URL is good");
    let told = Told::by(&socket);
    let streams = [socket.events(), socket.events()].map(|mut events| {
        tokio::spawn(async move {
            let mut lines = Vec::new();
            while let Some(event) = events.next_event().await {
                lines.push(line(&event));
            }
            lines
        })
    });
    let expected = ["open", "message one", "message two", "close 1005 clean"];
    for stream in streams {
        assert_eq!(soon(stream).await.expect("no panic"), expected);
    }
    assert_eq!(told.lines(), expected);
}

#[tokio::test]
async fn a_stream_that_is_not_taken_keeps_the_socket_from_reading_on() {
    const MESSAGES: usize = 64;
    let (stalled, is_stalled) = signal();
    let (url, talk) = opened(move |mut peer| {
        let frame = Frame::binary(vec![7; 1 << 20]).bytes();
        let all = frame.repeat(MESSAGES);
        let sent = peer.send_until_stalled(&all, Duration::from_millis(300));
        let _ = stalled.send(());
        peer.send_bytes(&all[sent..]);
        peer.send(&Frame::close(1000, ""));
        peer.expect(&Frame::close(1000, ""));
        sent
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = Told::by(&socket);
    let mut events = socket.events();
    let waited = tokio::task::spawn_blocking(move || wait_for(&is_stalled));
    soon(waited).await.expect("the peer stalls");
    assert!(told.lines().len() <= 2, "{:?}", told.lines());
    let mut messages = 0;
    while let Some(event) = soon(events.next_event()).await {
        messages += usize::from(matches!(event, Event::Message(_)));
    }
    assert_eq!(messages, MESSAGES);
    let sent = talk.over().await;
    assert!(sent < MESSAGES << 20, "{sent} bytes went into a socket that nobody read");
}

/// The message has come, and waits in the stream when `close()` is called.
#[tokio::test]
async fn a_stream_gives_no_message_after_close_was_called() {
    let (url, talk) = opened(|mut peer| {
        peer.send_bytes(&[Frame::text("one").bytes(), Frame::text("two").bytes()].concat());
        peer.expect(&Frame::close_payload(""));
        peer.send(&Frame::text("three"));
        peer.send(&Frame::close_payload(""));
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let told = Told::by(&socket);
    let mut events = socket.events();
    assert!(matches!(soon(events.next_event()).await, Some(Event::Open)));
    until(|| told.lines() == ["open", "message one"]).await;
    a_while().await;
    socket.close();
    let next = soon(events.next_event()).await.as_ref().map(line);
    assert_eq!(next.as_deref(), Some("close 1005 clean"));
    assert_eq!(told.lines(), ["open", "message one", "close 1005 clean"]);
    talk.over().await;
}

#[tokio::test]
async fn the_next_event_can_be_dropped_and_asked_for_again() {
    let url = handled(|ws| async move {
        for number in 0..50 {
            ws.send(number.to_string()).await?;
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        ws.close();
        ws.closed().await;
        Ok(())
    });
    let socket = WebSocket::new(url).expect("the URL is good");
    let mut events = socket.events();
    let (mut told, mut dropped) = (Vec::new(), 0);
    while told.last().is_none_or(|last| last != "close 1005 clean") {
        match tokio::time::timeout(Duration::from_micros(10), events.next_event()).await {
            Ok(event) => told.push(line(&event.expect("close has not come"))),
            Err(_) => dropped += 1,
        }
    }
    let numbers = (0..50).map(|number| format!("message {number}"));
    let expected = ["open".to_owned()].into_iter().chain(numbers).chain(["close 1005 clean".to_owned()]);
    assert!(told.iter().cloned().eq(expected), "{told:?}");
    assert!(dropped > 0);
}

#[tokio::test]
async fn events_are_a_stream_too() {
    use futures_core::Stream as _;
    let socket = WebSocket::new(saying(&["one"])).expect("the URL is good");
    let mut events = Box::pin(socket.events());
    let mut told = Vec::new();
    while let Some(event) = soon(std::future::poll_fn(|cx| events.as_mut().poll_next(cx))).await {
        told.push(line(&event));
    }
    assert_eq!(told, ["open", "message one", "close 1005 clean"]);
}

/// A waker may do anything, as those of executors do that poll where they are woken.
#[test]
fn who_is_woken_for_an_event_may_use_the_socket() {
    use futures_core::Stream as _;
    use std::task::{Context, Poll, Wake, Waker};

    struct Asks(WebSocket, std::sync::mpsc::Sender<()>);
    impl Wake for Asks {
        fn wake(self: std::sync::Arc<Self>) {
            assert_eq!(self.0.buffered_amount(), 0);
            let _ = self.1.send(());
        }
    }

    let (asked, has_asked) = signal();
    // A thread of its own, which may hang: then the test does not.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be made").block_on(async {
            let socket = WebSocket::new(saying(&["one"])).expect("the URL is good");
            let mut events = Box::pin(socket.events());
            let waker = Waker::from(std::sync::Arc::new(Asks(socket.clone(), asked)));
            let polled = events.as_mut().poll_next(&mut Context::from_waker(&waker));
            assert!(matches!(polled, Poll::Pending));
            a_while().await;
        });
    });
    wait_for(&has_asked);
}
