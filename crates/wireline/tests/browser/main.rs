//! The browser's WebSocket, rule by rule of the WHATWG's standard. A test is named for its rule: U is the
//! URL, P the subprotocols, H the opening handshake, A attributes, L `close()`, N `send()`, E events, V what a
//! `close` event says. `web_platform_tests` does what the browsers' own tests do.
//!
//! Rules without a test are those that cannot be broken here (U9, N5, E7 and V12 in part, and what the types
//! of A3, L1 and L10 rule out); the documentation of `wireline::browser` says why.

mod attributes;
mod close_events;
mod closing;
mod constructor;
mod events;
mod handshake;
mod lifetime;
mod listeners;
mod peers;
mod sending;
mod status_codes;
mod web_platform_tests;
