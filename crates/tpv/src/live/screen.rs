//! Text that streams on a terminal with one live line beneath it.
//!
//! The cursor rests at the end of the text; the line is on the row below and is drawn anew with every update. No other
//! row is touched, so everything stays in the scroll-back. The screen breaks rows itself: it never leaves a terminal in
//! the undecided state after the last column, and characters two columns wide stay whole.

use super::line::truncate;
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
    line: String,
}

impl<W: Write> Screen<W> {
    /// A screen whose cursor stands at the beginning of an empty row. `styled`: whether text may be faint.
    pub fn new(out: W, width: usize, styled: bool) -> Self {
        Self { out, width: width.max(2), styled, column: 0, row_was_full: false, line: String::new() }
    }

    /// Columns that the line may take.
    pub fn line_width(&self) -> usize {
        self.width - 1
    }

    /// Appends text and draws the line beneath it.
    pub fn update(&mut self, text: &str, style: Style, line: &str) -> io::Result<()> {
        let mut drawn = String::from(CLEAR_BELOW);
        self.push_text(text, style, &mut drawn);
        self.line = truncate(&harmless(line).replace('\n', " "), self.line_width());
        self.push_line(&mut drawn);
        self.flush(&drawn)
    }

    /// Ends the row of the text, if anything is on it, and puts a text of its own rows in place of the live line.
    pub fn note(&mut self, note: &str) -> io::Result<()> {
        let mut drawn = String::from(CLEAR_BELOW);
        self.line.clear();
        self.end_row(&mut drawn);
        self.push_text(note, Style::Plain, &mut drawn);
        self.end_row(&mut drawn);
        self.flush(&drawn)
    }

    /// Removes the line and ends the row of the text.
    pub fn finish(&mut self) -> io::Result<()> {
        self.note("")
    }

    /// The terminal has another size. What it did with the rows is unknown, so the text goes on in a new one.
    pub fn resize(&mut self, width: usize) -> io::Result<()> {
        self.width = width.max(2);
        let mut drawn = String::from(CLEAR_BELOW);
        self.end_row(&mut drawn);
        self.line = truncate(&self.line, self.line_width());
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
        drawn.push_str(&format!("\r\n{}\x1b[1A\r", self.line));
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
