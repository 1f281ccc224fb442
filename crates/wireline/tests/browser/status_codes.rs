//! Which codes may be on the wire (RFC 6455 section 7.4, the IANA registry), and which a script may send.

use wireline::browser::{Exception, WebSocket};
use wireline_testkit::Frame;

use crate::peers::{echo, open, opened, soon, told_to_the_end};

#[tokio::test]
async fn a_script_may_send_1000_and_3000_to_4999() {
    let socket = open(&echo()).await;
    socket.close();
    soon(socket.closed()).await;
    for code in 0..=u16::MAX {
        let expected = match code {
            1000 | 3000..=4999 => Ok(()),
            _ => Err(Exception::InvalidAccessError(code.into())),
        };
        assert_eq!(socket.close_with(code, ""), expected, "{code}");
    }
}

#[tokio::test]
async fn a_code_that_a_peer_may_send_is_told_and_sent_back() {
    for code in (1000..=1003).chain(1007..=1014).chain([3000, 3999, 4000, 4999]) {
        let (url, talk) = opened(move |mut peer| {
            peer.send(&Frame::close(code, "why"));
            peer.expect(&Frame::close(code, "why"));
        });
        assert_eq!(told_of(&url).await, format!("close {code} clean why"));
        talk.over().await;
    }
}

#[tokio::test]
async fn a_code_that_no_peer_may_send_fails_the_connection_with_1002() {
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535] {
        let (url, talk) = opened(move |mut peer| {
            peer.send(&Frame::close(code, ""));
            peer.expect(&Frame::close(1002, ""));
        });
        assert_eq!(told_of(&url).await, "close 1006 not clean", "{code}");
        talk.over().await;
    }
}

#[tokio::test]
async fn half_a_code_and_a_close_frame_that_is_too_long_fail_with_1002() {
    for payload in [vec![3], [&4000_u16.to_be_bytes()[..], &[b'x'; 124]].concat()] {
        let (url, talk) = opened(move |mut peer| {
            peer.send(&Frame::close_payload(payload));
            peer.expect(&Frame::close(1002, ""));
        });
        assert_eq!(told_to_the_end(&url).await, ["open", "error", "close 1006 not clean"]);
        talk.over().await;
    }
}

async fn told_of(url: &str) -> String {
    let close = soon(WebSocket::new(url).expect("the URL is good").closed()).await;
    crate::peers::closing_line(&close)
}
