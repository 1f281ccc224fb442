/* uWebSockets: an echo server, and a publisher. The arguments: PORT [deflate], or
   PORT publish SIZE INTERVAL_MS [deflate]. Built with -DWITH_TLS it is another program, which takes
   tls CERTIFICATE KEY behind that, so that the plain one has nothing of TLS in it. */

#include <cstdlib>
#include <iostream>
#include <cstdio>
#include <string>

#include "App.h"

#ifdef WITH_TLS
static const bool TLS = true;
#else
static const bool TLS = false;
#endif

using App = uWS::TemplatedApp<TLS>;

struct PerSocketData {};

static uWS::SocketContextOptions tls;

static const char *TOPIC = "all";
static App *publisher;
static std::string publication;

/* A compressor of its own for each connection: a window of 4 KB, zlib's memory level 5. */
static const auto DEFLATE = uWS::CompressOptions(uWS::DEDICATED_COMPRESSOR_32KB | uWS::DEDICATED_DECOMPRESSOR_4KB);

static App::WebSocketBehavior<PerSocketData> behavior(bool deflate) {
    return {
        .compression = deflate ? DEFLATE : uWS::DISABLED,
        .maxPayloadLength = 4 << 20,
        .idleTimeout = 24,
        .maxBackpressure = 16 << 20,
        .closeOnBackpressureLimit = false,
        .resetIdleTimeoutOnSend = false,
        .sendPingsAutomatically = true,
    };
}

static void listen(App &app, int port) {
    app.listen("127.0.0.1", port, [port](auto *socket) {
        if (!socket) {
            std::cerr << "cannot listen on port " << port << std::endl;
            std::exit(1);
        }
    });
}

static void serve_echo(int port, bool deflate) {
    App app(tls);
    auto echo = behavior(deflate);
    echo.message = [deflate](auto *ws, std::string_view message, uWS::OpCode opcode) { ws->send(message, opcode, deflate); };
    app.ws<PerSocketData>("/*", std::move(echo));
    listen(app, port);
    app.run();
}

static bool compresses;

/* An object of this size, whose entries differ. */
static std::string json(size_t size) {
    std::string text = "{\"type\":\"update\",\"items\":[";
    for (unsigned i = 0; text.size() + 80 < size; i++) {
        char item[80];
        unsigned id = i * 2654435761u;
        std::snprintf(item, sizeof item, "%s{\"id\":%u,\"name\":\"user%u\",\"price\":%u.%02u}", i ? "," : "", id % 100000, id >> 22, id % 1000, id % 64);
        text += item;
    }
    text += "],\"pad\":\"";
    text.append(size - text.size() - 2, '.');
    return text + "\"}";
}

static void serve_publications(int port, size_t size, int interval_ms, bool deflate) {
    App app(tls);
    auto subscribe = behavior(deflate);
    subscribe.open = [](auto *ws) { ws->subscribe(TOPIC); };
    subscribe.message = [](auto *, std::string_view, uWS::OpCode) {};
    app.ws<PerSocketData>("/*", std::move(subscribe));
    listen(app, port);
    publisher = &app;
    compresses = deflate;
    publication = deflate ? json(size) : std::string(size, 'x');
    us_timer_t *timer = us_create_timer((us_loop_t *) uWS::Loop::get(), 0, 0);
    us_timer_set(timer, [](us_timer_t *) { publisher->publish(TOPIC, publication, uWS::TEXT, compresses); }, interval_ms, interval_ms);
    app.run();
}

int main(int argc, char **argv) {
    if (TLS && argc > 3) {
        tls.cert_file_name = argv[argc - 2];
        tls.key_file_name = argv[argc - 1];
        argc -= 3;
    }
    bool deflate = argc > 2 && std::string_view(argv[argc - 1]) == "deflate";
    argc -= deflate;
    if (argc == 2) {
        serve_echo(std::atoi(argv[1]), deflate);
    } else if (argc == 5 && std::string_view(argv[2]) == "publish") {
        serve_publications(std::atoi(argv[1]), std::strtoul(argv[3], nullptr, 10), std::atoi(argv[4]), deflate);
    } else {
        std::cerr << "usage: uwebsockets PORT [publish SIZE INTERVAL_MS] [deflate]" << std::endl;
        return 1;
    }
}
