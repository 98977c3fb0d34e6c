//! A line in several inks: what it says, how many columns it takes, and how a terminal draws it.

use super::text::{columns, harmless};

/// How a piece of a line looks; the terminal's own sixteen colours, so that they suit its background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// As it is.
    Plain,
    /// Less important.
    Faint,
    /// What the eye should find first.
    Strong,
    /// The filled part of a bar.
    Bar,
    /// Well on its way.
    Good,
    /// To be looked at.
    Warning,
    /// Beyond what was allowed.
    Alarm,
    /// What pushes the model.
    Push,
}

impl Ink {
    /// The parameter of the escape sequence; empty for [`Ink::Plain`].
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Faint => "2",
            Self::Strong => "1",
            Self::Bar => "36",
            Self::Good => "32",
            Self::Warning => "33",
            Self::Alarm => "31",
            Self::Push => "35",
        }
    }
}

/// One row of text in several inks, without anything that would steer a terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InkLine {
    pieces: Vec<(Ink, String)>,
}

impl From<&str> for InkLine {
    fn from(text: &str) -> Self {
        let mut line = Self::default();
        line.push(Ink::Plain, text);
        line
    }
}

impl InkLine {
    /// Appends a piece; line ends become spaces.
    pub fn push(&mut self, ink: Ink, text: &str) {
        if !text.is_empty() {
            self.pieces.push((ink, harmless(text).replace('\n', " ")));
        }
    }

    /// Appends another line.
    pub fn extend(&mut self, line: Self) {
        self.pieces.extend(line.pieces);
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The columns that it takes.
    pub fn width(&self) -> usize {
        self.pieces.iter().flat_map(|(_, text)| text.chars()).map(columns).sum()
    }

    /// As much of it as fits into `width` columns.
    pub fn truncated(&self, width: usize) -> Self {
        let mut left = width;
        let cut = |(ink, text): &(Ink, String)| {
            let taken: String = text.chars().take_while(|&c| take(&mut left, columns(c))).collect();
            (*ink, taken)
        };
        Self { pieces: self.pieces.iter().map(cut).filter(|(_, text)| !text.is_empty()).collect() }
    }

    /// What it says, without inks.
    pub fn plain(&self) -> String {
        self.pieces.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// What a terminal is sent.
    pub fn drawn(&self, styled: bool) -> String {
        if !styled {
            return self.plain();
        }
        let draw = |(ink, text): &(Ink, String)| match ink.code() {
            "" => text.clone(),
            code => format!("\x1b[{code}m{text}\x1b[0m"),
        };
        self.pieces.iter().map(draw).collect()
    }
}

/// Takes columns from what is left; nothing more fits once one piece did not.
fn take(left: &mut usize, columns: usize) -> bool {
    let rest = left.checked_sub(columns);
    *left = rest.unwrap_or(0);
    rest.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> InkLine {
        let mut line = InkLine::from("思考 ");
        line.push(Ink::Bar, "██");
        line.push(Ink::Faint, " 8\n\x1b[2J");
        line
    }

    #[test]
    fn inks_surround_what_they_colour_and_nothing_else_steers_the_terminal() {
        assert_eq!(line().drawn(true), "思考 \x1b[36m██\x1b[0m\x1b[2m 8 [2J\x1b[0m");
        assert_eq!(line().drawn(false), "思考 ██ 8 [2J");
    }

    #[test]
    fn columns_are_counted_and_wide_characters_stay_whole() {
        assert_eq!(line().width(), 5 + 2 + 6);
        let cut = |width| line().truncated(width).plain();
        assert_eq!([0, 1, 2, 3, 4, 6, 99].map(cut), ["", "", "思", "思", "思考", "思考 █", "思考 ██ 8 [2J"]);
    }
}
