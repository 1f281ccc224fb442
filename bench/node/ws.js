// Node's `ws`, with the native addon that its page recommends for speed, and the keepalive of its page.
import { WebSocketServer } from 'ws';

const KEEPALIVE_MS = 20_000;

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(process.argv[2]),
  backlog: 4096,
  maxPayload: 4 << 20,
  perMessageDeflate: process.argv[3] === 'deflate' && {
    threshold: 0,
    serverMaxWindowBits: 12,
    clientMaxWindowBits: 12,
    zlibDeflateOptions: { level: 6, memLevel: 5 },
  },
});

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
