//! The `wireline` program.
fn main() {}
