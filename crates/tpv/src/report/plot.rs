//! A plot with two axes, as SVG: lines with bands, points with error bars, bars, and a legend beside it.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

const WIDTH: f64 = 780.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 235.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Characters of a legend entry that fit.
const LEGEND_CHARACTERS: usize = 34;
/// Colours of series, which stay apart for the colour-blind (after Okabe and Ito), on light and on dark ground.
const COLOURS: [(&str, &str); 8] = [
    ("#0072B2", "#4FB3F0"),
    ("#D55E00", "#FF8A3D"),
    ("#009E73", "#2FD0A0"),
    ("#CC79A7", "#E59AC4"),
    ("#B8860B", "#F0C04A"),
    ("#56B4E9", "#9AD4F7"),
    ("#8C6D31", "#C9A866"),
    ("#555555", "#AAAAAA"),
];

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// A line through the points, with a band between low and high.
    Line,
    /// Points with error bars.
    Points,
    /// A thin line without marks.
    Thread,
    /// Bars from zero.
    Bars,
    /// A dashed line.
    Dashes,
}

/// A point with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Horizontal.
    pub x: f64,
    /// Vertical.
    pub y: f64,
    /// Lower and upper end of y.
    pub interval: Option<(f64, f64)>,
}

impl Point {
    /// A point without interval.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y, interval: None }
    }
}

/// Points that belong together.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// For the legend, which has each name once; nothing keeps it out.
    pub name: String,
    /// How it is drawn.
    pub mark: Mark,
    /// The points, in order.
    pub points: Vec<Point>,
    /// Number of the colour.
    pub colour: usize,
}

/// A plot.
#[derive(Debug, Clone, Serialize)]
pub struct Plot {
    /// What it shows, a sentence.
    pub title: String,
    /// The horizontal axis with its unit.
    pub x_label: String,
    /// The vertical axis with its unit.
    pub y_label: String,
    /// The series.
    pub series: Vec<Series>,
}

/// The style sheet of a picture: it follows the reader's choice of light or dark.
fn style() -> String {
    let colours = |of: fn(&(&'static str, &'static str)) -> &'static str| -> String {
        COLOURS.iter().enumerate().map(|(i, pair)| format!(".tp-{i}{{color:{}}}", of(pair))).collect()
    };
    format!(
        "<style>.tp-paper{{fill:#fff}}.tp-ink{{fill:#222}}.tp-grid{{stroke:#e2e2e2}}{}\
         @media (prefers-color-scheme:dark){{.tp-paper{{fill:#16181c}}.tp-ink{{fill:#ddd}}.tp-grid{{stroke:#363a42}}{}}}</style>\n",
        colours(|pair| pair.0),
        colours(|pair| pair.1)
    )
}

struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// An axis over the values, with round ends and about six steps.
    fn over(values: impl Iterator<Item = f64>, with_zero: bool) -> Self {
        let finite = values.filter(|value| value.is_finite());
        let (mut low, mut high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if with_zero {
            low = low.min(0.0);
        }
        if high - low < 1e-9 {
            high = low + 1.0;
        }
        let rough = (high - low) / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&step| step >= rough).unwrap_or(rough);
        Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, step }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count).map(|i| self.low + i as f64 * self.step)
    }

    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

impl Plot {
    /// The plot as a complete SVG document.
    pub fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let bars = self.series.iter().any(|series| series.mark == Mark::Bars);
        let x = Axis::over(points().map(|point| point.x), !bars);
        let ends = |point: &Point| point.interval.map_or([point.y; 2], |(low, high)| [low, high]);
        let y = Axis::over(points().flat_map(|point| ends(point).into_iter().chain([point.y])), true);
        let canvas = Canvas { x, y };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">{}\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" class=\"tp-paper\"/>\
             <text class=\"tp-ink\" x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
            style(),
            escape(&self.title)
        );
        canvas.axes(&mut svg, &self.x_label, &self.y_label);
        self.series.iter().for_each(|series| canvas.series(&mut svg, series));
        self.legend(&mut svg);
        svg + "</svg>\n"
    }

    fn legend(&self, svg: &mut String) {
        let mut named: Vec<&Series> = Vec::new();
        for series in self.series.iter().filter(|series| !series.name.is_empty()) {
            // Many threads may have one name.
            if named.iter().all(|before| before.name != series.name) {
                named.push(series);
            }
        }
        for (row, series) in named.into_iter().enumerate() {
            let (x, y) = (WIDTH - RIGHT + 12.0, TOP + 8.0 + 17.0 * row as f64);
            let dash = if series.mark == Mark::Dashes { " stroke-dasharray=\"5 3\"" } else { "" };
            let colour = colour(series);
            push(
                svg,
                format!(
                    "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" class=\"{colour}\" stroke=\"currentColor\" stroke-width=\"3\"{dash}/>\
                 <text class=\"tp-ink\" x=\"{}\" y=\"{}\" font-size=\"11\">{}</text>",
                    x + 18.0,
                    x + 23.0,
                    y + 4.0,
                    escape(&shortened(&series.name))
                ),
            );
        }
    }

    /// The points as CSV; `thread` counts the series of one name from 0.
    pub fn csv(&self) -> String {
        let mut text = "series,thread,x,y,low,high\n".to_owned();
        let mut threads: BTreeMap<&str, usize> = BTreeMap::new();
        for series in &self.series {
            let next = threads.entry(&series.name).or_default();
            let thread = std::mem::replace(next, *next + 1);
            for point in &series.points {
                let (low, high) = point.interval.map_or_else(Default::default, |(l, h)| (l.to_string(), h.to_string()));
                let name = series.name.replace('"', "'");
                push(&mut text, format!("\"{name}\",{thread},{},{},{low},{high}", point.x, point.y));
            }
        }
        text
    }
}

struct Canvas {
    x: Axis,
    y: Axis,
}

impl Canvas {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let across = LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT);
        let up = HEIGHT - BOTTOM - self.y.share(y) * (HEIGHT - TOP - BOTTOM);
        ((across * 10.0).round() / 10.0, (up * 10.0).round() / 10.0)
    }

    fn axes(&self, svg: &mut String, x_label: &str, y_label: &str) {
        for tick in self.x.ticks() {
            let ((x, bottom), (_, top)) = (self.at(tick, self.y.low), self.at(tick, self.y.high));
            push(
                svg,
                format!(
                    "<line x1=\"{x}\" y1=\"{top}\" x2=\"{x}\" y2=\"{bottom}\" class=\"tp-grid\"/>\
                 <text class=\"tp-ink\" x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                    bottom + 17.0,
                    number(tick)
                ),
            );
        }
        for tick in self.y.ticks() {
            let ((left, y), (right, _)) = (self.at(self.x.low, tick), self.at(self.x.high, tick));
            push(
                svg,
                format!(
                    "<line x1=\"{left}\" y1=\"{y}\" x2=\"{right}\" y2=\"{y}\" class=\"tp-grid\"/>\
                 <text class=\"tp-ink\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
                    left - 6.0,
                    y + 4.0,
                    number(tick)
                ),
            );
        }
        let (middle, centre) = ((LEFT + WIDTH - RIGHT) / 2.0, (TOP + HEIGHT - BOTTOM) / 2.0);
        push(
            svg,
            format!(
                "<text class=\"tp-ink\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
             <text class=\"tp-ink\" transform=\"translate(16 {centre}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
                HEIGHT - 12.0,
                escape(x_label),
                escape(y_label)
            ),
        );
    }

    fn series(&self, svg: &mut String, series: &Series) {
        let colour = colour(series);
        match series.mark {
            Mark::Line | Mark::Dashes | Mark::Thread => self.line(svg, series, &colour),
            Mark::Points => series.points.iter().for_each(|point| self.point(svg, point, &colour)),
            Mark::Bars => self.bars(svg, series, &colour),
        }
    }

    fn line(&self, svg: &mut String, series: &Series, colour: &str) {
        let path = |points: &mut dyn Iterator<Item = (f64, f64)>| {
            points.map(|(x, y)| self.at(x, y)).map(|(x, y)| format!("{x},{y}")).collect::<Vec<_>>().join(" ")
        };
        let with_interval = || series.points.iter().filter_map(|point| Some((point.x, point.interval?)));
        if with_interval().count() > 1 {
            let low: Vec<_> = with_interval().map(|(x, (low, _))| (x, low)).collect();
            let mut around = with_interval().map(|(x, (_, high))| (x, high)).chain(low.into_iter().rev());
            push(
                svg,
                format!(
                    "<polygon points=\"{}\" class=\"{colour}\" fill=\"currentColor\" opacity=\"0.13\"/>",
                    path(&mut around)
                ),
            );
        }
        let (width, extra) = match series.mark {
            Mark::Thread => (1.0, " opacity=\"0.55\""),
            Mark::Dashes => (1.8, " stroke-dasharray=\"6 4\""),
            _ => (2.2, ""),
        };
        let line = path(&mut series.points.iter().map(|point| (point.x, point.y)));
        push(
            svg,
            format!(
                "<polyline points=\"{line}\" fill=\"none\" class=\"{colour}\" stroke=\"currentColor\" stroke-width=\"{width}\"{extra}/>"
            ),
        );
        if series.mark == Mark::Line && series.points.len() < 30 {
            for point in &series.points {
                let (x, y) = self.at(point.x, point.y);
                push(svg, format!("<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" class=\"{colour}\" fill=\"currentColor\"/>"));
            }
        }
    }

    fn point(&self, svg: &mut String, point: &Point, colour: &str) {
        let (x, y) = self.at(point.x, point.y);
        if let Some((low, high)) = point.interval {
            let ((_, low), (_, high)) = (self.at(point.x, low), self.at(point.x, high));
            push(
                svg,
                format!(
                    "<line x1=\"{x}\" y1=\"{low}\" x2=\"{x}\" y2=\"{high}\" class=\"{colour}\" stroke=\"currentColor\"/>"
                ),
            );
        }
        let radius = if point.interval.is_some() { 3.5 } else { 1.4 };
        let opacity = if point.interval.is_some() { 1.0 } else { 0.4 };
        push(
            svg,
            format!(
                "<circle cx=\"{x}\" cy=\"{y}\" r=\"{radius}\" class=\"{colour}\" fill=\"currentColor\" opacity=\"{opacity}\"/>"
            ),
        );
    }

    fn bars(&self, svg: &mut String, series: &Series, colour: &str) {
        let gap = series.points.windows(2).map(|pair| pair[1].x - pair[0].x).fold(f64::INFINITY, f64::min);
        let width = if gap.is_finite() { self.at(self.x.low + gap, 0.0).0 - LEFT } else { 20.0 };
        for point in &series.points {
            let ((x, y), (_, zero)) = (self.at(point.x, point.y), self.at(point.x, 0.0));
            push(
                svg,
                format!(
                    "<rect x=\"{:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"{:.1}\" class=\"{colour}\" fill=\"currentColor\" opacity=\"0.45\"/>",
                    x - width / 2.0,
                    width * 0.96,
                    zero - y
                ),
            );
        }
    }
}

/// At most as many characters as fit beside the plot; the CSV has the whole name.
fn shortened(name: &str) -> String {
    if name.chars().count() <= LEGEND_CHARACTERS {
        return name.to_owned();
    }
    name.chars().take(LEGEND_CHARACTERS - 1).chain(['…']).collect()
}

/// The class that gives a series its colour.
fn colour(series: &Series) -> String {
    format!("tp-{}", series.colour % COLOURS.len())
}

fn push(text: &mut String, line: String) {
    writeln!(text, "{line}").expect("writing to a string cannot fail");
}

fn number(value: f64) -> String {
    let rounded = (value * 1e6).round() / 1e6;
    if rounded == 0.0 { "0".into() } else { rounded.to_string() }
}

/// Text that is safe inside SVG and HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_steps_and_hold_the_values() {
        let axis = Axis::over([3.0, 97.0].into_iter(), true);
        assert_eq!((axis.low, axis.high, axis.step), (0.0, 100.0, 20.0));
        assert_eq!(axis.ticks().count(), 6);
        let nothing = Axis::over([f64::NAN].into_iter(), false);
        assert!(nothing.low < nothing.high);
    }

    #[test]
    fn names_cannot_break_the_picture() {
        let series =
            Series { name: "</think> & \"x\"".into(), mark: Mark::Line, points: vec![Point::new(0.0, 1.0)], colour: 9 };
        let plot = Plot { title: "a < b".into(), x_label: String::new(), y_label: String::new(), series: vec![series] };
        let svg = plot.svg();
        assert!(svg.contains("&lt;/think&gt; &amp; &quot;x&quot;") && !svg.contains("</think>"));
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert_eq!(plot.csv().lines().count(), 2);
    }

    #[test]
    fn threads_of_one_name_are_once_in_the_legend_and_apart_in_the_csv() {
        let thread =
            |y| Series { name: "alpha 0".into(), mark: Mark::Thread, points: vec![Point::new(1.0, y)], colour: 0 };
        let (title, x_label, y_label) = (String::new(), String::new(), String::new());
        let plot = Plot { title, x_label, y_label, series: vec![thread(0.25), thread(0.5)] };
        assert_eq!(plot.svg().matches(">alpha 0</text>").count(), 1);
        assert_eq!(plot.csv(), "series,thread,x,y,low,high\n\"alpha 0\",0,1,0.25,,\n\"alpha 0\",1,1,0.5,,\n");
    }
}
