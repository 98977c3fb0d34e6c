//! Grading: is a model's answer the gold answer?
//!
//! [`extract_answer`] finds the answer in a text and [`grade`] compares it with the gold one. Both texts become a
//! normal form (tokens, then a tree, then a shape: value, list, set, interval, matrix, equation, prose), and the
//! [`Verdict`] names the argument that made them equal, or why one could not be read. Numbers are exact rationals as long
//! as they can be; expressions with variables are compared by their values at several fixed points.
//!
//! Both functions are deterministic and bounded in time and memory on any input: texts, nesting, numbers and steps
//! have limits, and beyond them the verdict is [`Verdict::Unparsed`], which never counts as right.
//!
//! ```
//! use tpv_core::grade::{EqualBy, Verdict, grade};
//! assert_eq!(grade("0.5", "\\frac12"), Verdict::Equal { by: EqualBy::Number });
//! assert_eq!(grade("(x+1)^2", "x^2 + 2x + 1"), Verdict::Equal { by: EqualBy::Algebra });
//! assert_eq!(grade("(1, 2]", "[1, 2]"), Verdict::Different);
//! assert!(!grade("9^{9^{9^9}}", "1").is_equal());
//! ```

mod answer;
mod choice;
mod clause;
mod compare;
mod extraction;
mod node;
mod parser;
mod spans;
mod token;
mod unit;
mod value;
mod verdict;

pub use extraction::{Extracted, Found, answer_part, extract_answer};
pub use verdict::{EqualBy, Side, Verdict, Why};

use answer::Answer;
use token::Spaced;
use value::Budget;

/// Steps that one comparison may take.
const STEPS: u32 = 40_000;

/// Compares an answer with the gold answer. Symmetric in its arguments, but for the side that [`Verdict::Unparsed`] names.
pub fn grade(candidate: &str, gold: &str) -> Verdict {
    let (a, b) = (token::tokens(candidate), token::tokens(gold));
    if let (Ok(a), Ok(b)) = (&a, &b)
        && let Some(same) = choice::same_option(a, b)
    {
        return if same { Verdict::Equal { by: EqualBy::Text } } else { Verdict::Different };
    }
    let whole = match (answer(&a), answer(&b)) {
        (Ok(_), Ok(_)) if same_signs(&a, &b) => Verdict::Equal { by: EqualBy::Text },
        (Ok(a), Ok(b)) => compared(&a, &b),
        (a, b) => unread(candidate, gold, a.err(), b.err()),
    };
    match (&a, &b) {
        (Ok(a), Ok(b)) if !whole.is_equal() => beside_letter(a, b).unwrap_or(whole),
        _ => whole,
    }
}

/// `(A) 12` against `12`: what stands beside the letter counts.
fn beside_letter(a: &[Spaced], b: &[Spaced]) -> Option<Verdict> {
    let (a, b) = match (choice::beside_letter(a, b), choice::beside_letter(b, a)) {
        (Some(beside), _) => (beside, b),
        (None, Some(beside)) => (a, beside),
        (None, None) => return None,
    };
    let (a, b) = (parser::parse(a).ok()?, parser::parse(b).ok()?);
    Some(compared(&a.into(), &b.into()))
}

fn compared(a: &Answer, b: &Answer) -> Verdict {
    match compare::answers(a, b, &mut Budget::new(STEPS)) {
        Ok(Some(by)) => Verdict::Equal { by },
        Ok(None) => Verdict::Different,
        Err(why) => Verdict::Unparsed { which: Side::Both, why },
    }
}

type Tokens = Result<Vec<Spaced>, Why>;

fn answer(tokens: &Tokens) -> Result<Answer, Why> {
    let tokens = tokens.as_ref().map_err(|why| *why)?;
    Ok(parser::parse(tokens)?.into())
}

/// Whether two answers have the same tokens, white space aside.
fn same_signs(a: &Tokens, b: &Tokens) -> bool {
    let (Ok(a), Ok(b)) = (a, b) else { return false };
    a.iter().map(|spaced| &spaced.token).eq(b.iter().map(|spaced| &spaced.token))
}

/// What can be said when not both were understood: the same text is still the same answer.
fn unread(candidate: &str, gold: &str, candidate_why: Option<Why>, gold_why: Option<Why>) -> Verdict {
    if candidate_why.is_some() && gold_why.is_some() && same_letters(candidate, gold) {
        return Verdict::Equal { by: EqualBy::Text };
    }
    match (candidate_why, gold_why) {
        (Some(why), None) => Verdict::Unparsed { which: Side::Candidate, why },
        (None, Some(why)) => Verdict::Unparsed { which: Side::Gold, why },
        (why, _) => Verdict::Unparsed { which: Side::Both, why: why.unwrap_or(Why::Syntax) },
    }
}

/// Whether two short texts are the same but for white space; empty ones never are.
fn same_letters(a: &str, b: &str) -> bool {
    let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    a.len() <= token::MAX_BYTES && b.len() <= token::MAX_BYTES && !a.trim().is_empty() && letters(a) == letters(b)
}
