//! Text that arrives as bytes, a token at a time, handed on as whole characters.
//!
//! A token may end inside a character. [`TextStream`] keeps such bytes until the character is complete and writes
//! U+FFFD only once no continuation could make them valid, so the pieces joined equal the lossy decoding of all bytes
//! at once ([`String::from_utf8_lossy`]).

/// Turns the bytes of consecutive tokens into text.
///
/// ```
/// use tpv_engine::text_stream::TextStream;
/// let mut stream = TextStream::default();
/// assert_eq!(stream.push(&[b'a', 0xE2, 0x82]), "a");
/// assert_eq!(stream.push(&[0xAC, b'!']), "€!");
/// assert_eq!(stream.finish(), "");
/// ```
#[derive(Debug, Clone, Default)]
pub struct TextStream {
    /// The start of a character whose rest has not come: at most 3 bytes.
    unfinished: Vec<u8>,
    /// What the last push completed.
    complete: String,
}

impl TextStream {
    /// Takes the bytes of the next token and returns the text that became complete with them.
    pub fn push(&mut self, token_bytes: &[u8]) -> &str {
        self.complete.clear();
        self.unfinished.extend_from_slice(token_bytes);
        let mut rest = self.unfinished.as_slice();
        let kept = loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.complete.push_str(text);
                    break 0;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.complete.push_str(&String::from_utf8_lossy(valid));
                    let Some(invalid_len) = error.error_len() else { break after.len() };
                    self.complete.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[invalid_len..];
                }
            }
        };
        let taken = self.unfinished.len() - kept;
        self.unfinished.drain(..taken);
        &self.complete
    }

    /// Ends the text: an unfinished character becomes one U+FFFD. The stream is empty afterwards.
    pub fn finish(&mut self) -> &str {
        self.complete.clear();
        if !self.unfinished.is_empty() {
            self.unfinished.clear();
            self.complete.push(char::REPLACEMENT_CHARACTER);
        }
        &self.complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn streamed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut stream = TextStream::default();
        let mut text = String::new();
        for piece in pieces {
            text.push_str(stream.push(piece));
        }
        text.push_str(stream.finish());
        text
    }

    fn split_at_random(bytes: &[u8], cuts: &[usize]) -> String {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        streamed(starts.zip(ends.iter()).map(|(start, &end)| &bytes[start..end]))
    }

    #[test]
    fn an_impossible_byte_is_replaced_at_once_and_a_possible_start_waits() {
        let mut stream = TextStream::default();
        assert_eq!(stream.push(&[0xFF]), "\u{FFFD}");
        assert_eq!(stream.push(&[0xF0, 0x9F]), "");
        assert_eq!(stream.push(b"a"), "\u{FFFD}a");
        assert_eq!(stream.push(&[0xF0, 0x9F, 0xA4]), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
        assert_eq!(stream.finish(), "");
    }

    proptest! {
        #[test]
        fn any_split_of_a_text_gives_the_text(text in "\\PC*", cuts in prop::collection::vec(any::<usize>(), 0..12)) {
            prop_assert_eq!(split_at_random(text.as_bytes(), &cuts), text);
        }

        #[test]
        fn any_split_of_any_bytes_gives_their_lossy_text(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80u8..=0xF5], 0..40),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            prop_assert_eq!(split_at_random(&bytes, &cuts), String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
