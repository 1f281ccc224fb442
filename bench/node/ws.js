// Node's `ws`, with the native addon that its page recommends for speed, and the keepalive of its page.
// The arguments: PORT [deflate | tls CERTIFICATE KEY].
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { WebSocketServer } from 'ws';

const KEEPALIVE_MS = 20_000;

const [port, feature, certificate, key] = process.argv.slice(2);
const address = { host: '127.0.0.1', port: Number(port), backlog: 4096 };
const https = feature === 'tls' && createServer({ cert: readFileSync(certificate), key: readFileSync(key) });

const server = new WebSocketServer({
  ...(https ? { server: https } : address),
  maxPayload: 4 << 20,
  perMessageDeflate: feature === 'deflate' && {
    threshold: 0,
    serverMaxWindowBits: 12,
    clientMaxWindowBits: 12,
    zlibDeflateOptions: { level: 6, memLevel: 5 },
  },
});

if (https) https.listen(address);

server.on('connection', (socket) => {
  socket.isAlive = true;
  socket.on('pong', () => { socket.isAlive = true; });
  socket.on('error', () => {});
  socket.on('message', (message, isBinary) => socket.send(message, { binary: isBinary }));
});

setInterval(() => {
  for (const socket of server.clients) {
    if (!socket.isAlive) {
      socket.terminate();
      continue;
    }
    socket.isAlive = false;
    socket.ping();
  }
}, KEEPALIVE_MS);
