//! The file in a partition's directory that says how often its log was cut, and what of that is
//! still to be done. It is only read here: a broker needs it as it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use streamd_log::cut::{self, Stored};

use super::files::{Segment, cannot};
use crate::failure::Result;

/// Such a file.
pub struct Cuts {
    path: PathBuf,
    /// `None` if it is damaged.
    stored: Option<Stored>,
}

/// The files beside these segments.
///
/// # Errors
/// One cannot be read.
pub fn beside(segments: &[Segment]) -> Result<Vec<Cuts>> {
    let dirs: BTreeSet<&Path> = segments.iter().filter_map(|s| s.path.parent()).collect();
    let mut all = Vec::new();
    for path in dirs.into_iter().map(|dir| dir.join(cut::FILE)) {
        match fs::read(&path) {
            Ok(bytes) => all.push(Cuts {
                stored: cut::decode(&bytes),
                path,
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(cannot(&path, &e)),
        }
    }
    Ok(all)
}

impl Cuts {
    /// Whether it cannot be read.
    pub fn is_damaged(&self) -> bool {
        self.stored.is_none()
    }

    /// Whether the segments are not yet what they are to be, or nobody knows.
    pub fn is_unfinished(&self) -> bool {
        self.stored.as_ref().is_none_or(|s| s.unfinished.is_some())
    }

    /// What it says.
    pub fn text(&self) -> String {
        let path = self.path.display();
        match &self.stored {
            None => format!(
                "{path}: DAMAGED: it does not say how the log was cut; the broker does not serve \
                 the partition. If another replica has it, remove its directory here"
            ),
            Some(Stored {
                generation,
                unfinished: None,
            }) => format!("{path}: generation {generation}"),
            Some(Stored {
                generation,
                unfinished: Some(what),
            }) => format!(
                "{path}: generation {generation}; not finished: {what}. The next start of the \
                 broker carries it through"
            ),
        }
    }

    /// The same as a document.
    pub fn document(&self) -> Value {
        json!({
            "file": self.path.display().to_string(),
            "generation": self.stored.as_ref().map(|s| s.generation),
            "unfinished": self.stored.as_ref().and_then(|s| s.unfinished.clone()),
            "ok": !self.is_damaged(),
        })
    }
}
