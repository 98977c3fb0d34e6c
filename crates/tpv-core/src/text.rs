//! Texts of others, as errors repeat them.

/// Letters that an error repeats of a text.
const QUOTED: usize = 100;

/// The beginning of a text that somebody sent, for an error about it.
pub fn shortened(text: &str) -> &str {
    text.char_indices().nth(QUOTED).map_or(text, |(end, _)| &text[..end])
}
