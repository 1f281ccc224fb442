#!/usr/bin/env python3
"""Python's `aioquic` as either end of WebSockets over HTTP/3 (RFC 9220), with the frames of `websockets`: what is
echoed, closed, refused and reset, and many on one connection."""

import asyncio
import contextlib
import ssl
import tempfile

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.asyncio import serve as serve_quic
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset
from harness import Checks, serve, wireline
from proxies import CLEAN, LINES, NO_CONNECTION, certificates
from websockets.frames import Opcode
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol

PATIENCE = 20
MESSAGES = ["My name is John", "Grüße, 世界 👋", "", b"", bytes(range(256)), "x" * 300_000, bytes(1_000_000)]

checks = Checks()


class WebSocket:
    """A WebSocket on a stream, sans-IO by `websockets`, until its end."""

    def __init__(self, quic, stream, side):
        self.quic, self.stream = quic, stream
        self.frames = Protocol(side, state=OPEN, max_size=None)
        self.messages = asyncio.Queue()
        self.ended = asyncio.Event()
        self.fragments = []

    def received(self, data, is_end):
        self.frames.receive_data(data)
        if is_end:
            self.frames.receive_eof()
        for frame in self.frames.events_received():
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                self.kind = frame.opcode
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self.fragments.append(bytes(frame.data))
                if frame.fin:
                    whole = b"".join(self.fragments)
                    self.fragments = []
                    self.messages.put_nowait(whole.decode() if self.kind is Opcode.TEXT else whole)
        self.flush()
        if is_end:
            self.ended.set()

    def send(self, message):
        if isinstance(message, str):
            self.frames.send_text(message.encode())
        else:
            self.frames.send_binary(message)
        self.flush()

    def close(self, code, reason):
        self.frames.send_close(code, reason)
        self.flush()

    def flush(self):
        for data in self.frames.data_to_send():
            self.quic.http.send_data(self.stream, data, end_stream=not data)
        self.quic.transmit()

    async def echoes(self, messages=MESSAGES):
        """Whether each message comes back, some of them under way at once."""
        for message in messages:
            self.send(message)
        return [await self.messages.get() for _ in messages] == messages


class Http3(QuicConnectionProtocol):
    """An HTTP/3 connection: heads and data go to whoever waits for their stream."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.http = H3Connection(self._quic)
        self.heads, self.sockets, self.bodies = {}, {}, {}
        self.resets, self.terminated = asyncio.Queue(), asyncio.Event()

    def quic_event_received(self, event):
        if isinstance(event, StreamReset):
            self.resets.put_nowait((event.stream_id, event.error_code))
            if event.stream_id in self.sockets:
                self.sockets[event.stream_id].ended.set()
        if isinstance(event, ConnectionTerminated):
            self.terminated.set()
            for socket in self.sockets.values():
                socket.ended.set()
        for event in self.http.handle_event(event):
            self.http_event_received(event)

    def http_event_received(self, event):
        if isinstance(event, HeadersReceived):
            self.head(event.stream_id).set_result({name.decode(): value.decode() for name, value in event.headers})
        elif isinstance(event, DataReceived) and event.stream_id in self.sockets:
            self.sockets[event.stream_id].received(event.data, event.stream_ended)
        elif isinstance(event, DataReceived):
            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data

    def head(self, stream):
        return self.heads.setdefault(stream, asyncio.get_running_loop().create_future())

    def request(self, path="/", protocol=b"websocket", method=b"CONNECT", more=()):
        stream = self._quic.get_next_available_stream_id()
        head = [
            (b":method", method),
            *([(b":protocol", protocol)] if protocol else []),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", path.encode()),
            *([(b"sec-websocket-version", b"13")] if protocol else []),
            *more,
        ]
        self.http.send_headers(stream, head, end_stream=not protocol)
        self.transmit()
        return stream

    async def open(self, path="/", more=()):
        stream = self.request(path, more=more)
        socket = self.sockets[stream] = WebSocket(self, stream, CLIENT)
        head = await self.head(stream)
        return socket, head


@contextlib.asynccontextmanager
async def client(port, ca):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, cafile=ca, server_name="localhost")
    async with connect("127.0.0.1", port, configuration=configuration, create_protocol=Http3) as quic:
        yield quic


async def check_client(port, ca):
    """aioquic against `wireline serve`."""
    async with client(port, ca) as quic:
        socket, head = await quic.open(more=[(b"sec-websocket-protocol", b"echo-protocol")])
        checks.check("client: open", head[":status"] == "200", head[":status"])
        checks.check("client: the subprotocol", head.get("sec-websocket-protocol") == "echo-protocol")
        checks.check("client: the settings", quic.http.received_settings.get(8) == 1, str(quic.http.received_settings))
        checks.check("client: the echo", await socket.echoes())
        socket.close(4001, "done")
        await socket.ended.wait()
        closed = (socket.frames.close_code, socket.frames.close_reason)
        checks.check("client: close code and reason", closed == (4001, "done"), str(closed))

        many = [(await quic.open())[0] for _ in range(20)]
        echoed = await asyncio.gather(*(socket.echoes() for socket in many))
        checks.check("client: 20 on one connection", all(echoed) and len(echoed) == 20)
        quic._quic.reset_stream(many[0].stream, 0x10C)
        quic.transmit()
        checks.check("client: one that resets harms no other", all([await socket.echoes(["still there"]) for socket in many[1:]]))

        for name, expected, options in [
            ("another path", "404", {"path": "/elsewhere"}),
            ("another protocol", "501", {"protocol": b"webtransport"}),
            ("a foreign origin", "403", {"more": [(b"origin", b"https://evil.example")]}),
            ("the page", "200", {"protocol": None, "method": b"GET"}),
            ("a page that is not there", "404", {"protocol": None, "method": b"GET", "path": "/elsewhere"}),
        ]:
            head = await quic.head(quic.request(**options))
            checks.check(f"client: {name}", head[":status"] == expected, head[":status"])
        checks.check("client: others are unharmed", await many[1].echoes())


async def check_goodbye(server, ca):
    async with client(server.port, ca) as quic:
        socket, _ = await quic.open("/push")
        checks.check("client: the server pushes", "T" in await socket.messages.get())
        server.interrupt()
        await socket.ended.wait()
        checks.check("client: a server that leaves says 1001", socket.frames.close_code == 1001, str(socket.frames.close_code))
    status = await asyncio.to_thread(server.wait, PATIENCE)
    checks.check("client: the server ends", status == 0, str(status))


class EchoServer(Http3):
    """aioquic's end of `wireline connect`."""

    seen = {}

    def http_event_received(self, event):
        if not isinstance(event, HeadersReceived):
            return super().http_event_received(event)
        head = {name.decode(): value.decode() for name, value in event.headers}
        self.seen[head[":path"]] = head
        if head[":path"] == "/refused":
            self.http.send_headers(event.stream_id, [(b":status", b"401")])
            self.http.send_data(event.stream_id, b"who are you?\n", end_stream=True)
        elif head[":path"] == "/reset":
            self._quic.reset_stream(event.stream_id, 0x10B)
        else:
            self.http.send_headers(event.stream_id, [(b":status", b"200")])
            self.sockets[event.stream_id] = EchoSocket(self, event.stream_id, SERVER)
        self.transmit()


class EchoSocket(WebSocket):
    def received(self, data, is_end):
        super().received(data, is_end)
        while not self.messages.empty():
            self.send(self.messages.get_nowait())


async def run_connect(*arguments):
    """`wireline connect` with lines for its input: its status, what it printed, its diagnostics."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        wireline(), "connect", *arguments, stdin=pipe, stdout=pipe, stderr=pipe, limit=1 << 22
    )
    printed, said = await child.communicate(LINES.encode())
    return child.returncode, printed.decode(), said.decode()


async def check_server(ca, cert, key):
    """`wireline connect` against aioquic."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(cert, key)
    server = await serve_quic("127.0.0.1", 0, configuration=configuration, create_protocol=EchoServer)
    port = server._transport.get_extra_info("sockname")[1]
    status, printed, said = await run_connect(f"wss://localhost:{port}/chat?a=b", "--http3", "--ca", ca)
    checks.check("server: the echo", (status, printed) == (CLEAN, LINES), said[-200:])
    head = EchoServer.seen.get("/chat?a=b", {})
    asked = (head.get(":method"), head.get(":protocol"), head.get(":authority"), head.get("sec-websocket-version"))
    checks.check("server: what was asked", asked == ("CONNECT", "websocket", f"localhost:{port}", "13"), str(asked))
    wrong = {"host", "connection", "upgrade", "sec-websocket-key"} & head.keys()
    checks.check("server: no header of HTTP/1.1's", not wrong, str(wrong))
    status, _, said = await run_connect(f"wss://localhost:{port}/refused", "--http3", "--ca", ca)
    checks.check("server: a refusal is told whole", status == NO_CONNECTION and "401" in said and "who are you?" in said, said)
    status, _, said = await run_connect(f"wss://localhost:{port}/reset", "--http3", "--ca", ca)
    checks.check("server: a reset is told", status == NO_CONNECTION and "reset" in said, said)
    server.close()


async def check_announcement(port, ca):
    """What HTTP/1.1 says of HTTP/3."""
    reader, writer = await asyncio.open_connection(
        "localhost", port, ssl=ssl.create_default_context(cafile=ca), server_hostname="localhost"
    )
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    writer.close()
    checks.check("the page announces HTTP/3", f'alt-svc: h3=":{port}"' in head, head)


async def main():
    with tempfile.TemporaryDirectory() as directory:
        ca, cert, key = certificates(directory)
        options = ["--tls-cert", cert, "--tls-key", key, "--http3"]
        with serve(*options, log="http3-peers-server.log") as server:
            await check_announcement(server.port, ca)
            await check_client(server.port, ca)
            await check_goodbye(server, ca)
            log = server.log.read_text()
            checks.check("the log has the version", "opened over HTTP/3: echo" in log)
        await check_server(ca, cert, key)


if __name__ == "__main__":
    try:
        asyncio.run(asyncio.wait_for(main(), 120))
    except (Exception, asyncio.CancelledError) as error:
        checks.check("came to its end", False, repr(error))
    checks.finish()
