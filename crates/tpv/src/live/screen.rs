//! Text that streams on a terminal with one live line beneath it.
//!
//! The cursor rests at the end of the text; the line is on the row below and is drawn anew with every update. No other
//! row is touched, so everything stays in the scroll-back. The screen breaks rows itself: it never leaves a terminal in
//! the undecided state after the last column, and characters two columns wide stay whole.

use super::ink::InkLine;
use super::text::{columns, harmless};
use std::io::{self, Write};

const CLEAR_BELOW: &str = "\x1b[J";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// How text is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    Plain,
    /// Faint, for thoughts.
    Dim,
}

/// Draws text and the line into a terminal's output.
pub struct Screen<W: Write> {
    out: W,
    width: usize,
    styled: bool,
    /// Column of the cursor, which stands at the end of the text.
    column: usize,
    /// Whether the row was ended because it was full; a newline that follows is that same end.
    row_was_full: bool,
    line: InkLine,
}

impl<W: Write> Screen<W> {
    /// A screen whose cursor stands at the beginning of an empty row. `styled`: whether text may be faint.
    pub fn new(out: W, width: usize, styled: bool) -> Self {
        Self { out, width: width.max(2), styled, column: 0, row_was_full: false, line: InkLine::default() }
    }

    /// Columns that the line may take.
    pub fn line_width(&self) -> usize {
        self.width - 1
    }

    /// Appends text and draws the line beneath it.
    pub fn update(&mut self, text: &str, style: Style, line: &InkLine) -> io::Result<()> {
        let mut drawn = String::from(CLEAR_BELOW);
        self.push_text(text, style, &mut drawn);
        self.line = line.truncated(self.line_width());
        self.push_line(&mut drawn);
        self.flush(&drawn)
    }

    /// Ends the row of the text, if anything is on it, and puts a text of its own rows in place of the live line.
    pub fn note(&mut self, note: &str) -> io::Result<()> {
        let mut drawn = String::from(CLEAR_BELOW);
        self.line = InkLine::default();
        self.end_row(&mut drawn);
        self.push_text(note, Style::Plain, &mut drawn);
        self.end_row(&mut drawn);
        self.flush(&drawn)
    }

    /// Removes the line and ends the row of the text.
    pub fn finish(&mut self) -> io::Result<()> {
        self.note("")
    }

    /// The terminal has this many columns. Where that is new, what it did with the rows is unknown, so the text goes on in
    /// a new one. To be called right before drawing: a line that is too long for the terminal would take two rows.
    pub fn resize(&mut self, width: usize) -> io::Result<()> {
        if self.width == width.max(2) {
            return Ok(());
        }
        self.width = width.max(2);
        let mut drawn = String::from(CLEAR_BELOW);
        self.end_row(&mut drawn);
        self.line = self.line.truncated(self.line_width());
        self.push_line(&mut drawn);
        self.flush(&drawn)
    }

    fn push_text(&mut self, text: &str, style: Style, drawn: &mut String) {
        let dim = self.styled && style == Style::Dim && !text.is_empty();
        drawn.push_str(if dim { DIM } else { "" });
        for c in harmless(text).chars() {
            if c == '\n' {
                if !std::mem::take(&mut self.row_was_full) {
                    self.break_row(drawn);
                }
                continue;
            }
            if self.column + columns(c) > self.width {
                self.break_row(drawn);
            }
            drawn.push(c);
            self.column += columns(c);
            self.row_was_full = self.column >= self.width;
            if self.row_was_full {
                self.break_row(drawn);
            }
        }
        drawn.push_str(if dim { RESET } else { "" });
    }

    fn push_line(&self, drawn: &mut String) {
        if self.line.is_empty() {
            return;
        }
        drawn.push_str(&format!("\r\n{}\x1b[1A\r", self.line.drawn(self.styled)));
        if self.column > 0 {
            drawn.push_str(&format!("\x1b[{}C", self.column));
        }
    }

    fn end_row(&mut self, drawn: &mut String) {
        if self.column > 0 {
            self.break_row(drawn);
        }
    }

    fn break_row(&mut self, drawn: &mut String) {
        drawn.push_str("\r\n");
        self.column = 0;
    }

    fn flush(&mut self, drawn: &str) -> io::Result<()> {
        self.out.write_all(drawn.as_bytes())?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU16;

    fn cells(count: u16) -> NonZeroU16 {
        NonZeroU16::new(count).unwrap()
    }

    /// What a terminal of eight rows shows after the updates, without trailing spaces.
    fn shown(width: u16, updates: &[(&str, &str)]) -> Vec<String> {
        let mut bytes = Vec::new();
        let mut screen = Screen::new(&mut bytes, usize::from(width), true);
        updates.iter().for_each(|(text, line)| screen.update(text, Style::Dim, &InkLine::from(*line)).unwrap());
        let mut terminal = vt100::Parser::new(cells(8), cells(width), 0);
        terminal.process(&bytes);
        terminal.screen().contents().lines().map(|row| row.trim_end().to_owned()).collect()
    }

    #[test]
    fn the_line_stays_under_the_text() {
        let rows = shown(20, &[("one ", "10 %"), ("two\nth", "20 %"), ("ree", "30 %")]);
        assert_eq!(rows, ["one two", "three", "30 %"]);
    }

    #[test]
    fn full_rows_break_once_and_lines_never_wrap() {
        let rows = shown(6, &[("abcdef", "0123456789"), ("\nghijklmn", "0123456789")]);
        assert_eq!(rows, ["abcdef", "ghijkl", "mn", "01234"]);
    }

    #[test]
    fn wide_characters_stay_whole() {
        let rows = shown(5, &[("思考中です", "考考考"), ("x", "ok")]);
        assert_eq!(rows, ["思考", "中で", "すx", "ok"]);
    }

    #[test]
    fn what_leaves_the_screen_leaves_no_trace_of_the_line() {
        let updates: Vec<(String, String)> = (0..40).map(|k| (format!("row {k}\n"), format!("line {k}"))).collect();
        let updates: Vec<(&str, &str)> = updates.iter().map(|(text, line)| (text.as_str(), line.as_str())).collect();
        let rows = shown(20, &updates);
        assert_eq!(rows, ["row 34", "row 35", "row 36", "row 37", "row 38", "row 39", "", "line 39"]);
    }

    #[test]
    fn another_width_moves_the_text_to_a_new_row() {
        let mut bytes = Vec::new();
        let mut screen = Screen::new(&mut bytes, 20, true);
        screen.update("hm", Style::Plain, &InkLine::from("0123456789")).unwrap();
        screen.resize(20).unwrap();
        screen.update(" so", Style::Plain, &InkLine::from("0123456789")).unwrap();
        screen.resize(8).unwrap();
        screen.update("ok", Style::Plain, &InkLine::from("0123456789")).unwrap();
        let mut terminal = vt100::Parser::new(cells(8), cells(20), 0);
        terminal.process(&bytes);
        assert_eq!(terminal.screen().contents(), "hm so\nok\n0123456");
    }

    #[test]
    fn notes_take_the_place_of_the_line() {
        let mut bytes = Vec::new();
        let mut screen = Screen::new(&mut bytes, 20, false);
        screen.update("hm", Style::Dim, &InkLine::from("50 %")).unwrap();
        screen.note("thought for 1 s").unwrap();
        screen.update("42", Style::Plain, &InkLine::default()).unwrap();
        screen.finish().unwrap();
        let mut terminal = vt100::Parser::new(cells(8), cells(20), 0);
        terminal.process(&bytes);
        assert_eq!(terminal.screen().contents(), "hm\nthought for 1 s\n42");
        assert_eq!(terminal.screen().cursor_position(), (3, 0));
        assert!(!bytes.windows(4).any(|part| part == b"\x1b[2m"), "unstyled");
    }
}
