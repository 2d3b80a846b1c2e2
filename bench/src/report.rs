//! Results as text for a person.

use crate::limits::Limits;
use crate::outcome::{Interval, Outcome};

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

/// Microseconds as milliseconds.
pub fn ms(us: f64) -> String {
    number(us / 1e3)
}

/// A run in a few lines.
pub fn run(outcome: &Outcome) -> String {
    let (w, i) = (&outcome.workload, &outcome.interval);
    let pace = match w.rate {
        Some(rate) => format!("open loop at {}/s", number(rate)),
        None => "closed loop".into(),
    };
    let mut out = format!(
        "{}: {} B records, {} partition(s), {} a batch, {}, acks {}, {} connection(s), {pace}\n",
        w.name,
        w.size,
        w.partitions,
        w.batch_records,
        w.codec.name(),
        w.acks,
        w.connections
    );
    out += &format!(
        "  {:>10} records/s  {:>8} MB/s   ({} records in {:.1} s)\n",
        number(i.records_per_s()),
        number(i.mb_per_s()),
        number(i.records as f64),
        i.seconds
    );
    let l = &i.latency;
    out += &format!(
        "  latency ms  p50 {}  p90 {}  p99 {}  p99.9 {}  max {}\n",
        ms(l.p50_us),
        ms(l.p90_us),
        ms(l.p99_us),
        ms(l.p999_us),
        ms(l.max_us)
    );
    out + &cost(i)
}

fn cost(i: &Interval) -> String {
    let mut out = match (i.broker, i.broker_ms_per_mb(), i.broker_us_per_record()) {
        (Some(used), Some(per_mb), Some(per_record)) => format!(
            "  broker      {} CPU ms/MB, {} us/record, {:.0} MB resident, {} + {} switches, \
             {} MB written\n",
            number(per_mb),
            number(per_record),
            used.rss as f64 / 1e6,
            number(used.switches_voluntary as f64),
            number(used.switches_involuntary as f64),
            number(used.write_bytes as f64 / 1e6)
        ),
        _ => "  broker      (give --pid to see its CPU time and memory)\n".into(),
    };
    let percent_other = i.other_cpu_ms / (i.seconds * 10.0).max(1e-9);
    out += &format!(
        "  client      {} CPU ms/MB{}; the rest of the machine: {:.0} % of a core\n",
        number(i.client_ms_per_mb()),
        remark(i.client_share()),
        percent_other
    );
    out
}

/// Says when the client costs more than a third of the broker.
pub fn remark(share: Option<f64>) -> String {
    match share.filter(|share| *share > CLIENT_SHARE_MAX) {
        Some(share) => format!(
            " ({:.0} % of the broker's: more than a third)",
            share * 100.0
        ),
        None => String::new(),
    }
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
    fn only_a_costly_client_is_remarked() {
        assert_eq!(remark(Some(0.33)), "");
        assert_eq!(remark(None), "");
        assert!(remark(Some(0.5)).contains("50 %"));
    }
}
