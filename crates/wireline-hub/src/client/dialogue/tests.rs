//! Conversations, message by message.

use std::task::{Context, Poll, Waker};

use serde_json::{Value, json};

use super::*;

/// A client without IO, and the time.
struct Talk {
    dialogue: Dialogue,
    now: Instant,
    keys: u64,
}

type Heard = oneshot::Receiver<Result<Position, ClientError>>;

fn tea() -> Topic {
    Topic::new("tea").expect("it is a name")
}

fn refused(code: &str, is_temporary: bool) -> String {
    format!("Refused {{ code: {code:?}, is_temporary: {is_temporary} }}")
}

impl Talk {
    fn new() -> Self {
        Self { dialogue: Dialogue::new(|| 0.5), now: Instant::now(), keys: 0 }
    }

    /// One that is connected and believed.
    fn open() -> Self {
        let mut talk = Self::new();
        talk.reopen();
        talk
    }

    /// Connects; what is said after who it is.
    fn reopen(&mut self) -> Vec<Value> {
        self.dialogue.open(Some("ann"), self.now);
        let [auth] = &self.said()[..] else { panic!("one message says who it is") };
        assert_eq!((&auth["op"], &auth["token"]), (&json!("auth"), &json!("ann")));
        let next = self.hear(&json!({"re": auth["id"], "conn": "1", "ping": 25, "retry": [500, 20_000]}));
        assert!(matches!(next, Next::Open(Some(_))), "{next:?}");
        self.said()
    }

    fn hear(&mut self, header: &Value) -> Next {
        self.dialogue.receive(header.to_string().into(), self.now)
    }

    /// A publication.
    fn told(&mut self, offset: u64) {
        let header = json!({"t": "tea", "p": Position::new(offset, 0).to_string()});
        self.dialogue.receive(format!("{header}\n{offset}").into(), self.now);
    }

    /// The headers of what was said since the last time.
    fn said(&mut self) -> Vec<Value> {
        let messages = std::iter::from_fn(|| self.dialogue.next_outgoing(self.now));
        let headers = messages.map(|message| {
            let text = message.to_string();
            serde_json::from_str(text.split('\n').next().unwrap_or_default()).expect("it is JSON")
        });
        headers.collect()
    }

    fn subscribe(
        &mut self,
        capacity: usize,
    ) -> (Arc<Queue>, oneshot::Receiver<Result<Subscribed, ClientError>>) {
        let (sender, answered) = oneshot::channel();
        let queue = Arc::new(Queue::new(capacity));
        self.keys += 1;
        let feed = Feed::new(self.keys, Arc::clone(&queue), None, None, Answer::new(sender, None));
        self.dialogue.subscribe(&tea(), feed);
        (queue, answered)
    }

    /// Subscribed, behind 0.
    fn subscribed(&mut self, capacity: usize) -> Arc<Queue> {
        let (queue, mut answered) = self.subscribe(capacity);
        let said = self.said();
        self.hear(&json!({"re": said[0]["id"], "pos": "0.00000000", "recovered": false}));
        answered.try_recv().expect("it is answered").expect("it is granted");
        queue
    }

    fn publish(&mut self, key: Option<&str>, len: usize) -> Heard {
        let (sender, answered) = oneshot::channel();
        let message = Message::from("x".repeat(len));
        let answer = Answer::new(sender, None);
        self.dialogue.publish(Publishing::new(tea(), message, key.map(str::to_owned), true, answer));
        answered
    }

    fn lose(&mut self) {
        self.dialogue.handle_lost(None, self.now);
    }

    fn wait(&mut self, seconds: u64) -> Next {
        self.now += Duration::from_secs(seconds);
        self.dialogue.handle_timeout(self.now)
    }
}

/// The positions that a queue gives, resets with a minus before them.
fn taken(queue: &Queue) -> Vec<i64> {
    let take = || match queue.poll_take(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(taken) => taken.event.ok().flatten(),
        Poll::Pending => None,
    };
    let offsets = std::iter::from_fn(take).map(|event| {
        let offset = i64::try_from(event.position().offset).expect("it is small");
        if matches!(event, Event::Reset { .. }) { -offset } else { offset }
    });
    offsets.collect()
}

#[test]
fn what_is_asked_while_there_is_no_connection_is_asked_on_the_next_one() {
    let mut talk = Talk::new();
    let (_queue, _subscribed) = talk.subscribe(10);
    let _published = talk.publish(Some("k"), 1);
    assert_eq!(talk.said(), [] as [Value; 0]);
    let said = talk.reopen();
    assert_eq!(said[0], json!({"op": "sub", "id": said[0]["id"], "t": "tea"}));
    assert_eq!(said[1], json!({"op": "pub", "id": 1, "t": "tea", "key": "k"}));
}

#[test]
fn a_subscription_goes_on_behind_what_was_queued_last() {
    let mut talk = Talk::open();
    let queue = talk.subscribed(10);
    talk.told(1);
    talk.told(2);
    talk.lose();
    let said = talk.reopen();
    assert_eq!(said[0]["since"], "2.00000000");
    talk.told(9); // Nothing counts before the answer.
    talk.hear(&json!({"re": said[0]["id"], "pos": "2.00000000", "recovered": true}));
    talk.told(3);
    assert_eq!(taken(&queue), [1, 2, 3]);
}

#[test]
fn what_cannot_be_proved_is_a_reset() {
    let mut talk = Talk::open();
    let queue = talk.subscribed(10);
    talk.told(1);
    talk.lose();
    let said = talk.reopen();
    talk.hear(&json!({"re": said[0]["id"], "pos": "7.00000000", "recovered": false}));
    talk.told(8);
    talk.hear(&json!({"ev": "reset", "t": "tea", "pos": "3.00000000", "why": "rollback"}));
    talk.told(4);
    assert_eq!(taken(&queue), [1, -7, 8, -3, 4]);
    talk.lose();
    assert_eq!(talk.reopen()[0]["since"], "4.00000000");
}

#[test]
fn what_finds_no_room_is_read_again_and_nobody_else_waits() {
    let mut talk = Talk::open();
    let queue = talk.subscribed(2);
    for offset in 1..=5 {
        talk.told(offset);
    }
    let _published = talk.publish(None, 1);
    assert_eq!(talk.said().len(), 1, "the rest goes on");
    assert_eq!(taken(&queue), [1, 2]);
    talk.dialogue.catch_up(&tea(), 1);
    let said = talk.said();
    assert_eq!((&said[0]["op"], &said[1]["op"]), (&json!("unsub"), &json!("sub")));
    assert_eq!(said[1]["since"], "2.00000000");
    talk.told(6); // Of the subscription before.
    talk.hear(&json!({"re": said[0]["id"]}));
    talk.hear(&json!({"re": said[1]["id"], "pos": "2.00000000", "recovered": true}));
    talk.told(3);
    talk.told(4);
    assert_eq!(taken(&queue), [3, 4]);
}

#[test]
fn a_subscription_that_is_behind_stays_so_over_a_loss() {
    let mut talk = Talk::open();
    let queue = talk.subscribed(1);
    talk.told(1);
    talk.told(2);
    talk.lose();
    assert_eq!(talk.reopen(), [] as [Value; 0], "there is no room for it");
    assert_eq!(taken(&queue), [1]);
    talk.dialogue.catch_up(&tea(), 1);
    assert_eq!(talk.said().last().expect("it is asked for")["since"], "1.00000000");
}

#[test]
fn a_topic_that_is_subscribed_anew_hears_nothing_of_the_subscription_before() {
    let mut talk = Talk::open();
    talk.subscribed(10);
    talk.dialogue.unsubscribe(&tea(), 1);
    let (queue, _answered) = talk.subscribe(10);
    let said = talk.said();
    assert_eq!((&said[0]["op"], &said[1]["op"]), (&json!("unsub"), &json!("sub")));
    talk.told(1);
    talk.hear(&json!({"re": said[1]["id"], "pos": "1.00000000", "recovered": false}));
    talk.told(2);
    talk.dialogue.unsubscribe(&tea(), 1); // It has gone already.
    talk.told(3);
    assert_eq!(taken(&queue), [2, 3]);
}

#[test]
fn of_one_topic_there_is_one_subscription() {
    let mut talk = Talk::open();
    talk.subscribed(10);
    let (_, mut answered) = talk.subscribe(10);
    assert!(matches!(answered.try_recv(), Ok(Err(ClientError::AlreadySubscribed))));
}

#[test]
fn a_subscription_that_cannot_be_granted_yet_is_asked_for_again() {
    let mut talk = Talk::open();
    let (_queue, mut answered) = talk.subscribe(10);
    let said = talk.said();
    talk.hear(&json!({"re": said[0]["id"], "err": {"code": "unavailable", "temp": true}}));
    assert_eq!(talk.dialogue.poll_timeout(), Some(talk.now + Duration::from_secs(1)));
    talk.wait(1);
    let said = talk.said();
    assert_eq!(said[0]["op"], "sub");
    talk.hear(&json!({"re": said[0]["id"], "err": {"code": "forbidden", "temp": false}}));
    let answer = answered.try_recv().expect("it is answered");
    assert_eq!(format!("{:?}", answer.expect_err("it is refused")), refused("forbidden", false));
}

#[test]
fn a_publication_without_an_answer_is_sent_again_with_its_key_and_in_order() {
    let mut talk = Talk::open();
    let mut published = [talk.publish(None, 1), talk.publish(None, 1)];
    let first = talk.said();
    talk.hear(&json!({"re": first[0]["id"], "pos": "1.00000000"}));
    assert_eq!(published[0].try_recv().expect("it is answered").expect("it is"), Position::new(1, 0));
    let third = talk.publish(None, 1);
    let last = talk.said();
    talk.lose();
    assert_eq!(talk.reopen(), [first[1].clone(), last[0].clone()]);
    assert!(published[1].try_recv().is_err());
    drop(third);
}

#[test]
fn what_the_server_cannot_take_yet_is_sent_again_with_its_key_while_that_is_known() {
    let mut talk = Talk::open();
    let mut published = talk.publish(None, 1);
    let first = talk.said();
    let not_yet = json!({"re": first[0]["id"], "err": {"code": "unavailable", "temp": true}});
    talk.hear(&not_yet);
    assert!(published.try_recv().is_err() && talk.said().is_empty(), "it waits");
    talk.wait(1);
    assert_eq!(talk.said(), first, "the same again");
    talk.hear(&not_yet);
    talk.lose();
    assert_eq!(talk.reopen(), first, "on another connection at once");
    for _ in 0..RESEND_LIMIT.as_secs() {
        talk.hear(&not_yet);
        talk.wait(1);
        talk.said();
    }
    let answer = published.try_recv().expect("it is answered at last");
    assert_eq!(format!("{:?}", answer.expect_err("it is refused")), refused("unavailable", true));
    // A key that holds for one connection may hold no longer.
    let mut guessable = talk.publish(Some("short"), 1);
    let said = talk.said();
    talk.hear(&json!({"re": said[0]["id"], "err": {"code": "unavailable", "temp": true}}));
    assert!(guessable.try_recv().is_ok());
}

#[test]
fn what_waited_too_long_for_its_turn_is_not_sent_again() {
    let mut talk = Talk::open();
    let mut published = talk.publish(None, 1);
    assert_eq!(talk.said().len(), 1);
    talk.wait(1);
    talk.lose();
    talk.dialogue.open(Some("ann"), talk.now);
    let auth = talk.said();
    talk.hear(&json!({"re": auth[0]["id"], "conn": "1", "ping": 1000}));
    // The socket takes nothing for long.
    talk.now += RESEND_LIMIT;
    assert!(talk.said().is_empty());
    assert!(matches!(published.try_recv(), Ok(Err(ClientError::Unknown))));
    // One that was not sent before is, however long it waited.
    let mut late = talk.publish(None, 1);
    talk.now += RESEND_LIMIT;
    assert_eq!(talk.said().len(), 1);
    assert!(late.try_recv().is_err());
}

#[test]
fn what_is_broadcast_is_heard_by_all_who_listen_and_a_gap_is_a_reset() {
    let mut talk = Talk::open();
    let [one, other] = [1, 2].map(|key| {
        let queue = Arc::new(Queue::new(2));
        talk.dialogue.listen(key, Arc::clone(&queue));
        queue
    });
    let broadcast = |talk: &mut Talk, offset: u64| {
        let header = json!({"t": "$all", "p": Position::new(offset, 0).to_string()});
        talk.dialogue.receive(format!("{header}\nhear, hear").into(), talk.now);
    };
    talk.hear(&json!({"ev": "sub", "t": "$all", "pos": "0.00000000", "recovered": false}));
    broadcast(&mut talk, 1);
    assert_eq!((taken(&one), taken(&other)), (vec![1], vec![1]));
    talk.dialogue.unsubscribe(&Topic::everyone(), 2);
    for offset in 2..=5 {
        broadcast(&mut talk, offset);
    }
    assert_eq!((taken(&one), taken(&other)), (vec![2, 3, -5], vec![]));
    // It goes on where it was, or is told that it does not.
    talk.lose();
    talk.dialogue.open(None, talk.now);
    assert_eq!(talk.said()[0]["all"], "5.00000000");
    talk.hear(&json!({"ev": "sub", "t": "$all", "pos": "5.00000000", "recovered": true}));
    talk.hear(&json!({"ev": "sub", "t": "$all", "pos": "9.00000000", "recovered": false}));
    talk.hear(&json!({"ev": "reset", "t": "$all", "pos": "11.00000000", "why": "lost"}));
    assert_eq!(taken(&one), [-11], "resets in a row are one");
    talk.dialogue.end(&ClientError::Ended);
    let end = one.poll_take(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(end, Poll::Ready(end) if matches!(end.event, Ok(None))));
}

#[test]
fn what_the_server_would_not_know_again_is_not_sent_again() {
    let mut talk = Talk::open();
    let mut sent = talk.publish(None, 1);
    let mut guessable = talk.publish(Some("short"), 1);
    talk.said();
    talk.lose();
    assert!(matches!(guessable.try_recv(), Ok(Err(ClientError::Unknown))), "of a key for one connection");
    let mut unsent = talk.publish(None, 1);
    assert_eq!(talk.dialogue.poll_timeout(), Some(talk.now + RESEND_LIMIT));
    talk.wait(RESEND_LIMIT.as_secs());
    assert!(matches!(sent.try_recv(), Ok(Err(ClientError::Unknown))));
    assert!(unsent.try_recv().is_err());
    assert_eq!(talk.reopen().len(), 1, "what was never sent");
}

#[test]
fn a_message_that_the_server_does_not_take_does_not_end_every_connection() {
    let mut talk = Talk::open();
    let [mut small, mut large] = [talk.publish(None, 10), talk.publish(None, 1000)];
    talk.said();
    talk.dialogue.handle_lost(Some(CloseCode::MESSAGE_TOO_BIG), talk.now);
    let answer = large.try_recv().expect("it is answered");
    assert_eq!(format!("{:?}", answer.expect_err("it is refused")), refused("too_large", false));
    assert_eq!(talk.reopen().len(), 1);
    assert!(small.try_recv().is_err());
}

#[test]
fn presence_is_asked_for_again_after_a_loss() {
    let mut talk = Talk::open();
    let (sender, mut answered) = oneshot::channel();
    talk.dialogue.who(tea(), Answer::new(sender, None));
    talk.said();
    talk.lose();
    let said = talk.reopen();
    talk.hear(&json!({"re": said[0]["id"], "who": ["ann", "bob"]}));
    let members = answered.try_recv().expect("it is answered").expect("it is granted");
    assert_eq!(members, [Member::new("ann"), Member::new("bob")]);
}

#[test]
fn a_server_that_is_silent_for_longer_than_it_promised_is_given_up() {
    let mut talk = Talk::open();
    assert!(matches!(talk.wait(24), Next::Stay));
    talk.dialogue.receive("".into(), talk.now);
    assert!(matches!(talk.wait(34), Next::Stay));
    assert!(matches!(talk.wait(1), Next::Abandon(_)));
}

#[test]
fn a_server_that_does_not_answer_who_this_is_is_given_up() {
    let mut talk = Talk::new();
    talk.dialogue.open(None, talk.now);
    assert!(matches!(talk.wait(9), Next::Stay));
    assert!(matches!(talk.wait(1), Next::Abandon(_)));
}

#[test]
fn who_is_not_believed_does_not_come_back_unless_it_may_be_believed_later() {
    for is_temporary in [true, false] {
        let mut talk = Talk::new();
        talk.dialogue.open(None, talk.now);
        let said = talk.said();
        let next = talk.hear(&json!({"re": said[0]["id"], "err": {"code": "no", "temp": is_temporary}}));
        assert!(if is_temporary { matches!(next, Next::Abandon(_)) } else { matches!(next, Next::End(_)) });
    }
}

#[test]
fn a_bye_says_when_to_come_back() {
    let mut talk = Talk::open();
    let next = talk.hear(&json!({"ev": "bye", "retry": [100, u64::MAX]}));
    let Next::Leave(window) = next else { panic!("{next:?}") };
    assert_eq!(window, [Duration::from_millis(100), LONGEST_RETRY]);
}

#[test]
fn what_was_broadcast_before_is_told_to_the_next_connection() {
    let mut talk = Talk::open();
    talk.hear(&json!({"ev": "sub", "t": "$all", "pos": "4.00000000", "recovered": false}));
    talk.hear(&json!({"t": "$all", "p": "5.00000000"}));
    talk.lose();
    talk.dialogue.open(None, talk.now);
    assert_eq!(talk.said()[0]["all"], "5.00000000");
}

#[test]
fn what_is_no_header_is_not_the_protocol_and_what_is_not_known_is_let_pass() {
    let mut talk = Talk::open();
    for unknown in
        ["{}", r#"{"ev":"news"}"#, r#"{"re":77}"#, r#"{"t":"coffee","p":"1.00000000"}"#, "{\"t\":\"tea\"}\n"]
    {
        assert!(matches!(talk.dialogue.receive(unknown.into(), talk.now), Next::Stay), "{unknown}");
    }
    for garbage in ["x", "\n", "[]", "\"re\""] {
        assert!(matches!(talk.dialogue.receive(garbage.into(), talk.now), Next::Abandon(_)), "{garbage}");
    }
}

proptest::proptest! {
    #[test]
    fn nothing_that_a_server_says_panics(bytes: Vec<u8>, text: String, ping: u64, retry: [u64; 2]) {
        let mut talk = Talk::new();
        talk.dialogue.open(None, talk.now);
        let said = talk.said();
        talk.hear(&json!({"re": said[0]["id"], "ping": ping, "retry": retry}));
        talk.dialogue.receive(Message::from(bytes), talk.now);
        talk.dialogue.receive(Message::from(text), talk.now);
        talk.hear(&json!({"ev": "bye", "retry": retry}));
        let _ = talk.dialogue.poll_timeout();
    }
}
