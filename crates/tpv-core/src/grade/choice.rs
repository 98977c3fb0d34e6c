//! Multiple choice: `C`, `(C)`, and the letter with its answer beside it, `(C) 12 cm` or `C. 12 cm`.

use super::token::{Spaced, Token};

/// The words that may stand before the letter.
const LABELS: &[&str] = &["option", "choice", "answer"];

/// Whether two answers name the same option; `None` unless one is a letter alone and the other begins with one.
pub(super) fn same_option(a: &[Spaced], b: &[Spaced]) -> Option<bool> {
    let (a, b) = (option(a)?, option(b)?);
    (a.beside.is_empty() || b.beside.is_empty()).then_some(a.letter == b.letter)
}

/// The answer beside an option's letter, `12` of `(A) 12`, where the other side names no option.
pub(super) fn beside_letter<'a>(tokens: &'a [Spaced], other: &[Spaced]) -> Option<&'a [Spaced]> {
    let beside = option(tokens)?.beside;
    (!beside.is_empty() && option(other).is_none()).then_some(beside)
}

struct Choice<'a> {
    letter: char,
    beside: &'a [Spaced],
}

/// An option's letter, small or capital; a small one that could be a constant (`e`, `i`) needs its bracket.
fn option(tokens: &[Spaced]) -> Option<Choice<'_>> {
    let labelled =
        matches!(tokens.first(), Some(Spaced { token: Token::Word(word), .. }) if LABELS.contains(&word.as_str()));
    let tokens = &tokens[usize::from(labelled)..];
    let sign = |at: usize| match tokens.get(at) {
        Some(Spaced { token: Token::Punct(c), .. }) => Some(*c),
        _ => None,
    };
    let bracket = sign(0) == Some('(');
    let Token::Symbol(name) = &tokens.get(usize::from(bracket))?.token else { return None };
    let &[letter] = name.as_bytes() else { return None };
    if !matches!(letter.to_ascii_uppercase(), b'A'..=b'J') || matches!(letter, b'e' | b'i') && !bracket {
        return None;
    }
    let after = usize::from(bracket) + 1;
    let beside = match (bracket, sign(after)) {
        (false, None) if tokens.len() == after => &[],
        (true, Some(')')) | (false, Some(')' | '.' | ':')) => &tokens[after + 1..],
        _ => return None,
    };
    let parted = |beside: &[Spaced]| {
        beside[0].space_before && !matches!(beside[0].token, Token::Punct(c) if "+-*/^=<>≤≥".contains(c))
    };
    // `(a) + b` is no option, `(A) 12` is.
    if !beside.is_empty() && letter.is_ascii_lowercase() && !parted(beside) {
        return None;
    }
    Some(Choice { letter: letter.to_ascii_uppercase().into(), beside })
}
