//! A file (TOML) of a whole experiment: what is run, how often, and on which brokers.
//!
//! A file that cannot be used gives an error with its name, the line, what was read and what is
//! allowed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::admin::resolve;
use crate::failure::{Context, Failure, Result};
use crate::spec::Spec;
use crate::spec_file;
use crate::workload::{Kind, Target, Workload};

/// An experiment, whole and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// The loads, in the order that they run in.
    pub loads: Vec<Workload>,
    /// Rounds that count.
    pub rounds: Option<usize>,
    /// Seconds of mixed load on each broker before the first load.
    pub warm: Option<f64>,
    /// Seconds for each figure of the machine's limits; 0: they are not measured.
    pub limits: Option<f64>,
    /// The brokers.
    pub targets: Vec<Target>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    name: Option<String>,
    about: Option<String>,
    rounds: Option<usize>,
    warm: Option<f64>,
    limits: Option<f64>,
    /// Read by `spec_file`, as the loads are.
    #[serde(default, rename = "defaults")]
    _defaults: IgnoredAny,
    #[serde(default, rename = "load")]
    _load: IgnoredAny,
    #[serde(default)]
    target: Vec<Broker>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Broker {
    name: Option<String>,
    address: String,
    pid: Option<u32>,
    #[serde(default)]
    pids: Vec<u32>,
    replicas: Option<i16>,
    #[serde(default)]
    configs: BTreeMap<String, String>,
}

/// Where an error is, in a text with a name.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn wrong(&self, at: Option<Range<usize>>, what: &str) -> Failure {
        let at = at.map_or(0, |at| at.start).min(self.text.len());
        let before = self.text.get(..at).unwrap_or_default();
        let number = before.matches('\n').count() + 1;
        let line = self.text.lines().nth(number - 1).unwrap_or_default();
        let (name, line) = (self.name, line.trim());
        Failure::usage(format!("{name}:{number}: \"{line}\": {what}"))
    }

    /// What a table says about a load.
    fn spec(&self, table: &Spanned<DeValue<'_>>) -> Result<Spec> {
        let Some(options) = table.get_ref().as_table() else {
            return Err(self.wrong(
                Some(table.span()),
                "expected a table, as [[load]] begins one",
            ));
        };
        spec_file::read(options).map_err(|wrong| {
            let at = wrong.at.unwrap_or(table.span());
            self.wrong(Some(at), &wrong.what)
        })
    }

    /// A load, with what it lacks from the defaults.
    fn load(
        &self,
        own: &Spanned<DeValue<'_>>,
        defaults: Option<&Spanned<DeValue<'_>>>,
    ) -> Result<Workload> {
        let fallback = defaults.map_or(Ok(Spec::default()), |defaults| self.spec(defaults))?;
        let spec = self.spec(own)?.or(&fallback);
        if spec.kind.is_none() {
            let what = "this load has no kind, expected kind = \"produce\", \"fetch\", \
                        \"stream\", \"catch-up\", \"storm\", \"commit\", \"transaction\", \
                        \"rebalance-classic\" or \"rebalance-consumer\"";
            return Err(self.wrong(Some(own.span()), what));
        }
        spec.workload(Kind::Produce).map_err(|wrong| {
            let (option, read, allowed) = (wrong.option, wrong.read, wrong.allowed);
            let of = |table: &Spanned<DeValue<'_>>| {
                let value = table.get_ref().get(option)?;
                Some(value.span())
            };
            let at = of(own).or(defaults.and_then(of)).unwrap_or(own.span());
            self.wrong(Some(at), &format!("{option} is {read}, allowed: {allowed}"))
        })
    }

    /// All loads.
    fn loads(&self) -> Result<Vec<Workload>> {
        let table = DeTable::parse(self.text)
            .map_err(|error| self.wrong(error.span(), error.message().trim()))?;
        let (list, defaults) = (table.get_ref().get("load"), table.get_ref().get("defaults"));
        let list = list.and_then(|list| list.get_ref().as_array());
        let list = list.filter(|list| !list.is_empty());
        let list =
            list.ok_or_else(|| self.wrong(None, "expected loads, each beginning with [[load]]"))?;
        list.iter().map(|own| self.load(own, defaults)).collect()
    }
}

impl Experiment {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is no experiment.
    pub fn read(path: &Path) -> Result<Experiment> {
        let text = std::fs::read_to_string(path)
            .context(|| format!("cannot read the experiment {}", path.display()))?;
        Experiment::parse(&path.display().to_string(), &text)
    }

    /// Reads a text; `name` is that of the file, for errors.
    ///
    /// # Errors
    /// It is no experiment.
    pub fn parse(name: &str, text: &str) -> Result<Experiment> {
        let source = Source { name, text };
        let file: File = toml::from_str(text)
            .map_err(|error| source.wrong(error.span(), error.message().trim()))?;
        Ok(Experiment {
            loads: source.loads()?,
            name: file.name.unwrap_or_else(|| "experiment".into()),
            about: file.about.unwrap_or_default(),
            rounds: file.rounds,
            warm: file.warm,
            limits: file.limits,
            targets: file.target.into_iter().map(target).collect::<Result<_>>()?,
        })
    }

    /// An experiment of a single load.
    pub fn of(load: Workload) -> Experiment {
        Experiment {
            name: load.name.clone(),
            about: load.title(),
            loads: vec![load],
            rounds: None,
            warm: None,
            limits: None,
            targets: Vec::new(),
        }
    }

    /// Leaves only the loads that are meant by names or beginnings of names (up to a hyphen).
    ///
    /// # Errors
    /// A name fits no load.
    pub fn only(mut self, names: &[String]) -> Result<Experiment> {
        let fits = |name: &str, load: &Workload| {
            let rest = load.name.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let unknown = |name: &&String| !self.loads.iter().any(|load| fits(name, load));
        if let Some(unknown) = names.iter().find(unknown) {
            let known: Vec<_> = self.loads.iter().map(|load| load.name.as_str()).collect();
            return Err(Failure::usage(format!(
                "there is no load \"{unknown}\"; the loads are {}",
                known.join(", ")
            )));
        }
        let meant = |load: &Workload| names.iter().any(|name| fits(name, load));
        self.loads.retain(|load| names.is_empty() || meant(load));
        Ok(self)
    }

    /// With so many seconds for every load.
    pub fn lasting(mut self, seconds: Option<f64>) -> Experiment {
        for load in &mut self.loads {
            load.time.seconds = seconds.unwrap_or(load.time.seconds);
        }
        self
    }
}

fn target(broker: Broker) -> Result<Target> {
    Ok(Target {
        address: resolve(&broker.address)?,
        name: broker.name.unwrap_or(broker.address),
        pids: broker.pid.into_iter().chain(broker.pids).collect(),
        replicas: broker.replicas.unwrap_or(1),
        configs: broker.configs.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = \"mine\"\nrounds = 3\n[defaults]\nkind = \"produce\"\nsize = 10\n\
                        [[load]]\nname = \"a\"\n[[load]]\nname = \"a-b\"\nsize = 20\n\
                        [[target]]\nname = \"X\"\naddress = \"127.0.0.1:9\"\n\
                        configs = { \"flush.messages\" = \"1\" }\n";

    #[test]
    fn loads_take_what_they_lack_from_the_defaults() {
        let read = Experiment::parse("f", GOOD).unwrap();
        let sizes: Vec<_> = read.loads.iter().map(|load| load.size).collect();
        assert_eq!((sizes, read.rounds), (vec![10, 20], Some(3)));
        assert_eq!(read.targets[0].configs[0].0, "flush.messages");
        assert_eq!(read.only(&["a-b".into()]).unwrap().loads.len(), 1);
    }

    #[test]
    fn loads_are_chosen_by_whole_words_of_their_beginning() {
        let read = Experiment::parse("f", GOOD).unwrap();
        let of = |name: &str| read.clone().only(&[name.to_owned()]);
        assert_eq!(of("a").unwrap().loads.len(), 2);
        let error = of("a-").unwrap_err();
        assert!(
            error.to_string().contains("the loads are a, a-b"),
            "{error}"
        );
    }

    #[test]
    fn a_bad_file_is_told_with_its_line_what_was_read_and_what_is_allowed() {
        let fetch = "[[load]]\nkind = \"fetch\"\n";
        let cases = [
            (
                "sze = 5",
                "f:3: \"sze = 5\": sze is no option of a load, allowed: kind, name",
            ),
            ("size = 0", "f:3: \"size = 0\": size is 0, allowed: 1 to"),
            (
                "size = \"x\"",
                "f:3: \"size = \"x\"\": size is x, allowed: a number (Bytes",
            ),
            ("size = ", "f:3: \"size =\""),
            (
                "[oad]",
                "f:3: \"[oad]\": unknown field `oad`, expected one of",
            ),
            (
                "[defaults]\nacks = 7",
                "f:4: \"acks = 7\": acks is 7, allowed: -1 to 1",
            ),
            (
                "[[target]]\nport = 1",
                "f:4: \"port = 1\": unknown field `port`",
            ),
        ];
        let cases = cases.map(|(text, expected)| (fetch.to_owned() + text, expected));
        let alone = [
            (
                "[[load]]\nkind = \"produced\"",
                "f:2: \"kind = \"produced\"\": kind is produced, ",
            ),
            (
                "name = \"x\"\n[[load]]\nsize = 1",
                "f:2: \"[[load]]\": this load has no kind",
            ),
            (
                "name = \"x\"\nload = []",
                "expected loads, each beginning with [[load]]",
            ),
            ("load = 5", "expected loads, each beginning with [[load]]"),
            ("load = [5]", "f:1: \"load = [5]\": expected a table"),
        ];
        let alone = alone.map(|(text, expected)| (text.to_owned(), expected));
        let cases = cases.into_iter().chain(alone);
        for (text, expected) in cases {
            let error = Experiment::parse("f", &text).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}\n{expected}");
            assert_eq!(error.exit_code(), 2);
        }
        let error = Experiment::parse("f", "[[load]]\nkind = \"produced\"").unwrap_err();
        assert!(error.to_string().contains("catch-up"), "{error}");
    }
}
