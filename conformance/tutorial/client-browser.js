// The tutorial's client script, verbatim but for the URL, which the page has set as `serverUrl`.
/*
   常规事件
    open:连接已建立
    message:接收到数据
    error:WebSocket 错误
    close:连接已关闭
*/

let socket = new WebSocket(serverUrl);

socket.onopen = function(e) {
  alert("[open] Connection established");
  alert("Sending to server");
  socket.send("My name is John"); // 发送数据
};

socket.onmessage = function(event) {
  alert(`[message] Data received from server: ${event.data}`);
};

socket.onclose = function(event) {
  if (event.wasClean) {
    alert(`[close] Connection closed cleanly, code=${event.code} reason=${event.reason}`);
  } else {
    // 例如服务器进程被杀死或网络中断
    // 在这种情况下，event.code 通常为 1006
    alert('[close] Connection died');
  }
};

socket.onerror = function(error) {
  alert(`[error] ${error.message}`);
};
