"""A WebSocket peer made of raw bytes: it can say whatever a broken or hostile one can say."""

import base64
import hashlib
import os
import socket
import struct
import time

# An answer must come before the peer has sent everything it announced, so waiting this long is
# already generous; it only keeps a row that gets no answer from hanging.
ANSWER_SECONDS = 5
# The connection must be gone soon after the last word on it, well before any close timeout.
END_SECONDS = 3

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Mismatch(Exception):
    """What was seen instead of what had to be."""


def expect(what, seen, wanted):
    """`wanted` is the one right value, or a set of values that are all right."""
    if seen != wanted and not (isinstance(wanted, set) and seen in wanted):
        raise Mismatch(f"{what}: {seen!r}, wanted {wanted!r}")


class Peer:
    """A raw TCP connection to the server, with just enough reading to see what it answers."""

    def __init__(self, port):
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # The server may have judged already; what it answered is still to be read.

    def receive(self, seconds=ANSWER_SECONDS):
        """Reads more; False at the end of the connection. TimeoutError when nothing comes."""
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.received += data
        return bool(data)

    def take(self, count):
        """The next `count` bytes, or None when the connection ends before them."""
        while len(self.received) < count:
            if not self.receive():
                return None
        taken, self.received = self.received[:count], self.received[count:]
        return taken

    def response(self):
        """An HTTP response head: its status and its headers, names in lower case."""
        while b"\r\n\r\n" not in self.received:
            if not self.receive():
                raise Mismatch(f"the connection ended after {self.received[:80]!r}")
        head, self.received = self.received.split(b"\r\n\r\n", 1)
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, status = status_line.split(" ", 2)[:2]
        expect("version in the status line", version, {"HTTP/1.1", "HTTP/1.0"})
        headers = {}
        for line in lines:
            name, value = line.split(":", 1)
            headers.setdefault(name.lower(), []).append(value.strip())
        return int(status), {name: ", ".join(values) for name, values in headers.items()}

    def frame(self):
        """The server's next frame as (opcode, payload), or None at the end of the connection."""
        head = self.take(2)
        if head is None:
            return None
        length = head[1]
        if length & 0x80:
            raise Mismatch("the server masked a frame")
        if length >= 126:
            length = int.from_bytes(self.take(2 if length == 126 else 8) or b"", "big")
        return head[0] & 0x0F, self.take(length)

    def close_code(self):
        """The code of the server's Close: None when it has none, text when no Close came."""
        frame = self.frame()
        if frame is None:
            return "end without a Close"
        opcode, payload = frame
        if opcode != CLOSE:
            return f"a frame with opcode {opcode}"
        payload[2:].decode("utf-8")
        return int.from_bytes(payload[:2], "big") if payload else None

    def expect_end(self, seconds=END_SECONDS):
        """Reads until the server ends the connection."""
        deadline = time.monotonic() + seconds
        try:
            while self.receive(max(deadline - time.monotonic(), 0.01)):
                pass
        except TimeoutError:
            raise Mismatch(f"the connection still stands after {seconds} s") from None

    def quiet(self, seconds=0.3):
        """What comes unasked in a short while."""
        try:
            while self.receive(seconds):
                pass
        except TimeoutError:
            pass
        return self.received

    def reset(self):
        """Ends the connection with RST, as a killed peer's kernel does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def echoes(self, text):
        self.send(frame(TEXT, text))
        answer = self.frame()
        while answer and answer[0] == PING:
            self.send(frame(PONG, answer[1]))
            answer = self.frame()
        expect("echo", answer, (TEXT, text))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def request(port, changes=None, line="GET / HTTP/1.1", key=None):
    """An opening handshake, with header lines replaced (text), repeated (list) or left out (None).

    PORT in a value or in the request line stands for the server's port.
    """
    headers = {
        "Host": "127.0.0.1:PORT",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": key or new_key(),
        "Sec-WebSocket-Version": "13",
    }
    lines = [line]
    for name, value in (headers | (changes or {})).items():
        for each in [value] if isinstance(value, str) else value or []:
            lines.append(f"{name}: {each}")
    return ("\r\n".join(lines) + "\r\n\r\n").replace("PORT", str(port)).encode("latin-1")


def new_key():
    """A fresh key for each handshake: a server with a hard-wired answer must not pass."""
    return base64.b64encode(os.urandom(16)).decode()


def frame(opcode, payload=b"", fin=True, rsv=0, masked=True, announce=None, length_bytes=None):
    """A client's frame. `announce` is a length that need not be true; `length_bytes` forces its form."""
    length = len(payload) if announce is None else announce
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2 if length < 65536 else 8
    short = {0: length, 2: 126, 8: 127}[length_bytes]
    head = bytes([fin << 7 | rsv << 4 | opcode, masked << 7 | short])
    head += length.to_bytes(length_bytes, "big") if length_bytes else b""
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def close_frame(code, reason=b""):
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


def connected(port, changes=None, line="GET / HTTP/1.1", protocol=None):
    """A peer whose handshake was accepted as section 4.2.2 says."""
    peer, key = Peer(port), new_key()
    peer.send(request(port, changes, line, key))
    expect_accepted(peer.response(), key, protocol)
    return peer


def expect_accepted(response, key, protocol=None):
    status, headers = response
    expect("status", status, 101)
    expect("Upgrade", headers.get("upgrade", "").lower(), "websocket")
    expect("Connection", headers.get("connection", "").lower(), "upgrade")
    accept = base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()
    expect("Sec-WebSocket-Accept", headers.get("sec-websocket-accept"), accept)
    expect("Sec-WebSocket-Protocol", headers.get("sec-websocket-protocol"), protocol)
    expect("Sec-WebSocket-Extensions", headers.get("sec-websocket-extensions"), None)
