//! Tests of what only the simulator has: repetition, crashes, faults.
