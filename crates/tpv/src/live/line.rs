//! The live line: what is known after each token, in one line that fits the terminal.
//!
//! ```text
//! thinking ███████░░░  63 %  412 tok  38 tok/s  ~6 s left (4-9)  alpha 20
//! ```
//!
//! Where the line is too long, parts go in this order: the keys, alpha, speed, bar, tokens, time left.

use super::ink::{Ink, InkLine};
use tpv_core::event::TokenEvent;
use tpv_core::phase::Phase;
use tpv_core::reading::{Estimate, Verdict};

const BAR_CELLS: usize = 10;

/// How far a prompt has come.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// Waiting for a slot.
    Queued,
    /// The prompt is being read.
    ReadingPrompt {
        /// Tokens read.
        read: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// Tokens are coming; the newest one.
    Generating(TokenEvent),
}

/// Everything that the line shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// How far it has come.
    pub stage: Stage,
    /// The policy as people call it, such as `alpha 20`; none where nothing can be pushed.
    pub policy: Option<String>,
    /// Whether a vector reads the states.
    pub has_vector: bool,
    /// The keys that can be pressed, such as `e answer now`; none where nobody can press any.
    pub keys: Option<&'static str>,
}

/// A part of the line; parts of the highest rank go first.
struct Part {
    rank: u8,
    gap: &'static str,
    ink: Ink,
    text: String,
}

impl Part {
    fn new(rank: u8, ink: Ink, text: impl Into<String>) -> Self {
        Self { rank, gap: "  ", ink, text: text.into() }
    }
}

impl Status {
    /// The line in at most `width` columns.
    pub fn render(&self, width: usize) -> InkLine {
        fit(self.parts(), width)
    }

    fn parts(&self) -> Vec<Part> {
        match &self.stage {
            Stage::Queued => vec![Part::new(0, Ink::Faint, "queued")],
            Stage::ReadingPrompt { read, total } => {
                vec![
                    Part::new(0, Ink::Plain, "reading prompt"),
                    Part::new(1, Ink::Faint, format!("{read}/{total} tok")),
                ]
            }
            Stage::Generating(event) if event.phase == Phase::Thinking => self.thinking(event),
            Stage::Generating(event) => {
                let word = if event.phase == Phase::Before { "starting" } else { "answering" };
                let tokens = event.index + 1 - event.thinking_tokens;
                vec![
                    Part::new(0, Ink::Plain, word),
                    Part::new(2, Ink::Faint, format!("{tokens} tok")),
                    Part::new(4, Ink::Faint, speed(event)),
                ]
            }
        }
    }

    fn thinking(&self, event: &TokenEvent) -> Vec<Part> {
        let reading = event.reading.unwrap_or_default();
        let (word, ink) = verdict(reading.verdict);
        let [full, empty] = bar(reading.progress.unwrap_or(0.0));
        let mut parts = vec![
            Part::new(0, ink, word),
            Part { gap: " ", ..Part::new(3, Ink::Bar, full) },
            Part {
                gap: if reading.progress.is_some_and(|it| it >= 0.1) { "" } else { " " },
                ..Part::new(3, Ink::Faint, empty)
            },
            Part::new(0, Ink::Strong, percent(reading.progress)),
            Part::new(2, Ink::Faint, format!("{} tok", event.thinking_tokens)),
            Part::new(4, Ink::Faint, speed(event)),
        ];
        match event.remaining_secs {
            Some(left) => parts.push(Part::new(1, Ink::Plain, time_left(left, event.alpha != 0.0))),
            None if reading.remaining_tokens.is_none() && self.has_vector => {
                parts.push(Part::new(1, Ink::Faint, "time left unknown"));
            }
            None => {}
        }
        let push = if event.alpha == 0.0 { Ink::Faint } else { Ink::Push };
        parts.extend(self.policy.clone().map(|policy| Part::new(5, push, policy)));
        parts.extend(self.keys.map(|keys| Part::new(6, Ink::Faint, keys)));
        parts
    }
}

fn fit(mut parts: Vec<Part>, width: usize) -> InkLine {
    parts.retain(|part| !part.text.is_empty());
    loop {
        let line = join(&parts);
        let too_long = line.width() > width;
        let highest = parts.iter().map(|part| part.rank).max().unwrap_or(0);
        if !too_long || highest == 0 {
            return line.truncated(width);
        }
        parts.retain(|part| part.rank < highest);
    }
}

fn join(parts: &[Part]) -> InkLine {
    let mut line = InkLine::default();
    for part in parts {
        if !line.is_empty() {
            line.push(Ink::Plain, part.gap);
        }
        line.push(part.ink, &part.text);
    }
    line
}

fn verdict(verdict: Verdict) -> (&'static str, Ink) {
    match verdict {
        Verdict::Unknown | Verdict::Thinking => ("thinking", Ink::Plain),
        Verdict::NearlyDone => ("nearly done", Ink::Good),
        Verdict::Stuck => ("stuck?", Ink::Warning),
        Verdict::OverBudget => ("over budget", Ink::Alarm),
        Verdict::Done => ("thought", Ink::Good),
    }
}

/// Ten cells: the full ones and the empty ones.
pub fn bar(progress: f32) -> [String; 2] {
    let full = ((progress.clamp(0.0, 1.0) * BAR_CELLS as f32) as usize).min(BAR_CELLS);
    ["█".repeat(full), "░".repeat(BAR_CELLS - full)]
}

/// Rounded down, so that 100 % is the end and nothing else; a question mark where nothing is known.
pub fn percent(progress: Option<f32>) -> String {
    progress.map_or_else(|| " ? %".into(), |progress| format!("{:2} %", (100.0 * f64::from(progress) + 1e-4).floor()))
}

fn speed(event: &TokenEvent) -> String {
    match event.tokens_per_sec {
        Some(speed) if speed < 9.95 => format!("{speed:.1} tok/s"),
        Some(speed) => format!("{speed:.0} tok/s"),
        None => String::new(),
    }
}

/// For example `~6 s left (4-9)`: all three numbers are in the unit that suits the estimate. The calibration knows nothing
/// of a push, so that what it says of a pushed thought is marked.
pub fn time_left(left: Estimate, pushed: bool) -> String {
    let (unit, secs) = match left.value {
        value if value < 100.0 => ("s", 1.0),
        value if value < 6000.0 => ("min", 60.0),
        _ => ("h", 3600.0),
    };
    let digits = usize::from(left.high / secs < 9.95);
    let [value, low, high] = [left.value, left.low, left.high].map(|value| value / secs);
    let mark = if pushed { " if unpushed" } else { "" };
    format!("~{value:.digits$} {unit} left ({low:.digits$}-{high:.digits$}{mark})")
}

/// The line that takes the place of the live one once the thinking has ended.
pub fn thought_for(thinking_secs: f64, thinking_tokens: u32) -> String {
    let plural = if thinking_tokens == 1 { "" } else { "s" };
    format!("thought for {}, {thinking_tokens} token{plural}", duration(thinking_secs))
}

fn duration(secs: f64) -> String {
    match secs {
        secs if secs < 120.0 => format!("{secs:.1} s"),
        secs if secs < 7200.0 => format!("{:.0} min {:.0} s", (secs / 60.0).floor(), secs % 60.0),
        secs => format!("{:.1} h", secs / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tpv_core::reading::Reading;

    pub(crate) fn event(progress: Option<f32>, secs: Option<(f32, f32, f32)>) -> TokenEvent {
        let estimate = |(value, low, high)| Estimate { value, low, high };
        let verdict = if progress.is_some() { Verdict::Thinking } else { Verdict::Unknown };
        let remaining_tokens = secs.map(estimate);
        TokenEvent {
            index: 411,
            token: 7,
            text: "x".into(),
            phase: Phase::Thinking,
            thinking_tokens: 412,
            reading: Some(Reading { position: 412, progress_raw: progress, progress, remaining_tokens, verdict }),
            alpha: 0.0,
            forced: false,
            elapsed_secs: 10.0,
            tokens_per_sec: Some(38.2),
            remaining_secs: secs.map(estimate),
        }
    }

    fn status(event: TokenEvent) -> Status {
        Status {
            stage: Stage::Generating(event),
            policy: Some("alpha 20".into()),
            has_vector: true,
            keys: Some("q stop"),
        }
    }

    #[test]
    fn the_line_shows_everything_where_there_is_room() {
        let line = status(event(Some(0.637), Some((6.1, 4.2, 12.9)))).render(100).plain();
        assert_eq!(line, "thinking ██████░░░░  63 %  412 tok  38 tok/s  ~6 s left (4-13)  alpha 20  q stop");
    }

    #[test]
    fn a_narrow_line_drops_the_least_important_parts_and_always_fits() {
        let status = status(event(Some(0.637), Some((6.1, 4.2, 12.9))));
        for (width, line) in [
            (79, "thinking ██████░░░░  63 %  412 tok  38 tok/s  ~6 s left (4-13)  alpha 20"),
            (71, "thinking ██████░░░░  63 %  412 tok  38 tok/s  ~6 s left (4-13)"),
            (60, "thinking ██████░░░░  63 %  412 tok  ~6 s left (4-13)"),
            (45, "thinking  63 %  412 tok  ~6 s left (4-13)"),
            (35, "thinking  63 %  ~6 s left (4-13)"),
            (20, "thinking  63 %"),
            (5, "think"),
            (0, ""),
        ] {
            assert_eq!(status.render(width).plain(), line);
        }
    }

    #[test]
    fn a_pushed_thought_is_marked_as_one_that_the_calibration_does_not_know() {
        let event = TokenEvent { alpha: 20.0, ..event(Some(0.637), Some((6.1, 4.2, 12.9))) };
        let line = status(event).render(91).plain();
        assert_eq!(line, "thinking ██████░░░░  63 %  412 tok  38 tok/s  ~6 s left (4-13 if unpushed)  alpha 20");
    }

    #[test]
    fn what_is_not_known_is_not_claimed() {
        let line = status(event(None, None)).render(80).plain();
        assert_eq!(line, "thinking ░░░░░░░░░░   ? %  412 tok  38 tok/s  time left unknown  alpha 20");
        let blind = Status { policy: None, has_vector: false, keys: None, ..status(event(None, None)) };
        assert_eq!(blind.render(100).plain(), "thinking ░░░░░░░░░░   ? %  412 tok  38 tok/s");
    }

    #[test]
    fn a_hundred_percent_is_the_end_and_nothing_else() {
        assert_eq!([0.0, 0.29, 0.989, 0.99, 1.0].map(|p| percent(Some(p))), [" 0 %", "29 %", "98 %", "99 %", "100 %"]);
        assert_eq!([0.0, 0.99, 1.0].map(|p| bar(p)[0].chars().count()), [0, 9, 10]);
    }

    #[test]
    fn times_come_in_the_unit_that_suits_them() {
        let text = |value, low, high| time_left(Estimate { value, low, high }, false);
        assert_eq!(text(0.42, 0.1, 1.0), "~0.4 s left (0.1-1.0)");
        assert_eq!(text(42.0, 30.0, 130.0), "~42 s left (30-130)");
        assert_eq!(text(400.0, 300.0, 900.0), "~7 min left (5-15)");
        assert_eq!(text(9000.0, 7200.0, 10800.0), "~2.5 h left (2.0-3.0)");
        assert_eq!(thought_for(11.23, 655), "thought for 11.2 s, 655 tokens");
        assert_eq!(thought_for(150.0, 1), "thought for 2 min 30 s, 1 token");
    }

    #[test]
    fn waiting_and_reading_have_their_own_words() {
        let status = |stage| Status { stage, policy: None, has_vector: true, keys: None }.render(60).plain();
        assert_eq!(status(Stage::Queued), "queued");
        assert_eq!(status(Stage::ReadingPrompt { read: 512, total: 2000 }), "reading prompt  512/2000 tok");
    }
}
