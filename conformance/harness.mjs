// What the Node parts share: checks that are counted, and processes that are started and ended.
// harness.py says the same in Python.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream, existsSync, mkdirSync, statSync } from "node:fs";
import net from "node:net";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual } from "node:util";

export const here = path.dirname(fileURLToPath(import.meta.url));
export const reports = path.join(here, "..", "target", "conformance");

const target = process.env.CARGO_TARGET_DIR ?? path.join(here, "..", "target");
// What was built last.
const built = (name) => {
  const paths = ["release", "debug"].map((profile) => path.join(target, profile, name));
  const there = paths.filter((file) => existsSync(file));
  return there.sort((one, other) => statSync(other).mtimeMs - statSync(one).mtimeMs)[0] ?? paths[0];
};
export const wireline = process.env.WIRELINE ?? built("wireline");
// The tutorial's server, as the examples have it.
export const styles = { "in a loop": built("examples/server"), "in event style": built("examples/events") };
export const peerClient = process.env.PEER_CLIENT ?? built("examples/peer_client");

let passed = 0;
let failed = 0;

export function check(name, ok, detail = "") {
  ok ? passed++ : failed++;
  console.log(`${ok ? "ok  " : "FAIL"} ${name}${detail && ` (${detail})`}`);
}

// The detail is what was seen, or both when they differ.
export function checkEqual(name, seen, wanted) {
  const ok = isDeepStrictEqual(seen, wanted);
  check(name, ok, ok ? JSON.stringify(seen) : `${JSON.stringify(seen)}, wanted ${JSON.stringify(wanted)}`);
}

// Runs one group of checks; what it throws is a failed check, as is the end of its time, and the next group still runs.
export async function group(name, run, seconds = 120) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${seconds} s`)), seconds * 1000);
  });
  try {
    await Promise.race([run(), late]);
  } catch (error) {
    check(`${name}: ran to its end`, false, String(error.message ?? error).split("\n")[0]);
  } finally {
    clearTimeout(timer);
  }
}

// Prints the closing line; a part in which nothing was checked has failed.
export async function finish() {
  if (passed + failed === 0) check("anything was checked at all", false);
  for (const child of running) await child.stop();
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}

const running = new Set();

// Starts a program, whose output the file `log` under the reports keeps. `output` is what it has said
// so far; `status`, once it has ended, its exit status or why it has none.
export function start(log, command, args, options = {}) {
  mkdirSync(path.dirname(path.join(reports, log)), { recursive: true });
  const file = createWriteStream(path.join(reports, log));
  const child = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"], ...options });
  const program = { child, stdout: "", output: "", status: null };
  for (const stream of ["stdout", "stderr"]) {
    child[stream].setEncoding("utf8").on("data", (text) => {
      file.write(text);
      program.output += text;
      if (stream === "stdout") program.stdout += text;
    });
  }
  // A program that cannot be started, or that no longer reads its input, shows in its exit status.
  child.stdin.on("error", () => {});
  program.ended = new Promise((resolve) => {
    child.on("error", (error) => (program.output += `${error.message}\n`) && resolve(error.code));
    child.on("close", (status, signal) => resolve(status ?? signal));
  }).then((status) => (running.delete(program), (program.status = status)));
  program.stop = (signal = "SIGTERM") => {
    child.kill(signal);
    setTimeout(() => child.kill("SIGKILL"), 10_000).unref();
    return program.ended;
  };
  running.add(program);
  return program;
}

// Starts a program that says on which loopback port it listens, and waits until it has.
export async function startServer(log, command, args, options) {
  const server = start(log, command, args, options);
  const address = () => server.output.match(/(?:127\.0\.0\.1|localhost|port)[: ](\d+)\D/);
  await waitFor(() => address() || server.status !== null);
  const listening = address();
  if (!listening) throw new Error(`${command} did not say where it listens: ${server.output}`);
  server.port = Number(listening[1]);
  return server;
}

export const serve = (log, ...options) => startServer(log, wireline, ["serve", "127.0.0.1:0", ...options]);

// Runs a program to its end with `input` on stdin; one that does not end is killed.
export async function run(log, command, args, input = "") {
  const program = start(log, command, args);
  program.child.stdin.end(input);
  const timer = setTimeout(() => program.child.kill("SIGKILL"), 20_000);
  await program.ended;
  clearTimeout(timer);
  return program;
}

// What `condition` gives once it is truthy, or its last value after some seconds.
export async function waitFor(condition, seconds = 10) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const value = await condition();
    if (value || Date.now() > deadline) return value;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

// A certificate authority of our own, and a certificate for localhost that it vouches for.
export function certificates(directory) {
  mkdirSync(directory, { recursive: true });
  const file = (name) => path.join(directory, name);
  const openssl = (...args) => execFileSync("openssl", args, { stdio: "pipe" });
  const fresh = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
  openssl("req", "-x509", ...fresh, "-subj", "/CN=wireline test CA", "-keyout", file("ca.key"), "-out", file("ca.pem"));
  openssl(
    ...["req", "-x509", ...fresh, "-subj", "/CN=localhost", "-keyout", file("key.pem"), "-out", file("cert.pem")],
    ...["-CA", file("ca.pem"), "-CAkey", file("ca.key")],
    ...["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"],
  );
  return { ca: file("ca.pem"), cert: file("cert.pem"), key: file("key.pem") };
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// A way to a port that can be another one later: { port, to, cut() }.
export async function switchableWay(to) {
  const ends = new Set();
  const way = { to, cut: () => ends.forEach((end) => end.destroy()) };
  const listener = net.createServer((client) => {
    const server = net.connect(way.to, "127.0.0.1");
    for (const [end, other] of [[client, server], [server, client]]) {
      ends.add(end);
      end.on("error", () => {}).on("close", () => (ends.delete(end), other.destroy())).pipe(other);
    }
  });
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  way.port = listener.address().port;
  way.close = () => (listener.close(), way.cut());
  return way;
}

export async function freePort() {
  const listener = net.createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address();
  listener.close();
  await once(listener, "close");
  return port;
}

// Starts a broker that keeps its streams in a directory: { url, port, stop() }.
export async function startNats(directory, port) {
  port ??= await freePort();
  const nats = start("hub/nats.log", "nats-server", ["-a", "127.0.0.1", "-p", String(port), "-js", "-sd", directory]);
  const isThere = () =>
    new Promise((resolve) => {
      const socket = net.connect(port, "127.0.0.1", () => (socket.destroy(), resolve(true)));
      socket.on("error", () => resolve(false));
    });
  if (!(await waitFor(isThere))) throw new Error("nats-server does not listen");
  return Object.assign(nats, { port, url: `nats://127.0.0.1:${port}` });
}
