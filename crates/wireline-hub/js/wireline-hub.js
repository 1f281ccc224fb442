// A client of wireline's hub, protocol hub.v1: topics over one WebSocket that comes back by itself and goes on
// where it was. For browsers, and for Node with `WebSocket` given where it has none. No dependencies.

const MAX_WAITING = 1000; // requests that may wait for an answer
const RESEND_LIMIT = 90_000; // ms after which a publication is not sent again: the server knows its key for two minutes
const UNGUESSABLE = 22; // characters from which on a key holds on all connections
const decoder = new TextDecoder();
const encoder = new TextEncoder();
const random = (low, high) => low + Math.random() * (high - low);
const randomKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

// What an application's function throws is its own.
function call(handler, ...args) {
  try {
    handler?.(...args);
  } catch (error) {
    (globalThis.reportError ?? console.error)(error);
  }
}

const isPayload = (data) => typeof data === "string" || data instanceof ArrayBuffer || ArrayBuffer.isView(data);

export class HubError extends Error {
  constructor(code, temporary = false) {
    super(code);
    this.name = "HubError";
    this.code = code;
    this.temporary = temporary; // worth another try
  }
}

// The header line, and the payload as it was published: text, or bytes.
function parse(data) {
  const isText = typeof data === "string";
  const bytes = isText ? data : new Uint8Array(data);
  let end = bytes.indexOf(isText ? "\n" : 10);
  if (end < 0) end = bytes.length;
  const header = isText ? data.slice(0, end) : decoder.decode(bytes.subarray(0, end));
  return [JSON.parse(header), isText ? data.slice(end + 1) : bytes.subarray(end + 1)];
}

export class Hub {
  state = "connecting";
  onState = () => {}; // "connecting", "open", "closed"
  onError = () => {}; // what ends it, or a subscription
  onBroadcast = () => {};
  onBroadcastReset = () => {}; // something that was broadcast may have been missed
  #url;
  #options;
  #socket;
  #topics = new Map();
  #waiting = new Map(); // requests without an answer, by their numbers
  #nextId = 1;
  #losses = 0;
  #retry = [500, 20_000];
  #silence = 30_000;
  #all; // where it is in what is broadcast
  #attempt; // the latest
  #authentication; // the number of the request that says who this is
  #timer; // for the next attempt, or the server's silence

  // options: token, a string or a function that may be async, asked before each attempt; WebSocket, a class.
  constructor(url, options = {}) {
    this.#url = url;
    this.#options = { WebSocket: globalThis.WebSocket, ...options };
    this.#connect();
  }

  // Hears a topic: options.onMessage({ data, position }), onReset(why), onJoin(who), onLeave(who); since, a position,
  // or last, a count, says where to begin. `ready` is the first answer.
  subscribe(topic, options = {}) {
    if (this.#topics.has(topic)) throw new HubError("subscribed");
    const subscription = { topic, position: options.since, unsubscribe: () => this.#unsubscribe(topic) };
    subscription.ready = new Promise((resolve, reject) => Object.defineProperty(subscription, "settle", { value: [resolve, reject] }));
    subscription.ready.catch(() => {});
    this.#topics.set(topic, { options, subscription });
    if (this.state === "open") this.#sendSubscribe(topic);
    return subscription;
  }

  // Publishes text, or bytes; the position. Sent again after a loss, under the same key: it is published once. When it
  // is too late for that, or the key too short, the error is "unknown": it may have been published.
  publish(topic, data, { key = randomKey(), echo = true } = {}) {
    if (!isPayload(data)) return Promise.reject(new TypeError("what is published is a string or bytes"));
    return this.#ask({ op: "pub", t: topic, key, echo }, data).then(({ pos }) => pos);
  }

  // The names of those who are at a topic.
  presence(topic) {
    return this.#ask({ op: "who", t: topic }).then(({ who }) => who);
  }

  close() {
    this.#end(new HubError("closed"));
  }

  #unsubscribe(topic) {
    if (this.#topics.delete(topic) && this.state === "open") this.#ask({ op: "unsub", t: topic }).catch(() => {});
  }

  #ask(header, data) {
    return new Promise((resolve, reject) => {
      if (this.state === "closed") return reject(new HubError("closed"));
      if (this.#waiting.size >= MAX_WAITING) return reject(new HubError("too_many_requests", true));
      const id = this.#nextId++;
      this.#waiting.set(id, { header, data, resolve, reject });
      if (this.state === "open") this.#request(id);
    });
  }

  #request(id) {
    const request = this.#waiting.get(id);
    request.sent ??= Date.now();
    this.#send({ ...request.header, id }, request.data);
  }

  #refuse(id, error) {
    const request = this.#waiting.get(id);
    this.#waiting.delete(id);
    request?.reject(error);
  }

  #send(header, data) {
    const line = JSON.stringify(header);
    if (data === undefined) return this.#socket.send(line);
    if (typeof data === "string") return this.#socket.send(`${line}\n${data}`);
    const [head, body] = [encoder.encode(`${line}\n`), ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data)];
    const bytes = new Uint8Array(head.length + body.length);
    bytes.set(head);
    bytes.set(body, head.length);
    this.#socket.send(bytes);
  }

  async #connect() {
    const { token, WebSocket } = this.#options;
    const attempt = (this.#attempt = {});
    this.#listen();
    let said, socket;
    try {
      said = typeof token === "function" ? await token() : token;
    } catch {
      if (attempt === this.#attempt) this.#lose();
      return;
    }
    if (attempt !== this.#attempt || this.state === "closed") return;
    try {
      socket = this.#socket = new WebSocket(this.#url, ["hub.v1"]);
    } catch (error) {
      return this.#end(error); // no such URL
    }
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      if (socket !== this.#socket) return;
      this.#authentication = this.#nextId++;
      this.#send({ op: "auth", id: this.#authentication, token: said, all: this.#all });
    };
    socket.onerror = () => {}; // npm `ws` throws otherwise; what comes of it, onclose tells
    socket.onmessage = ({ data }) => socket === this.#socket && this.#receive(data);
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.#socket) return;
      if (code === 1009) this.#refuseLargest();
      // From 3500 to 3999 another attempt would end the same way.
      code >= 3500 && code < 4000 ? this.#end(new HubError(reason || `closed with ${code}`)) : this.#lose();
    };
  }

  // The server takes no message as large as one that it was sent: of those it can only have been the largest.
  #refuseLargest() {
    const size = ([, { data }]) => data.length ?? data.byteLength;
    const sent = [...this.#waiting].filter(([, { sent, data }]) => sent && data !== undefined);
    if (sent.length) this.#refuse(sent.reduce((most, one) => (size(one) > size(most) ? one : most))[0], new HubError("too_large"));
  }

  // Gives the connection up if it stays silent: the system may not notice for long.
  #listen() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#lose(), this.#silence);
  }

  #lose(window) {
    if (this.state === "closed") return;
    this.#attempt = undefined;
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.close();
    const [base, most] = this.#retry;
    const delay = window ? random(...window) : random(0, Math.min(most, base * 2 ** this.#losses++));
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#connect(), delay);
    this.#tell("connecting");
  }

  #end(error) {
    if (this.state === "closed") return;
    clearTimeout(this.#timer);
    const [socket, requests] = [this.#socket, [...this.#waiting.values()]];
    this.#socket = this.#attempt = undefined;
    this.#waiting.clear();
    this.#tell("closed");
    socket?.close();
    for (const { header, reject } of requests) if (header) reject(error);
    for (const { subscription } of this.#topics.values()) subscription.settle[1](error);
    if (error.code !== "closed") call(this.onError, error);
  }

  #tell(state) {
    if (state === this.state) return;
    this.state = state;
    call(this.onState, state);
  }

  #sendSubscribe(topic) {
    const entry = this.#topics.get(topic);
    const { options, subscription } = entry;
    const since = subscription.position;
    const [id, socket] = [this.#nextId++, this.#socket];
    entry.isLive = false; // what comes before the answer is another subscription's
    const resolve = ({ pos, recovered }) => {
      entry.isLive = true;
      subscription.position = pos;
      subscription.settle[0]({ position: pos, recovered });
      if (since && !recovered) call(options.onReset, "window");
    };
    const reject = (error) => {
      const isCurrent = () => socket === this.#socket && this.#topics.get(topic) === entry;
      if (error.temporary) return setTimeout(() => isCurrent() && this.#sendSubscribe(topic), random(500, 1500));
      if (!isCurrent()) return;
      this.#topics.delete(topic);
      subscription.settle[1](error);
      call(this.onError, error);
    };
    // Not asked again by itself: each connection subscribes anew.
    this.#waiting.set(id, { resolve, reject });
    this.#send({ op: "sub", t: topic, id, since, last: since ? undefined : options.last });
  }

  #receive(data) {
    this.#listen();
    if (data === "") return; // a sign of life
    const [header, payload] = parse(data);
    const { t: topic, p: position } = header;
    if (header.re && header.re === this.#authentication) return this.#authenticated(header);
    if (header.re) {
      const request = this.#waiting.get(header.re);
      this.#waiting.delete(header.re);
      return header.err ? request?.reject(new HubError(header.err.code, header.err.temp)) : request?.resolve(header);
    }
    if (header.ev === "bye") return this.#lose(header.retry);
    if (topic === "$all") {
      this.#all = position ?? header.pos;
      if (header.ev === "reset") call(this.onBroadcastReset, header.why);
      else if (position && !header.ev) call(this.onBroadcast, { data: payload, position });
      return;
    }
    const { options, subscription, isLive } = this.#topics.get(topic) ?? {};
    if (!isLive) return;
    subscription.position = position ?? header.pos;
    if (header.ev === "reset") call(options.onReset, header.why);
    else if (header.ev === "join") call(options.onJoin, header.who);
    else if (header.ev === "leave") call(options.onLeave, header.who);
    else if (!header.ev) call(options.onMessage, { data: payload, position });
  }

  #authenticated({ err, ping, retry }) {
    if (err) return err.temp ? this.#lose() : this.#end(new HubError(err.code));
    this.#losses = 0;
    this.#retry = retry ?? this.#retry;
    this.#silence = (ping ?? 25) * 1000 + 5000;
    this.state = "open";
    for (const [id, { header, sent }] of [...this.#waiting]) {
      const isTooLate = sent && header.op === "pub" && (Date.now() - sent > RESEND_LIMIT || header.key.length < UNGUESSABLE);
      if (!header) this.#waiting.delete(id);
      else if (isTooLate) this.#refuse(id, new HubError("unknown"));
      else this.#request(id);
    }
    for (const topic of this.#topics.keys()) this.#sendSubscribe(topic);
    // Last: what the application asks for now comes behind what it asked for before.
    call(this.onState, "open");
  }
}
