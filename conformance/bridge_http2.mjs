#!/usr/bin/env node
// Carries WebSockets between HTTP/1.1 and HTTP/2 (RFC 8441), with Node's HTTP/2, for judges that know only the first:
// it ends the opening handshake on one side and begins another on the other, and copies what follows as it is.
//
//     bridge_http2.mjs to PORT      takes HTTP/1.1, asks a server on that port over HTTP/2
//     bridge_http2.mjs from PORT    takes HTTP/2, asks a server on that port over HTTP/1.1
import { createHash, randomBytes } from "node:crypto";
import http2 from "node:http2";
import net from "node:net";

const [direction, port] = process.argv.slice(2);
// What of a handshake's headers is the same on either side.
const KEPT = ["sec-websocket-version", "sec-websocket-protocol", "sec-websocket-extensions", "user-agent", "server"];

const keep = (headers) => Object.fromEntries(KEPT.filter((name) => headers[name]).map((name) => [name, headers[name]]));

// The head of a request or response, and what came behind it.
function head(socket) {
  return new Promise((resolve, reject) => {
    let seen = Buffer.alloc(0);
    const read = (data) => {
      seen = Buffer.concat([seen, data]);
      const end = seen.indexOf("\r\n\r\n");
      if (end < 0) return;
      socket.off("data", read);
      socket.pause();
      const [first, ...lines] = seen.subarray(0, end).toString("latin1").split("\r\n");
      const headers = Object.fromEntries(lines.map((line) => line.split(/:\s*/, 2)).map(([name, value]) => [name.toLowerCase(), value]));
      resolve({ first, headers, behind: seen.subarray(end + 4) });
    };
    socket.on("data", read);
    socket.once("close", () => reject(new Error("closed within its head")));
  });
}

const lines = (first, headers) => `${[first, ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`)].join("\r\n")}\r\n\r\n`;

function join(socket, stream, behind) {
  if (behind.length > 0) stream.write(behind);
  socket.pipe(stream).pipe(socket);
  stream.on("close", () => socket.destroySoon());
  socket.on("close", () => stream.destroyed || stream.close(stream.writableEnded ? http2.constants.NGHTTP2_NO_ERROR : http2.constants.NGHTTP2_CANCEL));
}

async function toHttp2(socket, session) {
  const { first, headers, behind } = await head(socket);
  const [, path] = first.split(" ");
  const stream = session.request({ ":method": "CONNECT", ":protocol": "websocket", ":path": path, ...keep(headers) });
  stream.on("error", () => socket.destroy());
  stream.on("response", (answer) => {
    if (answer[":status"] !== 200) return socket.end(`HTTP/1.1 ${answer[":status"]} Refused\r\ncontent-length: 0\r\n\r\n`);
    const key = `${headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`;
    const accept = createHash("sha1").update(key).digest("base64");
    const switching = { upgrade: "websocket", connection: "Upgrade", "sec-websocket-accept": accept, ...keep(answer) };
    socket.write(lines("HTTP/1.1 101 Switching Protocols", switching));
    join(socket, stream, behind);
  });
}

async function fromHttp2(stream, headers) {
  const socket = net.connect(Number(port), "127.0.0.1").setNoDelay();
  socket.on("error", () => stream.close(http2.constants.NGHTTP2_CONNECT_ERROR));
  const key = randomBytes(16).toString("base64");
  const asked = { host: headers[":authority"], upgrade: "websocket", connection: "Upgrade", "sec-websocket-key": key, ...keep(headers) };
  socket.write(lines(`GET ${headers[":path"]} HTTP/1.1`, asked));
  const answer = await head(socket);
  stream.respond({ ":status": answer.first.includes(" 101 ") ? 200 : Number(answer.first.split(" ")[1]), ...keep(answer.headers) });
  if (answer.behind.length > 0) stream.write(answer.behind);
  join(socket, stream, Buffer.alloc(0));
}

const ignore = () => {};
let listener;
if (direction === "to") {
  const session = http2.connect(`http://127.0.0.1:${port}`);
  await new Promise((resolve) => session.once("remoteSettings", resolve));
  listener = net.createServer((socket) => {
    socket.setNoDelay().on("error", ignore);
    toHttp2(socket, session).catch(() => socket.destroy());
  });
} else {
  listener = http2.createServer({ settings: { enableConnectProtocol: true } });
  listener.on("stream", (stream, headers) => {
    stream.on("error", ignore);
    fromHttp2(stream, headers).catch(() => stream.close(http2.constants.NGHTTP2_CONNECT_ERROR));
  });
}
listener.listen(0, "127.0.0.1", () => console.log(`listening on 127.0.0.1:${listener.address().port}`));
