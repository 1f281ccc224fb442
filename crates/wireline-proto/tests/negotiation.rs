//! How two ends agree on permessage-deflate (RFC 7692 section 7.1): which offers a server meets and how,
//! and which responses a client takes.
#![allow(clippy::unwrap_used, reason = "what is not as expected has failed the test")]

use http::{Request, Response};
use wireline_proto::{
    Deflate, DeflateParameters, Negotiated, Role,
    handshake::{ClientHandshake, RequestError, ResponseError, UpgradeRequest},
};

fn any_window() -> Deflate {
    Deflate::server().send_window_bits(15).receive_window_bits(15)
}

/// A server's answer to these lines of `Sec-WebSocket-Extensions`; empty if it declines them all.
fn answer(options: &Deflate, lines: &[&str]) -> Result<String, RequestError> {
    let mut request = Request::get("/")
        .header("Host", "localhost")
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Version", "13");
    for line in lines {
        request = request.header("Sec-WebSocket-Extensions", *line);
    }
    let upgrade = UpgradeRequest::check(&request.body(()).unwrap())?;
    let (response, negotiated) = upgrade.agree_to_deflate(options).accept(None).unwrap();
    let value = response.headers().get("Sec-WebSocket-Extensions");
    let value = value.map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(value, negotiated.deflate().map(|agreed| agreed.to_string()));
    Ok(value.unwrap_or_default())
}

/// What a client with these options makes of a response; its offer on the way.
fn check(options: &Deflate, offer: &str, lines: &[&str]) -> Result<Option<DeflateParameters>, ResponseError> {
    let handshake = ClientHandshake::new::<&str>(*b"the sample nonce", []).unwrap().offer_deflate(options);
    let request = handshake.request("/", "localhost").unwrap();
    assert_eq!(request.headers()["Sec-WebSocket-Extensions"], offer);
    let mut response = Response::builder()
        .status(101)
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    for line in lines {
        response = response.header("Sec-WebSocket-Extensions", *line);
    }
    handshake.check(&response.body(()).unwrap()).map(|negotiated| negotiated.deflate())
}

#[test]
fn the_rfcs_examples_of_offers_are_answered() {
    for (lines, expected) in [
        // Section 7.1: the simplest offer, and the response to it.
        (&["permessage-deflate"][..], "permessage-deflate"),
        // Section 7.1.3: with a hint, with a value, and with a fallback.
        (
            &["permessage-deflate; client_max_window_bits; server_max_window_bits=10"],
            "permessage-deflate; server_max_window_bits=10; client_max_window_bits=15",
        ),
        (
            &["permessage-deflate; client_max_window_bits; server_max_window_bits=10, \
               permessage-deflate; client_max_window_bits"],
            "permessage-deflate; server_max_window_bits=10; client_max_window_bits=15",
        ),
        // Section 7.1.1.1 and 7.1.1.2.
        (
            &["permessage-deflate; server_no_context_takeover"],
            "permessage-deflate; server_no_context_takeover",
        ),
        (
            &["permessage-deflate; client_no_context_takeover"],
            "permessage-deflate; client_no_context_takeover",
        ),
        // Section 7.1.2.2.
        (&["permessage-deflate; client_max_window_bits=10"], "permessage-deflate; client_max_window_bits=10"),
        (&["permessage-deflate; client_max_window_bits"], "permessage-deflate; client_max_window_bits=15"),
    ] {
        assert_eq!(answer(&any_window(), lines).as_deref(), Ok(expected), "{lines:?}");
    }
}

#[test]
fn a_bad_offer_is_passed_over() {
    for offer in [
        "server_max_window_bits",
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=08",
        "server_max_window_bits=010",
        "server_max_window_bits=+9",
        "server_max_window_bits=9x",
        "server_max_window_bits=0",
        "server_max_window_bits=99999999999999999999",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=a",
        "server_no_context_takeover=true",
        "client_no_context_takeover=\"1\"",
        "server_no_context_takeover; server_no_context_takeover",
        "client_no_context_takeover; client_no_context_takeover",
        "server_max_window_bits=9; server_max_window_bits=9",
        "client_max_window_bits; client_max_window_bits",
        "client_max_window_bits; client_max_window_bits=9",
        "unknown",
        "unknown=1",
        "Server_No_Context_Takeover",
        "__proto__; constructor=1",
    ] {
        let alone = format!("permessage-deflate; {offer}");
        assert_eq!(answer(&any_window(), &[&alone]).as_deref(), Ok(""), "{offer}");
        let fallback = format!("{alone}, permessage-deflate");
        assert_eq!(answer(&any_window(), &[&fallback]).as_deref(), Ok("permessage-deflate"), "{offer}");
        assert_eq!(
            answer(&any_window(), &[&alone, "permessage-deflate"]).as_deref(),
            Ok("permessage-deflate")
        );
    }
    for other in ["x-webkit-deflate-frame", "Permessage-Deflate", "permessage-bzip2; level=1", "constructor"]
    {
        assert_eq!(answer(&any_window(), &[other]).as_deref(), Ok(""), "{other}");
    }
}

#[test]
fn a_malformed_header_is_the_clients_fault() {
    for line in ["permessage-deflate;", "permessage-deflate; =9", "a b", "permessage-deflate; a=\"", ";"] {
        assert_eq!(answer(&any_window(), &[line]), Err(RequestError::Extensions), "{line}");
        assert_eq!(
            answer(&any_window(), &["permessage-deflate", line]),
            Err(RequestError::Extensions),
            "{line}"
        );
    }
    assert_eq!(RequestError::Extensions.status(), 400);
}

#[test]
fn the_first_offer_that_is_valid_is_met() {
    for (lines, expected) in [
        (&["permessage-deflate; server_max_window_bits=9, permessage-deflate"][..], "9"),
        (&["permessage-deflate", "permessage-deflate; server_max_window_bits=9"], ""),
        (&["x-a; b=\"c\", permessage-deflate; server_max_window_bits=\"1\\1\""], "11"),
        (&[", ,permessage-deflate ; server_max_window_bits = 8 ,"], "8"),
    ] {
        let answer = answer(&any_window(), lines).unwrap();
        let bits = answer.strip_prefix("permessage-deflate").unwrap();
        assert_eq!(bits.strip_prefix("; server_max_window_bits=").unwrap_or_default(), expected, "{lines:?}");
    }
}

#[test]
fn a_servers_own_wishes_are_in_its_answer_where_the_client_allows_it() {
    let options = Deflate::server(); // 12 bits each way
    for (offer, expected) in [
        ("permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", "permessage-deflate; client_max_window_bits=12"),
        ("permessage-deflate; client_max_window_bits=10", "permessage-deflate; client_max_window_bits=10"),
        ("permessage-deflate; server_max_window_bits=15", "permessage-deflate; server_max_window_bits=12"),
        ("permessage-deflate; server_max_window_bits=8", "permessage-deflate; server_max_window_bits=8"),
    ] {
        assert_eq!(answer(&options, &[offer]).as_deref(), Ok(expected));
    }
    let frugal = options.send_context_takeover(false).receive_context_takeover(false);
    let both = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    assert_eq!(answer(&frugal, &["permessage-deflate"]).as_deref(), Ok(both));
}

#[test]
fn a_client_takes_what_answers_its_offer() {
    let plain = "permessage-deflate; client_max_window_bits";
    let limited = "permessage-deflate; server_no_context_takeover; server_max_window_bits=10; \
                   client_max_window_bits";
    let limits = Deflate::client().receive_context_takeover(false).receive_window_bits(10);
    let agreed = |server, client, server_bits, client_bits| DeflateParameters {
        server_no_context_takeover: server,
        client_no_context_takeover: client,
        server_max_window_bits: server_bits,
        client_max_window_bits: client_bits,
    };
    for (options, offer, response, expected) in [
        (Deflate::client(), plain, "permessage-deflate", agreed(false, false, None, None)),
        (
            Deflate::client(),
            plain,
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=8; client_max_window_bits=15",
            agreed(true, true, Some(8), Some(15)),
        ),
        (
            limits,
            limited,
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=9",
            agreed(true, false, Some(9), None),
        ),
    ] {
        assert_eq!(check(&options, offer, &[response]), Ok(Some(expected)), "{response}");
        assert_eq!(check(&options, offer, &[]), Ok(None), "the server may decline");
        assert_eq!(check(&options, offer, &[""]), Ok(None));
    }
    for (response, error) in [
        ("permessage-deflate; server_max_window_bits=10", ResponseError::DeflateParameters),
        ("permessage-deflate; server_no_context_takeover", ResponseError::DeflateParameters),
        (
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=11",
            ResponseError::DeflateParameters,
        ),
    ] {
        assert_eq!(check(&limits, limited, &[response]), Err(error), "{response}");
    }
    for (lines, error) in [
        (&["permessage-deflate; client_max_window_bits"][..], ResponseError::DeflateParameters),
        (&["permessage-deflate; client_max_window_bits=7"], ResponseError::DeflateParameters),
        (&["permessage-deflate; server_max_window_bits=16"], ResponseError::DeflateParameters),
        (&["permessage-deflate; server_max_window_bits"], ResponseError::DeflateParameters),
        (&["permessage-deflate; server_no_context_takeover=1"], ResponseError::DeflateParameters),
        (&["permessage-deflate; unknown"], ResponseError::DeflateParameters),
        (&["permessage-deflate, permessage-deflate"], ResponseError::DeflateParameters),
        (&["permessage-deflate", "permessage-deflate"], ResponseError::DeflateParameters),
        (&["permessage-deflate, other"], ResponseError::Extension),
        (&["permessage-deflate;"], ResponseError::MalformedExtensions),
    ] {
        assert_eq!(check(&Deflate::client(), plain, lines), Err(error), "{lines:?}");
    }
}

#[test]
fn nothing_is_agreed_on_where_one_end_does_not_want_it() {
    let request = Request::get("/")
        .header("Host", "localhost")
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Extensions", "permessage-deflate")
        .body(())
        .unwrap();
    let (response, negotiated) = UpgradeRequest::check(&request).unwrap().accept(None).unwrap();
    assert!(!response.headers().contains_key("Sec-WebSocket-Extensions"));
    assert_eq!(negotiated, Negotiated::assume_negotiated(Role::Server, None));
    assert_eq!(negotiated.deflate(), None);
}
