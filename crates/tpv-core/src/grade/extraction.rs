//! Where in a model's text its answer stands.

use serde::{Deserialize, Serialize};

use super::clause::announced;
use super::spans::last_number;

/// An answer cut out of a longer text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extracted {
    /// The answer as it was written, without the box or the sentence around it.
    pub text: String,
    /// What marked it as the answer.
    pub found: Found,
}

/// What marked a piece of text as the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// `\boxed{..}` or `\fbox{..}`.
    Boxed,
    /// "the answer is ..", "answer: ..", "#### ..".
    AnswerIs,
    /// Nothing did: it is the last number.
    LastNumber,
}

/// The part of a whole generation in which an answer counts: what follows the last `</think>`.
///
/// A text without the marker is its own answer part, unless it opens `<think>` and never ends it: then there is none.
/// Where the prompt opened the thinking, an unfinished thought carries no marker at all; such a caller knows the
/// phase and must not ask.
///
/// ```
/// use tpv_core::grade::answer_part;
/// assert_eq!(answer_part("Is it \\boxed{1}?</think>No, \\boxed{2}."), "No, \\boxed{2}.");
/// assert_eq!(answer_part("<think>Is it \\boxed{1}?"), "");
/// ```
pub fn answer_part(text: &str) -> &str {
    match text.rfind("</think>") {
        Some(at) => &text[at + "</think>".len()..],
        None if text.contains("<think>") => "",
        None => text,
    }
}

/// The answer in a model's text: the last balanced `\boxed` or `\fbox` that is not empty; else what follows the last
/// "answer is"; else the last number. Only the [`answer_part`] is looked at. Linear in the text's length.
///
/// ```
/// use tpv_core::grade::{Found, extract_answer};
/// let answer = extract_answer("So \\boxed{\\frac{1}{2}} it is.").expect("there is a box");
/// assert_eq!((answer.text.as_str(), answer.found), ("\\frac{1}{2}", Found::Boxed));
/// assert_eq!(extract_answer("I do not know."), None);
/// ```
pub fn extract_answer(text: &str) -> Option<Extracted> {
    let text = answer_part(text);
    let as_found = |found| move |text: &str| Extracted { text: text.trim().to_owned(), found };
    last_boxed(text)
        .map(as_found(Found::Boxed))
        .or_else(|| announced(text).map(as_found(Found::AnswerIs)))
        .or_else(|| last_number(text).map(as_found(Found::LastNumber)))
}

/// The content of the last box that closes. One pass: every open brace remembers whether a box command stands before it.
fn last_boxed(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let mut open: Vec<(usize, bool)> = Vec::new();
    let mut last = None;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if matches!(bytes.get(at + 1), Some(b'{' | b'}' | b'\\')) => at += 1,
            b'{' => open.push((at + 1, ends_with_box(&text[..at]))),
            b'}' => {
                if let Some((start, true)) = open.pop()
                    && !text[start..at].trim().is_empty()
                {
                    last = Some(&text[start..at]);
                }
            }
            _ => {}
        }
        at += 1;
    }
    last
}

fn ends_with_box(before: &str) -> bool {
    let before = before.trim_end_matches(' ');
    before.ends_with("\\boxed") || before.ends_with("\\fbox")
}
