#!/usr/bin/env python3
"""Python's `websockets` as either end, with compression and without, with context takeover and without."""

import asyncio
import json
import random
import re
import subprocess
import threading

from harness import Checks, serve, wireline
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve as serve_python
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory

PATIENCE = 20

# Name, and the parameters as both of the package's factories know them.
SETTINGS = [
    ("takeover", {}),
    ("no takeover", {"server_no_context_takeover": True, "client_no_context_takeover": True}),
    ("no takeover of the server", {"server_no_context_takeover": True}),
    ("no takeover of the client", {"client_no_context_takeover": True}),
    ("small windows", {"server_max_window_bits": 9, "client_max_window_bits": 9}),
    ("large windows", {"server_max_window_bits": 15, "client_max_window_bits": 15}),
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


async def as_client(name, port, extensions, is_compressed):
    uri = f"ws://127.0.0.1:{port}/"
    async with asyncio.timeout(PATIENCE):
        socket = await connect(uri, compression=None, extensions=extensions, max_size=None, proxy=None)
        agreed = [extension.name for extension in socket.protocol.extensions]
        checks.check(f"client, {name}: agreed", agreed == (["permessage-deflate"] if is_compressed else []), str(agreed))
        checks.check(f"client, {name}: echoed", await echoed(socket))
        await socket.close(4001, "done")
        checks.check(f"client, {name}: close", (socket.close_code, socket.close_reason) == (4001, "done"))


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


async def as_server(name, extensions, is_compressed):
    seen = []

    async def echo(socket):
        seen.append([extension.name for extension in socket.protocol.extensions])
        async for message in socket:
            await socket.send(message)
        seen.append(socket.close_code)

    lines = "".join(f"{text}\n" for text in messages() if isinstance(text, str) and text)
    server = await serve_python(echo, "127.0.0.1", 0, compression=None, extensions=extensions, max_size=None)
    async with server:
        port = server.sockets[0].getsockname()[1]
        command = [wireline(), "connect", f"ws://127.0.0.1:{port}/", *(["--deflate"] if is_compressed else [])]
        status, answers, diagnostics = await asyncio.to_thread(talk, command, lines)
        checks.check(f"server, {name}: echoed", answers == lines)
        checks.check(f"server, {name}: clean", status == 0, f"status {status}")
    agreed = ["permessage-deflate"] if is_compressed else []
    checks.check(f"server, {name}: agreed, and closed with 1000", seen == [agreed, 1000], str(seen))
    if is_compressed:
        saved = re.search(r"[\d.]+ %", diagnostics)
        checks.check(f"server, {name}: the ratio is told", saved is not None, saved and saved[0])


async def main():
    with serve(log="python-peers/plain.log") as server:
        await as_client("plain", server.port, None, False)
    await as_server("plain", None, False)
    for option in ([], ["--no-context-takeover"]):
        with serve("--deflate", *option, log="python-peers/deflate.log") as server:
            for name, parameters in SETTINGS:
                factory = ClientPerMessageDeflateFactory(**{"client_max_window_bits": True, **parameters})
                await as_client(" ".join([name, *option]), server.port, [factory], True)
    for name, parameters in SETTINGS:
        await as_server(name, [ServerPerMessageDeflateFactory(**parameters)], True)
    checks.finish()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (OSError, TimeoutError, RuntimeError) as error:
        checks.check("came to its end", False, repr(error))
        checks.finish()
