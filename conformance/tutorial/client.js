// The tutorial's client in Node, on the package its server is written with: once with the browser's
// API, once with the package's own. Each call says "My name is John", sends 300 bytes, closes with
// 4001 when both are back, and resolves to what happened.
const { client: WebSocketClient, w3cwebsocket: W3CWebSocket } = require('websocket');

const bytes = Buffer.from(Array.from({ length: 300 }, (_, i) => i & 0xff));

exports.viaBrowserApi = (url, protocol) =>
  new Promise((resolve) => {
    const seen = { text: null, binary: false, close: null };
    const socket = new W3CWebSocket(url, protocol);
    socket.onopen = () => {
      seen.protocol = socket.protocol ?? null;
      socket.send('My name is John');
    };
    socket.onmessage = (event) => {
      if (typeof event.data === 'string') {
        seen.text = event.data;
        socket.send(bytes);
      } else {
        seen.binary = bytes.equals(Buffer.from(event.data));
        socket.close(4001, 'done');
      }
    };
    socket.onerror = (error) => (seen.error = String(error.message));
    // Its `wasClean` is false for every code but 1000, so it tells nothing.
    socket.onclose = ({ code, reason }) => resolve({ ...seen, close: { code, reason } });
  });

exports.viaPackageApi = (url, protocol) =>
  new Promise((resolve) => {
    const seen = { text: null, binary: false, close: null };
    const client = new WebSocketClient();
    client.on('connectFailed', (error) => resolve({ ...seen, error: error.message }));
    client.on('connect', (connection) => {
      seen.protocol = connection.protocol ?? null;
      connection.on('message', (message) => {
        if (message.type === 'utf8') {
          seen.text = message.utf8Data;
          connection.sendBytes(bytes);
        } else {
          seen.binary = bytes.equals(message.binaryData);
          connection.close(4001, 'done');
        }
      });
      connection.on('error', (error) => (seen.error = error.message));
      connection.on('close', (code, reason) => resolve({ ...seen, close: { code, reason } }));
      connection.sendUTF('My name is John');
    });
    client.connect(url, protocol);
  });
