//! Pictures as SVG text: scales with their ticks, and a frame to draw in. Colours are classes, so
//! that the page's style decides them for light and dark.

use std::fmt::Write;

use crate::report::number;

/// Text that can stand in HTML and SVG.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// From values to a line between two places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// The least value, and its place.
    pub from: (f64, f64),
    /// The greatest value, and its place.
    pub to: (f64, f64),
    /// Whether equal ratios are equally far apart.
    pub log: bool,
}

impl Scale {
    /// Where a value is; beyond the ends it is at the end.
    pub fn at(&self, value: f64) -> f64 {
        let f = |v: f64| if self.log { v.max(1e-300).ln() } else { v };
        let (low, high) = (f(self.from.0), f(self.to.0));
        let part = if high > low {
            ((f(value) - low) / (high - low)).clamp(0.0, 1.0)
        } else {
            0.0
        };
        self.from.1 + part * (self.to.1 - self.from.1)
    }

    /// Round values between the ends, not too many.
    pub fn ticks(&self) -> Vec<f64> {
        if self.log {
            log_ticks(self.from.0, self.to.0)
        } else {
            linear_ticks(self.from.0, self.to.0)
        }
    }
}

fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let span = high - low;
    if span.is_nan() || span <= 0.0 {
        return vec![low];
    }
    let rough = span / 4.0;
    let unit = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * unit);
    let step = step
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let steps: &[f64] = match (high / low).log10() {
        decades if decades <= 1.5 => &[1.0, 2.0, 5.0],
        decades if decades <= 3.0 => &[1.0, 3.0],
        _ => &[1.0],
    };
    let all = (first..=last).flat_map(|e| steps.iter().map(move |s| s * 10f64.powi(e)));
    all.filter(|tick| (low * 0.999..=high * 1.001).contains(tick))
        .collect()
}

/// The least and greatest of positive values, widened to look good on a logarithmic scale.
pub fn log_range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let positive = values.filter(|value| value.is_finite() && *value > 0.0);
    let (low, high) = positive.fold((f64::INFINITY, 0.0f64), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    (high > 0.0).then(|| (low / 1.25, (high * 1.25).max(low * 2.0)))
}

/// A picture that is being drawn.
#[derive(Debug)]
pub struct Picture {
    width: f64,
    height: f64,
    body: String,
}

impl Picture {
    /// An empty one of a size.
    pub fn new(width: f64, height: f64) -> Picture {
        Picture {
            width,
            height,
            body: String::new(),
        }
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.body.write_fmt(element);
        self.body.push('\n');
    }

    /// A line with a class.
    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.put(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    /// A line through points.
    pub fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        let mut d = String::new();
        for (i, (x, y)) in points.iter().enumerate() {
            let _ = write!(d, "{}{x:.1} {y:.1}", if i == 0 { "M" } else { "L" });
        }
        self.put(format_args!("<path class=\"{class}\" d=\"{d}\"/>"));
    }

    /// A bar that tells a text when it is pointed at.
    pub fn bar(&mut self, class: &str, corner: (f64, f64), size: (f64, f64), told: &str) {
        let ((x, y), (w, h)) = (corner, (size.0.max(1.5), size.1));
        let told = escape(told);
        self.put(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" \
             height=\"{h:.1}\" rx=\"2\"><title>{told}</title></rect>"
        ));
    }

    /// A dot that tells a text when it is pointed at.
    pub fn dot(&mut self, class: &str, at: (f64, f64), told: &str) {
        let ((x, y), told) = (at, escape(told));
        self.put(format_args!(
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\">\
             <title>{told}</title></circle>"
        ));
    }

    /// A text; `anchor` is start, middle or end.
    pub fn text(&mut self, class: &str, anchor: &str, at: (f64, f64), text: &str) {
        let ((x, y), text) = (at, escape(text));
        self.put(format_args!(
            "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">\
             {text}</text>"
        ));
    }

    /// A scale from left to right with its lines and labels; `span` are the top and the bottom.
    pub fn x_axis(&mut self, x: &Scale, span: (f64, f64), label: impl Fn(f64) -> String) {
        for tick in x.ticks() {
            let at = x.at(tick);
            self.line("grid", (at, span.0), (at, span.1));
            self.text("tick", "middle", (at, span.1 + 15.0), &label(tick));
        }
    }

    /// A scale from bottom to top; `span` are the left and the right.
    pub fn y_axis(&mut self, y: &Scale, span: (f64, f64)) {
        for tick in y.ticks() {
            let at = y.at(tick);
            self.line("grid", (span.0, at), (span.1, at));
            self.text("tick", "end", (span.0 - 6.0, at + 4.0), &tick_label(tick));
        }
    }

    /// The whole picture; `about` is for those who cannot see it.
    pub fn svg(&self, about: &str) -> String {
        let (w, h, body, about) = (self.width, self.height, &self.body, escape(about));
        format!(
            "<svg viewBox=\"0 0 {w:.0} {h:.0}\" role=\"img\" aria-label=\"{about}\">\n\
             {body}</svg>\n"
        )
    }
}

/// A round number, short.
pub fn tick_label(value: f64) -> String {
    let text = number(value);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_places() {
        let scale = |log| Scale {
            from: (1.0, 0.0),
            to: (100.0, 200.0),
            log,
        };
        assert_eq!(scale(true).at(10.0), 100.0);
        assert_eq!(scale(false).at(50.5), 100.0);
        assert_eq!((scale(true).at(0.0), scale(true).at(1e9)), (0.0, 200.0));
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(linear_ticks(0.0, 437.0), [0.0, 200.0, 400.0]);
        assert_eq!(linear_ticks(0.0, 8.0), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(linear_ticks(3.0, 3.0), [3.0]);
        assert_eq!(log_ticks(0.9, 11.0).len(), 4);
        let wide = log_ticks(1.0, 1e6);
        assert_eq!(wide.len(), 7, "{wide:?}");
    }

    #[test]
    fn labels_are_short_and_texts_cannot_break_out() {
        let labels = [0.5, 10.0, 0.05, 2000.0].map(tick_label);
        assert_eq!(labels, ["0.5", "10", "0.05", "2,000"]);
        let mut picture = Picture::new(10.0, 10.0);
        picture.text("t", "start", (1.0, 2.0), "<b>&\"");
        assert!(picture.svg("a<b").contains("&lt;b&gt;&amp;&quot;"));
    }

    #[test]
    fn a_range_leaves_out_what_a_logarithm_cannot_show() {
        let range = log_range([0.0, 4.0, f64::NAN, 8.0].into_iter()).unwrap();
        assert_eq!(range, (3.2, 10.0));
        assert_eq!(log_range([0.0].into_iter()), None);
    }
}
