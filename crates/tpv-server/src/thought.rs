//! Dividing the generated text into thinking and answer, without the markers between them.
//!
//! Pieces may end anywhere, also within a marker, so a text that may be the beginning of a marker is held back until more
//! comes. Whatever a model writes, `</think>` is part of neither text.

use tpv_core::phase::{Phase, ThinkingMarkers};

/// A piece of text, divided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Piece {
    /// Belongs to the thinking.
    pub reasoning: String,
    /// Belongs to the answer.
    pub content: String,
}

/// Divides the text of one sample.
#[derive(Debug, Clone)]
pub struct ThoughtSplitter {
    markers: ThinkingMarkers,
    phase: Phase,
    held: String,
    /// The end of the text before the thinking that the answer might complete to a marker.
    carried: String,
}

impl ThoughtSplitter {
    /// A splitter for text after a prompt that leaves `phase` behind.
    pub fn new(markers: ThinkingMarkers, phase: Phase) -> Self {
        Self { markers, phase, held: String::new(), carried: String::new() }
    }

    /// Takes the next piece of text; at the end of the sample (`is_last`) nothing is held back.
    pub fn push(&mut self, text: &str, is_last: bool) -> Piece {
        self.held.push_str(text);
        let mut piece = Piece::default();
        while let Some((at, is_end)) = self.next_marker() {
            let marker = if is_end { self.markers.end.len() } else { self.markers.start.len() };
            match (self.phase, is_end) {
                (Phase::Before, false) => self.cross(at, marker, Phase::Thinking, &mut piece),
                (Phase::Thinking, _) => self.cross(at, marker, Phase::Answer, &mut piece),
                // A stray end marker: cut it out, and look again at what now stands side by side.
                _ => self.held.replace_range(at..at + marker, ""),
            }
        }
        let keep = if is_last { 0 } else { self.beginning_of_marker() };
        let rest = self.held.split_off(self.held.len() - keep);
        let ready = std::mem::replace(&mut self.held, rest);
        self.emit(&ready, &mut piece);
        if is_last {
            piece.content.push_str(&std::mem::take(&mut self.carried));
        }
        piece
    }

    /// The first marker that means something in this phase, and whether it is the end marker.
    fn next_marker(&self) -> Option<(usize, bool)> {
        let start = self.held.find(&self.markers.start).filter(|_| self.phase == Phase::Before).map(|at| (at, false));
        let end = self.held.find(&self.markers.end).map(|at| (at, true));
        [start, end].into_iter().flatten().min()
    }

    fn cross(&mut self, at: usize, marker: usize, phase: Phase, piece: &mut Piece) {
        let rest = self.held.split_off(at + marker);
        self.held.truncate(at);
        if self.phase == Phase::Before {
            self.carried = self.held.split_off(at - self.beginning_of_marker());
        }
        let before = std::mem::take(&mut self.held);
        self.emit(&before, piece);
        self.phase = phase;
        if phase == Phase::Answer {
            self.held = std::mem::take(&mut self.carried);
        }
        self.held += &rest;
    }

    fn emit(&self, text: &str, piece: &mut Piece) {
        let field = if self.phase == Phase::Thinking { &mut piece.reasoning } else { &mut piece.content };
        field.push_str(text);
    }

    /// Bytes at the end of the held text that may become a marker: the beginning of one, and the beginnings before it,
    /// which stand at the end once the later ones are complete and cut out.
    fn beginning_of_marker(&self) -> usize {
        let mut end = self.held.len();
        loop {
            match self.beginning_at(&self.held.as_bytes()[..end]) {
                0 => return self.held.len() - end,
                length => end -= length,
            }
        }
    }

    fn beginning_at(&self, text: &[u8]) -> usize {
        let begins = |keep: &usize| {
            let tail = &text[text.len() - keep..];
            let start = self.phase == Phase::Before && self.markers.start.as_bytes().starts_with(tail);
            start || self.markers.end.as_bytes().starts_with(tail)
        };
        let longest = self.markers.start.len().max(self.markers.end.len()) - 1;
        (1..=longest.min(text.len())).rev().find(begins).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(phase: Phase, pieces: &[&str]) -> (String, String) {
        let mut splitter = ThoughtSplitter::new(ThinkingMarkers::default(), phase);
        let (mut reasoning, mut content) = (String::new(), String::new());
        for (number, text) in pieces.iter().enumerate() {
            let piece = splitter.push(text, number + 1 == pieces.len());
            reasoning += &piece.reasoning;
            content += &piece.content;
        }
        (reasoning, content)
    }

    fn pair(reasoning: &str, content: &str) -> (String, String) {
        (reasoning.into(), content.into())
    }

    #[test]
    fn the_marker_belongs_to_neither() {
        assert_eq!(split(Phase::Thinking, &["Hm.</", "think", ">\n\n", "4"]), pair("Hm.", "\n\n4"));
        assert_eq!(split(Phase::Before, &["<thi", "nk>Hm.</think>4"]), pair("Hm.", "4"));
        assert_eq!(split(Phase::Before, &["No thought, 1 < 2"]), pair("", "No thought, 1 < 2"));
        assert_eq!(split(Phase::Thinking, &["1 <", " 2 </thin"]), pair("1 < 2 </thin", ""));
        assert_eq!(split(Phase::Answer, &["a</thi", "</think>nk>b"]), pair("", "ab"));
        assert_eq!(split(Phase::Answer, &["</thi</th", "ink></think>nk>b"]), pair("", "b"));
        assert_eq!(split(Phase::Before, &["</thi<think>x</think>nk>b"]), pair("x", "b"));
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same_texts_and_no_marker(
            parts in prop::collection::vec(prop::sample::select(vec!["</think>", "<think>", "</thi", "nk>", "<", "/", "é", "🙂", "word ", "\n"]), 0..24),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
            phase in prop::sample::select(vec![Phase::Before, Phase::Thinking, Phase::Answer]),
        ) {
            let text = parts.concat();
            let letters: Vec<char> = text.chars().collect();
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(letters.len() + 1)).collect();
            places.extend([0, letters.len()]);
            places.sort_unstable();
            let pieces: Vec<String> = places.windows(2).map(|pair| letters[pair[0]..pair[1]].iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (reasoning, content) = split(phase, &pieces);
            prop_assert_eq!(split(phase, &[&text]), (reasoning.clone(), content.clone()));
            prop_assert!(!reasoning.contains("</think>") && !content.contains("</think>"), "{:?} {:?}", reasoning, content);
        }
    }
}
