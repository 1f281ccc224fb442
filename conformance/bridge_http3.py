#!/usr/bin/env python3
"""Carries WebSockets between HTTP/1.1 and HTTP/3 (RFC 9220), with aioquic, for judges that know only the first: it
ends the opening handshake on one side and begins another on the other, and copies what follows as it is.

    bridge_http3.py to PORT CA            takes HTTP/1.1, asks a server on that UDP port over HTTP/3
    bridge_http3.py from PORT CERT KEY    takes HTTP/3, asks a server on that port over HTTP/1.1
"""

import asyncio
import base64
import hashlib
import os
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.asyncio import serve as serve_quic
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamReset

# What of a handshake's headers is the same on either side.
KEPT = ["sec-websocket-version", "sec-websocket-protocol", "sec-websocket-extensions", "user-agent", "server"]
WINDOW = 1 << 24


def kept(headers):
    return [(name.encode(), headers[name].encode()) for name in KEPT if name in headers]


def text(first, headers):
    lines = [first, *(f"{name.decode()}: {value.decode()}" for name, value in headers)]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


async def read_head(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    return head[0], {name.lower(): value for name, value in headers.items()}


class Bridge(QuicConnectionProtocol):
    """An HTTP/3 connection; each of its streams has a TCP connection on the other side."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.http = H3Connection(self._quic)
        self.heads, self.writers, self.early = {}, {}, {}

    def quic_event_received(self, event):
        if isinstance(event, StreamReset) and event.stream_id in self.writers:
            self.writers.pop(event.stream_id).close()
        for event in self.http.handle_event(event):
            if isinstance(event, HeadersReceived):
                headers = {name.decode(): value.decode() for name, value in event.headers}
                self.head_received(event.stream_id, headers)
            elif isinstance(event, DataReceived):
                self.pass_on(event.stream_id, event.data, event.stream_ended)

    def head_received(self, stream, headers):
        self.heads[stream].set_result(headers)

    def pass_on(self, stream, data, is_end):
        if stream not in self.writers:
            self.early.setdefault(stream, []).append((data, is_end))
            return
        writer = self.writers[stream]
        if data:
            writer.write(data)
        if is_end and writer.can_write_eof():
            writer.write_eof()

    async def join(self, stream, reader, writer):
        """Copies until both sides have ended."""
        self.writers[stream] = writer
        for data, is_end in self.early.pop(stream, []):
            self.pass_on(stream, data, is_end)
        try:
            while data := await reader.read(1 << 16):
                self.http.send_data(stream, data, end_stream=False)
                self.transmit()
            self.http.send_data(stream, b"", end_stream=True)
        except ConnectionError:
            self._quic.reset_stream(stream, 0x10C)
        self.transmit()


async def take_http1(quic, reader, writer):
    try:
        first, headers = await read_head(reader)
    except asyncio.IncompleteReadError:
        return writer.close()
    stream = quic._quic.get_next_available_stream_id()
    quic.heads[stream] = asyncio.get_running_loop().create_future()
    head = [
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", first.split(" ")[1].encode()),
    ]
    quic.http.send_headers(stream, head + kept(headers))
    quic.transmit()
    answer = await quic.heads[stream]
    if answer[":status"] != "200":
        writer.write(text(f"HTTP/1.1 {answer[':status']} Refused", [(b"content-length", b"0")]))
        return writer.close()
    key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest())
    switching = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade"), (b"sec-websocket-accept", accept)]
    writer.write(text("HTTP/1.1 101 Switching Protocols", switching + kept(answer)))
    await quic.join(stream, reader, writer)


async def to_http3(port, ca):
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, cafile=ca, server_name="localhost", max_data=WINDOW, max_stream_data=WINDOW
    )
    async with connect("127.0.0.1", port, configuration=configuration, create_protocol=Bridge) as quic:
        listener = await asyncio.start_server(lambda reader, writer: take_http1(quic, reader, writer), "127.0.0.1", 0)
        print(f"listening on 127.0.0.1:{listener.sockets[0].getsockname()[1]}", flush=True)
        await listener.serve_forever()


class FromHttp3(Bridge):
    port = None

    def head_received(self, stream, headers):
        asyncio.ensure_future(self.ask_http1(stream, headers))

    async def ask_http1(self, stream, headers):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        asked = [
            (b"host", headers[":authority"].encode()),
            (b"upgrade", b"websocket"),
            (b"connection", b"Upgrade"),
            (b"sec-websocket-key", base64.b64encode(os.urandom(16))),
        ]
        writer.write(text(f"GET {headers[':path']} HTTP/1.1", asked + kept(headers)))
        first, answer = await read_head(reader)
        status = b"200" if " 101 " in first else first.split(" ")[1].encode()
        self.http.send_headers(stream, [(b":status", status), *kept(answer)])
        self.transmit()
        await self.join(stream, reader, writer)


async def from_http3(port, cert, key):
    FromHttp3.port = port
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=H3_ALPN, max_data=WINDOW, max_stream_data=WINDOW
    )
    configuration.load_cert_chain(cert, key)
    server = await serve_quic("127.0.0.1", 0, configuration=configuration, create_protocol=FromHttp3)
    print(f"listening on 127.0.0.1:{server._transport.get_extra_info('sockname')[1]}", flush=True)
    await asyncio.Event().wait()


direction, port, *files = sys.argv[1:]
asyncio.run({"to": to_http3, "from": from_http3}[direction](int(port), *files))
