//! The scenarios beside this file: programs of a stock client that a reader may learn from, and
//! that check themselves. Each runs against a broker of its own, which is killed and started again
//! at the moments that the program marks with `now:`; with `--nocapture` one sees what it says.

use std::time::{Duration, Instant};

use streamd_tests::broker::{Broker, external};
use streamd_tests::child::Child;
use streamd_tests::install;
use streamd_tests::run::{command, source_dir};

const PATIENCE: Duration = Duration::from_secs(150);

/// Runs a program to its end, which must be `ok`, and kills the broker `kills` times.
fn play(program: &str, kills: usize) {
    let start = || Broker::start(&["--set", "group.initial.rebalance.delay.ms=0"]);
    let mut broker = external().is_none().then(start);
    let boot = broker
        .as_ref()
        .map_or_else(|| external().expect("a target"), Broker::addr);
    let mut python = command(install::python());
    python
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(source_dir().join("scenarios").join(program))
        .arg(&boot);
    let mut program = Child::start(program, &mut python);
    let (mut killed, mut last) = (0, String::new());
    let deadline = Instant::now() + PATIENCE;
    while let Some(line) = program.line(deadline.saturating_duration_since(Instant::now())) {
        println!("{line}");
        if line.starts_with("now:") {
            killed += 1;
            if let Some(broker) = &mut broker {
                broker.kill();
                broker.start_again();
            }
        }
        if line.starts_with("ok: ") {
            last = line;
        }
    }
    let status = program.wait(PATIENCE);
    assert!(
        status.success() && !last.is_empty(),
        "{}",
        program.printed()
    );
    assert_eq!(killed, kills, "moments to kill the broker at");
}

#[test]
fn waiting_room() {
    play("waiting_room.py", 1);
}

#[test]
fn ad_clicks() {
    play("ad_clicks.py", 2);
}

#[test]
fn fast_producer() {
    play("fast_producer.py", 0);
}

#[test]
fn job_queue() {
    play("job_queue.py", 1);
}
