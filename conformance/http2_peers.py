#!/usr/bin/env python3
"""Python's `h2` as either end of WebSockets over HTTP/2 (RFC 8441), with the frames of `websockets`: what is echoed, closed,
refused and reset, with TLS and without, and many on one connection."""

import asyncio
import ssl
import tempfile

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RemoteSettingsChanged, RequestReceived, ResponseReceived
from h2.events import StreamEnded, StreamReset
from h2.settings import SettingCodes
from harness import Checks, serve
from http3_peers import WebSocket, run_connect
from proxies import CLEAN, LINES, NO_CONNECTION, certificates
from websockets.protocol import CLIENT, SERVER

# Within the windows that h2 has by default, there and back at once.
MESSAGES = ["My name is John", "Grüße, 世界 👋", "", b"", bytes(range(256)), "x" * 20_000, bytes(30_000)]

checks = Checks()


class Http2(asyncio.Protocol):
    """An HTTP/2 connection: heads and data go to whoever waits for their stream."""

    is_client = True

    def __init__(self):
        self.h2 = H2Connection(H2Configuration(client_side=self.is_client, header_encoding="utf-8"))
        self.http = self
        self.heads, self.sockets, self.unsent = {}, {}, {}
        self.settled = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        self.h2.initiate_connection()
        if not self.is_client:
            self.h2.update_settings({SettingCodes.ENABLE_CONNECT_PROTOCOL: 1})
        self.transmit()

    def connection_lost(self, _):
        for socket in self.sockets.values():
            socket.ended.set()

    def transmit(self):
        for stream in list(self.unsent):
            self.send_unsent(stream)
        self.transport.write(self.h2.data_to_send())

    def send_data(self, stream, data, end_stream):
        before, _ = self.unsent.get(stream, (b"", False))
        self.unsent[stream] = (before + data, end_stream)

    def send_unsent(self, stream):
        data, is_end = self.unsent[stream]
        while data and (room := min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)):
            self.h2.send_data(stream, data[:room])
            data = data[room:]
        if data:
            self.unsent[stream] = (data, is_end)
            return
        if is_end:
            self.h2.end_stream(stream)
        del self.unsent[stream]

    def data_received(self, data):
        for event in self.h2.receive_data(data):
            self.event_received(event)
        self.transmit()

    def event_received(self, event):
        if isinstance(event, RemoteSettingsChanged):
            self.settled.set()
        elif isinstance(event, ResponseReceived):
            self.head(event.stream_id).set_result(dict(event.headers))
        elif isinstance(event, DataReceived):
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if event.stream_id in self.sockets:
                self.sockets[event.stream_id].received(event.data, False)
        elif isinstance(event, StreamEnded) and event.stream_id in self.sockets:
            self.sockets[event.stream_id].received(b"", True)
        elif isinstance(event, StreamReset):
            self.unsent.pop(event.stream_id, None)
            if event.stream_id in self.sockets:
                self.sockets[event.stream_id].ended.set()

    def head(self, stream):
        return self.heads.setdefault(stream, asyncio.get_running_loop().create_future())

    def request(self, path="/", protocol="websocket", method="CONNECT", more=()):
        stream = self.h2.get_next_available_stream_id()
        head = [
            (":method", method),
            *([(":protocol", protocol)] if protocol else []),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", path),
            *([("sec-websocket-version", "13")] if protocol else []),
            *more,
        ]
        self.h2.send_headers(stream, head, end_stream=not protocol)
        self.transmit()
        return stream

    async def open(self, path="/", more=()):
        stream = self.request(path, more=more)
        socket = self.sockets[stream] = WebSocket(self, stream, CLIENT)
        return socket, await self.head(stream)


async def client(port, tls=None):
    loop = asyncio.get_running_loop()
    _, http = await loop.create_connection(Http2, "127.0.0.1", port, ssl=tls, server_hostname="localhost" if tls else None)
    await http.settled.wait()
    return http


async def check_client(name, port, tls=None):
    """h2 against `wireline serve`."""
    http = await client(port, tls)
    enabled = http.h2.remote_settings.enable_connect_protocol
    checks.check(f"{name}: the server enables CONNECT", enabled == 1, str(enabled))
    socket, head = await http.open(more=[("sec-websocket-protocol", "echo-protocol")])
    checks.check(f"{name}: open", head[":status"] == "200", head[":status"])
    checks.check(f"{name}: the subprotocol", head.get("sec-websocket-protocol") == "echo-protocol")
    checks.check(f"{name}: the echo", await socket.echoes(MESSAGES))
    socket.close(4001, "done")
    await socket.ended.wait()
    closed = (socket.frames.close_code, socket.frames.close_reason)
    checks.check(f"{name}: close code and reason", closed == (4001, "done"), str(closed))
    many = [(await http.open())[0] for _ in range(20)]
    echoed = await asyncio.gather(*(socket.echoes(MESSAGES) for socket in many))
    checks.check(f"{name}: 20 on one connection", all(echoed) and len(echoed) == 20)
    http.h2.reset_stream(many[0].stream, ErrorCodes.CANCEL)
    http.transmit()
    others = [await socket.echoes(["still there"]) for socket in many[1:]]
    checks.check(f"{name}: one that resets harms no other", all(others))
    for what, expected, options in [
        ("another path", "404", {"path": "/elsewhere"}),
        ("another protocol", "501", {"protocol": "connect-udp"}),
        ("a foreign origin", "403", {"more": [("origin", "https://evil.example")]}),
        ("the page", "200", {"protocol": None, "method": "GET"}),
    ]:
        head = await http.head(http.request(**options))
        checks.check(f"{name}: {what}", head[":status"] == expected, head[":status"])
    checks.check(f"{name}: others are unharmed", await many[1].echoes(MESSAGES))


class EchoServer(Http2):
    """h2's end of `wireline connect`."""

    is_client = False
    seen = {}

    def event_received(self, event):
        if not isinstance(event, RequestReceived):
            return super().event_received(event)
        head = dict(event.headers)
        self.seen[head[":path"]] = head
        stream = event.stream_id
        if head[":path"] == "/refused":
            self.h2.send_headers(stream, [(":status", "401")])
            self.send_data(stream, b"who are you?\n", end_stream=True)
        elif head[":path"] == "/reset":
            self.h2.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)
        elif head[":path"] == "/away":
            self.h2.close_connection(ErrorCodes.NO_ERROR, last_stream_id=0)
        else:
            self.h2.send_headers(stream, [(":status", "200")])
            self.sockets[stream] = EchoSocket(self, stream, SERVER)


class EchoSocket(WebSocket):
    def received(self, data, is_end):
        super().received(data, is_end)
        while not self.messages.empty():
            self.send(self.messages.get_nowait())


async def check_server(name, scheme, tls, *options):
    """`wireline connect` against h2."""
    server = await asyncio.get_running_loop().create_server(EchoServer, "127.0.0.1", 0, ssl=tls)
    url = f"{scheme}://localhost:{server.sockets[0].getsockname()[1]}"
    status, printed, said = await run_connect(f"{url}/chat?a=b", "--http2", *options)
    checks.check(f"{name}: the echo", (status, printed) == (CLEAN, LINES), said[-200:])
    head = EchoServer.seen.get("/chat?a=b", {})
    asked = (head.get(":method"), head.get(":protocol"), head.get("sec-websocket-version"))
    checks.check(f"{name}: what was asked", asked == ("CONNECT", "websocket", "13"), str(asked))
    wrong = {"host", "connection", "upgrade", "sec-websocket-key"} & head.keys()
    checks.check(f"{name}: no header of HTTP/1.1's", not wrong, str(wrong))
    status, _, said = await run_connect(f"{url}/refused", "--http2", *options)
    whole = status == NO_CONNECTION and "401" in said and "who are you?" in said
    checks.check(f"{name}: a refusal is told whole", whole, said)
    for path in ["/reset", "/away"]:
        status, _, said = await run_connect(f"{url}{path}", "--http2", *options)
        checks.check(f"{name}: {path[1:]} is told", status == NO_CONNECTION and "handshake failed" in said, said)
    server.close()


async def main():
    with tempfile.TemporaryDirectory() as directory:
        ca, cert, key = certificates(directory)
        with serve("--http2", log="http2-peers-plain.log") as server:
            await check_client("client, prior knowledge", server.port)
        with serve("--tls-cert", cert, "--tls-key", key, log="http2-peers-tls.log") as server:
            trusting = ssl.create_default_context(cafile=ca)
            trusting.set_alpn_protocols(["h2"])
            await check_client("client, TLS", server.port, trusting)
        await check_server("server, prior knowledge", "ws", None)
        proving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        proving.load_cert_chain(cert, key)
        proving.set_alpn_protocols(["h2"])
        await check_server("server, TLS", "wss", proving, "--ca", ca)


if __name__ == "__main__":
    try:
        asyncio.run(asyncio.wait_for(main(), 120))
    except (Exception, asyncio.CancelledError) as error:
        checks.check("came to its end", False, repr(error))
    checks.finish()
