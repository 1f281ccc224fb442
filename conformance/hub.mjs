#!/usr/bin/env node
// Topics: the hub's page in two browsers, through two nodes over NATS, of which one is killed; and its client
// in Node, whose connection is cut again and again.
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { isDeepStrictEqual } from "node:util";
import { chromium } from "playwright-core";
import WebSocket from "ws";
import { Hub } from "../crates/wireline-hub/js/wireline-hub.js";
import { check, checkEqual, finish, group, pause, reports, serve, startNats, switchableWay, waitFor } from "./harness.mjs";

await group("two pages, two nodes", async () => {
  const directory = mkdtempSync(path.join(os.tmpdir(), "wireline-hub-"));
  const nats = await startNats(directory);
  const one = await serve("hub/one.log", "--hub", "--nats", nats.url);
  const two = await serve("hub/two.log", "--hub", "--nats", nats.url);
  const way = await switchableWay(one.port);
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      ...(process.getuid() === 0 ? ["--no-sandbox"] : []),
      ...["--disable-gpu", "--no-first-run", "--disable-quic"],
      ...["--disable-background-networking", "--disable-component-update", "--disable-sync"],
    ],
  });
  const open = async (name, port) => {
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    await page.goto(`http://127.0.0.1:${port}/`);
    await page.fill("#name", name);
    await page.click("#join");
    await page.waitForFunction(() => document.querySelector("#state").dataset.state === "open");
    return page;
  };
  const [ann, bob] = [await open("ann", way.port), await open("bob", two.port)];
  const said = [];
  const say = async (page, name, n) => {
    said.push(`${name}message ${n}`);
    await page.fill("#text", `message ${n}`);
    await page.press("#text", "Enter");
  };
  const heard = (page) => page.evaluate(() => [...document.querySelectorAll("#log li:not(.event) p")].map((p) => p.textContent));
  for (let n = 0; n < 10; n++) await Promise.all([say(ann, "ann", n), say(bob, "bob", n)]);
  // While both go on talking, ann's node is gone, and her next attempt comes to bob's.
  const talking = (async () => {
    for (let n = 10; n < 40; n++) {
      await Promise.all([say(ann, "ann", n), say(bob, "bob", n)]);
      await pause(50);
    }
  })();
  await pause(300);
  way.to = two.port;
  await one.stop("SIGKILL");
  await talking;
  const all = async () => (await heard(ann)).length >= said.length && (await heard(bob)).length >= said.length;
  await waitFor(all, 30);
  const [hers, his] = [await heard(ann), await heard(bob)];
  checkEqual("two pages, two nodes: each has all", [hers.length, his.length], [said.length, said.length]);
  check("two pages, two nodes: nothing lost, nothing doubled", isDeepStrictEqual([...hers].sort(), [...said].sort()));
  check("two pages, two nodes: one order", isDeepStrictEqual(hers, his));
  const resets = await ann.evaluate(() => document.querySelectorAll("#log .reset").length);
  checkEqual("two pages, two nodes: nobody had to begin anew", resets, 0);
  checkEqual("two pages, two nodes: who is here", await bob.textContent("#present"), "here: ann, bob");
  await bob.waitForFunction(() => document.querySelector("#connections").textContent === "2");
  check("two pages, two nodes: the node's numbers", true, "2 connections");
  await bob.screenshot({ path: path.join(reports, "hub.png") });
  await browser.close();
  way.close();
  await two.stop();
  rmSync(directory, { recursive: true, force: true });
});

await group("client in Node", async () => {
  // All is kept: who is away for longer than the other must not need a reset.
  const server = await serve("hub/node.log", "--hub", "--history", "1000");
  const way = await switchableWay(server.port);
  const url = `ws://127.0.0.1:${way.port}/hub`;
  const heard = [];
  let resets = 0;
  const listener = new Hub(url, { WebSocket, token: "listener" });
  await listener.subscribe("chat:1", { onMessage: ({ data }) => heard.push(data), onReset: () => resets++ }).ready;
  const speaker = new Hub(url, { WebSocket });
  const published = [];
  let cuts = 0;
  const cutting = setInterval(() => (cuts < 10 ? (cuts++, way.cut()) : clearInterval(cutting)), 250);
  for (let n = 0; n < 300; n++) {
    published.push(speaker.publish("chat:1", n % 2 ? `${n}` : new TextEncoder().encode(`${n}`)));
    await pause(10);
  }
  const positions = await Promise.all(published);
  await waitFor(() => heard.length >= 300, 30);
  const texts = heard.map((data) => (typeof data === "string" ? data : new TextDecoder().decode(data)));
  checkEqual("client in Node: cuts", cuts, 10);
  checkEqual("client in Node: published", new Set(positions).size, 300);
  const numbers = texts.map(Number).sort((one, other) => one - other);
  check("client in Node: nothing lost, nothing doubled", isDeepStrictEqual(numbers, [...Array(300).keys()]), `${texts.length} heard`);
  check("client in Node: text is text, and bytes are bytes", heard.every((data) => (typeof data === "string") === (Number(typeof data === "string" ? data : new TextDecoder().decode(data)) % 2 === 1)));
  checkEqual("client in Node: resets", resets, 0);
  const refused = await listener.publish("news", "not mine").catch((error) => error);
  checkEqual("client in Node: a refusal", [refused.code, refused.temporary], ["forbidden", false]);
  // Who has just come back is told of soon.
  await waitFor(async () => (await listener.presence("chat:1")).length === 1, 5);
  checkEqual("client in Node: who is here", await listener.presence("chat:1"), ["listener"]);
  listener.close();
  speaker.close();
  const closed = await listener.publish("chat:1", "too late").catch((error) => error);
  checkEqual("client in Node: after its end", closed.code, "closed");
  way.close();
  await server.stop();
});

await group("client in Node: an application's faults", async () => {
  const server = await serve("hub/faults.log", "--hub");
  const way = await switchableWay(server.port);
  const complained = console.error;
  let complaints = 0;
  console.error = () => complaints++;
  // It subscribes when it is told that the connection is open, as most do, and throws wherever it can.
  const hub = new Hub(`ws://127.0.0.1:${way.port}/hub`, { WebSocket });
  const heard = [];
  const [errors, ready] = [[], []];
  hub.onError = (error) => errors.push(error.code);
  hub.onState = (state) => {
    if (state === "open" && ready.length === 0) {
      const onMessage = ({ data }) => {
        heard.push(data);
        throw new Error("of the application");
      };
      ready.push(hub.subscribe("chat:2", { onMessage }).ready);
    }
    throw new Error("of the application");
  };
  await waitFor(() => ready.length === 1, 10);
  await ready[0];
  await hub.publish("chat:2", "one");
  way.cut();
  await hub.publish("chat:2", "two");
  await waitFor(() => heard.length === 2, 30);
  checkEqual("client in Node: subscribed when open, over a cut", [heard, errors], [["one", "two"], []]);
  const [small, large] = [hub.publish("chat:2", "three"), hub.publish("chat:2", "x".repeat(3 << 20)).catch((error) => error)];
  await small;
  checkEqual("client in Node: too large for the server", (await large).code, "too_large");
  await hub.publish("chat:2", "four");
  await waitFor(() => heard.length === 4, 30);
  checkEqual("client in Node: the others go on", heard, ["one", "two", "three", "four"]);
  const nothing = await hub.publish("chat:2", { an: "object" }).catch((error) => error);
  check("client in Node: an object is no payload", nothing instanceof TypeError, `${nothing}`);
  hub.close();
  console.error = complained;
  check("client in Node: what the application throws is told", complaints >= 6, `${complaints} times`);
  let attempts = 0;
  const token = () => (attempts++ ? "ann" : Promise.reject(new SyntaxError("no JSON")));
  const later = new Hub(`ws://127.0.0.1:${way.port}/hub`, { WebSocket, token });
  await later.subscribe("chat:2").ready;
  checkEqual("client in Node: a token that fails is asked for again", attempts, 2);
  later.close();
  way.close();
  await server.stop();
});

await group("a node that is drained", async () => {
  const directory = mkdtempSync(path.join(os.tmpdir(), "wireline-hub-"));
  const nats = await startNats(directory);
  const one = await serve("hub/leaving.log", "--hub", "--nats", nats.url, "--drain", "2");
  const two = await serve("hub/staying.log", "--hub", "--nats", nats.url);
  const way = await switchableWay(one.port);
  const clients = Array.from({ length: 20 }, () => {
    const client = { heard: [], resets: 0, hub: new Hub(`ws://127.0.0.1:${way.port}/hub`, { WebSocket }) };
    const onMessage = ({ data }) => client.heard.push(data);
    client.ready = client.hub.subscribe("chat:1", { onMessage, onReset: () => client.resets++ }).ready;
    return client;
  });
  await Promise.all(clients.map(({ ready }) => ready));
  const speaker = new Hub(`ws://127.0.0.1:${two.port}/hub`, { WebSocket });
  way.to = two.port;
  const stopped = one.stop("SIGTERM");
  const wanted = [];
  for (let n = 0; n < 100; n++) {
    wanted.push(`${n}`);
    await speaker.publish("chat:1", `${n}`);
    await pause(30);
  }
  checkEqual("drained: the node ended well", await stopped, 0);
  check("drained: it sent all away", !one.output.includes("did not go"), one.output.trim().split("\n").at(-1));
  await waitFor(() => clients.every(({ heard }) => heard.length >= 100), 30);
  check("drained: everybody heard all, once and in order", clients.every(({ heard }) => isDeepStrictEqual(heard, wanted)));
  checkEqual("drained: resets", clients.reduce((sum, { resets }) => sum + resets, 0), 0);
  for (const { hub } of clients) hub.close();
  speaker.close();
  way.close();
  await two.stop();
  rmSync(directory, { recursive: true, force: true });
});

await finish();
