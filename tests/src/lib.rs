//! Tests that look at streamd from outside.
