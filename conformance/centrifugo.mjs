#!/usr/bin/env node
// The hub's adapter for Centrifugo's clients: npm centrifuge as it is, whose connection is cut, whose history is gone, whose
// node is killed and whose broker comes up empty; beside the hub's own client; and an older one, which takes no epochs.
import { createHmac } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { isDeepStrictEqual } from "node:util";
import { Centrifuge } from "centrifuge";
import { Centrifuge as Older } from "centrifuge-older";
import WebSocket from "ws";
import { Hub } from "../crates/wireline-hub/js/wireline-hub.js";
import { check, checkEqual, finish, group, pause, serve, startNats, switchableWay, waitFor } from "./harness.mjs";

const endpoint = (port) => `ws://127.0.0.1:${port}/connection/websocket`;
// It comes back at once: what is tried is how, and not when.
const soon = { websocket: WebSocket, minReconnectDelay: 10, maxReconnectDelay: 100 };
const subscribeSoon = { minResubscribeDelay: 10, maxResubscribeDelay: 100 };

async function connect(port, options = {}, Client = Centrifuge) {
  const client = new Client(endpoint(port), { ...soon, ...options });
  client.connect();
  await client.ready(5000);
  return client;
}

// A subscription with what it heard: data, positions, and each time that it was subscribed.
async function subscribe(client, channel, options = {}) {
  const subscription = client.newSubscription(channel, { ...subscribeSoon, ...options });
  const heard = { subscription, data: [], offsets: [], subscribed: [], subscribing: [], joined: [], left: [] };
  subscription.on("publication", ({ data, offset }) => (heard.data.push(data), heard.offsets.push(offset)));
  subscription.on("subscribed", (context) => heard.subscribed.push(context));
  subscription.on("subscribing", ({ code }) => heard.subscribing.push(code));
  subscription.on("join", ({ info }) => heard.joined.push(info.user));
  subscription.on("leave", ({ info }) => heard.left.push(info.user));
  subscription.subscribe();
  await subscription.ready(5000);
  return heard;
}

const failure = (promise) => promise.then((result) => ({ result }), (error) => error);
const publishOverHttp = (port, topic, body, type = "text/plain") =>
  fetch(`http://127.0.0.1:${port}/publish?topic=${topic}`, { method: "POST", body, headers: { "Content-Type": type } });
const isRising = (numbers) => numbers.every((number, index) => index === 0 || number > numbers[index - 1]);
const numbers = (count) => [...Array(count).keys()];

await group("without tokens", async () => {
  const server = await serve("centrifugo/open.log", "--hub");
  const [ann, bob] = [await connect(server.port, { token: "ann", name: "js" }), await connect(server.port, { token: "bob" })];
  const watching = await subscribe(ann, "chat:1", { joinLeave: true });
  const listening = await subscribe(bob, "chat:1");
  const first = listening.subscribed[0];
  checkEqual("subscribed", [first.recoverable, first.positioned, first.wasRecovering], [true, true, false]);
  check("subscribed: a position", Number.isSafeInteger(first.streamPosition.offset) && /^[0-9a-f]{8}$/.test(first.streamPosition.epoch));

  const values = [{ a: [1, null, "κ\n"] }, "tea", 1.5, true, null, [], { nested: { deep: [[]] } }];
  for (const value of values) await watching.subscription.publish(value);
  await bob.publish("chat:1", { from: "bob" });
  const all = [...values, { from: "bob" }];
  await waitFor(() => watching.data.length === all.length && listening.data.length === all.length);
  checkEqual("published values arrive as they were", listening.data, all);
  checkEqual("and at everybody's", watching.data, all);
  check("offsets rise", isRising(listening.offsets));

  await publishOverHttp(server.port, "chat:1", '{\n  "pretty": [1,\n 2]\n}\n');
  await publishOverHttp(server.port, "chat:1", "no JSON\nat all");
  await publishOverHttp(server.port, "chat:1", new Uint8Array([0, 255]), "application/octet-stream");
  await waitFor(() => listening.data.length === all.length + 3);
  const others = [{ pretty: [1, 2] }, "no JSON\nat all", { b64data: "AP8=" }];
  checkEqual("JSON, text and bytes of other publishers", listening.data.slice(all.length), others);
  const refused = await failure(ann.publish("news", "mine"));
  checkEqual("a publication that is not allowed", [refused.code, refused.message], [103, "permission denied"]);

  await waitFor(() => watching.joined.includes("bob"));
  const { clients } = await watching.subscription.presence();
  checkEqual("presence", Object.values(clients).map(({ user }) => user).sort(), ["ann", "bob"]);
  checkEqual("presence in numbers", await watching.subscription.presenceStats(), { numUsers: 2, numClients: 2 });
  bob.disconnect();
  await waitFor(() => watching.left.length > 0);
  checkEqual("joins and leaves", [watching.joined.includes("bob"), watching.left], [true, ["bob"]]);
  checkEqual("presence of a topic that has none", (await failure(ann.presence("news"))).code, 108);
  checkEqual("rpc", (await failure(ann.rpc("nap", {}))).code, 104);
  watching.subscription.unsubscribe();
  await publishOverHttp(server.port, "chat:1", "unheard");
  await pause(200);
  check("nothing is heard after unsubscribing", !watching.data.includes("unheard"));
  ann.disconnect();
  await server.stop();
});

await group("history", async () => {
  const server = await serve("centrifugo/history.log", "--hub", "--history", "10");
  const client = await connect(server.port);
  for (const n of numbers(15)) await publishOverHttp(server.port, "news", `${n}`);
  const subscription = client.newSubscription("news");
  subscription.subscribe();
  const ask = (options) => subscription.history(options);
  const data = ({ publications }) => publications.map(({ data }) => data);
  const end = await ask();
  checkEqual("history: only the place", [data(end), Number.isSafeInteger(end.offset)], [[], true]);
  checkEqual("history: from the beginning", data(await ask({ limit: 3 })), [5, 6, 7]);
  checkEqual("history: from the end", data(await ask({ limit: 3, reverse: true })), [14, 13, 12]);
  // Page by page, with the epoch that the first page came with.
  let page = await ask({ limit: 4 });
  const { epoch } = page;
  const read = [];
  while (page.publications.length) {
    read.push(...data(page));
    page = await ask({ limit: 4, since: { offset: page.publications.at(-1).offset, epoch } });
  }
  checkEqual("history: page by page", read, numbers(15).slice(5));
  checkEqual("history: behind the end", data(await ask({ limit: 9, since: { offset: end.offset, epoch: end.epoch } })), []);
  checkEqual("history: of another life", (await failure(ask({ limit: 9, since: { offset: end.offset, epoch: "00000000" } }))).code, 112);
  const begin = { offset: end.offset - 12, epoch: end.epoch };
  checkEqual("history: what is forgotten", (await failure(ask({ limit: 9, since: begin }))).code, 112);
  // Whoever has a position may begin there.
  const since = await subscribe(await connect(server.port), "news", { since: { offset: end.offset, epoch: end.epoch } });
  checkEqual("a subscription that begins at a position", [since.subscribed[0].recovered, since.data], [true, []]);
  // An application that has a state of its own, and loads it anew where a position is not recovered.
  const states = [{ offset: end.offset - 12, epoch: end.epoch }, { offset: end.offset, epoch: end.epoch }];
  await publishOverHttp(server.port, "news", "15");
  const own = await subscribe(await connect(server.port), "news", { getState: async () => states.shift() });
  await waitFor(() => own.data.length > 0);
  checkEqual("a state that is loaded anew", [own.subscribed.map(({ recovered }) => recovered), own.data, states], [[true], [15], []]);
  await server.stop();
});

await group("tokens", async () => {
  const directory = mkdtempSync(path.join(os.tmpdir(), "wireline-centrifugo-"));
  const secret = path.join(directory, "secret");
  writeFileSync(secret, "0123456789abcdef0123456789abcdef");
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const sign = (seconds, claims = {}, key = "0123456789abcdef0123456789abcdef") => {
    const exp = Math.floor(Date.now() / 1000) + seconds;
    const head = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ sub: "ann", exp, subscribe: ["chat:*"], publish: ["chat:1"], ...claims })}`;
    return `${head}.${createHmac("sha256", key).update(head).digest("base64url")}`;
  };
  const server = await serve("centrifugo/tokens.log", "--hub", "--token-secret", secret);
  // Who is refused is told for good, and does not come again.
  const refusal = async (options) => {
    const client = new Centrifuge(endpoint(server.port), { ...soon, ...options });
    const attempts = [];
    client.on("connecting", ({ code }) => attempts.push(code));
    const disconnected = new Promise((resolve) => client.on("disconnected", resolve));
    client.connect();
    const { code, reason } = await disconnected;
    await pause(300);
    return [code, reason, attempts.length, client.state];
  };
  const forGood = [3500, "invalid token", 1, "disconnected"];
  checkEqual("no token", await refusal({}), forGood);
  checkEqual("another's token", await refusal({ token: sign(3600, {}, "x".repeat(32)) }), forGood);
  checkEqual("no token at all", await refusal({ token: "ann" }), forGood);

  const client = await connect(server.port, { token: sign(3600) });
  const heard = await subscribe(client, "chat:1");
  await client.publish("chat:1", "hello");
  await waitFor(() => heard.data.length === 1);
  checkEqual("what the token allows", heard.data, ["hello"]);
  checkEqual("a publication that it does not allow", (await failure(client.publish("chat:2", "hello"))).code, 103);
  const denied = client.newSubscription("news");
  const unsubscribed = new Promise((resolve) => denied.on("unsubscribed", resolve));
  denied.subscribe();
  checkEqual("a subscription that it does not allow", (await unsubscribed).code, 103);
  client.disconnect();

  // A token whose time is over: the client gets a new one, and comes with that.
  let asked = 0;
  const getToken = async () => (asked++, sign(3600));
  const back = await connect(server.port, { token: sign(-60), getToken });
  checkEqual("a token that is over", [back.state, asked], ["connected", 1]);
  back.disconnect();

  // A token that ends meanwhile: the client brings a new one over the connection that it has.
  asked = 0;
  const lasting = new Centrifuge(endpoint(server.port), { ...soon, token: sign(4), getToken });
  const connected = [];
  lasting.on("connected", ({ client }) => connected.push(client));
  lasting.connect();
  await lasting.ready(5000);
  await pause(6000);
  checkEqual("a token that ends meanwhile", [lasting.state, asked, connected.length], ["connected", 1, 1]);
  lasting.disconnect();
  await server.stop();
  rmSync(directory, { recursive: true, force: true });
});

await group("a connection that is cut again and again", async () => {
  const CUTS = 20;
  const EACH = 25;
  const server = await serve("centrifugo/cut.log", "--hub", "--history", "1000");
  const way = await switchableWay(server.port);
  const listener = await connect(way.port);
  const heard = await subscribe(listener, "chat:1");
  const plain = new Hub(`ws://127.0.0.1:${server.port}/hub`, { WebSocket });
  const plainHeard = [];
  await plain.subscribe("chat:1", { onMessage: ({ data }) => plainHeard.push(JSON.parse(data)) }).ready;
  const speaker = await connect(server.port);
  for (const cut of numbers(CUTS)) {
    for (const n of numbers(EACH)) {
      const number = cut * EACH + n;
      // Both protocols publish.
      await (number % 2 ? speaker.publish("chat:1", number) : plain.publish("chat:1", `${number}`));
      // Away while four are published: to where nobody listens.
      if (n === cut) (way.to = 1), way.cut();
      if (n === cut + 4) way.to = server.port;
    }
    await waitFor(() => heard.subscribed.length > cut + 1);
  }
  await waitFor(() => heard.data.length >= CUTS * EACH && plainHeard.length >= CUTS * EACH, 30);
  const again = heard.subscribed.slice(1);
  checkEqual("cut: it came back each time", again.length, CUTS);
  check("cut: recovered each time", again.every(({ wasRecovering, recovered }) => wasRecovering && recovered));
  check("cut: nothing lost, nothing doubled, one order", isDeepStrictEqual(heard.data, numbers(CUTS * EACH)), `${heard.data.length} heard`);
  check("cut: the hub's own client heard the same", isDeepStrictEqual(plainHeard, heard.data));
  check("cut: offsets rise", isRising(heard.offsets));
  for (const client of [listener, speaker]) client.disconnect();
  plain.close();
  way.close();
  await server.stop();
});

await group("history that is gone", async () => {
  const server = await serve("centrifugo/gone.log", "--hub", "--history", "10");
  const way = await switchableWay(server.port);
  const heard = await subscribe(await connect(way.port), "chat:1");
  await publishOverHttp(server.port, "chat:1", "0");
  await waitFor(() => heard.data.length === 1);
  const to = way.to;
  // To where nobody listens.
  way.to = 1;
  way.cut();
  for (const n of numbers(50)) await publishOverHttp(server.port, "chat:1", `${n + 1}`);
  way.to = to;
  await waitFor(() => heard.subscribed.length > 1);
  const again = heard.subscribed[1];
  checkEqual("gone: it is told so", [again.wasRecovering, again.recovered], [true, false]);
  await publishOverHttp(server.port, "chat:1", '"next"');
  await waitFor(() => heard.data.includes("next"));
  checkEqual("gone: it goes on from the end", heard.data, [0, "next"]);
  way.cut();
  await waitFor(() => heard.subscribed.length > 2);
  checkEqual("gone: and is recovered from there", heard.subscribed[2].recovered, true);
  way.close();
  await server.stop();
});

await group("two nodes over NATS", async () => {
  const directory = mkdtempSync(path.join(os.tmpdir(), "wireline-centrifugo-"));
  const nats = await startNats(directory);
  const one = await serve("centrifugo/one.log", "--hub", "--nats", nats.url);
  const two = await serve("centrifugo/two.log", "--hub", "--nats", nats.url);
  const way = await switchableWay(one.port);
  const heard = await subscribe(await connect(way.port), "chat:1");
  const plain = new Hub(`ws://127.0.0.1:${two.port}/hub`, { WebSocket });
  const plainHeard = [];
  await plain.subscribe("chat:1", { onMessage: ({ data }) => plainHeard.push(JSON.parse(data)) }).ready;
  const speaker = await connect(two.port);
  for (const n of numbers(100)) {
    // Another topic between, so that offsets have gaps.
    await Promise.all([speaker.publish("chat:1", n), speaker.publish("chat:2", n)]);
    if (n === 40) {
      way.to = two.port;
      await one.stop("SIGKILL");
    }
  }
  await waitFor(() => heard.data.length >= 100 && plainHeard.length >= 100, 30);
  const again = heard.subscribed.slice(1);
  checkEqual("two nodes: recovered at the other", again.map(({ recovered }) => recovered), [true]);
  check("two nodes: nothing lost, nothing doubled, one order", isDeepStrictEqual(heard.data, numbers(100)), `${heard.data.length} heard`);
  check("two nodes: the hub's own client heard the same", isDeepStrictEqual(plainHeard, heard.data));
  check("two nodes: offsets rise, with gaps", isRising(heard.offsets) && heard.offsets.at(-1) - heard.offsets[0] > 150);

  // A broker that comes up empty, while the client's connection stands.
  await nats.stop("SIGKILL");
  rmSync(directory, { recursive: true, force: true });
  await startNats(directory, nats.port);
  await waitFor(async () => !(await failure(speaker.publish("chat:1", "anew"))).code, 30);
  await waitFor(() => heard.subscribed.length > 2, 30);
  const anew = heard.subscribed.at(-1);
  checkEqual("empty broker: the subscription began anew", heard.subscribing.at(-1), 2500);
  checkEqual("empty broker: it is never recovered", [anew.wasRecovering, anew.recovered], [true, false]);
  await speaker.publish("chat:1", "behind");
  await waitFor(() => heard.data.includes("behind"));
  checkEqual("empty broker: it goes on", heard.data.at(-1), "behind");
  speaker.disconnect();
  plain.close();
  way.close();
  await two.stop();
  rmSync(directory, { recursive: true, force: true });
});

await group("an older client, which takes no epochs", async () => {
  const server = await serve("centrifugo/older.log", "--hub");
  const way = await switchableWay(server.port);
  const heard = await subscribe(await connect(way.port, {}, Older), "chat:1");
  way.cut();
  await waitFor(() => heard.subscribed.length > 1);
  checkEqual("older: recovered while nothing came", heard.subscribed[1].recovered, true);
  await publishOverHttp(server.port, "chat:1", "1");
  await waitFor(() => heard.data.length === 1);
  way.cut();
  await waitFor(() => heard.subscribed.length > 2);
  const again = heard.subscribed[2];
  checkEqual("older: not recovered without a proof", [again.wasRecovering, again.recovered], [true, false]);
  await publishOverHttp(server.port, "chat:1", "2");
  await waitFor(() => heard.data.length === 2);
  checkEqual("older: it goes on", heard.data, [1, 2]);
  way.close();
  await server.stop();
});

await group("a node that is drained", async () => {
  const server = await serve("centrifugo/drained.log", "--hub", "--drain", "1");
  const client = new Centrifuge(endpoint(server.port), soon);
  const connecting = [];
  client.on("connecting", ({ code, reason }) => connecting.push([code, reason]));
  client.connect();
  await client.ready(5000);
  const stopped = server.stop("SIGTERM");
  await waitFor(() => connecting.length > 1);
  checkEqual("drained: the client is to come back", connecting[1], [3001, "shutdown"]);
  checkEqual("drained: the node ended well", await stopped, 0);
  client.disconnect();
});

await finish();
