//! What the tests of wireline stand on.
