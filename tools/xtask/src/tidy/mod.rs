//! `cargo xtask tidy`: the rules of the house that no compiler knows.
//!
//! Each rule is a pure function from text to findings; this module only reads files and runs cargo.

mod rules;
mod source;
mod walks;
mod workspace;

use std::path::{Path, PathBuf};

use crate::Outcome;

/// Folders that hold the product.
const FOLDERS: [&str; 5] = ["engine", "net", "bench", "tools", "tests"];

/// A Rust file: its path from the top, with slashes, and its text.
pub struct File {
    path: String,
    text: String,
}

/// Applies every rule and prints what it finds.
///
/// # Errors
/// If there is a finding, or a rule could not be applied.
pub fn run(root: &Path) -> Outcome {
    let files = files(root)?;
    let mut found: Vec<String> = files
        .iter()
        .flat_map(|file| rules::file(&file.path, &file.text))
        .collect();

    found.extend(workspace::top_level(&entries(root)?));
    let edges = read(&root.join("tools/xtask/edges.txt"))?;
    let metadata = cargo(root, &["metadata", "--no-deps", "--format-version", "1"])?;
    found.extend(workspace::edges(&edges, &metadata)?);
    let features = [
        "tree",
        "-p",
        "streamd",
        "-e",
        "normal,features",
        "--prefix",
        "none",
    ];
    found.extend(workspace::no_simulator(&cargo(root, &features)?));

    let walks = "engine/ARCHITECTURE.md";
    if root.join(walks).exists() {
        found.extend(walks::check(walks, &read(&root.join(walks))?, &files));
    }
    for finding in &found {
        eprintln!("tidy: {finding}");
    }
    match found.len() {
        0 => Ok(()),
        n => Err(format!("tidy has {n} findings")),
    }
}

fn files(root: &Path) -> Outcome<Vec<File>> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(|name| root.join(name)).collect();
    while let Some(folder) = folders.pop() {
        for name in entries(&folder)? {
            let path = folder.join(&name);
            let skip = name.starts_with('.') || name == "target" || name == "node_modules";
            if path.is_dir() && !skip {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let text = read(&path)?;
                let path = path.strip_prefix(root).unwrap_or(&path);
                files.push(File {
                    path: path.to_string_lossy().replace('\\', "/"),
                    text,
                });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// The names in a folder; none if there is no such folder.
fn entries(folder: &Path) -> Outcome<Vec<String>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

fn read(path: &Path) -> Outcome<String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn cargo(root: &Path, args: &[&str]) -> Outcome<String> {
    let output = crate::cargo(root, args)
        .output()
        .map_err(|e| format!("cargo does not start: {e}"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo {}: {}", args.join(" "), reason.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
