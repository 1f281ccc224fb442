#!/usr/bin/env python3
"""wireline's TLS with OpenSSL's: `openssl s_client` for a client, `openssl s_server` for a server. Client certificates
wanted and given, or not; certificates by name; new ones at SIGHUP; sessions resumed; in TLS 1.3 and 1.2."""

import os
import re
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from harness import REPORTS, Checks, serve, wireline

checks = Checks()
REQUEST = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()
VERSIONS = ["-tls1_3", "-tls1_2"]

# What `wireline connect --help` says of its exit status.
NO_CONNECTION = 3


class Authority:
    """Vouches for others, with files in a directory."""

    def __init__(self, directory, name):
        self.directory, self.name = Path(directory), name
        self.ca, self.ca_key = self.file(f"{name}.pem"), self.file(f"{name}.key")
        self.openssl("-subj", f"/CN={name}", "-keyout", self.ca_key, "-out", self.ca)

    def file(self, name):
        return str(self.directory / name)

    def openssl(self, *words):
        fresh = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        subprocess.run(["openssl", "req", "-x509", *fresh, *words], check=True, capture_output=True)

    def vouch_for(self, file, name):
        """The files of a certificate for `name`, and of its key."""
        cert, key = self.file(f"{file}-cert.pem"), self.file(f"{file}-key.pem")
        extensions = ["-addext", f"subjectAltName=DNS:{name}", "-addext", "basicConstraints=critical,CA:FALSE"]
        issuer = ["-CA", self.ca, "-CAkey", self.ca_key]
        self.openssl("-subj", f"/CN={name}", *issuer, *extensions, "-keyout", key, "-out", cert)
        return cert, key


def s_client(port, *options, name="localhost"):
    """What `openssl s_client` says that asks for a WebSocket and reads until the answer, or the end."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", name, "-ign_eof", *options]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = b""
    try:
        child.stdin.write(REQUEST)
        child.stdin.flush()
        os.set_blocking(child.stdout.fileno(), False)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and b"\r\n\r\n" not in said.partition(b"HTTP/1.1 ")[2]:
            more = child.stdout.read()
            said += more or b""
            if more == b"":
                break
            time.sleep(0.02)
    except BrokenPipeError:
        pass
    finally:
        child.kill()
        child.wait()
    return said.decode(errors="replace")


def let_in(name, said):
    checks.check(name, "HTTP/1.1 101 " in said, said[-200:] if "HTTP/1.1 101 " not in said else "")


def client_certificates(authority, stranger, cert, key):
    mine, my_key = authority.vouch_for("me", "me.example")
    others, others_key = stranger.vouch_for("stranger", "me.example")
    tls = ["--tls-cert", cert, "--tls-key", key, "--client-ca", authority.ca]
    with serve(*tls, log="openssl-client-ca.log") as server:
        for version in VERSIONS:
            known = s_client(server.port, version, "-cert", mine, "-key", my_key)
            let_in(f"s_client {version} with its certificate is let in", known)
            named = f"CN = {authority.name}" in known.partition("Acceptable client certificate CA names")[2]
            checks.check(f"s_client {version} is told whose certificates are wanted", named)
            nobody = s_client(server.port, version)
            ok = "HTTP/1.1" not in nobody and "certificate required" in nobody
            checks.check(f"s_client {version} without one is told that it is required", ok)
            foreign = s_client(server.port, version, "-cert", others, "-key", others_key)
            ok = "HTTP/1.1" not in foreign and "unknown ca" in foreign
            checks.check(f"s_client {version} with a stranger's is told that its CA is not known", ok)


def names_and_reload(authority, cert, key):
    other, other_key = authority.vouch_for("wild", "*.other.example")
    tls = ["--tls-cert", cert, "--tls-key", key, "--tls-cert", other, "--tls-key", other_key]
    with serve(*tls, log="openssl-names.log") as server:
        for name, subject in [
            ("localhost", "localhost"),
            ("a.other.example", "*.other.example"),
            ("a.b.other.example", "localhost"),
            ("nowhere.example", "localhost"),
        ]:
            said = s_client(server.port, name=name)
            checks.check(f"who asks for {name} gets the certificate of {subject}", f"subject=CN = {subject}\n" in said)
        before = s_client(server.port).partition("BEGIN CERTIFICATE")[2].partition("END")[0]
        authority.vouch_for("server", "localhost")
        server.hang_up()
        deadline, after = time.monotonic() + 5, before
        while after == before and time.monotonic() < deadline:
            after = s_client(server.port).partition("BEGIN CERTIFICATE")[2].partition("END")[0]
        checks.check("SIGHUP brings the new certificate", before != "" and after not in ("", before))


def resumption(cert, key, directory):
    with serve("--tls-cert", cert, "--tls-key", key, log="openssl-resumption.log") as server:
        for version in VERSIONS:
            session = str(Path(directory) / f"session{version}.pem")
            first = s_client(server.port, version, "-sess_out", session)
            again = s_client(server.port, version, "-sess_in", session)
            ok = "New, TLSv1" in first and "Reused, TLSv1" in again
            checks.check(f"s_client {version} resumes its session", ok)
            let_in(f"s_client {version} is let in on it", again)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def s_server(authority, stranger, cert, key):
    """`openssl s_server -www` answers 200 with what TLS came to: no WebSocket, but a whole refusal to read."""
    mine, my_key = authority.vouch_for("me", "me.example")
    others, others_key = stranger.vouch_for("stranger", "me.example")
    for version in VERSIONS:
        port = free_port()
        log = (REPORTS / f"openssl-s_server{version}.log").open("w")
        wanted = ["-Verify", "1", "-verify_return_error", "-CAfile", authority.ca]
        command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", cert, "-key", key, "-www", version]
        child = subprocess.Popen([*command, *wanted], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            for name, options, words in [
                ("with its certificate is answered", ["--cert", mine, "--key", my_key], "200"),
                ("without one is told that one is wanted", [], "certificate"),
                ("with a stranger's is told so", ["--cert", others, "--key", others_key], "certificate"),
            ]:
                command = [wireline(), "connect", f"wss://localhost:{port}/", "--ca", authority.ca, *options]
                done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
                ok = done.returncode == NO_CONNECTION and words in done.stderr
                checks.check(f"s_server {version}: a client {name}", ok, done.stderr.splitlines()[0][:160])
        finally:
            child.terminate()
            child.wait()
            log.close()


def main():
    REPORTS.mkdir(parents=True, exist_ok=True)
    version = subprocess.run(["openssl", "version"], check=True, capture_output=True, text=True).stdout
    print(re.sub(r"\s*\(.*", "", version.strip()))
    with tempfile.TemporaryDirectory() as directory:
        authority, stranger = Authority(directory, "ours"), Authority(directory, "theirs")
        cert, key = authority.vouch_for("server", "localhost")
        client_certificates(authority, stranger, cert, key)
        names_and_reload(authority, cert, key)
        resumption(cert, key, directory)
        s_server(authority, stranger, cert, key)
    checks.finish()


if __name__ == "__main__":
    main()
