//! Tests of what only the kernel arm has: its guards.
