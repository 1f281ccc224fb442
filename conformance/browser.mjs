#!/usr/bin/env node
// wireline serve in a real browser: headless Chromium runs the tutorial's client script on a page
// from the server's own origin, until each of its four events has been seen; then the page at `/` is
// clicked through, on a desktop and on a phone.
import { createHash, X509Certificate } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import net from "node:net";
import path from "node:path";
import { isDeepStrictEqual } from "node:util";
import { chromium } from "playwright-core";
import { certificates, check, checkEqual, finish, group, here } from "./harness.mjs";
import { reports, serve, startServer, styles, waitFor } from "./harness.mjs";

const tutorial = readFileSync(path.join(here, "tutorial", "client-browser.js"), "utf8");

const launch = (...args) =>
  chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      // Root has no sandbox to start; and a browser under test has nothing to say to the world.
      ...(process.getuid() === 0 ? ["--no-sandbox"] : []),
      ...["--disable-gpu", "--no-first-run"],
      ...["--disable-background-networking", "--disable-component-update", "--disable-sync"],
      ...args,
    ],
  });

const browser = await launch("--disable-quic");

// --- The tutorial's client ---------------------------------------------------------------------

// Notes what each event carries beyond what the tutorial shows a person. In one script with the
// tutorial's, so that no event can come before.
const NOTE_EVENTS = `
window.events = [];
for (const type of ["open", "message", "error", "close"]) {
  socket.addEventListener(type, ({ code, reason, wasClean }) =>
    events.push(type === "close" ? { type, code, reason, wasClean } : { type }));
}`;

// Opens the server's page and runs the tutorial's script on it. `alerts` is what a person would have
// been shown, `complaints` what the browser's console said.
async function runTutorial(pageUrl, serverUrl, script = tutorial) {
  // The page allows no script but its own; ours is as good as its own.
  const page = await browser.newPage({ bypassCSP: true });
  const alerts = [];
  const complaints = [];
  page.on("dialog", async (dialog) => {
    alerts.push(dialog.message());
    await dialog.accept();
  });
  page.on("console", (message) => complaints.push(message.text()));
  await page.goto(pageUrl);
  await page.evaluate((url) => void (window.serverUrl = url), serverUrl);
  await page.addScriptTag({ content: script + NOTE_EVENTS });
  const closed = async () => {
    await waitFor(() => alerts.some((text) => text.startsWith("[close]")));
    const events = await page.evaluate(() => window.events);
    await page.close();
    return events;
  };
  return { page, alerts, complaints, closed };
}

const GREETING = [
  "[open] Connection established",
  "Sending to server",
  "[message] Data received from server: My name is John",
];
const DIED = { type: "close", code: 1006, reason: "", wasClean: false };
const closeEvent = (code, reason) => ({ type: "close", code, reason, wasClean: true });

await group("tutorial client", async () => {
  const server = await serve("browser/wireline.log");
  const origin = `http://127.0.0.1:${server.port}/`;
  const url = `ws://127.0.0.1:${server.port}`;

  const clean = await runTutorial(origin, `${url}/`);
  await waitFor(() => clean.alerts.length >= 3);
  checkEqual("tutorial client: open and message", clean.alerts, GREETING);
  await clean.page.evaluate(() => socket.close(4001, "done"));
  checkEqual("tutorial client: close event", (await clean.closed()).at(-1), closeEvent(4001, "done"));
  const cleanly = "[close] Connection closed cleanly, code=4001 reason=done";
  checkEqual("tutorial client: close alert", clean.alerts.at(-1), cleanly);

  const plain = await runTutorial(origin, `${url}/`);
  await waitFor(() => plain.alerts.length >= 3);
  await plain.page.evaluate(() => socket.close());
  checkEqual("tutorial client: close without a code", (await plain.closed()).at(-1), closeEvent(1005, ""));

  const elsewhere = await runTutorial(origin, `${url}/nothing`);
  checkEqual("tutorial client: error and close where nothing is", await elsewhere.closed(), [{ type: "error" }, DIED]);
  // Events tell a page nothing about the cause; the browser's console names it.
  checkEqual("tutorial client: error alert", elsewhere.alerts, ["[error] undefined", "[close] Connection died"]);
  checkHandshakeStatus("tutorial client: 404 where nothing is", elsewhere, 404);

  // A page of another origin, from another server of the same kind.
  const other = await serve("browser/other-origin.log");
  const foreign = await runTutorial(`http://127.0.0.1:${other.port}/`, `${url}/`);
  checkEqual("tutorial client: error and close on a foreign page", await foreign.closed(), [{ type: "error" }, DIED]);
  checkHandshakeStatus("tutorial client: 403 on a foreign page", foreign, 403);
  await other.stop();

  const killed = await runTutorial(origin, `${url}/`);
  await waitFor(() => killed.alerts.length >= 3);
  await server.stop("SIGKILL");
  checkEqual("tutorial client: server killed", (await killed.closed()).at(-1), DIED);
  checkEqual("tutorial client: its alert", killed.alerts.at(-1), "[close] Connection died");

  const leaving = await serve("browser/leaving.log");
  const left = await runTutorial(`http://127.0.0.1:${leaving.port}/`, `ws://127.0.0.1:${leaving.port}/`);
  await waitFor(() => left.alerts.length >= 3);
  const status = await leaving.stop("SIGINT");
  const farewell = (await left.closed()).at(-1);
  checkEqual("tutorial client: server interrupted", [farewell.code, farewell.wasClean], [1001, true]);
  checkEqual("tutorial client: the server ended well", status, 0);
});

// The tutorial's server on wireline wants the subprotocol that the tutorial's script does not offer: with
// one word more it gets on with it, in either style.
for (const [style, program] of Object.entries(styles)) {
  await group(`tutorial server ${style}`, async () => {
    const log = `browser/tutorial-${style.replaceAll(" ", "-")}.log`;
    const server = await startServer(log, program, ["127.0.0.1:0"]);
    const host = await serve("browser/host.log");
    const [page, url] = [`http://127.0.0.1:${host.port}/`, `ws://127.0.0.1:${server.port}/`];

    const unasked = await runTutorial(page, url);
    checkEqual(`tutorial server ${style}: no subprotocol`, await unasked.closed(), [{ type: "error" }, DIED]);
    checkHandshakeStatus(`tutorial server ${style}: 400 without a subprotocol`, unasked, 400);

    const asking = tutorial.replace("new WebSocket(serverUrl)", 'new WebSocket(serverUrl, "echo-protocol")');
    const clean = await runTutorial(page, url, asking);
    await waitFor(() => clean.alerts.length >= 3);
    checkEqual(`tutorial server ${style}: open and message`, clean.alerts, GREETING);
    await clean.page.evaluate(() => socket.close(4001, "done"));
    const farewell = (await clean.closed()).at(-1);
    checkEqual(`tutorial server ${style}: close event`, farewell, closeEvent(4001, "done"));

    const killed = await runTutorial(page, url, asking);
    await waitFor(() => killed.alerts.length >= 3);
    await server.stop("SIGKILL");
    checkEqual(`tutorial server ${style}: killed`, (await killed.closed()).at(-1), DIED);
    await host.stop();
  });
}

// --- Compression -------------------------------------------------------------------------------

// Sends `texts` from a page, as they are and as bytes, and gives what came back and which extensions the browser
// agreed to.
const ECHO_ALL = ([url, texts]) =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    const echoed = { texts: [], bytes: [] };
    socket.onerror = () => reject(new Error("the browser failed the connection"));
    socket.onopen = () => texts.forEach((text) => (socket.send(text), socket.send(new TextEncoder().encode(text))));
    socket.onmessage = ({ data }) => {
      typeof data === "string" ? echoed.texts.push(data) : echoed.bytes.push(new TextDecoder().decode(data));
      if (echoed.bytes.length === texts.length) socket.close(4001, "done");
    };
    socket.onclose = ({ code, reason }) => resolve({ close: [code, reason], echoed, extensions: socket.extensions });
  });

// A way to the server on `port` that counts what goes through it: { port, sent, received }.
async function countedWay(port) {
  const way = { sent: 0, received: 0 };
  way.listener = net.createServer((client) => {
    const server = net.connect(port, "127.0.0.1");
    client.on("data", (data) => (way.sent += data.length)).pipe(server);
    server.on("data", (data) => (way.received += data.length)).pipe(client);
    [client, server].forEach((socket) => socket.on("error", () => (client.destroy(), server.destroy())));
  });
  way.listener.listen(0, "127.0.0.1");
  await once(way.listener, "listening");
  way.port = way.listener.address().port;
  return way;
}

await group("deflate", async () => {
  const families = "All happy families are alike; each unhappy family is unhappy in its own way. ";
  const sizes = [1, 20, 2000, 0].map((times) => families.repeat(times));
  const texts = [...sizes, ...sizes];
  const plainBytes = 2 * texts.reduce((sum, text) => sum + text.length, 0);
  const { cert, key } = certificates(path.join(reports, "browser", "tls"));
  for (const [name, scheme, options, takeover] of [
    ["with context takeover", "http", [], ""],
    ["without", "http", ["--no-context-takeover"], "; server_no_context_takeover; client_no_context_takeover"],
    ["over TLS", "https", ["--tls-cert", cert, "--tls-key", key], ""],
  ]) {
    const server = await serve("browser/deflate.log", "--deflate", ...options);
    const way = await countedWay(server.port);
    const page = await browser.newPage({ ignoreHTTPSErrors: true });
    await page.goto(`${scheme}://127.0.0.1:${way.port}/`);
    Object.assign(way, { sent: 0, received: 0 });
    const url = `${scheme.replace("http", "ws")}://127.0.0.1:${way.port}/`;
    const seen = await page.evaluate(ECHO_ALL, [url, texts]);
    checkEqual(`deflate ${name}: close`, seen.close, [4001, "done"]);
    check(`deflate ${name}: text echoed`, isDeepStrictEqual(seen.echoed.texts, texts));
    check(`deflate ${name}: bytes echoed`, isDeepStrictEqual(seen.echoed.bytes, texts));
    const agreed = `permessage-deflate${takeover}; client_max_window_bits=12`;
    checkEqual(`deflate ${name}: agreed`, seen.extensions, agreed);
    // Both ways: the browser compresses too.
    const most = plainBytes / 10;
    const traffic = `${plainBytes} bytes as ${way.sent} there and ${way.received} back`;
    check(`deflate ${name}: smaller`, way.sent > 0 && way.sent < most && way.received < most, traffic);
    await waitFor(() => server.output.includes("closed cleanly by the peer"));
    // Chromium opens its WebSockets over HTTP/2 where the page came over it, and the server enables that.
    checkEqual(`deflate ${name}: over HTTP/2`, server.output.includes("opened over HTTP/2: echo"), scheme === "https");
    check(`deflate ${name}: the server was told`, /closed cleanly by the peer, 4001.*"done"/.test(server.output));
    await page.close();
    way.listener.close();
    await server.stop();
  }
});

await group("http3", async () => {
  const { cert, key } = certificates(path.join(reports, "browser", "http3-tls"));
  const server = await serve("browser/http3.log", "--http3", "--deflate", "--tls-cert", cert, "--tls-key", key);
  // Chromium has it behind a switch, and takes QUIC's certificates from well-known authorities only.
  const publicKey = new X509Certificate(readFileSync(cert)).publicKey.export({ type: "spki", format: "der" });
  const quic = await launch(
    ...["--enable-quic", "--enable-features=EnableWebsocketsOverHttp3"],
    ...[`--origin-to-force-quic-on=localhost:${server.port}`, "--host-resolver-rules=MAP localhost 127.0.0.1"],
    `--ignore-certificate-errors-spki-list=${createHash("sha256").update(publicKey).digest("base64")}`,
  );
  const page = await quic.newPage();
  const answer = await page.goto(`https://localhost:${server.port}/`);
  checkEqual("http3: the page", [answer.status(), await page.evaluate(() => performance.getEntriesByType("navigation")[0].nextHopProtocol)], [200, "h3"]);
  const texts = ["", "Grüße, 世界 👋", "x".repeat(300_000)];
  const sockets = Array.from({ length: 5 }, () => page.evaluate(ECHO_ALL, [`wss://localhost:${server.port}/`, texts]));
  for (const [n, seen] of (await Promise.all(sockets)).entries()) {
    checkEqual(`http3, ${n + 1} of 5 at once: close`, seen.close, [4001, "done"]);
    check(`http3, ${n + 1} of 5 at once: text echoed`, isDeepStrictEqual(seen.echoed.texts, texts));
    check(`http3, ${n + 1} of 5 at once: bytes echoed`, isDeepStrictEqual(seen.echoed.bytes, texts));
  }
  await waitFor(() => server.output.match(/closed cleanly by the peer, 4001/g)?.length === 5);
  checkEqual("http3: what the server was told", server.output.match(/opened over HTTP\/3: echo/g)?.length, 5);
  await quic.close();
  await server.stop();
});

function checkHandshakeStatus(name, { complaints }, status) {
  const complaint = complaints.find((text) => text.includes("WebSocket")) ?? "no complaint";
  check(name, complaint.includes(`Unexpected response code: ${status}`), complaint);
}

// --- The page at `/` ---------------------------------------------------------------------------

const VIEWPORTS = {
  page: { width: 1280, height: 800 },
  "page-phone": { width: 390, height: 844 },
};

for (const [name, viewport] of Object.entries(VIEWPORTS)) {
  await group(name, () => clickThrough(name, viewport));
}

async function clickThrough(name, viewport) {
  const server = await serve(`browser/${name}.log`);
  const page = await browser.newPage({ viewport, hasTouch: viewport.width < 600 });
  page.setDefaultTimeout(10_000);
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("requestfailed", (request) => problems.push(`${request.url()} failed`));
  page.on("response", (response) => response.ok() || problems.push(`${response.url()} ${response.status()}`));
  await page.goto(`http://127.0.0.1:${server.port}/`);

  const entry = (event, text = "") => page.locator(`#log li[data-event=${event}]`).filter({ hasText: text });
  const appears = async (what, locator) => {
    const seen = await locator.first().waitFor().then(() => true, () => false);
    check(`${name}: ${what}`, seen, seen ? oneLine(await locator.first().innerText()) : "did not appear");
  };
  const connect = async (protocol = "") => {
    const before = await entry("open").count();
    await page.fill("#protocol", protocol);
    await page.click("#connect");
    const opened = await waitFor(async () => (await entry("open").count()) > before);
    const how = protocol ? `with ${protocol}` : "without a subprotocol";
    check(`${name}: connects ${how}`, opened, await page.innerText("#state"));
  };

  await connect();
  await page.fill("#text", "Grüße from the page");
  await page.click("#send-text");
  await appears("text is sent", entry("sent", "Grüße from the page"));
  await appears("text is echoed", entry("message", "Grüße from the page"));
  await page.fill("#binary", "00 01 7f fe ff");
  await page.click("#send-binary");
  const hex = /00\s*01\s*7f\s*fe\s*ff/i;
  await appears("bytes are sent", entry("sent", hex));
  await appears("bytes are echoed", entry("message", hex));

  await page.click("#clock-toggle");
  const times = new Set();
  const ticks = await waitFor(async () => times.add(await page.innerText("#clock")).size >= 4);
  check(`${name}: the pushed clock runs`, ticks, [...times].join(" "));
  await page.screenshot({ path: path.join(reports, `${name}.png`), fullPage: true });
  const overhang = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  check(`${name}: nothing sticks out sideways`, overhang <= 0, `${overhang} px`);

  await page.fill("#close-code", "4001");
  await page.fill("#close-reason", "done");
  await page.click("#disconnect");
  await appears("close shows its code and reason", entry("close", /4001/).filter({ hasText: "done" }));
  await appears("close shows that it was clean", entry("close", /wasClean\s*true/i));

  await connect("echo-protocol");
  await server.stop("SIGKILL");
  await appears("a killed server shows as 1006", entry("close", /1006/).filter({ hasText: /wasClean\s*false/i }));
  const problemsSoFar = [...problems];
  // Nobody listens there any more: the one event the above has not shown.
  await page.click("#connect");
  await appears("an error shows", entry("error"));
  checkEqual(`${name}: nothing on the page went wrong`, problemsSoFar, []);
  await page.close();
}

function oneLine(text) {
  return text.replace(/\s+/g, " ").trim().slice(0, 100);
}

await browser.close();
await finish();
