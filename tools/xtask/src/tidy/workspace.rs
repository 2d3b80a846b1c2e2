//! The rules for the repository as a whole: who may use whom, and what lies at the top.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Outcome;

/// What may lie at the top beside files whose names begin with a dot. The last two are not kept.
const TOP: [&str; 11] = [
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "LICENSE",
    "engine",
    "net",
    "bench",
    "tools",
    "tests",
    "target",
    "streamd-data",
];

/// Checks the names at the top of the repository.
pub fn top_level(names: &[String]) -> Vec<String> {
    let extra = names
        .iter()
        .filter(|name| !name.starts_with('.') && !TOP.contains(&name.as_str()));
    extra
        .map(|name| format!("{name}: does not belong at the top: put it where it is used"))
        .collect()
}

/// Compares the normal dependencies between our crates with the allowed ones. `allowed` is the
/// text of edges.txt, `metadata` what `cargo metadata --no-deps` prints.
///
/// # Errors
/// If either cannot be read.
pub fn edges(allowed: &str, metadata: &str) -> Outcome<Vec<String>> {
    let allowed = parse_edges(allowed)?;
    let metadata: Value =
        serde_json::from_str(metadata).map_err(|e| format!("cargo metadata: {e}"))?;
    let mut found = Vec::new();
    for package in list(&metadata["packages"]) {
        let user = short(&package["name"]);
        for dependency in list(&package["dependencies"]) {
            // A path means a crate of ours; a kind means build or test only.
            if dependency["path"].is_null() || !dependency["kind"].is_null() {
                continue;
            }
            let used = short(&dependency["name"]);
            if !allowed.get(user).is_some_and(|list| list.contains(&used)) {
                found.push(format!(
                    "{user} -> {used}: not in tools/xtask/edges.txt: \
                     take the dependency out, or argue for the edge there"
                ));
            }
        }
    }
    Ok(found)
}

/// Checks that the daemon, built alone, leaves the simulator out. `tree` is what
/// `cargo tree -p streamd -e normal,features --prefix none` prints.
pub fn no_simulator(tree: &str) -> Vec<String> {
    let sim = tree
        .lines()
        .find(|line| line.starts_with("streamd-io feature \"sim\""));
    let text = "streamd: built alone it has the feature \"sim\" of streamd-io: \
                only tests may turn the simulator on";
    sim.map(|_| text.to_owned()).into_iter().collect()
}

fn parse_edges(text: &str) -> Outcome<BTreeMap<&str, Vec<&str>>> {
    let mut edges = BTreeMap::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let Some((user, used)) = line.split_once("->") else {
            return Err(format!(
                "edges.txt:{}: {line:?}: expected \"user -> used ...\"",
                i + 1
            ));
        };
        edges.insert(user.trim(), used.split_whitespace().collect());
    }
    Ok(edges)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn short(name: &Value) -> &str {
    let name = name.as_str().unwrap_or_default();
    name.strip_prefix("streamd-").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_stays_small() {
        let names = ["Cargo.toml", ".ci", "engine", "notes.md"].map(str::to_owned);
        let finding = "notes.md: does not belong at the top: put it where it is used";
        assert_eq!(top_level(&names), [finding]);
    }

    #[test]
    fn edges_are_compared() {
        let allowed = "# comment\nlog -> model io # why\n";
        let metadata = |name: &str, kind: &str| {
            format!(
                r#"{{ "packages": [ {{ "name": "streamd-log", "dependencies": [
                    {{ "name": "streamd-{name}", "path": "/x", "kind": {kind} }},
                    {{ "name": "bytes", "kind": null }} ] }} ] }}"#
            )
        };
        assert_eq!(edges(allowed, &metadata("io", "null")), Ok(vec![]));
        assert_eq!(edges(allowed, &metadata("core", "\"dev\"")), Ok(vec![]));
        let found = edges(allowed, &metadata("core", "null")).unwrap();
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("log -> core: not in tools/xtask/edges.txt"),
            "{found:?}"
        );
        assert!(edges("log model", &metadata("io", "null")).is_err());
    }

    #[test]
    fn the_simulator_is_seen() {
        let tree = "streamd v0.1.0\nstreamd-io feature \"default\"\nstreamd-io v0.1.0\n";
        assert!(no_simulator(tree).is_empty());
        let tree = format!("{tree}streamd-io feature \"sim\" (*)\n");
        assert_eq!(no_simulator(&tree).len(), 1);
    }
}
