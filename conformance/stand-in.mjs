#!/usr/bin/env node
// A wireline that is not one: npm `ws`, which is good but not strict, in the places of `wireline
// serve` and of the fuzzing client. self_check.py runs it to see that the harness goes red on it.
// STAND_IN_FAULT=no-utf8-check makes it echo what is not UTF-8.
import http from "node:http";
import WebSocket, { WebSocketServer } from "ws";

const options = {
  maxPayload: 64 * 1024 * 1024,
  perMessageDeflate: false,
  skipUTF8Validation: process.env.STAND_IN_FAULT === "no-utf8-check",
};

function echo(socket) {
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  socket.on("error", () => {});
}

// What the fuzzing server asks of a client: fetch the case count, run each case, ask for the report.
function call(url) {
  return new Promise((resolve) => {
    const socket = new WebSocket(url, options);
    let last = "";
    socket.on("message", (data, isBinary) => {
      last = data.toString();
      if (url.includes("/runCase")) socket.send(data, { binary: isBinary });
    });
    socket.on("error", () => {});
    socket.on("close", () => resolve(last));
  });
}

if (process.argv[2] === "serve") {
  const server = http.createServer((request, response) => response.writeHead(404).end());
  new WebSocketServer({ server, ...options }).on("connection", echo);
  server.listen(0, "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
} else {
  const [suite, agent] = process.argv.slice(2);
  const count = Number(await call(`${suite}/getCaseCount`));
  for (let number = 1; number <= count; number++) {
    await call(`${suite}/runCase?case=${number}&agent=${agent}`);
  }
  await call(`${suite}/updateReports?agent=${agent}`);
}
