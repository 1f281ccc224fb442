// The server and the client of docs/migration/from-ws.md, on npm `ws`: `ws-chat.mjs serve`, `ws-chat.mjs URL`.
import { WebSocket, WebSocketServer } from "ws";

function chat(port) {
  const server = new WebSocketServer({
    host: "127.0.0.1",
    port,
    maxPayload: 64 * 1024,
    verifyClient: ({ req }) => req.headers.authorization === "Bearer 1234",
  });
  server.on("connection", (socket) => {
    socket.isAlive = true;
    socket.on("pong", () => (socket.isAlive = true));
    socket.on("error", console.error);
    socket.on("message", (data, isBinary) => {
      for (const client of server.clients) {
        if (client.readyState === WebSocket.OPEN) client.send(data, { binary: isBinary });
      }
    });
    socket.send("welcome");
  });
  setInterval(() => {
    for (const socket of server.clients) {
      if (!socket.isAlive) socket.terminate();
      socket.isAlive = false;
      socket.ping();
    }
  }, 30_000);
  return server;
}

function client(url) {
  const socket = new WebSocket(url, { headers: { Authorization: "Bearer 1234" } });
  socket.on("open", () => socket.send("hello, everyone"));
  socket.on("message", (data) => {
    console.log(data.toString());
    if (data.toString() === "hello, everyone") socket.close(1000, "seen");
  });
  socket.on("error", console.error);
}

if (process.argv[2] === "serve") {
  const server = chat(0);
  server.on("listening", () => console.log(`listening on port ${server.address().port}.`));
} else {
  client(process.argv[2]);
}
