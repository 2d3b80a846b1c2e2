//! The pictures of a report.

use hdrhistogram::Histogram;

use super::svg::{Picture, Scale, log_range, tick_label};
use crate::compare::Case;
use crate::limits::Limits;
use crate::metric::Metric;
use crate::outcome::{Histograms, Outcome, curve};
use crate::report::number;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 532.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 258.0;

/// Points of a line, and its class.
struct Line {
    class: String,
    points: Vec<(f64, f64)>,
}

/// The histograms of all runs on a side together.
fn merged(
    case: &Case,
    side: usize,
    pick: impl Fn(&Histograms) -> Option<&Histogram<u64>>,
) -> Option<Histogram<u64>> {
    let mut all = case.runs(side).filter_map(|run| pick(&run.histograms));
    let mut sum = all.next()?.clone();
    for other in all {
        // All have the same bounds.
        sum.add(other).ok()?;
    }
    (!sum.is_empty()).then_some(sum)
}

/// Latency (logarithmic) over percentiles that get rarer to the right (logarithmic too).
pub fn latency(case: &Case) -> Option<String> {
    let mut lines = Vec::new();
    for side in 0..case.names.len() {
        let latency = merged(case, side, |h| h.latency.as_ref());
        let ack = merged(case, side, |h| h.ack.as_ref());
        for (histogram, style) in [(latency, "line"), (ack, "line dashed")] {
            let Some(histogram) = histogram else { continue };
            let rarer = |(q, us): (f64, f64)| (1.0 / (1.0 - q), us / 1e3);
            let points = curve(&histogram).into_iter().map(rarer).collect();
            let class = format!("{style} s{side}");
            lines.push(Line { class, points });
        }
    }
    let all = || lines.iter().flat_map(|line| &line.points);
    let (low, high) = log_range(all().map(|point| point.1))?;
    let rarest = all().map(|point| point.0).fold(100.0, f64::max);
    let x = Scale {
        from: (1.0, LEFT),
        to: (rarest, RIGHT),
        log: true,
    };
    let y = Scale {
        from: (low, BOTTOM),
        to: (high, TOP),
        log: true,
    };
    let percent = |rarer: f64| match rarer {
        r if r < 2.0 => "0 %".to_owned(),
        r => {
            let digits = (r.log10().round() as usize).saturating_sub(2);
            format!("{:.digits$} %", 100.0 - 100.0 / r)
        }
    };
    // Only the tens: 90, 99, 99.9 ...
    let mut picture = Picture::new(WIDTH, HEIGHT);
    picture.y_axis(&y, (LEFT, RIGHT));
    let tens = (0..9)
        .map(|e| 10f64.powi(e))
        .filter(|r| *r <= rarest * 1.001);
    // The half has a label where there is room for it beside the start.
    let half = (x.at(2.0) - LEFT > 34.0).then_some(2.0);
    for rarer in tens.chain(half) {
        let at = x.at(rarer);
        picture.line("grid", (at, TOP), (at, BOTTOM));
        picture.text("tick", "middle", (at, BOTTOM + 16.0), &percent(rarer));
    }
    picture.text(
        "axis",
        "middle",
        ((LEFT + RIGHT) / 2.0, HEIGHT - 4.0),
        "percentile",
    );
    picture.text("axis", "start", (4.0, TOP - 2.0), "ms");
    draw(&mut picture, &lines, &x, &y);
    Some(picture.svg("latency by percentile"))
}

fn draw(picture: &mut Picture, lines: &[Line], x: &Scale, y: &Scale) {
    for line in lines {
        let places: Vec<_> = line
            .points
            .iter()
            .map(|(a, b)| (x.at(*a), y.at(*b)))
            .collect();
        picture.path(&line.class, &places);
    }
}

/// What came through over time in the last round.
pub fn throughput(case: &Case) -> Option<String> {
    let last = case.rounds.last()?;
    let mb = case.workload.size as f64 / 1e6;
    let line = |(side, run): (usize, &Outcome)| Line {
        class: format!("line s{side}"),
        points: run
            .rates
            .iter()
            .map(|(at, rate)| (*at, rate * mb))
            .collect(),
    };
    let lines: Vec<_> = last.iter().enumerate().map(line).collect();
    let all = || lines.iter().flat_map(|line| &line.points);
    let end = all().map(|point| point.0).fold(0.0, f64::max);
    let most = all().map(|point| point.1).fold(0.0, f64::max);
    if lines.iter().all(|line| line.points.len() < 2) || most <= 0.0 {
        return None;
    }
    let x = Scale {
        from: (0.0, LEFT),
        to: (end, RIGHT),
        log: false,
    };
    let y = Scale {
        from: (0.0, BOTTOM),
        to: (most * 1.1, TOP),
        log: false,
    };
    let mut picture = Picture::new(WIDTH, HEIGHT);
    picture.y_axis(&y, (LEFT, RIGHT));
    picture.x_axis(&x, (TOP, BOTTOM), tick_label);
    picture.text(
        "axis",
        "middle",
        ((LEFT + RIGHT) / 2.0, HEIGHT - 4.0),
        "seconds",
    );
    picture.text("axis", "start", (4.0, TOP - 2.0), "MB/s");
    draw(&mut picture, &lines, &x, &y);
    Some(picture.svg("throughput over time"))
}

/// The width of pictures that have a row to themselves.
const FULL: f64 = 1120.0;
const BAR: f64 = 15.0;
const STEP: f64 = BAR + 3.0;
const GAP: f64 = 16.0;
const NAMES: f64 = 178.0;
const VALUES: f64 = 110.0;

/// The limit of a load's broker CPU for a MB.
fn cpu_limit(case: &Case, limits: Option<&Limits>) -> Option<f64> {
    let yardstick = limits?.yardstick(&case.workload)?;
    (yardstick.metric == Metric::CpuMsPerMb).then_some(yardstick.limit)
}

/// The broker's CPU for a MB, by load, with the machine's limit as a mark.
pub fn cpu(cases: &[Case], limits: Option<&Limits>) -> Option<String> {
    let shown = cases
        .iter()
        .filter(|case| case.figure(Metric::CpuMsPerMb).is_some());
    let shown: Vec<_> = shown.collect();
    match shown.iter().map(|case| case.names.len()).max()? {
        1 => cpu_alone(&shown, limits),
        _ => Some(cpu_side_by_side(&shown, limits)),
    }
}

/// Of a single broker: all loads on one logarithmic scale.
fn cpu_alone(cases: &[&Case], limits: Option<&Limits>) -> Option<String> {
    let value = |case: &&Case| case.median(Metric::CpuMsPerMb, 0);
    let limit = |case: &&Case| cpu_limit(case, limits);
    let all = cases.iter().filter_map(value);
    let (low, high) = log_range(all.chain(cases.iter().filter_map(limit)))?;
    let (row, right, top) = (26.0, FULL - VALUES, 10.0);
    let bottom = top + row * cases.len() as f64;
    let mut picture = Picture::new(FULL, bottom + 24.0);
    let x = Scale {
        from: (low, NAMES),
        to: (high, right),
        log: true,
    };
    picture.x_axis(&x, (top, bottom), tick_label);
    for (i, case) in cases.iter().enumerate() {
        let y = top + row * (i as f64 + 0.5);
        let at = x.at(value(case)?);
        let told = format!("{}: {} ms/MB", case.workload.name, number(value(case)?));
        picture.text("name", "end", (NAMES - 12.0, y + 4.0), &case.workload.name);
        picture.line("stem s0", (x.at(low), y), (at, y));
        if let Some(limit) = limit(case).map(|limit| x.at(limit)) {
            mark_limit(&mut picture, limit, (y - 9.0, y + 9.0));
        }
        picture.dot("dot s0", (at, y), &told);
        picture.text(
            "value",
            "start",
            (right + 10.0, y + 4.0),
            &number(value(case)?),
        );
    }
    Some(picture.svg("broker CPU for a MB, by load"))
}

fn mark_limit(picture: &mut Picture, x: f64, span: (f64, f64)) {
    picture.line("halo", (x, span.0), (x, span.1));
    picture.line("limit", (x, span.0), (x, span.1));
}

/// Of several brokers: a group of bars for each load, each group with a scale of its own from 0,
/// the spread as a thin line.
fn cpu_side_by_side(cases: &[&Case], limits: Option<&Limits>) -> String {
    let bars: usize = cases.iter().map(|case| case.names.len()).sum();
    let height = bars as f64 * STEP + cases.len() as f64 * GAP + 8.0;
    let mut picture = Picture::new(FULL, height);
    let mut top = 8.0;
    for case in cases {
        let Some(figure) = case.figure(Metric::CpuMsPerMb) else {
            continue;
        };
        let most = figure.sides.iter().map(|side| side.max).fold(0.0, f64::max);
        let x = Scale {
            from: (0.0, NAMES),
            to: (most, FULL - VALUES),
            log: false,
        };
        let bottom = top + figure.sides.len() as f64 * STEP;
        let middle = (top + bottom) / 2.0 + 3.0;
        picture.text("name", "end", (NAMES - 12.0, middle), &case.workload.name);
        for (side, spread) in figure.sides.iter().enumerate() {
            let (y, end) = (top + side as f64 * STEP, x.at(spread.median));
            let (value, half) = (number(spread.median), y + BAR / 2.0);
            let told = format!("{}: {value} ms/MB", case.names[side]);
            let class = format!("bar s{side}");
            picture.bar(&class, (NAMES, y), (end - NAMES, BAR), &told);
            let ends = (x.at(spread.min), x.at(spread.max));
            if ends.1 - ends.0 > 2.0 {
                picture.line("whisker", (ends.0, half), (ends.1, half));
            }
            let at = (end.max(ends.1) + 8.0, y + BAR - 3.0);
            picture.text("value", "start", at, &value);
        }
        if let Some(limit) = cpu_limit(case, limits) {
            mark_limit(&mut picture, x.at(limit), (top - 4.0, bottom + 1.0));
        }
        top = bottom + GAP;
    }
    picture.svg("broker CPU for a MB, by load")
}

/// Ratios of the first broker to another one, on a logarithmic scale around 1.
pub fn ratios(cases: &[Case], metric: Metric, other: usize) -> Option<String> {
    let throughput = matches!(metric, Metric::MbPerS | Metric::RecordsPerS);
    let ratio = |case: &Case| {
        // A rate that was asked for is no merit.
        if throughput && case.workload.rate.is_some() {
            return None;
        }
        let figure = case.figure(metric)?;
        Some((case.workload.name.clone(), *figure.ratios.get(other)?))
    };
    let rows: Vec<_> = cases.iter().filter_map(ratio).collect();
    let ends = rows
        .iter()
        .flat_map(|(_, ratio)| [ratio.min, ratio.max, 1.0]);
    let (low, high) = log_range(ends)?;
    let (row, left, right, top) = (24.0, 160.0, WIDTH - 60.0, 12.0);
    let bottom = top + row * rows.len() as f64;
    let mut picture = Picture::new(WIDTH, bottom + 24.0);
    let x = Scale {
        from: (low, left),
        to: (high, right),
        log: true,
    };
    picture.x_axis(&x, (top, bottom), tick_label);
    picture.line("one", (x.at(1.0), top), (x.at(1.0), bottom));
    for (i, (name, ratio)) in rows.iter().enumerate() {
        let y = top + row * (i as f64 + 0.5);
        // Ahead or behind only where all rounds agree.
        let class = match (ratio.min > 1.0, ratio.max < 1.0) {
            (true, _) if throughput => "good",
            (_, true) if !throughput => "good",
            (false, false) => "even",
            _ => "bad",
        };
        let (median, least, most) = (number(ratio.median), number(ratio.min), number(ratio.max));
        let told = format!("{name}: {median} ({least} to {most})");
        picture.text("name", "end", (left - 10.0, y + 4.0), name);
        let (from, to) = (x.at(ratio.min), x.at(ratio.max));
        picture.line(&format!("range {class}"), (from, y), (to, y));
        picture.dot(&format!("dot {class}"), (x.at(ratio.median), y), &told);
        picture.text("value", "start", (right + 10.0, y + 4.0), &median);
    }
    Some(picture.svg("ratios by load"))
}

/// How many times the machine's limit each load takes, on a logarithmic scale from 1.
pub fn distances(cases: &[Case], distances: &[Vec<f64>]) -> Option<String> {
    let rows: Vec<_> = cases
        .iter()
        .zip(distances)
        .filter(|(_, d)| !d.is_empty())
        .collect();
    let most = rows
        .iter()
        .flat_map(|(_, d)| d.iter().copied())
        .fold(0.0, f64::max);
    if rows.is_empty() || most <= 0.0 {
        return None;
    }
    let (row, right, top) = (28.0, FULL - VALUES, 12.0);
    let bottom = top + row * rows.len() as f64;
    let mut picture = Picture::new(FULL, bottom + 24.0);
    let x = Scale {
        from: (0.8, NAMES),
        to: (most.max(2.0) * 1.1, right),
        log: true,
    };
    picture.x_axis(&x, (top, bottom), |times| tick_label(times) + "x");
    picture.line("limit", (x.at(1.0), top), (x.at(1.0), bottom));
    for (i, (case, times)) in rows.iter().enumerate() {
        let y = top + row * (i as f64 + 0.5);
        picture.text("name", "end", (NAMES - 12.0, y + 4.0), &case.workload.name);
        for (side, times) in times.iter().enumerate() {
            let told = format!("{}: {} times the limit", case.names[side], number(*times));
            picture.line(&format!("stem s{side}"), (x.at(1.0), y), (x.at(*times), y));
            picture.dot(&format!("dot s{side}"), (x.at(*times), y), &told);
        }
    }
    Some(picture.svg("distance from the machine's limits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::made_up;

    #[test]
    fn every_side_has_a_line_or_a_bar() {
        let record = made_up();
        let case = &record.cases[1];
        let whole = |picture: Option<String>, mark: &str| {
            let picture = picture.unwrap();
            let marks = picture.matches(mark).count();
            assert!(
                picture.starts_with("<svg") && !picture.contains("NaN"),
                "{picture}"
            );
            marks
        };
        assert_eq!(whole(latency(case), "class=\"line s"), 2);
        assert_eq!(whole(throughput(case), "class=\"line s"), 2);
        assert_eq!(
            whole(cpu(&record.cases, record.limits.as_ref()), "class=\"bar s"),
            4
        );
        assert_eq!(
            whole(ratios(&record.cases, Metric::CpuMsPerMb, 0), "dot good"),
            2
        );
        assert_eq!(
            whole(ratios(&record.cases, Metric::MbPerS, 0), "dot good"),
            2
        );
        assert_eq!(
            whole(distances(&record.cases, &record.distances), "class=\"dot"),
            2
        );
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let mut case = made_up().cases.remove(0);
        case.rounds.clear();
        case.figures.clear();
        assert_eq!(latency(&case), None);
        assert_eq!(throughput(&case), None);
        assert_eq!(cpu(&[case.clone()], None), None);
        assert_eq!(ratios(&[case.clone()], Metric::P50Us, 0), None);
        assert_eq!(distances(&[case], &[vec![]]), None);
    }
}
