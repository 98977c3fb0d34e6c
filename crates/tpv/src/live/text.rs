//! Generated text on its way to people: without the markers of the thinking, and without control characters.

use unicode_width::UnicodeWidthChar;

/// Drops one marker from a stream of text pieces, wherever the pieces are cut.
#[derive(Debug, Clone)]
pub struct MarkerFilter {
    marker: String,
    held: String,
}

impl MarkerFilter {
    /// A filter for one marker, such as `</think>`.
    pub fn new(marker: &str) -> Self {
        Self { marker: marker.into(), held: String::new() }
    }

    /// Takes a piece and returns what can be shown: what may be the beginning of the marker is held back.
    pub fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        if let Some(at) = self.held.find(&self.marker).filter(|_| !self.marker.is_empty()) {
            self.held.replace_range(at..at + self.marker.len(), "");
        }
        let begins = |keep: &usize| {
            let start = self.held.len() - keep;
            self.held.is_char_boundary(start) && self.marker.starts_with(&self.held[start..])
        };
        let keep = (1..self.marker.len()).take_while(|keep| *keep <= self.held.len()).filter(begins).last();
        let rest = self.held.split_off(self.held.len() - keep.unwrap_or(0));
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back and is not part of a marker after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// The text without anything that would steer a terminal: a tab becomes four spaces, other control characters but the
/// newline go, and so do the characters that turn the direction of writing and could make a text read as another one.
pub fn harmless(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\t', "    ").chars().filter(|&c| !steers(c)).collect()
}

/// The text with all that would steer a terminal spelled out, such as `\u{1b}`: nothing of a name goes unseen. A tab becomes
/// four spaces, and newlines stay.
pub fn spelled_out(text: &str) -> String {
    let spell = |c: char| if steers(c) { c.escape_unicode().to_string() } else { c.to_string() };
    text.replace('\t', "    ").chars().map(spell).collect()
}

/// The same in one row: newlines are spelled out as well.
pub fn spelled_in_one_row(text: &str) -> String {
    spelled_out(text).replace('\n', "\\n")
}

fn steers(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control() && c != '\n'
}

/// Columns that a character takes.
pub fn columns(c: char) -> usize {
    c.width().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(pieces: &[&str]) -> String {
        let mut filter = MarkerFilter::new("</think>");
        let mut shown: String = pieces.iter().map(|piece| filter.push(piece)).collect();
        shown.push_str(&filter.finish());
        shown
    }

    #[test]
    fn the_marker_goes_however_it_is_cut() {
        let text = "so 4.\n</think>\n";
        for cut in (0..text.len()).filter(|&cut| text.is_char_boundary(cut)) {
            assert_eq!(filtered(&[&text[..cut], &text[cut..]]), "so 4.\n\n", "cut at {cut}");
        }
        let characters: Vec<String> = text.chars().map(String::from).collect();
        assert_eq!(filtered(&characters.iter().map(String::as_str).collect::<Vec<_>>()), "so 4.\n\n");
    }

    #[test]
    fn what_only_begins_like_the_marker_stays() {
        assert_eq!(filtered(&["a < b", " and </thin", " air"]), "a < b and </thin air");
        assert_eq!(filtered(&["ends with </th"]), "ends with </th");
    }

    #[test]
    fn control_characters_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\r\tc\n\u{9b}d"), "a[2Jb    c\nd");
        assert_eq!(spelled_out("a\x1b[2Jb\r\tc\n\u{9b}d"), "a\\u{1b}[2Jb\\u{d}    c\n\\u{9b}d");
        assert_eq!(spelled_in_one_row("a\nb\x07"), "a\\nb\\u{7}");
    }

    #[test]
    fn no_text_reads_as_another_one() {
        for turn in
            "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}".chars()
        {
            assert_eq!(harmless(&format!("a{turn}b")), "ab", "{turn:?}");
            assert_eq!(spelled_out(&format!("a{turn}b")), format!("a\\u{{{:x}}}b", u32::from(turn)));
        }
        assert_eq!(harmless("שלום 👩\u{200d}🔬 思考"), "שלום 👩\u{200d}🔬 思考", "letters and joined pictures stay");
    }
}
