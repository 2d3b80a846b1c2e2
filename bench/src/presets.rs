//! The experiments that come with this program: files like anyone's, in bench/presets/.

use crate::experiment::Experiment;
use crate::failure::{Failure, Result};

const PRESETS: [&str; 11] = [
    include_str!("../presets/canonical.toml"),
    include_str!("../presets/table.toml"),
    include_str!("../presets/cluster.toml"),
    include_str!("../presets/end-to-end.toml"),
    include_str!("../presets/fan-out.toml"),
    include_str!("../presets/catch-up.toml"),
    include_str!("../presets/many-partitions.toml"),
    include_str!("../presets/zipf.toml"),
    include_str!("../presets/storm.toml"),
    include_str!("../presets/groups.toml"),
    include_str!("../presets/smoke.toml"),
];

fn all() -> Result<Vec<(Experiment, &'static str)>> {
    let parse = |text: &&'static str| Ok((Experiment::parse("preset", text)?, *text));
    PRESETS.iter().map(parse).collect()
}

/// The preset of a name, and its file.
///
/// # Errors
/// There is none.
pub fn named(name: &str) -> Result<(Experiment, &'static str)> {
    let all = all()?;
    let names: Vec<_> = all.iter().map(|(preset, _)| preset.name.clone()).collect();
    let found = all.into_iter().find(|(preset, _)| preset.name == name);
    found.ok_or_else(|| {
        let names = names.join(", ");
        Failure::usage(format!("there is no preset \"{name}\"; there are {names}"))
    })
}

/// A list of them for a person.
///
/// # Errors
/// None but a broken preset.
pub fn list() -> Result<String> {
    let line = |(preset, _): &(Experiment, &str)| {
        let loads = preset.loads.len();
        format!("{:<16} {} ({loads} loads)\n", preset.name, preset.about)
    };
    let lines: Vec<_> = all()?.iter().map(line).collect();
    Ok(lines.concat() + "\n`bench presets NAME` prints the file of one: copy and change it.\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::cost;

    #[test]
    fn presets_can_be_read_and_have_names_of_their_own() {
        let all = all().unwrap();
        let mut names: Vec<_> = all.iter().map(|(preset, _)| &preset.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), PRESETS.len());
        for (preset, _) in &all {
            let mut titles: Vec<_> = preset.loads.iter().map(|load| &load.name).collect();
            titles.sort();
            titles.dedup();
            assert_eq!(titles.len(), preset.loads.len(), "{}", preset.name);
            assert!(!preset.about.is_empty() && list().unwrap().contains(&preset.name));
        }
        let error = named("nonsense").unwrap_err();
        assert!(error.to_string().contains("canonical, table"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn the_canonical_one_takes_about_a_minute() {
        let seconds: f64 = named("canonical").unwrap().0.loads.iter().map(cost).sum();
        assert!((45.0..58.0).contains(&seconds), "{seconds}");
    }
}
