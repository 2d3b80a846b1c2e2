//! The names in engine/ARCHITECTURE.md: what it calls a function has to be one.
//!
//! A name is `path/file.rs::function` (or `::Type::function`) in backticks or a fenced block; the
//! path may leave out leading folders.

use super::File;
use super::source::Source;

/// Checks every name in a document.
pub fn check(document: &str, text: &str, files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for (line, path, function) in names(text) {
        let place = format!("{document}:{line} names {path}::{function}");
        let suffix = format!("/{path}");
        let mut matching = files
            .iter()
            .filter(|file| file.path == path || file.path.ends_with(&suffix))
            .peekable();
        if matching.peek().is_none() {
            found.push(format!(
                "{place}, but there is no such file: tell the walk as it is"
            ));
        } else if !matching.any(|file| defines(&file.text, function)) {
            found.push(format!(
                "{place}, which no longer exists: tell the walk as it is"
            ));
        }
    }
    found
}

/// The names, each with its line (from 1), its path, and the function's own name.
fn names(text: &str) -> Vec<(usize, &str, &str)> {
    let mut names = Vec::new();
    let mut fenced = false;
    for (i, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        // Between backticks lies every second piece.
        let pieces = line.split('`').enumerate();
        for (_, piece) in pieces.filter(|(n, _)| fenced || n % 2 == 1) {
            let words = piece.split(|c: char| !(c.is_alphanumeric() || "_-./:".contains(c)));
            for (path, item) in words.filter_map(|word| word.split_once(".rs::")) {
                let function = item.rsplit("::").next().unwrap_or(item);
                let path = &piece[offset(piece, path)..offset(piece, path) + path.len() + 3];
                names.push((i + 1, path, function.trim_end_matches(['.', ':', '/', '-'])));
            }
        }
    }
    names
}

/// Where a part of a text begins in it.
fn offset(whole: &str, part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

fn defines(text: &str, function: &str) -> bool {
    let source = Source::new(text);
    let words: Vec<String> = source.words().map(|(_, word)| word).collect();
    words
        .windows(2)
        .any(|pair| pair[0] == "fn" && pair[1] == function)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let files = [
            file(
                "net/streamd/src/conn.rs",
                "impl Conn { pub async fn reply(&self) {} }",
            ),
            file(
                "engine/shard/src/append.rs",
                "// fn gone()\nfn append<T>() {}",
            ),
        ];
        check("engine/ARCHITECTURE.md", text, &files)
    }

    #[test]
    fn true_names_pass() {
        let text = "\
`conn.rs::reply` and `net/streamd/src/conn.rs::Conn::reply`, then
```
conn.rs::reply → shard/src/append.rs::append(sequence, offset)
```
In prose append.rs::nothing is free.\n";
        assert_eq!(check_text(text), [""; 0]);
    }

    #[test]
    fn wrong_names_are_found() {
        let text = "\n`append.rs::gone`, `tail.rs::push`\n```\nxconn.rs::reply\n```\n";
        let found = check_text(text);
        let place = "engine/ARCHITECTURE.md";
        let missing = "but there is no such file: tell the walk as it is";
        let gone = "which no longer exists: tell the walk as it is";
        assert_eq!(
            found,
            [
                format!("{place}:2 names append.rs::gone, {gone}"),
                format!("{place}:2 names tail.rs::push, {missing}"),
                format!("{place}:4 names xconn.rs::reply, {missing}"),
            ]
        );
    }
}
