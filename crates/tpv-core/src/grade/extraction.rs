//! Where in a model's text its answer stands.

use serde::{Deserialize, Serialize};

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
        .or_else(|| after_answer_is(text).map(as_found(Found::AnswerIs)))
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

const ANSWER_MARKS: &[&str] = &["answer is", "answer:", "answer**:", "answer:**", "answer =", "####"];
const CLAUSE_ENDS: &[&str] = &["\n", ". ", " because ", " since ", ", so ", ", because ", ", which "];

/// The clause after the last "answer is".
fn after_answer_is(text: &str) -> Option<&str> {
    let lower = text.to_ascii_lowercase();
    let (at, mark) = ANSWER_MARKS.iter().filter_map(|mark| Some((lower.rfind(mark)?, mark))).max()?;
    let rest = text[at + mark.len()..].trim_start_matches([':', '*', ' ', '\n', '=']);
    let clause = math_span(rest).unwrap_or_else(|| {
        let end = CLAUSE_ENDS.iter().filter_map(|end| rest.find(end)).min().unwrap_or(rest.len());
        &rest[..end]
    });
    let clause = clause.trim().trim_end_matches(['.', '*', ',', ' ']);
    (!clause.is_empty()).then_some(clause)
}

/// The formula that the text opens with: `$..$`, `\(..\)`, `\[..\]`.
fn math_span(text: &str) -> Option<&str> {
    [("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")].iter().find_map(|(open, close)| {
        let inner = text.strip_prefix(open)?;
        let span = &inner[..inner.find(close)?];
        (!span.contains('\n') || *open != "$").then_some(span).filter(|span| !span.trim().is_empty())
    })
}

/// The last number, with its sign, grouping commas, decimals, simple fraction or percent sign.
fn last_number(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let last = bytes.iter().rposition(u8::is_ascii_digit)?;
    let in_number = |at: usize| {
        bytes[at].is_ascii_digit()
            || matches!(bytes[at], b',' | b'.' | b'/')
                && bytes[at + 1].is_ascii_digit()
                && at > 0
                && (bytes[at - 1].is_ascii_digit() || bytes[at] == b'.')
    };
    let mut start = last;
    while start > 0 && in_number(start - 1) {
        start -= 1;
    }
    let before = text[..start].trim_end_matches('$');
    let minus = ["-", "−"].iter().find_map(|minus| before.strip_suffix(minus));
    if let Some(before) = minus.filter(|before| !is_operand(before)) {
        start = before.len();
    }
    start = fraction_start(&text[..start]).unwrap_or(start);
    let end = last + 1 + usize::from(bytes.get(last + 1) == Some(&b'%'));
    let end = end + usize::from(text[start..].starts_with("\\frac") || text[start..].starts_with("-\\frac"));
    text.get(start..end)
}

/// Where `\frac{3}{` begins that ends this text.
fn fraction_start(before: &str) -> Option<usize> {
    let above = before.strip_suffix("}{")?.trim_end_matches(|c: char| c.is_ascii_digit());
    let start = above.strip_suffix("\\frac{")?;
    Some(start.strip_suffix('-').map_or(start.len(), str::len))
}

/// Whether a minus after this text subtracts: `8-5`, `8 -5`, but not `but -5`.
fn is_operand(before: &str) -> bool {
    let trimmed = before.trim_end_matches(' ');
    let spaced = trimmed.len() < before.len();
    trimmed.ends_with(|c: char| matches!(c, ')' | '}') || c.is_numeric() || c.is_alphabetic() && !spaced)
}
