// The page of `wireline serve`: one WebSocket driven by the forms, a second one for the clock.
// Everything a peer sends is shown with textContent, so it stays text whatever it holds.

const MAX_ENTRIES = 500; // entries kept in the log
const MAX_SHOWN = { text: 2000, binary: 256 }; // characters and bytes shown of one message
const MAX_REASON = 123; // bytes: a control frame holds 125, and the code takes two

const $ = (id) => document.getElementById(id);
const wsOrigin = `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}`;

// ---- Words and numbers ---------------------------------------------------------------------

// RFC 6455 section 7.4.1 and the IANA WebSocket Close Code Number Registry.
const CLOSE_CODES = {
  1000: "normal closure",
  1001: "going away: the server shuts down, or the browser leaves the page",
  1002: "protocol error",
  1003: "unsupported data: a kind of message this endpoint does not take",
  1004: "reserved",
  1005: "no status received: the Close frame had no code",
  1006: "abnormal closure: the connection died without a closing handshake",
  1007: "invalid payload data, such as text that is not UTF-8",
  1008: "policy violation",
  1009: "message too big",
  1010: "mandatory extension missing",
  1011: "internal error",
  1012: "service restart",
  1013: "try again later",
  1014: "bad gateway",
  1015: "TLS handshake failed",
  3000: "unauthorized",
  3003: "forbidden",
  3008: "timeout",
};

function closeMeaning(code) {
  if (code in CLOSE_CODES) return CLOSE_CODES[code];
  if (code >= 4000 && code <= 4999) return "private: the application gives it its meaning";
  if (code >= 3000 && code <= 3999) return "for libraries, frameworks and applications";
  return "unassigned";
}

const STATES = ["Connecting", "Open", "Closing", "Closed"]; // by readyState

const utf8Length = (text) => new TextEncoder().encode(text).length;
const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

function clockTime(date) {
  const two = (n) => String(n).padStart(2, "0");
  const ms = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${ms}`;
}

// "de ad", "dead", "0xde, 0xad" and "de:ad" are the same two bytes.
function parseHex(input) {
  const groups = input.split(/[\s,:]+/).filter(Boolean);
  const bytes = [];
  for (const group of groups) {
    const digits = group.replace(/^0x/i, "");
    const wrong = digits.match(/[^0-9a-f]/iu);
    if (wrong) throw new Error(`“${wrong[0]}” is not a hexadecimal digit (0–9, a–f).`);
    if (digits.length === 0 || digits.length % 2) {
      throw new Error(`“${group}” is not whole bytes: each byte is two digits, such as 0a.`);
    }
    for (let i = 0; i < digits.length; i += 2) bytes.push(parseInt(digits.slice(i, i + 2), 16));
  }
  return new Uint8Array(bytes);
}

function hexDump(bytes) {
  const perLine = $("log").clientWidth >= 620 ? 16 : 8; // what fits beside the text
  const lines = [];
  for (let at = 0; at < bytes.length; at += perLine) {
    const row = [...bytes.subarray(at, at + perLine)];
    const hex = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const ascii = row.map((b) => (b >= 0x20 && b < 0x7f ? String.fromCharCode(b) : ".")).join("");
    lines.push(`${at.toString(16).padStart(4, "0")}  ${hex.padEnd(perLine * 3 - 1)}  ${ascii}`);
  }
  return lines.join("\n");
}

// ---- The log -------------------------------------------------------------------------------

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

// Entries of one frame are appended together; in a hidden tab they wait, the newest 500 of them.
const waiting = [];

function addEntry(event, title, details, ...body) {
  const now = new Date();
  const time = element("time", "", clockTime(now));
  time.dateTime = now.toISOString();
  const head = element("div", "head", "");
  head.append(element("b", "", title), ...details, time);
  const entry = document.createElement("li");
  entry.dataset.event = event;
  entry.append(head, ...body);
  waiting.push(entry);
  if (waiting.length === 1) requestAnimationFrame(showWaiting);
  if (waiting.length > MAX_ENTRIES) waiting.shift();
}

function showWaiting() {
  const log = $("log");
  log.append(...waiting.splice(0));
  while (log.childElementCount > MAX_ENTRIES) log.firstElementChild.remove();
}

const titles = { sent: "Sent", message: "Received" };
const note = (text) => element("p", "note", text);
const detail = (text) => element("span", "", text);

function facts(pairs) {
  const list = element("dl", "facts", "");
  for (const [name, value] of pairs) {
    const pair = document.createElement("div");
    pair.append(element("dt", "", name), " ", element("dd", "", value));
    list.append(pair);
  }
  return list;
}

function addText(event, text) {
  const size = utf8Length(text);
  const details = [element("span", "kind", "text"), detail(count(size, "byte"))];
  if (text === "") return addEntry(event, titles[event], details, note("empty message"));
  // A cut between the two halves of a surrogate pair would leave half a character.
  const shown = text.slice(0, MAX_SHOWN.text).replace(/[\ud800-\udbff]$/, "");
  const body = [element("pre", "", shown)];
  const rest = text.length - shown.length;
  if (rest > 0) body.push(note(`… and ${count(rest, "more character")}`));
  addEntry(event, titles[event], details, ...body);
}

// `start` is the beginning of the message, enough to show; `size` is the length of all of it.
function addBinary(event, start, size, name) {
  const details = [element("span", "kind binary", "binary"), detail(count(size, "byte"))];
  if (name) details.push(detail(name));
  if (size === 0) return addEntry(event, titles[event], details, note("empty message"));
  const shown = start.subarray(0, MAX_SHOWN.binary);
  const body = [element("pre", "dump", hexDump(shown))];
  const rest = size - shown.length;
  if (rest > 0) body.push(note(`… and ${count(rest, "more byte")}`));
  addEntry(event, titles[event], details, ...body);
}

$("clear").addEventListener("click", () => {
  waiting.length = 0;
  $("log").replaceChildren();
});

// ---- Telling what is wrong, beside the field -----------------------------------------------

// Shows `message` under the field, or takes it away when there is none. Returns whether all is well.
function judge(field, message) {
  $(`${field}-error`).textContent = message ?? "";
  $(field).setAttribute("aria-invalid", String(Boolean(message)));
  if (message) $(field).focus();
  return !message;
}

for (const field of ["url", "protocol", "binary", "close-code"]) {
  $(field).addEventListener("input", () => judge(field));
}

// ---- The connection ------------------------------------------------------------------------

let socket = null;

const isOpen = () => socket?.readyState === WebSocket.OPEN;

// Disables a button; a keyboard that was on it goes on at `next` rather than nowhere.
function setDisabled(button, disabled, next) {
  if (disabled && next && button.matches(":focus-visible")) next.focus();
  button.disabled = disabled;
}

function showState() {
  const state = STATES[socket?.readyState ?? WebSocket.CLOSED];
  if ($("state").textContent !== state) $("state").textContent = state; // announced only if new
  $("state").dataset.state = state.toLowerCase();
  $("negotiated").textContent = socket?.protocol || "none";
  $("buffered").textContent = count(socket?.bufferedAmount ?? 0, "byte");
  $("send-hint").textContent = isOpen() ? "Enter sends." : "Connect first.";
  for (const id of ["send-text", "send-binary", "send-file"]) $(id).disabled = !isOpen();
  setDisabled($("connect"), state !== "Closed", $("text"));
  setDisabled($("disconnect"), state !== "Open" && state !== "Connecting", $("url"));
}

function urlProblem(text) {
  if (text === "") return "Where to? A URL looks like ws://host/path.";
  let url;
  try {
    url = new URL(text);
  } catch {
    return "This is not a URL. One looks like ws://host/path, or wss:// for TLS.";
  }
  if (!/^wss?:$/.test(url.protocol)) {
    return `A WebSocket URL starts with ws:// or wss://, not ${url.protocol}`;
  }
  if (url.hash) return "A WebSocket URL has no fragment: remove the # and what follows.";
}

function protocolProblem(names) {
  const wrong = names.find((name) => !/^[!#$%&'*+\-.^_`|~\w]+$/.test(name));
  if (wrong) return `“${wrong}” cannot name a subprotocol: no spaces or separators, ASCII only.`;
  if (new Set(names).size < names.length) return "The same subprotocol is there twice.";
}

$("connect-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  const url = $("url").value.trim();
  const protocols = $("protocol").value.split(",").map((name) => name.trim()).filter(Boolean);
  if (!judge("url", urlProblem(url)) || !judge("protocol", protocolProblem(protocols))) return;
  try {
    connect(url, protocols);
  } catch (refused) {
    judge("url", `The browser refuses this: ${refused.message}`); // such as ws: from an https: page
  }
});

function connect(url, protocols) {
  const started = performance.now();
  let opened = false;
  socket = new WebSocket(url, protocols);
  socket.binaryType = "arraybuffer";

  socket.addEventListener("open", ({ target }) => {
    opened = true;
    const pairs = [["url", target.url], ["subprotocol", target.protocol || "(none)"]];
    if (target.extensions) pairs.push(["extensions", target.extensions]);
    const took = `after ${Math.round(performance.now() - started)} ms`;
    addEntry("open", "Open", [detail(took)], facts(pairs));
    showState();
  });

  socket.addEventListener("message", ({ data }) => {
    if (typeof data === "string") addText("message", data);
    else addBinary("message", new Uint8Array(data), data.byteLength);
  });

  socket.addEventListener("error", () => {
    const why = opened
      ? "The connection failed."
      : "The connection could not be made. Is a WebSocket server listening there, and does it " +
        "speak the subprotocol asked for?";
    addEntry("error", "Error", [], note(`${why} A browser tells a page no more; its console may.`));
    showState();
  });

  socket.addEventListener("close", ({ code, reason, wasClean }) => {
    addEntry("close", "Close", [], facts([
      ["code", `${code} ${closeMeaning(code)}`],
      ["reason", reason || "(none)"],
      ["wasClean", String(wasClean)],
    ]));
    showState();
  });

  showState();
}

setInterval(showState, 250); // bufferedAmount changes without an event

$("url").value = `${wsOrigin}/`;

// ---- Sending -------------------------------------------------------------------------------

// What one sends is always shown, wherever the log was scrolled to.
function showNewest() {
  $("scroller").scrollTop = 0; // the lower end: the column is reversed
}

$("text-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  if (!isOpen()) return;
  socket.send($("text").value);
  addText("sent", $("text").value);
  showNewest();
  showState();
});

$("text").addEventListener("keydown", (key) => {
  if (key.key !== "Enter" || key.shiftKey || key.isComposing) return;
  key.preventDefault();
  $("text-form").requestSubmit();
  $("text").select(); // typing replaces what was sent, Enter sends it again
});

$("binary-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  if (!isOpen()) return;
  let bytes;
  try {
    bytes = parseHex($("binary").value);
  } catch (wrong) {
    judge("binary", wrong.message);
    return;
  }
  socket.send(bytes);
  addBinary("sent", bytes, bytes.length);
  showNewest();
  showState();
});

$("send-file").addEventListener("click", () => $("file").click());

$("file").addEventListener("change", async () => {
  const [file] = $("file").files;
  if (!file) return;
  try {
    const start = new Uint8Array(await file.slice(0, MAX_SHOWN.binary).arrayBuffer());
    if (isOpen()) {
      socket.send(file);
      addBinary("sent", start, file.size, file.name);
      showNewest();
    }
  } catch {
    judge("binary", `The file ${file.name} cannot be read.`);
  }
  $("file").value = ""; // so that the same file can be chosen again
  showState();
});

// ---- Closing -------------------------------------------------------------------------------

function codeProblem(code, reason) {
  if (code === "") return reason && "A reason needs a code before it: 1000 says that all is well.";
  const number = /^\d+$/.test(code) ? Number(code) : NaN;
  if (number !== 1000 && !(number >= 3000 && number <= 4999)) {
    return "A page may close with 1000 or with 3000 to 4999, no other code.";
  }
}

function reasonProblem(reason) {
  const over = utf8Length(reason) - MAX_REASON;
  if (over > 0) return `${count(over, "byte")} too long: a reason has at most ${MAX_REASON} bytes of UTF-8.`;
}

$("close-reason").addEventListener("input", () => {
  const reason = $("close-reason").value;
  $("reason-size").textContent = `${utf8Length(reason)} of ${MAX_REASON} bytes`;
  judge("close-reason", reasonProblem(reason));
});

$("close-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  const code = $("close-code").value.trim();
  const reason = $("close-reason").value;
  if (!judge("close-code", codeProblem(code, reason))) return;
  if (!judge("close-reason", reasonProblem(reason))) return;
  if (code === "") socket.close();
  else socket.close(Number(code), reason);
  showState();
});

// ---- The clock: what server push is for ----------------------------------------------------

let clock = null;

function stopClock(note) {
  clock = null;
  $("clock-toggle").textContent = "Start clock";
  $("clock-note").textContent = note;
}

$("clock-toggle").addEventListener("click", () => {
  if (clock) {
    clock.close(1000);
    stopClock("Stopped: the page closed the connection, so the server sends no more.");
    return;
  }
  let received = 0;
  clock = new WebSocket(`${wsOrigin}/push`);
  clock.addEventListener("message", ({ target, data }) => {
    if (target !== clock) return; // one that was stopped and still has a message on its way
    received += 1;
    $("clock").textContent = data;
    $("clock").dateTime = data;
    $("clock-note").textContent =
      `${count(received, "message")} received, not one asked for. ` +
      "Without push, a page would have to keep asking.";
  });
  clock.addEventListener("close", ({ target, code }) => {
    if (target === clock) stopClock(`The push connection ended. ${code} ${closeMeaning(code)}.`);
  });
  $("clock-toggle").textContent = "Stop clock";
  $("clock-note").textContent = "Connecting…";
});
