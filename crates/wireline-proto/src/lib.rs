//! The WebSocket protocol (RFC 6455) as a state machine without IO.
pub mod frame;
pub mod mask;
mod opcode;
pub use opcode::Opcode;
