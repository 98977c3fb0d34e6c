//! Texts that end a sample when they appear in its answer.

/// Watches the text for the request's stop texts and holds back what may be the beginning of one.
pub(super) struct StopTexts {
    texts: Vec<String>,
    held: String,
    /// Whether one has appeared.
    pub found: bool,
}

impl StopTexts {
    pub fn new(texts: &[String]) -> Self {
        let texts = texts.iter().filter(|text| !text.is_empty()).cloned().collect();
        Self { texts, held: String::new(), found: false }
    }

    /// Takes the next piece of text and returns what can be shown.
    pub fn push(&mut self, piece: String, is_last: bool) -> String {
        if self.texts.is_empty() {
            return piece;
        }
        self.held.push_str(&piece);
        if let Some(at) = self.texts.iter().filter_map(|text| self.held.find(text.as_str())).min() {
            self.found = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let keep = if is_last { 0 } else { self.longest_beginning() };
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// Gives up what is held back: what follows is not watched.
    pub fn release(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of the held text that begin one of the stop texts.
    fn longest_beginning(&self) -> usize {
        let begins = |keep: &usize| {
            let start = self.held.len() - keep;
            self.held.is_char_boundary(start) && self.texts.iter().any(|text| text.starts_with(&self.held[start..]))
        };
        (1..=self.held.len()).rev().find(begins).unwrap_or(0)
    }
}
