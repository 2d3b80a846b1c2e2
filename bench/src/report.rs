//! Results as text for a person.

use crate::compare::Case;
use crate::limits::Limits;
use crate::outcome::{Interval, Outcome, Percentiles};
use crate::ratio::Spread;
use crate::record::Record;
use crate::workload::Kind;

/// From this part of the broker's CPU on, the client's cost is worth a remark.
pub const CLIENT_SHARE_MAX: f64 = 1.0 / 3.0;

/// A number with about three significant digits and thousands separated.
pub fn number(value: f64) -> String {
    let text = match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        0.0 => "0".into(),
        v if v >= 0.1 => format!("{value:.3}"),
        v if v >= 0.01 => format!("{value:.4}"),
        _ => format!("{value:.5}"),
    };
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.as_str()),
    };
    let (whole, fraction) = match digits.split_once('.') {
        Some((whole, fraction)) => (whole, format!(".{fraction}")),
        None => (digits, String::new()),
    };
    let mut out = String::from(sign);
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out + &fraction
}

/// A number of things.
pub fn counted(count: u64, thing: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    // A whole number has no fraction, however small.
    match count {
        0..100 => format!("{count} {thing}{end}"),
        _ => format!("{} {thing}{end}", number(count as f64)),
    }
}

/// Microseconds as milliseconds.
pub fn ms(us: f64) -> String {
    number(us / 1e3)
}

/// A whole experiment for a person.
pub fn record(record: &Record) -> String {
    let mut out = format!("{} on {}\n", record.name, record.origin.text());
    for (name, ms) in &record.started_ms {
        out += &format!("{name} was ready after {} ms; ", number(*ms));
    }
    out += "brokers and load share the machine\n\n";
    for case in &record.cases {
        out += &self::case(case, record.limits.as_ref());
        out.push('\n');
    }
    if let Some(limits) = &record.limits {
        out += "What this machine can do at all (the better of before and after):\n";
        out += &self::limits(limits);
    }
    out
}

/// A load and what came of it.
pub fn case(case: &Case, limits: Option<&Limits>) -> String {
    let mut out = format!("{}: {}\n", case.workload.name, case.workload.title());
    if case.names.len() > 1 {
        out += &comparison(case);
    } else if let Some(run) = case.runs(0).last() {
        out += &single(run);
    }
    for (name, share) in case.names.iter().zip(&case.client_share) {
        if let Some(share) = share.filter(|share| *share > CLIENT_SHARE_MAX) {
            let percent = share * 100.0;
            out += &format!("  client: {percent:.0} % of {name}'s CPU: more than a third\n");
        }
    }
    if let Some(limits) = limits {
        out += &distance(case, limits);
    }
    out
}

/// Work of coordinators, which has no bytes.
fn coordinated(run: &Outcome) -> String {
    let (w, i) = (&run.workload, &run.interval);
    let mut out = format!(
        "  {:>12} {}/s   ({} in {:.1} s; {}, {})\n",
        number(i.records_per_s()),
        w.kind.unit(),
        number(i.records as f64),
        i.seconds,
        counted(w.connections as u64, "client"),
        counted(w.partitions as u64, "partition"),
    );
    out += &percentiles("latency", &i.latency);
    if let (Some(used), Some(each)) = (i.broker, i.broker_us_per_record()) {
        out += &format!(
            "  broker      {} CPU us each, {:.0} MB resident, {} MB written, {} + {} switches\n",
            number(each),
            used.rss as f64 / 1e6,
            number(used.write_bytes as f64 / 1e6),
            number(used.switches_voluntary as f64),
            number(used.switches_involuntary as f64),
        );
    }
    out
}

fn single(run: &Outcome) -> String {
    let (w, i) = (&run.workload, &run.interval);
    if w.kind.coordinates() {
        return coordinated(run);
    }
    let mut out = format!(
        "  {:>12} {}/s  {:>8} MB/s   ({} in {:.1} s; {} B, {}, {} a batch)\n",
        number(i.records_per_s()),
        w.kind.unit(),
        number(i.mb_per_s()),
        number(i.records as f64),
        i.seconds,
        w.size,
        counted(w.partitions as u64, "partition"),
        w.batch_records,
    );
    let rate = w.rate.filter(|_| w.kind != Kind::CatchUp);
    out += behind(rate, i.records_per_s() / w.groups.max(1) as f64);
    let name = match w.kind {
        Kind::Stream | Kind::CatchUp => "to hands",
        _ => "latency",
    };
    out += &percentiles(name, &i.latency);
    out += &i.ack.map_or(String::new(), |ack| percentiles("ack", &ack));
    if w.kind == Kind::CatchUp {
        out += &match i.caught_up {
            true => format!("  caught up   after {} s\n", number(i.seconds)),
            false => format!("  NOT caught up within {} s\n", number(i.seconds)),
        };
    }
    out + &cost(i)
}

/// Says when a rate that was asked for was not what came through.
fn behind(rate: Option<f64>, came: f64) -> &'static str {
    match rate {
        Some(rate) if came < rate * 0.97 => {
            "  BEHIND      it fell behind the rate that was asked for\n"
        }
        Some(rate) if came > rate * 1.03 => {
            "  BEHIND      it was behind the rate before, and caught up\n"
        }
        _ => "",
    }
}

fn percentiles(name: &str, l: &Percentiles) -> String {
    format!(
        "  {:<11} p50 {}  p90 {}  p99 {}  p99.9 {}  max {} ms\n",
        name,
        ms(l.p50_us),
        ms(l.p90_us),
        ms(l.p99_us),
        ms(l.p999_us),
        ms(l.max_us)
    )
}

fn cost(i: &Interval) -> String {
    let mut out = match (i.broker, i.broker_ms_per_mb(), i.broker_us_per_record()) {
        (Some(used), Some(per_mb), Some(per_record)) => format!(
            "  broker      {} CPU ms/MB, {} us/record, {:.0} MB resident, {} MB written, \
             {} MB read, {} + {} switches\n",
            number(per_mb),
            number(per_record),
            used.rss as f64 / 1e6,
            number(used.write_bytes as f64 / 1e6),
            number(used.read_bytes as f64 / 1e6),
            number(used.switches_voluntary as f64),
            number(used.switches_involuntary as f64),
        ),
        _ => {
            "  broker      (give its process as in --target HOST:PORT,PID to see its cost)\n".into()
        }
    };
    out += &format!(
        "  client      {} CPU ms/MB; the rest of the machine: {:.0} % of a core\n",
        number(i.client_ms_per_mb()),
        i.other_cpu_ms / (i.seconds * 10.0).max(1e-9)
    );
    out
}

fn comparison(case: &Case) -> String {
    let name = |name: &String| format!("{:>16}", shortened(name, 15));
    let names: Vec<_> = case.names.iter().map(name).collect();
    let (first, others) = (&case.names[0], &case.names[1..]);
    let heads: Vec<_> = others
        .iter()
        .map(|other| format!("{:>28}", shortened(&format!("{first}/{other}"), 27)))
        .collect();
    let mut out = format!("  {:<24}{}{}\n", "", names.concat(), heads.concat());
    for (metric, figure) in &case.figures {
        let (label, unit) = metric.label();
        let side = |side: &Spread| format!("{:>16}", number(side.median * unit));
        let ratio = |r: &Spread| {
            let text = format!("{} ({}-{})", number(r.median), number(r.min), number(r.max));
            format!("{text:>28}")
        };
        let sides: Vec<_> = figure.sides.iter().map(side).collect();
        let ratios: Vec<_> = figure.ratios.iter().map(ratio).collect();
        out += &format!("  {label:<24}{}{}\n", sides.concat(), ratios.concat());
    }
    out + &format!(
        "  medians of {}; ratios round by round: median (least-most)\n",
        case.rounds.len()
    )
}

fn shortened(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.into(),
        Some(_) => text.chars().take(width - 2).collect::<String>() + "..",
    }
}

fn distance(case: &Case, limits: &Limits) -> String {
    let distances = limits.distances(case);
    let Some(yardstick) = limits
        .yardstick(&case.workload)
        .filter(|_| !distances.is_empty())
    else {
        return String::new();
    };
    let (label, unit) = yardstick.metric.label();
    let each = case.names.iter().zip(distances);
    let each: Vec<_> = each
        .map(|(name, times)| format!("{name} {} times that", number(times)))
        .collect();
    let limit = number(yardstick.limit * unit);
    format!(
        "  limit       {}: {label} {limit}; {}\n",
        yardstick.what,
        each.join(", ")
    )
}

/// The machine's limits as a table.
pub fn limits(limits: &Limits) -> String {
    let header = ["", "MB/s", "CPU ms/MB", "p50 us", "p99 us"];
    let [name, mb, cpu, p50, p99] = header;
    let mut out = format!("{name:<50}{mb:>10}{cpu:>12}{p50:>10}{p99:>10}\n");
    for figure in &limits.figures {
        let cell = |value: Option<f64>| value.map_or(String::new(), number);
        out += &format!(
            "{:<50}{:>10}{:>12}{:>10}{:>10}\n",
            figure.name,
            cell(figure.mb_per_s),
            cell(figure.cpu_ms_per_mb),
            cell(figure.latency.map(|latency| latency.p50_us)),
            cell(figure.latency.map(|latency| latency.p99_us))
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_commas() {
        let cases = [
            (0.0, "0"),
            (0.0421, "0.0421"),
            (0.00042, "0.00042"),
            (3.456, "3.46"),
            (34.56, "34.6"),
            (999.6, "1,000"),
            (-1234567.0, "-1,234,567"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_comparison_shows_ratios_and_the_distance_to_the_limit() {
        let text = record(&crate::record::tests::made_up());
        assert!(text.contains("streamd was ready after 20.0 ms"), "{text}");
        assert!(text.contains("0.250 (0.250-0.250)"), "{text}");
        let limit = "sendfile: broker CPU ms/MB 0.250; streamd 3.91 times that, Kafka <4.4> 15.6";
        assert!(text.contains(limit), "{text}");
        assert!(!text.contains("more than a third"), "{text}");
    }

    #[test]
    fn a_single_run_is_told_in_sentences_and_a_costly_client_is_remarked() {
        let mut made_up = crate::record::tests::made_up();
        let mut case = made_up.cases.remove(0);
        case.names.truncate(1);
        case.client_share = vec![Some(0.5)];
        let text = self::case(&case, None);
        assert!(text.contains("p50 0.100  p90 0.180"), "{text}");
        assert!(
            text.contains("50 % of streamd's CPU: more than a third"),
            "{text}"
        );
    }

    #[test]
    fn a_rate_that_was_not_kept_is_told() {
        assert_eq!(behind(None, 5.0), "");
        assert_eq!(behind(Some(1000.0), 990.0), "");
        assert!(behind(Some(1000.0), 900.0).contains("fell behind"));
        assert!(behind(Some(1000.0), 1500.0).contains("before"));
    }

    #[test]
    fn things_are_counted_in_whole_numbers() {
        let counts = [1, 12, 2_000].map(|count| counted(count, "partition"));
        assert_eq!(counts, ["1 partition", "12 partitions", "2,000 partitions"]);
    }

    #[test]
    fn names_that_are_too_long_are_cut() {
        assert_eq!(shortened("Kafka", 5), "Kafka");
        assert_eq!(shortened("Kafka, flushed", 8), "Kafka,..");
    }
}
