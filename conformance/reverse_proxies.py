#!/usr/bin/env python3
"""wireline's server behind other people's servers, nginx and haproxy: plain and TLS, HTTP/1.1 and HTTP/2 on either side
of them, what they say of the client, and what comes through when a request is not what it seems."""

import tempfile
from pathlib import Path

import wire
from harness import REPORTS, Checks, Process, built, serve
from proxies import CLEAN, LINES, certificates, connect, free_port, running

checks = Checks()


def leads(name, done, lines=LINES):
    checks.check(f"{name}: the echo comes back", done.stdout == lines, f"{len(done.stdout)} characters")
    checks.check(f"{name}: closed cleanly", done.returncode == CLEAN, done.stderr.strip()[-200:])


def nginx(directory, plain, secure, server, telling, cert, key):
    config = Path(directory) / "nginx.conf"
    temporary = "".join(
        f"{what}_temp_path {directory}/{what};\n" for what in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    )
    location = lambda path, port: f"""
        location {path} {{
            proxy_pass http://127.0.0.1:{port}/;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}"""
    config.write_text(f"""
daemon off;
error_log stderr;
pid {directory}/nginx.pid;
events {{}}
http {{
    access_log off;
    {temporary}
    server {{
        listen 127.0.0.1:{plain};
        listen 127.0.0.1:{secure} ssl;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        {location("/", server)}
        {location("/telling/", telling)}
    }}
}}
""")
    return running("reverse-proxies-nginx.log", plain, "nginx", "-e", "stderr", "-c", str(config))


def haproxy(directory, ports, server, over_http2, telling, cert, key):
    both = Path(directory) / "both.pem"
    both.write_text(Path(cert).read_text() + Path(key).read_text())
    config = Path(directory) / "haproxy.cfg"
    tls = f"ssl crt {both} alpn h2,http/1.1"
    config.write_text(f"""
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
frontend plain
    bind 127.0.0.1:{ports["plain"]}
    default_backend http1
frontend secure
    bind 127.0.0.1:{ports["secure"]} {tls}
    default_backend http1
frontend to_http2
    bind 127.0.0.1:{ports["to http2"]} {tls}
    default_backend http2
frontend telling
    bind 127.0.0.1:{ports["telling"]}
    default_backend telling
backend http1
    server wireline 127.0.0.1:{server}
backend http2
    server wireline 127.0.0.1:{over_http2} proto h2
backend telling
    server wireline 127.0.0.1:{telling} send-proxy-v2
""")
    return running("reverse-proxies-haproxy.log", ports["plain"], "haproxy", "-db", "-f", str(config))


def behind(name, plain, secure, ca):
    leads(f"{name}", connect(f"ws://localhost:{plain}/"))
    leads(f"{name}, compressed", connect(f"ws://localhost:{plain}/", "--deflate"))
    leads(f"{name}, TLS", connect(f"wss://localhost:{secure}/", "--ca", ca))
    not_there = connect(f"ws://localhost:{plain}/elsewhere")
    checks.check(f"{name}: a refusal comes through", "404" in not_there.stderr, not_there.stderr.strip()[-100:])


def request(port, *more, path="/"):
    lines = [
        f"GET {path} HTTP/1.1", f"Host: localhost:{port}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", *more,
    ]
    return ("".join(f"{line}\r\n" for line in lines) + "\r\n").encode()


def what_is_not_what_it_seems(name, port, refusals):
    # Frames right behind the request, in the same segment.
    peer = wire.Peer(port)
    peer.send(request(port) + wire.frame(wire.TEXT, b"early"))
    status, _ = peer.response()
    checks.check(f"{name}: a frame behind the request", (status, peer.frame()) == (101, (wire.TEXT, b"early")))
    # A request with a body, whose bytes are frames to who forgets it.
    peer = wire.Peer(port)
    body = wire.frame(wire.TEXT, b"smuggled")
    peer.send(request(port, f"Content-Length: {len(body)}") + body)
    status, _ = peer.response()
    checks.check(f"{name}: a request with a body is refused", status in refusals, str(status))
    checks.check(f"{name}: and its body is no frame", b"smuggled" not in peer.received)


def main():
    REPORTS.mkdir(parents=True, exist_ok=True)
    example = built("release/examples/behind_a_proxy", "debug/examples/behind_a_proxy")
    with tempfile.TemporaryDirectory() as directory:
        ca, cert, key = certificates(directory)
        plain, secure = free_port(), free_port()
        ports = {name: free_port() for name in ["plain", "secure", "to http2", "telling"]}
        with (
            serve("--deflate", log="reverse-proxies-server.log") as server,
            serve("--http2", log="reverse-proxies-http2.log") as over_http2,
            Process([example], "reverse-proxies-forwarded.log") as forwarded,
            Process([example, "--proxy-protocol"], "reverse-proxies-introduced.log") as introduced,
            nginx(directory, plain, secure, server.port, forwarded.port, cert, key),
            haproxy(directory, ports, server.port, over_http2.port, introduced.port, cert, key),
        ):
            behind("nginx", plain, secure, ca)
            behind("haproxy", ports["plain"], ports["secure"], ca)
            leads("haproxy, HTTP/2 before it", connect(f"wss://localhost:{ports['secure']}/", "--ca", ca, "--http2"))
            url = f"wss://localhost:{ports['to http2']}/"
            leads("haproxy, HTTP/2 behind it", connect(url, "--ca", ca))
            leads("haproxy, HTTP/2 on either side", connect(url, "--ca", ca, "--http2"))
            log = over_http2.log.read_text()
            checks.check("haproxy spoke HTTP/2", log.count("opened over HTTP/2: echo") == 2, log)
            told = connect(f"ws://localhost:{plain}/telling/")
            leads("nginx, X-Forwarded-For", told, "127.0.0.1\n" + LINES)
            # Who asks nginx is at a trusted address, too, and so another proxy.
            told = connect(f"ws://localhost:{plain}/telling/", "-H", "X-Forwarded-For: 198.51.100.1, 192.0.2.7")
            leads("nginx, X-Forwarded-For of two proxies", told, "192.0.2.7\n" + LINES)
            told = connect(f"ws://localhost:{ports['telling']}/")
            leads("haproxy, PROXY protocol", told, "127.0.0.1\n" + LINES)
            what_is_not_what_it_seems("nginx", plain, {400})
            # haproxy passes such a request on without its Upgrade.
            what_is_not_what_it_seems("haproxy", ports["plain"], {400, 426})
            checks.check("the servers still run", server.alive() and over_http2.alive())
    checks.finish()


if __name__ == "__main__":
    main()
