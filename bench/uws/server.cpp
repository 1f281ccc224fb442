/* uWebSockets: an echo server, and a publisher. The arguments: PORT, or PORT publish SIZE INTERVAL_MS. */

#include <cstdlib>
#include <iostream>
#include <string>

#include "App.h"

struct PerSocketData {};

static const char *TOPIC = "all";
static uWS::App *publisher;
static std::string publication;

static uWS::App::WebSocketBehavior<PerSocketData> behavior() {
    return {
        .compression = uWS::DISABLED,
        .maxPayloadLength = 4 << 20,
        .idleTimeout = 24,
        .maxBackpressure = 16 << 20,
        .closeOnBackpressureLimit = false,
        .resetIdleTimeoutOnSend = false,
        .sendPingsAutomatically = true,
    };
}

static void listen(uWS::App &app, int port) {
    app.listen("127.0.0.1", port, [port](auto *socket) {
        if (!socket) {
            std::cerr << "cannot listen on port " << port << std::endl;
            std::exit(1);
        }
    });
}

static void serve_echo(int port) {
    uWS::App app;
    auto echo = behavior();
    echo.message = [](auto *ws, std::string_view message, uWS::OpCode opcode) { ws->send(message, opcode); };
    app.ws<PerSocketData>("/*", std::move(echo));
    listen(app, port);
    app.run();
}

static void serve_publications(int port, size_t size, int interval_ms) {
    uWS::App app;
    auto subscribe = behavior();
    subscribe.open = [](auto *ws) { ws->subscribe(TOPIC); };
    subscribe.message = [](auto *, std::string_view, uWS::OpCode) {};
    app.ws<PerSocketData>("/*", std::move(subscribe));
    listen(app, port);
    publisher = &app;
    publication.assign(size, 'x');
    us_timer_t *timer = us_create_timer((us_loop_t *) uWS::Loop::get(), 0, 0);
    us_timer_set(timer, [](us_timer_t *) { publisher->publish(TOPIC, publication, uWS::TEXT); }, interval_ms, interval_ms);
    app.run();
}

int main(int argc, char **argv) {
    if (argc == 2) {
        serve_echo(std::atoi(argv[1]));
    } else if (argc == 5 && std::string_view(argv[2]) == "publish") {
        serve_publications(std::atoi(argv[1]), std::strtoul(argv[3], nullptr, 10), std::atoi(argv[4]));
    } else {
        std::cerr << "usage: uwebsockets PORT [publish SIZE INTERVAL_MS]" << std::endl;
        return 1;
    }
}
