//! One suite for both arms: every case runs on the kernel and in the simulator, so that the fake
//! cannot drift from the real thing.
