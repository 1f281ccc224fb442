#!/usr/bin/env python3
"""wireline's client through other people's proxies: tinyproxy by CONNECT, microsocks by SOCKS5, plain and TLS,
with the right password, a wrong one, and none; and what the environment says of proxies."""

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from harness import REPORTS, Checks, serve, wireline

checks = Checks()
LINES = "My name is John\nGrüße, 世界 👋\n" + "x" * 300_000 + "\n"

# What `wireline connect --help` says of its exit status.
CLEAN, NO_CONNECTION = 0, 3


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(log, port, *command):
    """A program that does not say when it listens."""
    with (REPORTS / log).open("w") as output:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if time.monotonic() > deadline or child.poll() is not None:
                        raise RuntimeError(f"{command[0]} does not listen; see {log}") from None
                    time.sleep(0.05)
            yield
        finally:
            child.terminate()
            child.wait()


@contextlib.contextmanager
def tinyproxy(directory, target_ports, credentials):
    port = free_port()
    config = Path(directory) / "tinyproxy.conf"
    user, password = credentials
    allowed = "\n".join(f"ConnectPort {allowed}" for allowed in target_ports)
    config.write_text(
        f"Port {port}\nListen 127.0.0.1\nTimeout 600\nAllow 127.0.0.1\nMaxClients 20\n"
        f"BasicAuth {user} {password}\n{allowed}\n"
    )
    with running("proxies-tinyproxy.log", port, "tinyproxy", "-d", "-c", str(config)):
        yield port


@contextlib.contextmanager
def microsocks(credentials):
    port = free_port()
    user, password = credentials
    command = ["microsocks", "-i", "127.0.0.1", "-p", str(port), "-u", user, "-P", password]
    with running("proxies-microsocks.log", port, *command):
        yield port


def connect(url, *options, env=None):
    """`wireline connect`, with nothing said of proxies by the environment but `env`."""
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(
        [wireline(), "connect", url, *options],
        input=LINES,
        capture_output=True,
        text=True,
        timeout=30,
        env=clean | (env or {}),
    )


def leads(name, done):
    checks.check(f"{name}: the echo comes back", done.stdout == LINES, f"{len(done.stdout)} characters")
    checks.check(f"{name}: closed cleanly", done.returncode == CLEAN, done.stderr.strip()[-200:])


def refused(name, done, *words):
    said = done.stderr.strip()
    checks.check(f"{name}: no connection", done.returncode == NO_CONNECTION and not done.stdout, f"{done.returncode}")
    checks.check(f"{name}: it says whose fault it is", all(word in said for word in words), said[-200:])


def certificates(directory):
    """A certificate authority of our own, and a certificate for localhost that it vouches for."""
    at = lambda name: str(Path(directory) / name)
    fresh = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl = lambda *words: subprocess.run(["openssl", "req", "-x509", *fresh, *words], check=True, capture_output=True)
    openssl("-subj", "/CN=wireline test CA", "-keyout", at("ca.key"), "-out", at("ca.pem"))
    openssl(
        *["-subj", "/CN=localhost", "-keyout", at("key.pem"), "-out", at("cert.pem")],
        *["-CA", at("ca.pem"), "-CAkey", at("ca.key")],
        *["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"],
    )
    return at("ca.pem"), at("cert.pem"), at("key.pem")


class Relay:
    """A proxy that leads every CONNECT to one place, so that names which exist nowhere can be asked for."""

    def __init__(self, target_port):
        self.asked, self.target_port = [], target_port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        self.asked.append(head.split(b"\r\n")[0].decode())
        onward = socket.create_connection(("127.0.0.1", self.target_port))
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for source, sink in [(client, onward), (onward, client)]:
            threading.Thread(target=self.copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def copy(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def real_proxies(directory, plain, secure, ca):
    urls = {"ws": [f"ws://localhost:{plain}/"], "wss": [f"wss://localhost:{secure}/", "--ca", ca]}
    me = ("me", "secret")
    with tinyproxy(directory, [plain, secure], me) as http, microsocks(me) as socks:
        for proxy, port in [("http", http), ("socks5", socks), ("socks5h", socks)]:
            for scheme, words in urls.items():
                done = connect(*words, "--proxy", f"{proxy}://me:secret@127.0.0.1:{port}")
                leads(f"{scheme} through {proxy}", done)
        ws = urls["ws"]
        wrong = connect(*ws, "--proxy", f"http://me:wrong@127.0.0.1:{http}")
        refused("tinyproxy, a wrong password", wrong, f"127.0.0.1:{http}", "401")
        none = connect(*ws, "--proxy", f"http://127.0.0.1:{http}")
        refused("tinyproxy, no password", none, f"127.0.0.1:{http}", "407")
        forbidden = connect("ws://localhost:9/", "--proxy", f"http://me:secret@127.0.0.1:{http}")
        refused("tinyproxy, a port that it does not allow", forbidden, f"127.0.0.1:{http}", "403")
        wrong = connect(*ws, "--proxy", f"socks5://me:wrong@127.0.0.1:{socks}")
        refused("microsocks, a wrong password", wrong, f"127.0.0.1:{socks}", "credentials")
        none = connect(*ws, "--proxy", f"socks5://127.0.0.1:{socks}")
        refused("microsocks, no password", none, f"127.0.0.1:{socks}")
        nobody = connect(f"ws://localhost:{free_port()}/", "--proxy", f"socks5://me:secret@127.0.0.1:{socks}")
        refused("microsocks, nobody listens behind it", nobody, f"127.0.0.1:{socks}", "refused")
    gone = connect(*urls["ws"], "--proxy", f"http://127.0.0.1:{free_port()}")
    refused("a proxy that is not there", gone, "proxy", "refused")


def environment(plain):
    relay = Relay(plain)
    proxy = f"http://127.0.0.1:{relay.port}"
    nowhere = f"ws://server.test:{plain}/"
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]:
        leads(f"{name}", connect(nowhere, env={name: proxy}))
    asked = [f"CONNECT server.test:{plain} HTTP/1.1"] * 4
    checks.check("the environment's proxy was asked", relay.asked == asked, relay.asked[-1] if relay.asked else "")
    for env in [{"HTTPS_PROXY": proxy}, {"HTTP_PROXY": proxy, "NO_PROXY": "other.example,.test"}]:
        refused(f"{', '.join(env)}: not for this host", connect(nowhere, env=env), "server.test")
    refused("--no-proxy", connect(nowhere, "--no-proxy", env={"ALL_PROXY": proxy}), "server.test")
    for host in ["127.0.0.1", "localhost"]:
        leads(f"{host} needs no proxy", connect(f"ws://{host}:{plain}/", env={"ALL_PROXY": proxy}))
    checks.check("the proxy was not asked again", relay.asked == asked, f"{len(relay.asked)} times in all")


def main():
    REPORTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        ca, cert, key = certificates(directory)
        tls = ["--tls-cert", cert, "--tls-key", key]
        with serve(log="proxies-plain.log") as plain, serve(*tls, log="proxies-tls.log") as secure:
            real_proxies(directory, plain.port, secure.port, ca)
            environment(plain.port)
    checks.finish()


if __name__ == "__main__":
    main()
