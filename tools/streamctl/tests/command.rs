//! The command as a script meets it: exit codes, what is on which stream, broken pipes.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use streamd_log::batch::{NewRecord, Writer, build, stamp};

fn streamctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamctl"));
    command
        .args(arguments)
        .env_remove("STREAMCTL_BOOTSTRAP")
        .stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = streamctl(arguments).output().expect("runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        status.code().expect("ends by itself"),
        text(stdout),
        text(stderr),
    )
}

/// A segment of `batches` batches with 3 records each, and zeros behind.
fn segment(dir: &Path, batches: i64, zeros: usize) -> String {
    let record = NewRecord {
        timestamp: 1_700_000_000_000,
        key: Some(b"k"),
        value: Some(b"v"),
    };
    let mut bytes = Vec::new();
    for i in 0..batches {
        let mut batch = build(
            &[record.clone(), record.clone(), record.clone()],
            Writer::default(),
        );
        stamp(&mut batch, i * 3, 7);
        bytes.extend_from_slice(&batch);
    }
    bytes.resize(bytes.len() + zeros, 0);
    let path = dir.join("00000000000000000000.log");
    std::fs::write(&path, bytes).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [
        &["nonsense"][..],
        &[],
        &["topic", "create"],
        &["group", "reset-offsets", "g", "--topic", "t"],
        &["group", "reset-offsets", "g", "--to-latest"],
        &[
            "group",
            "reset-offsets",
            "g",
            "--topic",
            "t:x",
            "--to-latest",
        ],
        &[
            "group",
            "reset-offsets",
            "g",
            "--all-topics",
            "--to-latest",
            "--to-earliest",
        ],
        &["group", "delete"],
        &["--bootstrap", "nowhere", "cluster"],
        &["--timeout", "0", "cluster"],
        &["topic", "create", "t", "-p", "0"],
        &["config", "set", "topic", "t", "no-pair"],
        &["config", "describe", "broker", "first"],
        &["consume", "t", "--format", "%q"],
        &["produce", "t", "--acks", "2"],
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
        assert!(!stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_is_data_and_has_examples() {
    for arguments in [
        &["--help"][..],
        &["consume", "--help"],
        &["log", "verify", "--help"],
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(stdout.contains("Example"), "{stdout}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (code, stdout, _) = run(&["completions", shell]);
        assert!(code == 0 && stdout.contains("streamctl"), "{shell}");
    }
}

#[test]
fn nobody_at_the_address_is_1_with_advice() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    drop(listener);
    let (code, stdout, stderr) = run(&["--bootstrap", &address, "topic", "list"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert_eq!(
        stderr,
        format!(
            "streamctl: cannot connect to {address}: connection refused. Is streamd running \
             there? Start it with `streamd`, or name another with --bootstrap HOST:PORT\n"
        )
    );
}

#[test]
fn a_silent_broker_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let (code, _, stderr) = run(&["--bootstrap", &address, "--timeout", "200ms", "cluster"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("did not answer within 200 ms"), "{stderr}");
}

#[test]
fn a_sound_segment_is_dumped_and_verified() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = segment(dir.path(), 4, 8192);
    let (code, stdout, stderr) = run(&["log", "verify", &path]);
    assert_eq!(
        (code, stderr.as_str()),
        (0, "1 file, 12 records: sound\n"),
        "{stdout}"
    );
    assert!(stdout.contains("8.0 KiB  ok"), "{stdout}");
    let (code, stdout, _) = run(&["log", "dump", dir.path().to_str().expect("UTF-8")]);
    assert_eq!((code, stdout.lines().count()), (0, 2 + 4 + 1), "{stdout}");
    assert!(
        stdout.ends_with("8192  zeros, allocated ahead\n"),
        "{stdout}"
    );
    let (code, stdout, _) = run(&["log", "dump", &path, "--records", "--json"]);
    assert_eq!((code, stdout.lines().count()), (0, 5));
    let first = stdout.lines().next().expect("a line");
    assert!(
        first.contains(r#""last_offset":2"#) && first.contains(r#""value":"v""#),
        "{first}"
    );
}

#[test]
fn repair_changes_nothing_unless_told_and_keeps_what_it_replaces() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = segment(dir.path(), 4, 0);
    let mark = dir.path().join("damaged");
    let partition = dir.path().to_str().expect("UTF-8");
    let (code, stdout, stderr) = run(&["log", "repair", partition]);
    assert_eq!((code, stdout.as_str()), (0, ""));
    assert_eq!(stderr, "no damage: nothing to do\n");
    let mut bytes = std::fs::read(&path).expect("read");
    let batch = bytes.len() / 4;
    bytes[2 * batch + 70] ^= 0x20;
    std::fs::write(&path, &bytes).expect("written");
    std::fs::write(&mark, "words\n").expect("written");
    let (code, stdout, stderr) = run(&["log", "repair", partition]);
    assert_eq!(code, 1);
    assert!(stderr.contains("--apply"), "{stderr}");
    let lost = format!(
        "byte {}: {batch} bytes are no batch: offsets 6 to 8",
        2 * batch
    );
    assert!(stdout.contains(&lost), "{stdout}");
    assert!(mark.exists() && std::fs::read(&path).expect("read") == bytes);
    let (code, stdout, stderr) = run(&["log", "repair", partition, "--apply"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let kept = format!("{path}.damaged-0");
    assert!(stdout.contains(&kept) && !mark.exists(), "{stdout}");
    assert!(std::fs::read(&kept).expect("read") == bytes);
    let (code, stdout, stderr) = run(&["log", "verify", &path]);
    assert_eq!((code, stderr.as_str()), (0, "1 file, 9 records: sound\n"));
    assert!(!stdout.contains("missing"), "offsets stay dense: {stdout}");
}

/// The file that says how a log was cut: what is to be done, and up to where.
fn cuts(kind: u8, numbers: [i64; 3]) -> Vec<u8> {
    let mut out = b"SDCUTS01".to_vec();
    out.extend(7u32.to_le_bytes());
    out.push(kind);
    out.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
    let mut crc = !0u32;
    for &byte in &out {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    out.extend((!crc).to_le_bytes());
    out
}

#[test]
fn how_a_log_was_cut_is_told_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    segment(dir.path(), 4, 0);
    let (file, partition) = (dir.path().join("cuts"), dir.path().to_str().expect("UTF-8"));
    let write = |bytes: &[u8]| std::fs::write(&file, bytes).expect("written");
    write(&cuts(0, [0; 3]));
    let (code, stdout, _) = run(&["log", "verify", partition]);
    assert!(
        code == 0 && stdout.ends_with("cuts: generation 7\n"),
        "{stdout}"
    );
    assert_eq!(run(&["log", "repair", partition, "--apply"]).0, 0);
    for bytes in [cuts(1, [0, 99, 6]), cuts(2, [50, 0, 0])] {
        write(&bytes);
        let (code, stdout, _) = run(&["log", "verify", partition]);
        assert!(code == 0 && stdout.contains("not finished: a "), "{stdout}");
        let (code, _, stderr) = run(&["log", "repair", partition, "--apply"]);
        assert!(code == 1 && stderr.contains("not finished: a "), "{stderr}");
        assert!(std::fs::read(&file).expect("read") == bytes);
    }
    write(b"words");
    let (code, stdout, stderr) = run(&["log", "verify", partition, "--json"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stdout.contains(r#""generation": null"#), "{stdout}");
}

#[test]
fn repair_needs_a_broker_that_is_stopped() {
    let data = tempfile::tempdir().expect("a directory");
    let dir = data.path().join("t-0");
    std::fs::create_dir(&dir).expect("made");
    let path = segment(&dir, 2, 0);
    let lock = std::fs::File::create(data.path().join("LOCK")).expect("made");
    lock.lock().expect("locked");
    let (code, _, stderr) = run(&["log", "repair", &path, "--apply"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("stop it first"), "{stderr}");
    drop(lock);
    assert_eq!(run(&["log", "repair", &path, "--apply"]).0, 0);
}

#[test]
fn a_damaged_segment_is_1_and_says_where() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = segment(dir.path(), 4, 0);
    let mut bytes = std::fs::read(&path).expect("read");
    let batch = bytes.len() / 4;
    bytes[2 * batch + 70] ^= 0x20;
    bytes.truncate(bytes.len() - 5);
    std::fs::write(&path, bytes).expect("written");
    let (code, stdout, stderr) = run(&["log", "verify", &path]);
    assert_eq!(code, 1, "{stdout}");
    assert!(stderr.contains("1 of 1 file damaged"), "{stderr}");
    let crc = format!(
        "byte {}: the CRC of the batch at offset 6 is wrong",
        2 * batch
    );
    assert!(stdout.contains(&crc), "{stdout}");
    let torn = format!(
        "byte {}: a batch of {batch} bytes, of which the file has",
        3 * batch
    );
    assert!(stdout.contains(&torn), "{stdout}");
    let (code, stdout, _) = run(&["log", "dump", &path]);
    assert!(
        code == 1 && stdout.contains("  BAD  ") && stdout.contains("DAMAGED"),
        "{stdout}"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let dir = tempfile::tempdir().expect("a directory");
    // More than a pipe holds.
    let path = segment(dir.path(), 5000, 0);
    let mut child = streamctl(&["log", "dump", &path])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut some = [0; 100];
    child
        .stdout
        .take()
        .expect("piped")
        .read_exact(&mut some)
        .expect("read");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
