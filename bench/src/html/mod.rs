//! A report as one HTML page that needs nothing else: no network, no script.

mod charts;
mod svg;

use crate::compare::Case;
use crate::limits::Limits;
use crate::metric::Metric;
use crate::ratio::Spread;
use crate::record::Record;
use crate::report::{CLIENT_SHARE_MAX, counted, number};
use svg::escape;

/// What the page looks like.
const STYLE: &str = include_str!("style.css");
/// So many sides have a colour of their own.
const COLOURS: usize = 6;

/// The whole page.
pub fn page(record: &Record) -> String {
    let title = escape(&format!("bench: {}", record.name));
    let mut main = head(record);
    main += &overview(record);
    main += &comparison(record);
    main += "<h2>Load by load</h2>\n";
    for (case, distance) in record.cases.iter().zip(&record.distances) {
        main += &load(case, distance, record.limits.as_ref());
    }
    if let Some(limits) = &record.limits {
        main += &machine(record, limits);
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{main}</main>\n\
         </body>\n</html>\n"
    )
}

fn head(record: &Record) -> String {
    let origin = &record.origin;
    let commit = match origin.commit.as_str() {
        "" => String::new(),
        commit => format!(", source {}", escape(commit)),
    };
    let mut out = format!(
        "<h1>{}</h1>\n<p>{}</p>\n<p class=\"meta\">{}{commit}, on {}.<br>Made by \
         <code>{}</code>. Brokers and load share the machine over loopback. MB is 10<sup>6</sup> \
         bytes of record values before compression.</p>\n",
        escape(&record.name),
        escape(&record.about),
        escape(&origin.date),
        escape(&origin.text()),
        escape(&record.command),
    );
    for (name, ms) in &record.started_ms {
        let (name, ms) = (escape(name), number(*ms));
        out += &format!("<p class=\"meta\">{name} served {ms} ms after its start.</p>\n");
    }
    if !record.failed.is_empty() {
        let line = |why: &String| format!("<p class=\"warn\">Not measured: {}</p>\n", escape(why));
        out += &record.failed.iter().map(line).collect::<String>();
    }
    out
}

fn key(names: &[String]) -> String {
    if names.len() < 2 {
        return String::new();
    }
    let one = |(side, name): (usize, &String)| {
        let (colour, name) = (side % COLOURS, escape(name));
        format!("<span style=\"--swatch:var(--s{colour})\">{name}</span>")
    };
    let all: String = names.iter().enumerate().map(one).collect();
    format!("<div class=\"key\">{all}</div>\n")
}

fn figure(caption: &str, picture: Option<String>) -> String {
    picture.map_or(String::new(), |picture| {
        format!("<figure><figcaption>{caption}</figcaption>\n{picture}</figure>\n")
    })
}

fn overview(record: &Record) -> String {
    let Some(picture) = charts::cpu(&record.cases, record.limits.as_ref()) else {
        return String::new();
    };
    let names = record.cases.first().map_or(&[][..], |case| &case.names);
    let scale = match names.len() {
        0 | 1 => "The scale is logarithmic.",
        _ => {
            "Every load has a scale of its own, from 0; a thin line is the spread over the rounds."
        }
    };
    format!(
        "<h2>Broker CPU for a MB</h2>\n<div class=\"card\"><p class=\"soft\">Milliseconds of user \
         and system time for 10<sup>6</sup> bytes of values; less is better. {scale} A dashed mark \
         is the least that this machine can do it for.</p>\n{}<div class=\"wide\">{picture}</div>\n\
         </div>\n",
        key(names)
    )
}

fn comparison(record: &Record) -> String {
    let Some(names) = record.cases.first().map(|case| &case.names) else {
        return String::new();
    };
    let metrics = [
        (Metric::CpuMsPerMb, "Broker CPU for a MB: less is better"),
        (Metric::MbPerS, "MB a second: more is better"),
        (Metric::P50Us, "Latency, median: less is better"),
        (Metric::P99Us, "Latency, 99 %: less is better"),
    ];
    let mut out = String::new();
    for (other, name) in names.iter().skip(1).enumerate() {
        let (first, name) = (escape(&names[0]), escape(name));
        let pictures = metrics.iter().map(|(metric, caption)| {
            figure(caption, charts::ratios(&record.cases, *metric, other))
        });
        out += &format!(
            "<h2>{first} / {name}</h2>\n<div class=\"card\">\n<p class=\"soft\">They ran in turn; \
             the ratio is taken round by round. A dot is the median, the line from the least to \
             the greatest. Green: {first} is ahead in every round; red: behind in every round; \
             grey: the rounds do not agree.</p>\n<div class=\"two\">{}</div></div>\n",
            pictures.collect::<String>()
        );
    }
    out
}

fn tiles(case: &Case) -> String {
    let shown = [
        (Metric::MbPerS, "MB/s"),
        (Metric::RecordsPerS, "records/s"),
        (Metric::P50Us, "p50, ms"),
        (Metric::P99Us, "p99, ms"),
        (Metric::CpuMsPerMb, "broker CPU ms/MB"),
        (Metric::RssMb, "MB resident"),
    ];
    let tile = |(metric, name): &(Metric, &str)| {
        let value = number(case.median(*metric, 0)? * metric.label().1);
        Some(format!(
            "<div class=\"tile\"><b>{value}</b><span>{name}</span></div>"
        ))
    };
    let tiles: String = shown.iter().filter_map(tile).collect();
    format!("<div class=\"tiles\">{tiles}</div>\n")
}

fn load(case: &Case, distance: &[f64], limits: Option<&Limits>) -> String {
    let w = &case.workload;
    let mut out = format!(
        "<section class=\"card\"><h3>{}</h3>\n<p class=\"soft\">{}: {}, {} of {} B a batch, {}, \
         acks {}</p>\n",
        escape(&w.title()),
        escape(&w.name),
        counted(w.partitions as u64, "partition"),
        counted(w.batch_records as u64, "record"),
        w.size,
        counted(w.connections as u64, "connection"),
        w.acks
    );
    out += &if case.names.len() > 1 {
        key(&case.names)
    } else {
        tiles(case)
    };
    let dashed = match case.figure(Metric::AckP50Us) {
        Some(_) => " until a reader has it; dashed: until the acknowledgement",
        None => "",
    };
    let caption = format!("Latency{dashed}");
    let pictures = figure(&caption, charts::latency(case))
        + &figure("Throughput in the last round", charts::throughput(case));
    out += &format!("<div class=\"two\">{pictures}</div>\n");
    for (name, share) in case.names.iter().zip(&case.client_share) {
        if let Some(share) = share.filter(|share| *share > CLIENT_SHARE_MAX) {
            out += &format!(
                "<p class=\"warn\">The client took {:.0} % of the CPU that {} took: more than a \
                 third.</p>\n",
                share * 100.0,
                escape(name)
            );
        }
    }
    if let Some(yardstick) = limits.and_then(|limits| limits.yardstick(w)) {
        let times = |(name, times): (&String, &f64)| {
            format!("{} takes {} times that", escape(name), number(*times))
        };
        let times: Vec<_> = case.names.iter().zip(distance).map(times).collect();
        let (label, unit) = yardstick.metric.label();
        let limit = number(yardstick.limit * unit);
        let (what, times) = (yardstick.what, times.join("; "));
        out += &format!(
            "<p class=\"soft\">The machine's limit ({what}): {label} {limit}; {times}.</p>\n"
        );
    }
    out + &format!(
        "<details><summary>All figures</summary>\n<div class=\"scroll\">{}</div></details>\n\
         </section>\n",
        figures(case)
    )
}

fn figures(case: &Case) -> String {
    let range = |spread: &Spread, unit: f64| {
        let [median, min, max] = [spread.median, spread.min, spread.max].map(|v| number(v * unit));
        match case.rounds.len() {
            1 => format!("<td>{median}</td>"),
            _ => format!("<td>{median} ({min} to {max})</td>"),
        }
    };
    let first = escape(&case.names[0]);
    let mut out = String::from("<table><tr><th></th>");
    out += &case
        .names
        .iter()
        .map(|n| format!("<th>{}</th>", escape(n)))
        .collect::<String>();
    let others = case.names.iter().skip(1);
    out += &others
        .map(|n| format!("<th>{first} / {}</th>", escape(n)))
        .collect::<String>();
    out += "</tr>\n";
    for (metric, figure) in &case.figures {
        let (label, unit) = metric.label();
        let sides: String = figure.sides.iter().map(|side| range(side, unit)).collect();
        let ratios: String = match figure.ratios.len() {
            0 => "<td></td>".repeat(case.names.len() - 1),
            _ => figure
                .ratios
                .iter()
                .map(|ratio| range(ratio, 1.0))
                .collect(),
        };
        out += &format!("<tr><td>{label}</td>{sides}{ratios}</tr>\n");
    }
    out + "</table>\n"
}

fn machine(record: &Record, limits: &Limits) -> String {
    let mut rows = String::new();
    for figure in &limits.figures {
        let cell = |value: Option<f64>| value.map_or(String::new(), number);
        let latency =
            |of: fn(&crate::outcome::Percentiles) -> f64| cell(figure.latency.as_ref().map(of));
        rows += &format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            escape(&figure.name),
            cell(figure.mb_per_s),
            cell(figure.cpu_ms_per_mb),
            latency(|l| l.p50_us),
            latency(|l| l.p99_us)
        );
    }
    let distance = charts::distances(&record.cases, &record.distances);
    let names = record.cases.first().map_or(&[][..], |case| &case.names);
    let caption = "How many times its limit each load takes (broker CPU for a MB, or median \
                   latency at a fixed rate); loads that no bare figure bounds are left out";
    format!(
        "<h2>What this machine can do at all</h2>\n<div class=\"card\">{}\
         <div class=\"wide\">{}</div>\n<div class=\"scroll\"><table>\n\
         <tr><th></th><th>MB/s</th><th>CPU ms/MB</th><th>p50 µs</th><th>p99 µs</th></tr>\n\
         {rows}</table></div></div>\n",
        key(names),
        figure(caption, distance)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_whole_and_needs_no_network() {
        let page = page(&crate::record::tests::made_up());
        for tag in [
            "section", "div", "figure", "svg", "table", "details", "main",
        ] {
            let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
            let opened = page.matches(&open).count();
            assert_eq!(opened, page.matches(&close).count(), "{tag}");
            assert!(opened > 0, "{tag}");
        }
        for outside in ["http", "<script", "<link", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("Kafka &lt;4.4&gt;") && !page.contains("<4.4>"));
        assert!(page.contains("prefers-color-scheme: dark"));
        assert!(page.contains("Not measured: Kafka in small"));
        assert!(page.contains("streamd takes 3.91 times that"));
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }

    #[test]
    fn tables_have_as_many_cells_in_every_row() {
        let mut record = crate::record::tests::made_up();
        let ratios = record.cases[0].figures.get_mut(&Metric::RssMb);
        ratios.unwrap().ratios.clear();
        let table = figures(&record.cases[0]);
        let heads = table.lines().next().unwrap().matches("<th>").count();
        assert_eq!(heads, 4);
        let rows = table.lines().filter(|line| line.starts_with("<tr><td>"));
        rows.for_each(|row| assert_eq!(row.matches("<td>").count(), heads, "{row}"));
    }
}
