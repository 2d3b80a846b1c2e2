//! `streamd`: a broker in one command. Reads the settings, looks whether the system can carry it,
//! starts one shard per core, and stops cleanly when it is told to.
//!
//! This crate may see everything; nothing sees it.

mod admin;
mod boot;
mod broker;
mod config;
mod conn;
mod crowd;
mod doors;
mod frames;
mod identity;
mod join;
mod kafka;
mod native;

use std::process::ExitCode;

/// Each shard frees what it allocates: an allocator with heaps of threads fits. Against glibc's it
/// saves the page faults of decoders, whose buffers come and go with each compressed batch.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = match config::load(std::env::args_os()) {
        Ok(config) => config,
        Err(stop) => return stop.exit(),
    };
    match boot::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("streamd: {why}");
            ExitCode::FAILURE
        }
    }
}
