#!/usr/bin/env python3
"""Bad input on the wire: raw bytes against a running `wireline serve`, and the exact answer to each.

No WebSocket library stands between these rows and the socket, so each row says byte for byte what
a broken or hostile peer sends. A row passes when the answer is the right one *and* a well-behaved
connection that was open all along still gets its echo: one peer's nonsense is nobody else's trouble.

    bad_input.py            about a quarter of a minute (the slow rows run beside the others)
    bad_input.py --full     also waits for keepalive to drop a peer that never answers
"""

import base64
import resource
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from harness import Checks, serve
from wire import BINARY, CLOSE, CONTINUATION, END_SECONDS, PING, PONG, TEXT
from wire import Mismatch, Peer, close_frame, connected, expect, expect_accepted, frame, new_key, request

MAX_MESSAGE = 65536
# The handshake deadline is 10 s.
HANDSHAKE_SECONDS = 13
# Keepalive: a ping after 20 s of silence, 20 s more to answer it, and some slack.
KEEPALIVE_SECONDS = 46


# --- The opening handshake --------------------------------------------------------------------

NO_UPGRADE = dict.fromkeys(["Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"])
ALLOW = {"allow": {"GET", "GET, HEAD"}}
SUPPORTED = {"sec-websocket-version": "13"}
POST = "POST / HTTP/1.1"

# name, changed headers, status, headers the answer must have; a fifth column is the request line
REFUSED = [
    ("GET without Upgrade where no page is", NO_UPGRADE, 404, {}, "GET /nothing HTTP/1.1"),
    ("handshake where no handler is", {}, 404, {}, "GET /nothing HTTP/1.1"),
    ("POST", NO_UPGRADE | {"Content-Length": "0"}, 405, ALLOW, POST),
    ("POST that asks for a WebSocket", {}, 405, ALLOW, POST),
    ("HTTP/1.0", {}, {400, 426, 505}, {}, "GET / HTTP/1.0"),
    ("version 8", {"Sec-WebSocket-Version": "8"}, 426, SUPPORTED),
    ("version 12", {"Sec-WebSocket-Version": "12"}, 426, SUPPORTED),
    ("version 14", {"Sec-WebSocket-Version": "14"}, 426, SUPPORTED),
    ("no version", {"Sec-WebSocket-Version": None}, 426, SUPPORTED),
    ("two versions", {"Sec-WebSocket-Version": ["13", "13"]}, 400, {}),
    ("no key", {"Sec-WebSocket-Key": None}, 400, {}),
    ("an empty key", {"Sec-WebSocket-Key": ""}, 400, {}),
    ("a key that is not base64", {"Sec-WebSocket-Key": "!!! not base64 at all !!"}, 400, {}),
    ("a key of 15 bytes", {"Sec-WebSocket-Key": base64.b64encode(b"k" * 15).decode()}, 400, {}),
    ("a key of 17 bytes", {"Sec-WebSocket-Key": base64.b64encode(b"k" * 17).decode()}, 400, {}),
    ("two keys", {"Sec-WebSocket-Key": [new_key(), new_key()]}, 400, {}),
    ("no Host", {"Host": None}, 400, {}),
    ("two Hosts", {"Host": ["127.0.0.1:PORT", "127.0.0.1:PORT"]}, 400, {}),
    ("a Host that is none", {"Host": "a b"}, 400, {}),
    ("Upgrade to something else", {"Upgrade": "foo"}, 426, {"upgrade": "websocket"}),
    ("no Upgrade: an ordinary GET", {"Upgrade": None}, {200, 400, 426}, {}),
    ("no Connection", {"Connection": None}, 400, {}),
    ("Connection without upgrade", {"Connection": "keep-alive"}, 400, {}),
    ("a space before the colon", {"Sec-WebSocket-Key ": new_key()}, 400, {}),
    ("a folded header line", {"X-Folded": "one\r\n two"}, 400, {}),
    ("a subprotocol that is no token", {"Sec-WebSocket-Protocol": "a b"}, 400, {}),
    ("a subprotocol twice", {"Sec-WebSocket-Protocol": "echo-protocol, echo-protocol"}, 400, {}),
    ("extensions that are no list", {"Sec-WebSocket-Extensions": "permessage-deflate; =1"}, 400, {}),
    ("an extension's quote left open", {"Sec-WebSocket-Extensions": 'a; b="c'}, 400, {}),
    ("a header line of over 8 KiB", {"X-Long": "x" * 9000}, 431, {}),
    ("129 header lines", {"X-Many": ["x"] * 129}, 431, {}),
    ("a request line of over 8 KiB", {}, 414, {}, f"GET /{'x' * 9000} HTTP/1.1"),
]

FOREIGN_ORIGINS = [
    "http://evil.example",
    "null",
    "http://127.0.0.1:PORT.evil.example",
    "http://evil.example.127.0.0.1:PORT",
    "http://evil127.0.0.1:PORT",
    "http://127.0.0.1:PORT@evil.example",
    "http://evil.example/?http://127.0.0.1:PORT",
    "http://evil.example:PORT",
    "http://127.0.0.1",
    "http://127.0.0.1:1",
    "http://localhost:PORT",
]

# For a server with `--origin http://good.example`.
LISTED_ORIGIN = "http://good.example"
LOOKALIKES = [
    "http://good.example.evil.example",
    "http://evil-good.example",
    "http://sub.good.example",
    "http://good.example:8080",
    "https://good.example",
]

# name, changed headers, the subprotocol in the answer
ACCEPTED = [
    ("no Origin", {}, None),
    ("the server's own Origin", {"Origin": "http://127.0.0.1:PORT"}, None),
    ("the Origin of the host asked for", {"Host": "localhost:PORT", "Origin": "http://localhost:PORT"}, None),
    ("Upgrade: WebSocket", {"Upgrade": "WebSocket"}, None),
    ("Upgrade: h2c, websocket", {"Upgrade": "h2c, websocket"}, None),
    ("Connection: keep-alive, Upgrade", {"Connection": "keep-alive, Upgrade"}, None),
    ("Connection on two lines", {"Connection": ["keep-alive", "Upgrade"]}, None),
    ("header names in lower case", {"Host": None, "host": "127.0.0.1:PORT"}, None),
    ("spaces around a value", {"Sec-WebSocket-Version": "  13  "}, None),
    ("an extension nobody knows", {"Sec-WebSocket-Extensions": "x-unknown; a=1, constructor"}, None),
    ("an offer of compression that is none", {"Sec-WebSocket-Extensions": "permessage-deflate; x=\"1\""}, None),
    ("a Cookie that is none", {"Cookie": "%%%=;;=\"%E0%A4%A"}, None),
    ("subprotocol echo-protocol", {"Sec-WebSocket-Protocol": "echo-protocol"}, "echo-protocol"),
    ("echo-protocol second on a list", {"Sec-WebSocket-Protocol": "other, echo-protocol"}, "echo-protocol"),
    ("an empty element on the list", {"Sec-WebSocket-Protocol": "other,, echo-protocol"}, "echo-protocol"),
    ("echo-protocol on a second line", {"Sec-WebSocket-Protocol": ["other", "echo-protocol"]}, "echo-protocol"),
]


def refused(port, changes, status, headers, line="GET / HTTP/1.1"):
    with Peer(port) as peer:
        peer.send(request(port, changes, line))
        seen, answer = peer.response()
        expect("status", seen, status)
        # RFC 9110: a 426 says what to upgrade to.
        for name, value in (headers | ({"upgrade": "websocket"} if seen == 426 else {})).items():
            expect(name, answer.get(name), value)


def accepted(port, changes, protocol, line="GET / HTTP/1.1"):
    with connected(port, changes, line, protocol) as peer:
        peer.echoes(b"hello")


def page(port):
    with Peer(port) as peer:
        peer.send(request(port, NO_UPGRADE))
        status, headers = peer.response()
        expect("status", status, 200)
        expect("Content-Type", headers.get("content-type", "").split(";")[0], "text/html")


def request_body(port, changes, body):
    """The body must not be taken for the next request: that is how requests are smuggled."""
    with Peer(port) as peer:
        peer.send(request(port, changes) + body)
        expect("status", peer.response()[0], 400)
        expect("a second answer", b"HTTP/1.1" in peer.quiet(), False)


def frames_after_refusal(port):
    """A tunnel that opens although the handshake was refused."""
    with Peer(port) as peer:
        peer.send(request(port, {"Origin": "http://evil.example"}) + frame(TEXT, b"tunnelled"))
        expect("status", peer.response()[0], 403)
        expect("an echo", b"tunnelled" in peer.quiet(), False)


def two_origins(port):
    own = "http://127.0.0.1:PORT"
    refused(port, {"Origin": [own, "http://evil.example"]}, {400, 403}, {})


def unoffered_subprotocol(port, offered):
    """The server may refuse, or accept without a subprotocol; it may not name one nobody offered."""
    with Peer(port) as peer:
        peer.send(request(port, {"Sec-WebSocket-Protocol": offered}))
        status, headers = peer.response()
        expect("status", status, {101, 400})
        expect("Sec-WebSocket-Protocol", headers.get("sec-websocket-protocol"), None)


def garbage(port, data):
    """What is no HTTP at all may be answered 400 or dropped."""
    with Peer(port) as peer:
        peer.send(data)
        peer.expect_end()
        expect("answer", peer.received[:12], {b"", b"HTTP/1.1 400"})


def frame_with_handshake(port):
    key = new_key()
    with Peer(port) as peer:
        peer.send(request(port, key=key) + frame(TEXT, b"in the same segment"))
        expect_accepted(peer.response(), key)
        expect("echo", peer.frame(), (TEXT, b"in the same segment"))


def dripped(port):
    key = new_key()
    with Peer(port) as peer:
        for byte in request(port, key=key):
            peer.send(bytes([byte]))
        expect_accepted(peer.response(), key)
        for byte in frame(TEXT, "Größe".encode()):
            peer.send(bytes([byte]))
        expect("echo", peer.frame(), (TEXT, "Größe".encode()))


# --- Frames -----------------------------------------------------------------------------------

SURROGATE, OVERLONG, BEYOND = b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"
START = frame(TEXT, b"begun", fin=False)

# name, the bytes after the handshake, the code of the Close that must answer
FAILED = [
    ("an unmasked frame", frame(TEXT, b"hello", masked=False), 1002),
    ("an unmasked Close", frame(CLOSE, b"\x03\xe8", masked=False), 1002),
    *((f"reserved bits {rsv:03b}", frame(TEXT, b"hello", rsv=rsv), 1002) for rsv in (4, 2, 1)),
    *((f"reserved opcode {op:#x}", frame(op, b"hello"), 1002) for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    ("a ping of 126 bytes", frame(PING, b"p" * 126), 1002),
    ("a pong of 126 bytes", frame(PONG, b"p" * 126), 1002),
    ("a Close of 126 bytes", close_frame(1000, b"r" * 124), 1002),
    ("a fragmented ping", frame(PING, b"ping", fin=False), 1002),
    ("a fragmented Close", frame(CLOSE, b"\x03\xe8", fin=False), 1002),
    ("a continuation of nothing", frame(CONTINUATION, b"hello"), 1002),
    ("a continuation after a whole message's end", START + frame(CONTINUATION) * 2, None),
    ("a new text inside a fragmented message", START + frame(TEXT, b"new"), 1002),
    ("a new binary inside a fragmented message", START + frame(BINARY, b"new"), 1002),
    ("a 16-bit length for 5 bytes", frame(TEXT, b"hello", length_bytes=2), 1002),
    ("a 64-bit length for 200 bytes", frame(TEXT, b"h" * 200, length_bytes=8), 1002),
    ("a length of 2^63", frame(BINARY, announce=2**63), 1002),
    ("a length of 2^64 - 1", frame(BINARY, announce=2**64 - 1), 1002),
    ("bad UTF-8", frame(TEXT, b"a\xffb"), 1007),
    ("bad UTF-8: a surrogate", frame(TEXT, SURROGATE), 1007),
    ("bad UTF-8: an overlong form", frame(TEXT, OVERLONG), 1007),
    ("bad UTF-8: beyond U+10FFFF", frame(TEXT, BEYOND), 1007),
    ("bad UTF-8: a character cut off at the end", frame(TEXT, b"\xe2\x82"), 1007),
    (
        "bad UTF-8 split across fragments",
        frame(TEXT, SURROGATE[:1], fin=False) + frame(CONTINUATION, SURROGATE[1:]),
        1007,
    ),
    ("bad UTF-8 in a message that has not ended", frame(TEXT, b"a\xffb", fin=False), 1007),
    ("bad UTF-8 in a frame that has not ended", frame(TEXT, b"a\xffb", announce=1000), 1007),
    ("bad UTF-8 in a Close reason", close_frame(1000, b"\xff"), 1007),
    ("a Close of one byte", frame(CLOSE, b"\x03"), 1002),
    *(
        (f"Close code {code}", close_frame(code), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    ),
    ("a header that announces 2^40 bytes", frame(BINARY, announce=2**40), 1009),
    ("a header one byte over the limit", frame(BINARY, announce=MAX_MESSAGE + 1), 1009),
    (
        "a fragment's header that brings the message over the limit",
        frame(BINARY, b"b" * MAX_MESSAGE, fin=False) + frame(CONTINUATION, announce=1),
        1009,
    ),
    # Nothing in them but headers, which cost memory too where fragments are kept one by one.
    ("more than 131,072 fragments", START + frame(CONTINUATION, fin=False) * 131_072, {1008, 1009}),
]


def failed(port, data, code):
    """Section 7.1.7: the Close says why, and nothing more is expected of the peer."""
    with connected(port) as peer:
        peer.send(data)
        expect("Close", peer.close_code(), code)
        peer.expect_end()


def second_continuation(port):
    with connected(port) as peer:
        peer.send(START + frame(CONTINUATION) * 2)
        expect("echo", peer.frame(), (TEXT, b"begun"))
        expect("Close", peer.close_code(), 1002)
        peer.expect_end()


def closed(port, data, code):
    """A clean close: the server echoes the code and, being the server, ends the connection first."""
    with connected(port) as peer:
        peer.send(data)
        expect("Close", peer.close_code(), code)
        peer.expect_end()


def largest_message(port):
    with connected(port) as peer:
        peer.echoes(b"m" * MAX_MESSAGE)


def character_across_fragments(port):
    euro = "€".encode()
    with connected(port) as peer:
        peer.send(frame(TEXT, euro[:1], fin=False) + frame(PING, b"between"))
        expect("pong", peer.frame(), (PONG, b"between"))
        peer.send(frame(CONTINUATION, euro[1:2], fin=False) + frame(CONTINUATION, euro[2:]))
        expect("echo", peer.frame(), (TEXT, euro))


def messages_before_close(port):
    """What `echo hello | wireline connect` sends: all of it was said before the Close."""
    with connected(port) as peer:
        peer.send(frame(TEXT, b"one") + frame(TEXT, b"two") + close_frame(1000))
        expect("echo", peer.frame(), (TEXT, b"one"))
        expect("echo", peer.frame(), (TEXT, b"two"))
        expect("Close", peer.close_code(), 1000)
        peer.expect_end()


def after_close(port):
    """Section 5.5.1: nothing after a Close counts."""
    with connected(port) as peer:
        peer.send(close_frame(1000) + frame(TEXT, b"too late") + frame(PING, b"too late"))
        expect("Close", peer.close_code(), 1000)
        peer.expect_end()
        expect("what follows the Close", peer.received, b"")


# --- Sockets ----------------------------------------------------------------------------------


def half_closed(port, data):
    """A peer that will send no more, without a Close: the server has to end the connection too."""
    with connected(port) as peer:
        peer.send(data)
        peer.socket.shutdown(socket.SHUT_WR)
        peer.expect_end()


def half_closed_in_handshake(port):
    with Peer(port) as peer:
        peer.send(request(port)[:40])
        peer.socket.shutdown(socket.SHUT_WR)
        peer.expect_end()


def reset(port, upgrade, data):
    peer = connected(port) if upgrade else Peer(port)
    peer.send(data)
    peer.reset()


def seconds_until_dropped(port, head, drip=b""):
    """How long the server bears a handshake that does not come on, and what it says at last."""
    begin = time.monotonic()
    with Peer(port) as peer:
        peer.send(head)
        while (elapsed := time.monotonic() - begin) < HANDSHAKE_SECONDS:
            try:
                if not peer.receive(0.5):
                    return elapsed, peer.received[:12]
            except TimeoutError:
                peer.send(drip)
    return None, peer.received[:12]


def too_slow(result):
    elapsed, answer = result
    if elapsed is None:
        raise Mismatch(f"still open after {HANDSHAKE_SECONDS} s")
    expect("answer", answer, {b"", b"HTTP/1.1 408"})


def silent_after_handshake(port):
    """Never answers a ping: whether a ping came, and after how long the end."""
    with connected(port) as peer:
        begin = time.monotonic()
        peer.expect_end(KEEPALIVE_SECONDS)
        return bytes([0x80 | PING]) == peer.received[:1], time.monotonic() - begin


def dropped_by_keepalive(result):
    pinged, elapsed = result
    expect("a ping came first", pinged, True)
    if elapsed < 15:
        raise Mismatch(f"dropped after only {elapsed:.0f} s")


def out_of_descriptors():
    """EMFILE on accept: the server must bear it, idle meanwhile, and accept again afterwards."""

    def few_descriptors():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    with serve(log="bad-input/few-descriptors.log", preexec_fn=few_descriptors) as server:
        with connected(server.port) as early:
            crowd = [Peer(server.port) for _ in range(120)]
            for peer in crowd:
                peer.send(request(server.port))
            time.sleep(0.5)
            before = server.cpu_seconds()
            time.sleep(1)
            spent = server.cpu_seconds() - before
            expect("alive", server.alive(), True)
            early.echoes(b"still here")
            for peer in crowd:
                peer.socket.close()
            with connected(server.port) as late:
                late.echoes(b"accepted again")
            # Half a core for a second is spinning on accept, whatever else the machine does.
            if spent > 0.5:
                raise Mismatch(f"{spent:.2f} s of CPU in one second without descriptors")


def interrupted(server, bystander):
    """Ctrl-C: Close 1001 to everyone, the port is shut, exit status 0 once all have answered."""
    with connected(server.port) as other:
        server.interrupt()
        for peer in (bystander, other):
            expect("Close", peer.close_code(), 1001)
            peer.send(close_frame(1001))
            peer.expect_end()
            peer.socket.close()
        expect("exit status", server.wait(END_SECONDS), 0)


# --- The rows, in order -----------------------------------------------------------------------


def rows(port):
    """(name, function, its arguments) of every row that needs nothing but the server's port."""
    yield "GET / is the page", page, port
    for name, *expected in REFUSED:
        yield f"{name}: refused", refused, port, *expected
    smuggled = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    length = {"Content-Length": str(len(smuggled))}
    chunked = {"Transfer-Encoding": "chunked"}
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(smuggled), smuggled)
    yield "a body with Content-Length: refused", request_body, port, length, smuggled
    yield "a chunked body: refused", request_body, port, chunked, chunks
    yield "both kinds of body: refused", request_body, port, length | chunked, chunks
    for origin in FOREIGN_ORIGINS:
        yield f"Origin {origin}: refused", refused, port, {"Origin": origin}, 403, {}
    yield "two Origins: refused", two_origins, port
    yield "frames after a refused handshake: no tunnel", frames_after_refusal, port
    for offered in ("other", "ECHO-PROTOCOL", "echo-protocol2"):
        yield f"subprotocol {offered}: not answered with another", unoffered_subprotocol, port, offered
    yield "no HTTP at all: dropped", garbage, port, b"\x00\xff\r\n\r\n" * 4
    yield "a TLS hello: dropped", garbage, port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n" * 256

    for name, changes, protocol in ACCEPTED:
        yield f"{name}: accepted", accepted, port, changes, protocol
    yield "absolute-form request target: accepted", accepted, port, {}, None, "GET http://127.0.0.1:PORT/ HTTP/1.1"
    yield "a query: accepted", accepted, port, {}, None, "GET /?a=b HTTP/1.1"
    yield "a frame in the handshake's segment: kept", frame_with_handshake, port
    yield "handshake and frame a byte a write: echoed", dripped, port

    for name, data, code in FAILED:
        if code is None:
            yield f"{name}: 1002 after the echo", second_continuation, port
        else:
            yield f"{name}: {code if isinstance(code, int) else 'refused'}", failed, port, data, code
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999):
        yield f"Close code {code}: echoed", closed, port, close_frame(code, "Grüße".encode()), code
    yield "a Close without a code: answered", closed, port, frame(CLOSE), {None, 1000}
    yield "messages and a Close in one segment: echoed, then closed", messages_before_close, port
    yield "frames after a Close: ignored", after_close, port
    yield "the largest message allowed: echoed", largest_message, port
    yield "a character across fragments, a ping between: echoed", character_across_fragments, port

    yield "half-closed: ended", half_closed, port, b""
    yield "half-closed inside a frame: ended", half_closed, port, frame(TEXT, b"begun", announce=100)
    yield "half-closed inside the handshake: ended", half_closed_in_handshake, port
    yield "reset before a byte: borne", reset, port, False, b""
    yield "reset inside the handshake: borne", reset, port, False, b"GET / HTTP/1.1\r\nHo"
    yield "reset after the handshake: borne", reset, port, True, b""
    yield "reset inside a frame: borne", reset, port, True, frame(TEXT, b"begun", announce=100)


def main(full):
    checks = Checks()
    try:
        run(checks, full)
    except (RuntimeError, OSError, Mismatch) as error:
        checks.check("the server started and a well-behaved peer connected", False, str(error))
    checks.finish()


def run(checks, full):
    options = ["--max-message", MAX_MESSAGE]
    with (
        serve(*options, log="bad-input/wireline.log") as server,
        serve("--origin", LISTED_ORIGIN, log="bad-input/listed-origin.log") as listed,
        connected(server.port) as bystander,
        ThreadPoolExecutor() as slow,
    ):
        port = server.port

        def row(name, function, *arguments):
            try:
                function(*arguments)
                bystander.echoes(name.encode())
            except (Mismatch, OSError, ValueError) as problem:
                return checks.check(name, False, str(problem) or type(problem).__name__)
            return checks.check(name, True)

        # The slow rows take as long as the server's handshake deadline: they wait beside the others.
        head = request(port)[:-2]
        waiting = {
            "not a byte sent: dropped": slow.submit(seconds_until_dropped, port, b""),
            "a head that stops: 408 or dropped": slow.submit(seconds_until_dropped, port, head),
            "a head that drips: 408 or dropped": slow.submit(seconds_until_dropped, port, head, b"X"),
        }
        silent = slow.submit(silent_after_handshake, port) if full else None

        for name, function, *arguments in rows(port):
            row(name, function, *arguments)
        row(f"Origin {LISTED_ORIGIN} on the list: accepted", accepted, listed.port, {"Origin": LISTED_ORIGIN}, None)
        for origin in LOOKALIKES:
            row(f"Origin {origin} not on the list: refused", refused, listed.port, {"Origin": origin}, 403, {})
        row("out of file descriptors: borne", out_of_descriptors)
        for name, result in waiting.items():
            row(name, lambda result=result: too_slow(result.result()))
        while silent and not silent.done():
            bystander.echoes(b"still here")  # or keepalive would drop this one too
            time.sleep(1)
        if silent:
            row("pings unanswered: dropped", lambda: dropped_by_keepalive(silent.result()))
        checks.check("the server still runs", server.alive())
        try:
            interrupted(server, bystander)
            checks.check("interrupted: 1001 to everyone, exit 0", True)
        except (Mismatch, OSError) as problem:
            checks.check("interrupted: 1001 to everyone, exit 0", False, str(problem))


if __name__ == "__main__":
    main("--full" in sys.argv[1:])
