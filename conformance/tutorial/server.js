// The tutorial's server, verbatim but for three things: it listens on loopback only, on $PORT if that
// is set, and its last listener logs the close code and reason.
/*
    核心：
    1. 绑定服务
    2. 监听message事件
*/
var WebSocketServer = require('websocket').server;
var http = require('http');

var server = http.createServer(function(request, response) {
    console.log((new Date()) + ' Received request for ' + request.url);
    response.writeHead(404);
    response.end();
});
server.listen(Number(process.env.PORT ?? 8080), '127.0.0.1', function() {
    console.log((new Date()) + ' Server is listening on port ' + server.address().port);
});

/*
    监听请求服务
*/
wsServer = new WebSocketServer({
    httpServer: server,        
    autoAcceptConnections: false
});

function originIsAllowed(origin) {
  return true;
}

wsServer.on('request', function(request) {
    if (!originIsAllowed(request.origin)) {
      request.reject();
      console.log((new Date()) + ' Connection from origin ' + request.origin + ' rejected.');
      return;
    }
    
    var connection = request.accept('echo-protocol', request.origin);
    console.log((new Date()) + ' Connection accepted.');
    /*
        message事件
    */
    connection.on('message', function(message) {
        if (message.type === 'utf8') {
            console.log('Received Message: ' + message.utf8Data);
            connection.sendUTF(message.utf8Data);
        }
        else if (message.type === 'binary') {
            console.log('Received Binary Message of ' + message.binaryData.length + ' bytes');
            connection.sendBytes(message.binaryData);
        }
    });
    connection.on('close', function(reasonCode, description) {
        console.log((new Date()) + ' Peer ' + connection.remoteAddress + ' disconnected.');
    });
});

// Not the tutorial's, which does not say how a peer left.
wsServer.on('close', function(connection, reasonCode, description) {
    console.log('Closed with ' + reasonCode + ' ' + description);
});
