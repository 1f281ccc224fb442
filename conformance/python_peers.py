#!/usr/bin/env python3
"""Python's `websockets` as either end, with compression and without, with context takeover and without, and
with windows of many sizes; what was agreed on is checked to the bit."""

import asyncio
import contextlib
import functools
import json
import random
import re
import subprocess
import threading
import time

from harness import Checks, peer_client, serve, wireline
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve as serve_python
from websockets.exceptions import ConnectionClosedError
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)

PATIENCE = 20

# Name, and the parameters as both of the package's factories know them.
SETTINGS = [
    ("takeover", {}),
    ("no takeover", {"server_no_context_takeover": True, "client_no_context_takeover": True}),
    ("no takeover of the server", {"server_no_context_takeover": True}),
    ("no takeover of the client", {"client_no_context_takeover": True}),
    ("9 bits", {"server_max_window_bits": 9, "client_max_window_bits": 9}),
    ("12 bits", {"server_max_window_bits": 12, "client_max_window_bits": 12}),
    ("15 bits", {"server_max_window_bits": 15, "client_max_window_bits": 15}),
    ("10 bits of the server, 14 of the client", {"server_max_window_bits": 10, "client_max_window_bits": 14}),
    ("14 bits of the server, 10 of the client", {"server_max_window_bits": 14, "client_max_window_bits": 10}),
]
# No window of the client is mentioned, so that the server must not.
SILENT = ("nothing on the client's window", {"client_max_window_bits": None})

# What wireline's server allows, and what its client may ask of another server.
SERVER_BITS = 12
WISHES = [
    ("", []),
    (", takeover refused", ["--no-context-takeover"]),
    (", 12 bits asked for", ["--window", "12"]),
    (", both", ["--no-context-takeover", "--window", "12"]),
]

checks = Checks()


def objects(size, count):
    """JSON of about this size, alike and never the same; a letter of each length of UTF-8 in each."""
    numbers = random.Random(size)
    for _ in range(count):
        items = []
        while len(json.dumps(items)) < size - 40:
            items.append({"id": numbers.randrange(10**6), "name": "線 é 𝄞", "price": numbers.random()})
        yield json.dumps({"type": "update", "items": items}, ensure_ascii=False)


@functools.cache
def messages():
    texts = ["", "plain", *(text for size in (100, 300, 4000, 70_000) for text in objects(size, 5))]
    noise = random.Random(1).randbytes(3000)
    return [*texts, noise, b"", noise[:10], *texts, *(text.encode() for text in texts)]


async def echoed(socket):
    for message in messages():
        await socket.send(message)
        if await socket.recv() != message:
            return False
    return True


def answered_by_wireline(offer, takeover):
    """What a client should make of wireline's answer."""
    server_bits, client_bits = offer.get("server_max_window_bits"), offer["client_max_window_bits"]
    return PerMessageDeflate(
        remote_no_context_takeover=not takeover or "server_no_context_takeover" in offer,
        local_no_context_takeover=not takeover or "client_no_context_takeover" in offer,
        remote_max_window_bits=min(server_bits, SERVER_BITS) if server_bits else 15,
        local_max_window_bits=SERVER_BITS if client_bits is True else min(client_bits, SERVER_BITS) if client_bits else 15,
    )


def answered_by_python(parameters, wishes):
    """What a server should make of wireline's offer."""
    wished_bits = 12 if "--window" in wishes else 15
    return PerMessageDeflate(
        remote_no_context_takeover="client_no_context_takeover" in parameters,
        local_no_context_takeover="server_no_context_takeover" in parameters or "--no-context-takeover" in wishes,
        remote_max_window_bits=parameters.get("client_max_window_bits", 15),
        local_max_window_bits=min(parameters.get("server_max_window_bits", 15), wished_bits),
    )


def check_agreed(name, extensions, expected):
    seen = ", ".join(map(repr, extensions))
    checks.check(f"{name}: agreed", seen == (repr(expected) if expected else ""), seen)


async def as_client(name, port, offer, takeover=None):
    uri = f"ws://127.0.0.1:{port}/"
    extensions = None if offer is None else [ClientPerMessageDeflateFactory(**offer)]
    async with asyncio.timeout(PATIENCE):
        socket = await connect(uri, compression=None, extensions=extensions, max_size=None, proxy=None)
        expected = None if offer is None else answered_by_wireline(offer, takeover)
        check_agreed(f"client, {name}", socket.protocol.extensions, expected)
        checks.check(f"client, {name}: echoed", await echoed(socket))
        await socket.close(4001, "done")
        checks.check(f"client, {name}: close", (socket.close_code, socket.close_reason) == (4001, "done"))


async def check_told(server, name, count):
    """The server's log has the code and the reason that each of its clients closed with."""
    told = lambda: re.findall(r"closed cleanly by the peer, .*", server.log.read_text())
    deadline = time.monotonic() + PATIENCE
    while len(told()) < count and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    well = [line for line in told() if "4001" in line and "done" in line]
    checks.check(f"server of {name}: told 4001 and done each time", len(well) == count, f"{len(well)} of {count}")


def talk(command, lines):
    """The client's status, what it printed, and its diagnostics. Its input ends when the last answer is there."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        overdue = threading.Timer(PATIENCE, client.kill)
        overdue.start()
        writer = threading.Thread(target=lambda: (client.stdin.write(lines), client.stdin.flush()))
        writer.start()
        answers = "".join(client.stdout.readline() for _ in lines.splitlines())
        writer.join()
        client.stdin.close()
        answers += client.stdout.read()
        diagnostics = client.stderr.read()
        overdue.cancel()
        return client.wait(), answers, diagnostics


class EchoServer:
    """A server of the package's, and what it saw of its last connection."""

    def __init__(self, extensions):
        self.extensions = extensions
        self.agreed = self.close = None
        self.kinds = set()

    async def echo(self, socket):
        self.agreed, self.kinds = socket.protocol.extensions, set()
        with contextlib.suppress(ConnectionClosedError):  # as other codes than 1000 and 1001 show
            async for message in socket:
                self.kinds.add(type(message))
                await socket.send(message)
        self.close = (socket.close_code, socket.close_reason)

    async def serve(self, talk_to):
        options = {"compression": None, "extensions": self.extensions, "max_size": None}
        async with await serve_python(self.echo, "127.0.0.1", 0, **options) as server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.to_thread(talk_to, f"ws://127.0.0.1:{port}/")


async def as_server_of_lines(name, parameters):
    """`wireline connect`, which sends text and tells the ratio."""
    server = EchoServer(None if parameters is None else [ServerPerMessageDeflateFactory(**parameters)])
    lines = "".join(f"{text}\n" for text in messages() if isinstance(text, str) and text)
    options = [] if parameters is None else ["--deflate"]
    status, answers, diagnostics = await server.serve(lambda url: talk([wireline(), "connect", url, *options], lines))
    checks.check(f"server, {name}: echoed", answers == lines)
    checks.check(f"server, {name}: clean", status == 0, f"status {status}")
    check_agreed(f"server, {name}", server.agreed, None if parameters is None else answered_by_python(parameters, []))
    checks.check(f"server, {name}: closed with 1000", server.close == (1000, ""), str(server.close))
    if parameters is not None:
        saved = re.search(r"[\d.]+ %", diagnostics)
        checks.check(f"server, {name}: the ratio is told", saved is not None, saved and saved[0])


async def as_server_of_all(name, parameters, wishes):
    """The example `peer_client`, which sends text, bytes and noise, and checks what comes back."""
    server = EchoServer([ServerPerMessageDeflateFactory(**parameters)])
    run = lambda url: subprocess.run(
        [peer_client(), url, "--deflate", *wishes], capture_output=True, text=True, timeout=PATIENCE
    )
    client = await server.serve(run)
    checks.check(f"server, {name}: text and bytes echoed", client.returncode == 0, client.stderr.strip())
    check_agreed(f"server, {name}", server.agreed, answered_by_python(parameters, wishes))
    checks.check(f"server, {name}: got both kinds", server.kinds == {str, bytes})
    checks.check(f"server, {name}: closed with 4001 done", server.close == (4001, "done"), str(server.close))
    sizes = [int(number) for number in re.findall(r"(?:sent|received) (\d+) bytes as (\d+)", client.stdout) for number in number]
    checks.check(f"server, {name}: smaller both ways", len(sizes) == 4 and sizes[1] < sizes[0] and sizes[3] < sizes[2])


async def main():
    with serve(log="python-peers/plain.log") as server:
        await as_client("plain", server.port, None)
        await check_told(server, "plain", 1)
    await as_server_of_lines("plain", None)
    for options in ([], ["--no-context-takeover"]):
        with serve("--deflate", *options, log="python-peers/deflate.log") as server:
            offers = [(name, {"client_max_window_bits": True, **parameters}) for name, parameters in [*SETTINGS, SILENT]]
            for name, offer in offers:
                await as_client(" ".join([name, *options]), server.port, offer, takeover=not options)
            await check_told(server, " ".join(["--deflate", *options]), len(offers))
    for name, parameters in SETTINGS:
        await as_server_of_lines(name, parameters)
        for wish, wishes in WISHES:
            await as_server_of_all(name + wish, parameters, wishes)
    checks.finish()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (OSError, TimeoutError, RuntimeError) as error:
        checks.check("came to its end", False, repr(error))
        checks.finish()
