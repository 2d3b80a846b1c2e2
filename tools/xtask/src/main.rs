//! Chores of the repository: `cargo xtask gen | tidy | check`.
//!
//! Output for people goes to standard error; the exit code is 0 for success, 1 for a finding or a
//! failure, 2 for wrong usage.

mod check;
mod generate;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  check [--fast]         the whole gate: format, tidy, clippy, docs, tests; --fast without tests
  tidy                   the rules of the house: sizes, headers, crate edges, unsafe, the walks
  gen [--kafka VERSION]  write net/wire/src/kafka/generated from the message schemas in Kafka's
                         client jar (fetched with mvn; the newest release unless named)
";

/// What a chore answers: nothing, or a sentence that says what went wrong.
type Outcome<T = ()> = Result<T, String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let root = root();
    let outcome = match args[..] {
        ["check"] => check::run(&root, false),
        ["check", "--fast"] => check::run(&root, true),
        ["tidy"] => tidy::run(&root),
        ["gen"] => generate::run(&root, "RELEASE"),
        ["gen", "--kafka", version] => generate::run(&root, version),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The top of the repository: two levels above this crate.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// A call of the cargo that runs us, at the top of the repository.
fn cargo(root: &Path, args: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(args).current_dir(root);
    command
}
