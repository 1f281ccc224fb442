// A client of wireline's hub, protocol hub.v1: topics over one WebSocket that comes back by itself and goes on
// where it was. For browsers, and for Node with `WebSocket` given where it has none. No dependencies.

const MAX_WAITING = 1000; // requests that may wait for an answer
const decoder = new TextDecoder();
const encoder = new TextEncoder();
const random = (low, high) => low + Math.random() * (high - low);
const randomKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

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

  // Publishes text, or bytes; the position. Sent again after a loss, under the same key: it is published once.
  publish(topic, data, { key = randomKey(), echo = true } = {}) {
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
      if (this.state === "open") this.#send({ ...header, id }, data);
    });
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
    let socket;
    try {
      const said = typeof token === "function" ? await token() : token;
      if (this.state === "closed") return;
      socket = this.#socket = new WebSocket(this.#url, ["hub.v1"]);
      socket.binaryType = "arraybuffer";
      socket.onopen = () => this.#send({ op: "auth", id: 0, token: said, all: this.#all });
    } catch (error) {
      return error instanceof SyntaxError ? this.#end(error) : this.#lose();
    }
    socket.onerror = () => {}; // npm `ws` throws otherwise; what comes of it, onclose tells
    socket.onmessage = ({ data }) => socket === this.#socket && this.#receive(data);
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.#socket) return;
      // From 3500 to 3999 another attempt would end the same way.
      code >= 3500 && code < 4000 ? this.#end(new HubError(reason || `closed with ${code}`)) : this.#lose();
    };
    this.#listen();
  }

  // Gives the connection up if it stays silent: the system may not notice for long.
  #listen() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#lose(), this.#silence);
  }

  #lose(window) {
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.close();
    this.#tell("connecting");
    const [base, most] = this.#retry;
    const delay = window ? random(...window) : random(0, Math.min(most, base * 2 ** this.#losses++));
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#connect(), delay);
  }

  #end(error) {
    if (this.state === "closed") return;
    clearTimeout(this.#timer);
    this.#tell("closed");
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.close();
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
    for (const { subscription } of this.#topics.values()) subscription.settle[1](error);
    if (error.code !== "closed") this.onError(error);
  }

  #tell(state) {
    if (state === this.state) return;
    this.state = state;
    this.onState(state);
  }

  #sendSubscribe(topic) {
    const { options, subscription } = this.#topics.get(topic);
    const since = subscription.position;
    const id = this.#nextId++;
    const resolve = ({ pos, recovered }) => {
      subscription.position = pos;
      if (since && !recovered) options.onReset?.("window");
      subscription.settle[0]({ position: pos, recovered });
    };
    const reject = (error) => {
      if (error.temporary) return setTimeout(() => this.state === "open" && this.#topics.has(topic) && this.#sendSubscribe(topic), random(500, 1500));
      this.#topics.delete(topic);
      subscription.settle[1](error);
      this.onError(error);
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
    if (header.re === 0) return this.#authenticated(header);
    if (header.re) {
      const request = this.#waiting.get(header.re);
      this.#waiting.delete(header.re);
      return header.err ? request?.reject(new HubError(header.err.code, header.err.temp)) : request?.resolve(header);
    }
    if (header.ev === "bye") return this.#lose(header.retry);
    if (topic === "$all") {
      this.#all = position ?? header.pos;
      return position && this.onBroadcast({ data: payload, position });
    }
    const { options, subscription } = this.#topics.get(topic) ?? {};
    if (!subscription) return;
    subscription.position = position ?? header.pos;
    if (header.ev === "reset") options.onReset?.(header.why);
    else if (header.ev === "join") options.onJoin?.(header.who);
    else if (header.ev === "leave") options.onLeave?.(header.who);
    else options.onMessage?.({ data: payload, position });
  }

  #authenticated({ err, ping, retry }) {
    if (err) return err.temp ? this.#lose() : this.#end(new HubError(err.code));
    this.#losses = 0;
    this.#retry = retry ?? this.#retry;
    this.#silence = (ping ?? 25) * 1000 + 5000;
    this.#tell("open");
    const before = [...this.#waiting];
    for (const [id, { header, data }] of before) header ? this.#send({ ...header, id }, data) : this.#waiting.delete(id);
    for (const topic of this.#topics.keys()) this.#sendSubscribe(topic);
  }
}
