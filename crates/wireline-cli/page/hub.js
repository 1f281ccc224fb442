// The page of `wireline serve --hub`: a chat in one topic, and the node's numbers once a second.
// Everything that others say is shown with textContent, so it stays text whatever it holds.
import { Hub } from "/wireline-hub.js";

const MAX_ENTRIES = 500; // lines kept of the chat
const SECONDS = 60; // of the rates' curve

const $ = (id) => document.getElementById(id);
const url = `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/hub`;

// ---- The chat ------------------------------------------------------------------------------

let hub; // the connection, of whoever joined
let room;
let subscription;
let me = "";

function show(kind, who, text) {
  const entry = document.createElement("li");
  entry.className = kind;
  const words = document.createElement("p");
  if (who) {
    const name = document.createElement("b");
    name.textContent = who;
    words.append(name);
  }
  words.append(text);
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString();
  entry.append(words, time);
  $("log").append(entry);
  while ($("log").children.length > MAX_ENTRIES) $("log").firstElementChild.remove();
}

// A message of this page's is JSON with a name; whatever else is published is shown as it is.
function read(data) {
  if (typeof data !== "string") return { name: "", text: `${data.byteLength} bytes` };
  try {
    const { name, text } = JSON.parse(data);
    if (typeof name === "string" && typeof text === "string") return { name, text };
  } catch {
    // Text, then.
  }
  return { name: "", text: data };
}

async function showPresent() {
  try {
    const members = await hub.presence(room);
    $("present").textContent = members.length ? `here: ${members.join(", ")}` : "";
  } catch {
    $("present").textContent = "";
  }
}

function join() {
  hub?.close();
  $("log").replaceChildren();
  $("join-error").textContent = "";
  me = $("name").value.trim();
  room = $("room").value.trim();
  hub = new Hub(url, { token: () => me });
  hub.onState = (state) => {
    $("state").textContent = state[0].toUpperCase() + state.slice(1);
    $("state").dataset.state = state;
  };
  hub.onError = (error) => ($("join-error").textContent = error.message);
  subscription = hub.subscribe(room, {
    last: 50,
    onMessage: ({ data }) => {
      const { name, text } = read(data);
      show(name === me ? "mine" : "theirs", name, text);
    },
    onReset: () => show("event reset", "", "Something may be missing here: the server does not have it any more."),
    onJoin: (who) => (show("event", "", `${who} is here`), showPresent()),
    onLeave: (who) => (show("event", "", `${who} left`), showPresent()),
  });
  subscription.ready.then(showPresent, (error) => ($("join-error").textContent = error.message));
  $("chat-title").textContent = room;
  $("text").disabled = $("say").disabled = false;
  $("text").focus();
}

$("join-form").addEventListener("submit", (event) => {
  event.preventDefault();
  join();
});

$("say-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value;
  if (!text) return;
  $("text").value = "";
  $("say-error").textContent = "";
  try {
    await hub.publish(room, JSON.stringify({ name: me, text }));
  } catch (error) {
    $("say-error").textContent = `Not published: ${error.message}`;
    $("text").value ||= text;
  }
});

// ---- The node ------------------------------------------------------------------------------

const rates = [];
let before;

function draw() {
  const most = Math.max(1, ...rates);
  const points = rates.map((rate, n) => `${(n / (SECONDS - 1)) * 240},${46 - (rate / most) * 44}`);
  $("rates-line").setAttribute("d", points.length > 1 ? `M${points.join("L")}` : "");
}

async function fetchJson(path) {
  const response = await fetch(path);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error);
  return body;
}

async function watchNode() {
  try {
    const [now, stats] = [performance.now(), await fetchJson("/stats")];
    for (const name of ["connections", "topics", "lagging"]) {
      $(name).textContent = stats[name].toLocaleString("en");
    }
    if (before) {
      const seconds = (now - before.now) / 1000;
      for (const name of ["publications", "deliveries"]) {
        // A node that was started again counts from zero.
        const rate = Math.max(0, (stats[name] - before.stats[name]) / seconds);
        $(name).textContent = rate.toLocaleString("en", { maximumFractionDigits: rate < 10 ? 1 : 0 });
        if (name === "deliveries") rates.push(rate);
      }
      rates.splice(0, rates.length - SECONDS);
      draw();
    }
    before = { now, stats };
  } catch {
    before = undefined;
    for (const id of ["connections", "topics", "publications", "deliveries", "lagging"]) {
      $(id).textContent = "–";
    }
  }
  try {
    const { topics } = await fetchJson("/topics");
    $("topics-note").textContent = topics.length ? "" : "Nobody hears any.";
    $("topic-list").replaceChildren(
      ...topics.slice(0, 50).map(({ topic, subscribers }) => {
        const [entry, name, count] = ["li", "b", "span"].map((tag) => document.createElement(tag));
        name.textContent = topic;
        count.textContent = subscribers;
        entry.append(name, count);
        return entry;
      }),
    );
  } catch (error) {
    $("topic-list").replaceChildren();
    $("topics-note").textContent = error instanceof TypeError ? "The server does not answer." : error.message;
  }
  setTimeout(watchNode, 1000);
}

$("name").value = `guest-${Math.floor(Math.random() * 10_000)}`;
watchNode();
