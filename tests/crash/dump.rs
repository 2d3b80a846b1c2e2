//! Segment files as Kafka's own DumpLogSegments sees them.

use std::fs;
use std::path::{Path, PathBuf};

use streamd_tests::batch::field;
use streamd_tests::install::kafka_tool;
use streamd_tests::run::output;

use crate::load::PARTITIONS;

/// Every segment of a topic is read whole and without a fault. What the active one has beyond its
/// last batch, zeros that were set aside, is left out.
pub fn assert_readable(data: &Path, topic: &str) {
    let text = readable(data, topic, PARTITIONS);
    let fault = "Non-consecutive";
    assert!(!text.contains(fault), "DumpLogSegments says {fault:?}");
}

/// The same of a topic that was compacted: offsets may be missing.
pub fn assert_readable_with_gaps(data: &Path, topic: &str, partitions: usize) {
    readable(data, topic, partitions);
}

fn readable(data: &Path, topic: &str, partitions: usize) -> String {
    let copies = tempfile::TempDir::new().expect("a temporary folder");
    let mut files = Vec::new();
    let mut batches = 0;
    for partition in 0..partitions {
        let segments = segments(&data.join(format!("{topic}-{partition}")));
        assert!(
            !segments.is_empty(),
            "{topic}-{partition} has no segments in {}",
            data.display()
        );
        for segment in segments {
            let bytes = fs::read(&segment).expect("a segment");
            let (end, count) = end_of_batches(&bytes);
            assert!(
                bytes[end..].iter().all(|&b| b == 0),
                "{}: bytes after the last batch",
                segment.display()
            );
            let folder = copies.path().join(format!("{topic}-{partition}"));
            fs::create_dir_all(&folder).expect("a temporary folder");
            let copy = folder.join(segment.file_name().expect("a file"));
            fs::write(&copy, &bytes[..end]).expect("a temporary folder");
            files.push(copy.display().to_string());
            batches += count;
        }
    }
    let text = output(kafka_tool("org.apache.kafka.tools.DumpLogSegments").args([
        "--deep-iteration",
        "--files",
        &files.join(","),
    ]));
    let read = text
        .lines()
        .filter(|l| l.starts_with("baseOffset:"))
        .count();
    assert_eq!(
        read,
        batches,
        "batches that DumpLogSegments read in {} files",
        files.len()
    );
    let good = text.lines().filter(|l| l.contains("isvalid: true")).count();
    assert_eq!(good, batches, "batches that DumpLogSegments calls valid");
    for fault in ["isvalid: false", "invalid bytes", "Mismatches", "Exception"] {
        assert!(!text.contains(fault), "DumpLogSegments says {fault:?}");
    }
    text
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut out: Vec<PathBuf> = entries
        .map(|e| e.expect("a folder's entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "log"))
        .collect();
    out.sort();
    out
}

/// Where the batches of a file end, by their lengths, and how many they are.
fn end_of_batches(bytes: &[u8]) -> (usize, usize) {
    let (mut at, mut count) = (0, 0);
    while let Some(header) = bytes.get(at..at + field::RECORDS) {
        let length = header[field::LENGTH..field::LENGTH + 4]
            .try_into()
            .expect("4 bytes");
        let length = i32::from_be_bytes(length);
        if length <= 0 {
            break;
        }
        at += length as usize + field::LENGTH + 4;
        count += 1;
    }
    assert!(at <= bytes.len(), "a batch goes beyond its file");
    (at, count)
}
