//! WebSocket for Rust.
