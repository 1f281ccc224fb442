#!/usr/bin/env node
// wireline and Node's two WebSocket libraries, each as client and as server of the other: the
// tutorial's server and client on npm `websocket`, and npm `ws`.
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import http2 from "node:http2";
import https from "node:https";
import path from "node:path";
import { isDeepStrictEqual } from "node:util";
import WebSocket, { WebSocketServer } from "ws";
import { certificates, check, checkEqual, finish, group, waitFor } from "./harness.mjs";
import { here, peerClient, reports, run, serve, start, startServer, styles, wireline } from "./harness.mjs";
import tutorial from "./tutorial/client.js";

const LINES = "My name is John\nGrüße, 世界 👋\n";
const ECHO = ["-s", "echo-protocol"];

// What `wireline connect --help` says of its exit status.
const CLEAN = 0;
const CLEAN_WITH_ANOTHER_CODE = 1;
const NO_CONNECTION = 3;
const LOST = 4;

// --- wireline as the client --------------------------------------------------------------------

await group("tutorial server", async () => {
  const env = { ...process.env, PORT: "0" };
  const script = path.join(here, "tutorial", "server.js");
  const server = await startServer("node-peers/tutorial-server.log", process.execPath, [script], { env });
  const url = `ws://127.0.0.1:${server.port}/`;

  const text = await run("node-peers/tutorial-connect.log", wireline, ["connect", url, ...ECHO], LINES);
  checkEqual("tutorial server: `connect` prints the echo of its lines", text.stdout, LINES);
  checkEqual("tutorial server: `connect` ends with 0", text.status, CLEAN);
  check("tutorial server: it got the text", server.output.includes("Received Message: My name is John"));
  check("tutorial server: closed with 1000", await waitFor(() => server.output.includes("Closed with 1000")));

  const binary = await run("node-peers/tutorial-peer-client.log", peerClient, [url, "echo-protocol"]);
  checkEqual("tutorial server: text and binary to and fro from a program", binary.status, 0);
  check("tutorial server: it got the bytes", server.output.includes("Received Binary Message of 300 bytes"));
  // It answers any code with 1000, so what it was told shows on its side only.
  check("tutorial server: closed with 4001 done", await waitFor(() => server.output.includes("Closed with 4001 done")));

  // The tutorial's server accepts `echo-protocol` unasked, and falls over it: the client is told no.
  const unasked = await run("node-peers/tutorial-no-protocol.log", wireline, ["connect", url], LINES);
  checkEqual("tutorial server: without the subprotocol `connect` fails", unasked.status, NO_CONNECTION);
  await server.stop();
});

// A `ws` server that echoes, and what it saw of its last connection.
async function wsServer(httpsServer) {
  const seen = { texts: [], binaries: [] };
  const handleProtocols = (offered) => (offered.has("echo-protocol") ? "echo-protocol" : false);
  const where = httpsServer ? { server: httpsServer } : { host: "127.0.0.1", port: 0 };
  const server = new WebSocketServer({ handleProtocols, ...where });
  server.on("connection", (socket, request) => {
    const { protocol } = socket;
    Object.assign(seen, { texts: [], binaries: [], close: null, protocol, headers: request.headers });
    if (request.url === "/push-and-leave") {
      socket.send("pushed");
      socket.close(4002, "enough");
    }
    if (request.url === "/die") socket.terminate();
    socket.on("error", (error) => (seen.error = error.message));
    socket.on("close", (code, reason) => (seen.close = [code, reason.toString()]));
    socket.on("message", (data, isBinary) => {
      isBinary ? seen.binaries.push(data) : seen.texts.push(data.toString());
      socket.send(data, { binary: isBinary });
    });
  });
  if (!httpsServer) await once(server, "listening");
  return { seen, server, port: server.address().port };
}

await group("ws server", async () => {
  const { seen, server, port } = await wsServer();
  const url = `ws://127.0.0.1:${port}`;
  const connect = (name, args) => run(`node-peers/ws-${name}.log`, wireline, ["connect", ...args], LINES);

  const text = await connect("connect", [`${url}/`, ...ECHO, "-H", "X-Greeting: good day"]);
  checkEqual("ws server: `connect` prints the echo of its lines", text.stdout, LINES);
  checkEqual("ws server: `connect` ends with 0", text.status, CLEAN);
  checkEqual("ws server: subprotocol", seen.protocol, "echo-protocol");
  checkEqual("ws server: header", seen.headers["x-greeting"], "good day");
  await waitFor(() => seen.close);
  checkEqual("ws server: close", seen.close?.[0], 1000);

  const plain = await connect("no-protocol", [`${url}/`]);
  checkEqual("ws server: no subprotocol", [plain.status, plain.stdout, seen.protocol], [CLEAN, LINES, ""]);

  const binary = await run("node-peers/ws-peer-client.log", peerClient, [`${url}/`, "echo-protocol"]);
  checkEqual("ws server: text and binary to and fro from a program", binary.status, 0);
  await waitFor(() => seen.close);
  checkEqual("ws server: text", seen.texts, ["My name is John"]);
  checkEqual("ws server: bytes", seen.binaries.map((data) => data.length), [300]);
  checkEqual("ws server: close code and reason", seen.close, [4001, "done"]);
  check("ws server: the program prints the close it was answered", /4001.*done/s.test(binary.output));

  // stdin stays open here: it is the server that leaves.
  const left = await untilLeft("ws-left.log", `${url}/push-and-leave`);
  checkEqual("ws server: a push and a close by the server", [left.status, left.stdout], [1, "pushed\n"]);
  check("ws server: `connect` says the code and reason", /4002.*enough/s.test(left.output));

  const died = await untilLeft("ws-died.log", `${url}/die`);
  checkEqual("ws server: gone without a Close, `connect` fails", died.status, LOST);
  server.close();
  await once(server, "close");
  const nobody = await connect("nobody", [`${url}/`]);
  checkEqual("nobody listens: `connect` fails", nobody.status, NO_CONNECTION);
});

// `connect` with stdin left open, until it ends of itself.
async function untilLeft(log, url) {
  const client = start(`node-peers/${log}`, wireline, ["connect", url]);
  await waitFor(() => client.status !== null);
  return client;
}

// --- wireline as the server --------------------------------------------------------------------

await group("wireline serve", async () => {
  const server = await serve("node-peers/wireline.log");
  const url = `ws://127.0.0.1:${server.port}`;
  for (const [name, client] of Object.entries(tutorial)) {
    for (const protocol of ["echo-protocol", undefined]) {
      checkEqual(`websocket client ${name}, ${protocol ?? "no subprotocol"}`, await client(`${url}/`, protocol), {
        text: "My name is John",
        binary: true,
        close: { code: 4001, reason: "done" },
        protocol: protocol ?? null,
      });
    }
  }
  const { error } = await tutorial.viaPackageApi(`${url}/nothing`);
  check("websocket client: elsewhere 404", /404/.test(error ?? ""), error?.split("\n")[0]);

  for (const protocol of ["echo-protocol", undefined]) {
    await wsClient(`ws client, ${protocol ?? "no subprotocol"}`, `${url}/`, protocol);
  }
  const lost = new WebSocket(`${url}/nothing`);
  const [failure] = await once(lost, "error");
  check("ws client: elsewhere 404", /404/.test(failure.message), failure.message);

  const pushed = new WebSocket(`${url}/push`);
  const clock = [];
  pushed.on("message", (data) => clock.push(data.toString()));
  pushed.on("error", () => {});
  await waitFor(() => clock.length >= 2);
  check("ws client: /push pushes unasked", clock.length >= 2 && clock[0] !== clock[1], clock.slice(0, 2).join(", "));
  pushed.close();
  await server.stop();
});

await group("connect --reconnect", async () => {
  const first = await serve("node-peers/reconnect-first.log");
  const client = start("node-peers/reconnect.log", wireline, ["connect", "--reconnect", `ws://127.0.0.1:${first.port}/`]);
  client.child.stdin.write("one\n");
  await waitFor(() => client.stdout === "one\n");
  await first.stop("SIGKILL");
  // Before it knows, a line would go out into nothing.
  await waitFor(() => /refused.*trying again/s.test(client.output));
  client.child.stdin.write("two\n");
  const second = await startServer("node-peers/reconnect-second.log", wireline, ["serve", `127.0.0.1:${first.port}`]);
  await waitFor(() => client.stdout === "one\ntwo\n");
  checkEqual("connect --reconnect: what was not sent goes out on the next connection", client.stdout, "one\ntwo\n");
  client.child.stdin.end("three\n");
  checkEqual("connect --reconnect: it ends with its input", await client.ended, CLEAN);
  checkEqual("connect --reconnect: everything was echoed", client.stdout, "one\ntwo\nthree\n");
  await second.stop();
  const nowhere = await run("node-peers/reconnect-lasting.log", wireline, ["connect", "--reconnect", "ws://127.0.0.1:1:1/"]);
  checkEqual("connect --reconnect: what stays wrong ends it", nowhere.status, NO_CONNECTION);
});

// The tutorial's server on wireline, which does not fall over a client that offers nothing.
for (const [style, program] of Object.entries(styles)) {
  await group(`tutorial server ${style}`, async () => {
    const log = `node-peers/tutorial-${style.replaceAll(" ", "-")}.log`;
    const server = await startServer(log, program, ["127.0.0.1:0"]);
    const url = `ws://127.0.0.1:${server.port}/`;
    for (const [name, client] of Object.entries(tutorial)) {
      const { error } = await client(url, undefined);
      check(`tutorial server ${style}: ${name}, no subprotocol: told so`, Boolean(error), error?.split("\n")[0]);
      checkEqual(`tutorial server ${style}: ${name}`, await client(url, "echo-protocol"), {
        text: "My name is John",
        binary: true,
        close: { code: 4001, reason: "done" },
        protocol: "echo-protocol",
      });
    }
    await wsClient(`tutorial server ${style}: ws client`, url, "echo-protocol");
    await server.stop();
  });
}

// The chat of docs/migration/from-ws.md, on `ws`: what its wireline twin does, the Rust tests show.
await group("migration from ws", async () => {
  const script = path.join(here, "migration", "ws-chat.mjs");
  const server = await startServer("node-peers/ws-chat.log", process.execPath, [script, "serve"]);
  const url = `ws://127.0.0.1:${server.port}/`;
  const unknown = await run("node-peers/ws-chat-unknown.log", wireline, ["connect", url], LINES);
  checkEqual("ws chat: who is not known is refused", unknown.status, NO_CONNECTION);
  const known = ["connect", url, "-H", "Authorization: Bearer 1234"];
  const listener = start("node-peers/ws-chat-listener.log", wireline, known);
  await waitFor(() => listener.stdout.includes("welcome"));
  const speaker = await run("node-peers/ws-chat-speaker.log", process.execPath, [script, url]);
  checkEqual("ws chat: the client hears itself and leaves", [speaker.status, speaker.stdout], [0, "welcome\nhello, everyone\n"]);
  await waitFor(() => listener.stdout.includes("hello"));
  checkEqual("ws chat: wireline hears what it says", listener.stdout, "welcome\nhello, everyone\n");
  await listener.stop();
  await server.stop();
});

async function wsClient(name, url, protocol, options = {}) {
  const socket = new WebSocket(url, protocol, options);
  const messages = [];
  socket.on("message", (data, isBinary) => messages.push(isBinary ? data.length : data.toString()));
  await once(socket, "open");
  checkEqual(`${name}: agreed`, socket.protocol, protocol ?? "");
  const pong = once(socket, "pong");
  socket.ping("are you there");
  checkEqual(`${name}: pong`, (await pong)[0].toString(), "are you there");
  // The last is longer than any read, and still within a server's default limit.
  const sizes = [0, 125, 126, 65535, 65536, 1024 * 1024];
  socket.send("My name is John");
  for (const size of sizes) socket.send(Buffer.alloc(size, 7));
  await waitFor(() => messages.length > sizes.length);
  checkEqual(`${name}: text and binary echoed`, messages, ["My name is John", ...sizes]);
  // `ws` reports what the peer's Close says, not what it said itself.
  const closed = once(socket, "close");
  socket.close(4001, "done");
  const [code, reason] = await closed;
  checkEqual(`${name}: close code and reason come back`, [code, reason.toString()], [4001, "done"]);
}

// --- HTTP/2, both ways (RFC 8441) ------------------------------------------------------------------

// `ws` on a stream of Node's http2, which `ws` itself does not open.
function onStream(stream, isServer, protocol) {
  const socket = new WebSocket(null, undefined, { closeTimeout: 30_000 });
  socket._isServer = isServer;
  socket._protocol = protocol ?? "";
  socket.setSocket(stream, Buffer.alloc(0), { maxPayload: 0, skipUTF8Validation: false, allowSynchronousEvents: true });
  return socket;
}

async function connectOver(session, path, headers = {}) {
  const connect = { ":method": "CONNECT", ":protocol": "websocket", ":path": path, "sec-websocket-version": "13" };
  const request = session.request({ ...connect, ...headers });
  const [answer] = await once(request, "response");
  return { request, status: answer[":status"], protocol: answer["sec-websocket-protocol"] };
}

// MiB that a session of Node's may hold: 20 WebSockets with a message of 1 MiB on its way there and back are more than the
// 10 that it otherwise has, beyond which it resets streams.
const maxSessionMemory = 100;

async function session(origin, options) {
  const session = http2.connect(origin, { maxSessionMemory, ...options });
  await once(session, "remoteSettings");
  return session;
}

async function echoesOver(name, client, path = "/") {
  const { request, status, protocol } = await connectOver(client, path, { "sec-websocket-protocol": "chat, echo-protocol" });
  checkEqual(`${name}: agreed`, [status, protocol], [200, "echo-protocol"]);
  const socket = onStream(request, false, protocol);
  const messages = [];
  socket.on("message", (data, isBinary) => messages.push(isBinary ? data.length : data.toString()));
  // Node writes a payload apart from its header, and none as an empty DATA frame, of which h2 (the crate) takes
  // but a hundred on a connection.
  const sizes = [1, 125, 65536, 1024 * 1024];
  socket.send("My name is John");
  for (const size of sizes) socket.send(Buffer.alloc(size, 7));
  await waitFor(() => messages.length > sizes.length);
  checkEqual(`${name}: text and binary echoed`, messages, ["My name is John", ...sizes]);
  const pong = once(socket, "pong");
  socket.ping("are you there");
  checkEqual(`${name}: pong`, (await pong)[0].toString(), "are you there");
  const closed = once(socket, "close");
  socket.close(4001, "done");
  const [code, reason] = await closed;
  checkEqual(`${name}: close code and reason come back`, [code, reason.toString()], [4001, "done"]);
}

await group("http2 client", async () => {
  const server = await serve("node-peers/http2.log", "--http2");
  const client = await session(`http://127.0.0.1:${server.port}`);
  check("http2 client: the server enables CONNECT", client.remoteSettings.enableConnectProtocol);
  await echoesOver("http2 client", client);
  check("http2 client: the log has the version", server.output.includes("opened over HTTP/2: echo"));
  await Promise.all(Array.from({ length: 20 }, (_, n) => echoesOver(`http2 client, ${n + 1} of 20 on one connection`, client)));
  for (const [path, headers, status] of [
    ["/nothing", {}, 404],
    ["/", { origin: "https://evil.example" }, 403],
    ["/", { "sec-websocket-version": "8" }, 426],
    ["/", { ":protocol": "connect-udp" }, 501],
  ]) {
    const answer = await connectOver(client, path, headers);
    checkEqual(`http2 client: ${path} with ${JSON.stringify(headers)}`, answer.status, status);
    answer.request.close();
  }
  const reset = await connectOver(client, "/push");
  reset.request.close(http2.constants.NGHTTP2_CANCEL);
  await echoesOver("http2 client, after one was reset", client);
  const page = client.request({ ":path": "/" });
  checkEqual("http2 client: the page", (await once(page, "response"))[0][":status"], 200);
  page.resume();
  const gone = once(client, "close");
  const open = await connectOver(client, "/push");
  const pushed = onStream(open.request, false);
  const closed = once(pushed, "close");
  server.child.kill("SIGTERM");
  checkEqual("http2 client: a server that leaves says 1001", (await closed)[0], 1001);
  await Promise.race([gone, server.ended]);
  client.destroy();
  await server.stop();
});

await group("http2 server", async () => {
  const settings = { enableConnectProtocol: true };
  const { ca, cert, key } = certificates(path.join(reports, "node-peers", "http2-tls"));
  const tls = { cert: readFileSync(cert), key: readFileSync(key) };
  const servers = {
    plain: http2.createServer({ settings, maxSessionMemory }),
    tls: http2.createSecureServer({ settings, maxSessionMemory, ...tls }),
    "without CONNECT": http2.createSecureServer({ ...tls, allowHTTP1: true }),
  };
  const fallback = new WebSocketServer({ noServer: true });
  fallback.on("connection", (socket) => socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary })));
  const seen = {};
  for (const [name, server] of Object.entries(servers)) {
    server.on("stream", (stream, headers) => {
      if (headers[":protocol"] !== "websocket") return stream.respond({ ":status": 404 }, { endStream: true });
      seen[name] = headers;
      if (headers[":path"] === "/refused") {
        stream.respond({ ":status": 401 });
        return stream.end("who are you?\n");
      }
      const protocol = headers["sec-websocket-protocol"]?.split(", ")[0];
      stream.respond({ ":status": 200, ...(protocol && { "sec-websocket-protocol": protocol }) });
      const socket = onStream(stream, true, protocol);
      socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
      socket.on("close", (code, reason) => (seen[`${name} close`] = [code, reason.toString()]));
    });
    server.on("upgrade", (request, socket, head) => {
      seen[name] = { ":method": request.method };
      fallback.handleUpgrade(request, socket, head, (opened) => fallback.emit("connection", opened, request));
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
  }
  const connect = (name, server, scheme, ...args) => {
    const url = `${scheme}://localhost:${servers[server].address().port}/chat?a=b`;
    return run(`node-peers/http2-${name}.log`, wireline, ["connect", url, ...args], LINES);
  };
  for (const [name, server, scheme, ...args] of [
    ["prior knowledge", "plain", "ws", "--http2"],
    ["ALPN", "tls", "wss", "--http2", "--ca", ca],
    ["auto", "tls", "wss", "--http-auto", "--ca", ca],
  ]) {
    const done = await connect(name, server, scheme, ...args, ...ECHO, "-H", "X-Greeting: good day");
    checkEqual(`http2 server, ${name}: the echo`, [done.status, done.stdout], [CLEAN, LINES]);
    const { ":method": method, ":path": target, ":protocol": protocol } = seen[server];
    checkEqual(`http2 server, ${name}: what was asked`, [method, protocol, target], ["CONNECT", "websocket", "/chat?a=b"]);
    checkEqual(`http2 server, ${name}: headers`, [seen[server]["x-greeting"], seen[server]["sec-websocket-version"]], ["good day", "13"]);
    check(`http2 server, ${name}: no key, no Connection, no Host`, !["sec-websocket-key", "connection", "upgrade", "host"].some((header) => header in seen[server]));
    await waitFor(() => seen[`${server} close`]);
    checkEqual(`http2 server, ${name}: close`, seen[`${server} close`]?.[0], 1000);
    delete seen[`${server} close`];
  }
  const auto = await connect("fallback", "without CONNECT", "wss", "--http-auto", "--ca", ca);
  checkEqual("http2 server without CONNECT, auto: the echo, over HTTP/1.1", [auto.status, auto.stdout], [CLEAN, LINES]);
  checkEqual("http2 server without CONNECT, auto: what was asked", seen["without CONNECT"], { ":method": "GET" });
  const strict = await connect("strict", "without CONNECT", "wss", "--http2", "--ca", ca);
  checkEqual("http2 server without CONNECT, --http2: no connection", strict.status, NO_CONNECTION);
  const refused = await run("node-peers/http2-refused.log", wireline, ["connect", `ws://localhost:${servers.plain.address().port}/refused`, "--http2"]);
  check("http2 server: a refusal is told whole", refused.status === NO_CONNECTION && /401.*who are you/s.test(refused.output));
  for (const server of Object.values(servers)) server.close();
});

// --- permessage-deflate, both ways ---------------------------------------------------------------

// Each end may take its context over from message to message, or not, and refer so far back and no further.
const AGREEMENTS = [
  ["both take over", {}],
  ["the server does not", { serverNoContextTakeover: true }],
  ["the client does not", { clientNoContextTakeover: true }],
  ["neither does", { serverNoContextTakeover: true, clientNoContextTakeover: true }],
  ["9 bits", { serverMaxWindowBits: 9, clientMaxWindowBits: 9 }],
  ["12 bits", { serverMaxWindowBits: 12, clientMaxWindowBits: 12 }],
  ["10 bits of the server, 14 of the client", { serverMaxWindowBits: 10, clientMaxWindowBits: 14 }],
  ["14 bits of the server, 10 of the client", { serverMaxWindowBits: 14, clientMaxWindowBits: 10 }],
];

// An answer's header, as wireline spells it: what it was asked for, and no more bits than `most`.
function answer({ serverNoContextTakeover, clientNoContextTakeover, serverMaxWindowBits, clientMaxWindowBits }, most) {
  return [
    "permessage-deflate",
    ...(serverNoContextTakeover ? ["server_no_context_takeover"] : []),
    ...(clientNoContextTakeover ? ["client_no_context_takeover"] : []),
    ...(serverMaxWindowBits ? [`server_max_window_bits=${Math.min(serverMaxWindowBits, most)}`] : []),
    ...(clientMaxWindowBits ? [`client_max_window_bits=${Math.min(clientMaxWindowBits, most)}`] : []),
  ].join("; ");
}

// Text that repeats itself within a message and from one to the next, and the same as bytes; of the last no
// byte repeats.
const FAMILIES = "All happy families are alike; each unhappy family is unhappy in its own way. ";
const texts = [...[1, 3, 20, 2000].map((times) => FAMILIES.repeat(times)), "", randomBytes(3000).toString("base64")];
const messages = [...texts, ...texts, ...texts.map((text) => Buffer.from(text)), randomBytes(5000)];

// A `ws` client that has every message echoed; what the server's answer said of extensions.
async function deflateClient(name, url, options) {
  const socket = new WebSocket(url, { ...options, perMessageDeflate: { threshold: 0, ...options.perMessageDeflate } });
  let agreed;
  socket.on("upgrade", ({ headers }) => (agreed = headers["sec-websocket-extensions"]));
  const echoed = [];
  socket.on("message", (data, isBinary) => echoed.push(isBinary ? data : data.toString()));
  await once(socket, "open");
  for (const message of messages) socket.send(message);
  await waitFor(() => echoed.length >= messages.length);
  check(`${name}: echoed`, isDeepStrictEqual(echoed, messages), `${echoed.length} of ${messages.length}`);
  const closed = once(socket, "close");
  socket.close(4001, "done");
  const [code, reason] = await closed;
  checkEqual(`${name}: close`, [code, reason.toString()], [4001, "done"]);
  return agreed;
}

await group("deflate, ws client", async () => {
  for (const [takeover, options, forced] of [
    ["", [], {}],
    [", without takeover", ["--no-context-takeover"], { serverNoContextTakeover: true, clientNoContextTakeover: true }],
  ]) {
    const server = await serve(`node-peers/wireline-deflate${options}.log`, "--deflate", ...options);
    for (const [agreement, parameters] of AGREEMENTS) {
      const name = `deflate, ws client, ${agreement}${takeover}`;
      const url = `ws://127.0.0.1:${server.port}/`;
      const agreed = await deflateClient(name, url, { perMessageDeflate: parameters });
      // `ws` says that it takes any window of its own unless it names one.
      checkEqual(`${name}: agreed`, agreed, answer({ clientMaxWindowBits: 15, ...parameters, ...forced }, 12));
    }
    await waitFor(() => server.output.match(/closed cleanly by the peer/g)?.length >= AGREEMENTS.length);
    const told = server.output.match(/closed cleanly by the peer, 4001.*"done"/g)?.length;
    checkEqual(`deflate, ws client${takeover}: the server was told 4001 done each time`, told, AGREEMENTS.length);
    await server.stop();
  }
});

// A `ws` server that echoes, and what was agreed on and seen of its last connection.
async function deflateServer(parameters, where = { host: "127.0.0.1", port: 0 }) {
  const server = new WebSocketServer({ ...where, perMessageDeflate: { threshold: 0, ...parameters } });
  const seen = { server };
  server.on("headers", (headers) => (seen.agreed = headers.find((line) => line.includes("deflate"))?.split(": ")[1]));
  server.on("connection", (socket) => {
    seen.kinds = new Set();
    socket.on("message", (data, binary) => (seen.kinds.add(binary), socket.send(data, { binary })));
    socket.on("close", (code, reason) => (seen.close = [code, reason.toString()]));
  });
  if (where.host) await once(server, "listening");
  return seen;
}

// `ws` names the parameters in an order of its own.
const sorted = (agreed) => agreed?.split("; ").sort().join("; ");

await group("deflate, ws server", async () => {
  for (const [agreement, parameters] of AGREEMENTS) {
    const name = `deflate, ws server, ${agreement}`;
    const seen = await deflateServer(parameters);
    const url = `ws://127.0.0.1:${seen.server.address().port}/`;
    const lines = texts.concat(texts).filter((line) => line).map((line) => `${line}\n`).join("");
    const client = await run("node-peers/connect-deflate.log", wireline, ["connect", url, "--deflate"], lines);
    checkEqual(`${name}: agreed`, sorted(seen.agreed), sorted(answer(parameters, 15)));
    check(`${name}: lines echoed`, client.status === CLEAN && client.stdout === lines);
    const ratio = /sent \d+ bytes as \d+ \((\d+\.\d) %\), received \d+ bytes as/.exec(client.output)?.[1];
    check(`${name}: smaller`, Number(ratio) < 20, `${ratio} %`);
    await speakAll(name, url, seen);
    seen.server.close();
  }
});

// The example client, which sends text, bytes and noise, and checks what comes back.
async function speakAll(name, url, seen, ...options) {
  seen.close = null;
  const client = await run("node-peers/peer-client-deflate.log", peerClient, [url, "--deflate", ...options]);
  checkEqual(`${name}: text and bytes echoed`, [client.status, seen.kinds?.size], [CLEAN, 2]);
  await waitFor(() => seen.close);
  checkEqual(`${name}: the server was told`, seen.close, [4001, "done"]);
}

// --- TLS, both ways ----------------------------------------------------------------------------

await group("TLS", async () => {
  const { ca, cert, key } = certificates(path.join(reports, "node-peers", "tls"));
  const secure = await serve("node-peers/wireline-tls.log", "--tls-cert", cert, "--tls-key", key, "--deflate");
  const url = `wss://localhost:${secure.port}/`;
  await wsClient("ws client, wss", url, "echo-protocol", { ca: readFileSync(ca), perMessageDeflate: false });
  const agreed = await deflateClient("ws client, wss, deflate", url, { ca: readFileSync(ca) });
  checkEqual("ws client, wss, deflate: agreed", agreed, "permessage-deflate; client_max_window_bits=12");
  await secure.stop();

  const server = https.createServer({ cert: readFileSync(cert), key: readFileSync(key) });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = await wsServer(server);
  const connect = (url, ...args) => run("node-peers/connect-tls.log", wireline, ["connect", url, ...args], LINES);
  const good = await connect(`wss://localhost:${port}/`, "--ca", ca);
  checkEqual("ws server, wss: lines echoed", [good.status, good.stdout], [CLEAN, LINES]);
  const unknown = await connect(`wss://localhost:${port}/`);
  checkEqual("ws server, wss: a certificate nobody vouches for is refused", unknown.status, NO_CONNECTION);
  // The certificate is for localhost, not for the address.
  const misnamed = await connect(`wss://127.0.0.1:${port}/`, "--ca", ca);
  checkEqual("ws server, wss: a certificate for another name is refused", misnamed.status, NO_CONNECTION);
  server.closeAllConnections();
  server.close();

  const compressing = https.createServer({ cert: readFileSync(cert), key: readFileSync(key) });
  compressing.listen(0, "127.0.0.1");
  await once(compressing, "listening");
  const seen = await deflateServer({}, { server: compressing });
  await speakAll("ws server, wss, deflate", `wss://localhost:${compressing.address().port}/`, seen, "--ca", ca);
  checkEqual("ws server, wss, deflate: agreed", seen.agreed, "permessage-deflate");
  compressing.closeAllConnections();
  compressing.close();
});

await finish();
