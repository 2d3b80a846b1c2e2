//! Whether a broker's journals may hold records that its segments do not have yet.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use streamd_log::journal::format::{FileHeader, GroupHeader};

use super::files::Segment;

/// Bytes of a block of a journal: its header is in the first, its first group in the second.
const BLOCK: usize = 4096;

/// The directories of journals in use beside the directories that `segments` are in.
pub fn in_use(segments: &[Segment]) -> Vec<PathBuf> {
    let data_dirs: BTreeSet<PathBuf> = segments
        .iter()
        .filter_map(|s| fs::canonicalize(s.path.parent()?.parent()?).ok())
        .collect();
    let journals = data_dirs.into_iter().map(|d| d.join("journal"));
    journals.filter(|dir| any_in_use(dir)).collect()
}

/// What to say about them.
pub fn note(dir: &Path) -> String {
    format!(
        "note: {} is in use: the broker runs, or was not stopped cleanly, and its last records may \
         be there only. They get into the segments when it rests for a second, stops, or starts \
         the next time",
        dir.display()
    )
}

fn any_in_use(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| has_groups(&entry.path()).unwrap_or(false))
}

fn has_groups(path: &Path) -> std::io::Result<bool> {
    let mut blocks = vec![0; 2 * BLOCK];
    File::open(path)?.read_exact(&mut blocks)?;
    let file = FileHeader::decode(&blocks).ok().flatten();
    let group = GroupHeader::decode(&blocks[BLOCK..]);
    Ok(file.is_some_and(|f| group.is_some_and(|g| g.id == f.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_with_a_group_of_its_use_is_in_use() {
        let top = tempfile::tempdir().expect("a directory");
        let (dir, journal) = (top.path().join("a-0"), top.path().join("journal"));
        fs::create_dir(&dir).expect("made");
        fs::create_dir(&journal).expect("made");
        let segments = [Segment {
            path: dir.join("00000000000000000000.log"),
            size: 0,
            base: Some(0),
        }];
        let mut blocks = vec![0; 2 * BLOCK];
        let mut seen = Vec::new();
        let file = journal.join("0-0.journal");
        let mut look = |blocks: &[u8]| {
            fs::write(&file, blocks).expect("written");
            seen.push(in_use(&segments).len());
        };
        look(&blocks);
        let header = FileHeader {
            id: 5,
            first_seq: 0,
        };
        header.encode(&mut blocks);
        look(&blocks);
        for id in [4, 5] {
            let group = GroupHeader {
                id,
                seq: 0,
                len: 100,
                runs: 1,
            };
            group.encode(&mut blocks[BLOCK..]);
            look(&blocks);
        }
        assert_eq!(seen, [0, 0, 0, 1]);
        assert!(note(&journal).contains("journal is in use"));
    }
}
