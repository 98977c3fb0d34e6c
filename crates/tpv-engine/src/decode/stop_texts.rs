//! Texts that end a sample when they appear in its answer.
//!
//! They are looked for byte by byte as the answer comes, with the tables of Knuth, Morris and Pratt: over an answer, what a
//! byte costs does not depend on their length.

use std::sync::Arc;

/// A text to watch for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopText {
    bytes: Box<[u8]>,
    /// For each beginning of the text, the length of the longest shorter beginning that it ends with.
    shorter: Box<[usize]>,
}

impl StopText {
    /// Prepares a text; an empty one never appears.
    pub fn new(text: &str) -> Self {
        let mut prepared = Self { bytes: text.as_bytes().into(), shorter: vec![0; text.len()].into() };
        let mut begun = 0;
        for end in 1..text.len() {
            begun = prepared.advance(begun, prepared.bytes[end]);
            prepared.shorter[end] = begun;
        }
        prepared
    }

    /// Bytes of the text that have begun once `byte` follows, where `begun` had, fewer than all.
    fn advance(&self, mut begun: usize, byte: u8) -> usize {
        while begun > 0 && self.bytes[begun] != byte {
            begun = self.shorter[begun - 1];
        }
        begun + usize::from(self.bytes[begun] == byte)
    }
}

/// Watches an answer and holds back what may be the beginning of one of the texts.
pub(super) struct StopTexts {
    texts: Arc<[StopText]>,
    /// Bytes of each text that the answer ends with.
    begun: Vec<usize>,
    held: String,
    /// Whether one has appeared.
    pub found: bool,
}

impl StopTexts {
    pub fn new(texts: &Arc<[StopText]>) -> Self {
        Self { texts: Arc::clone(texts), begun: vec![0; texts.len()], held: String::new(), found: false }
    }

    /// Takes the next piece of text and returns what can be shown.
    pub fn push(&mut self, piece: String, is_last: bool) -> String {
        if self.texts.is_empty() {
            return piece;
        }
        let before = self.held.len();
        self.held.push_str(&piece);
        let mut first = None;
        for (text, begun) in self.texts.iter().zip(&mut self.begun).filter(|(text, _)| !text.bytes.is_empty()) {
            for (end, &byte) in self.held.as_bytes().iter().enumerate().skip(before) {
                *begun = text.advance(*begun, byte);
                if *begun == text.bytes.len() {
                    let start = end + 1 - text.bytes.len();
                    first = Some(first.map_or(start, |first: usize| first.min(start)));
                    break;
                }
            }
        }
        if let Some(start) = first {
            self.found = true;
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let keep = if is_last { 0 } else { self.begun.iter().copied().max().unwrap_or(0) };
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// Gives up what is held back: what comes before is not watched.
    pub fn release(&mut self) -> String {
        self.begun.fill(0);
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(texts: &[&str]) -> StopTexts {
        StopTexts::new(&texts.iter().map(|text| StopText::new(text)).collect())
    }

    /// All words of so many letters over an alphabet of two.
    fn words(letters: usize) -> impl Iterator<Item = String> {
        (0..1 << letters).map(move |bits: usize| (0..letters).map(|at| ['a', 'é'][bits >> at & 1]).collect())
    }

    #[test]
    fn the_answer_ends_where_the_first_text_begins() {
        let all: Vec<String> = (1..=3).flat_map(words).collect();
        for (answer, first, second) in words(7)
            .flat_map(|answer| all.iter().zip(&all[5..]).map(move |(first, second)| (answer.clone(), first, second)))
        {
            let mut watched = watch(&["", first, second]);
            let (mut shown, mut so_far) = (String::new(), String::new());
            for letter in answer.chars().map(String::from) {
                so_far += &letter;
                shown += &watched.push(letter, false);
                assert!(so_far.starts_with(&shown));
                if watched.found {
                    break;
                }
            }
            let ends = |text: &String| answer.find(text.as_str()).map(|start| (start + text.len(), start));
            match [first, second].into_iter().filter_map(ends).min() {
                Some((end, _)) => {
                    assert_eq!(so_far.len(), end, "{answer}: {first} or {second}");
                    let starts = [first, second].into_iter().filter_map(|text| so_far.find(text.as_str()));
                    assert_eq!(shown, so_far[..starts.min().unwrap()]);
                }
                None => assert_eq!(shown + &watched.push(String::new(), true), answer),
            }
        }
    }

    #[test]
    fn what_may_begin_a_text_is_held_back_and_given_up() {
        let mut watched = watch(&["abab!"]);
        assert_eq!(watched.push("xaba".into(), false), "x");
        assert_eq!(watched.push("bab".into(), false), "ab", "the last four letters begin it as well");
        assert_eq!(watched.release(), "abab");
        assert_eq!(watched.push("!".into(), false), "!", "what was given up is not watched");
        assert_eq!(watched.push("abab!c".into(), false), "");
        assert!(watched.found);
    }
}
