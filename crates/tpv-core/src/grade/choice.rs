//! Multiple choice: `C`, `(C)`, and the letter with its answer beside it, `(C) 12 cm` or `C. 12 cm`.

use super::token::{Spaced, Token};

/// Whether two answers name the same option; `None` unless one is a letter alone and the other begins with one.
pub(super) fn same_option(a: &[Spaced], b: &[Spaced]) -> Option<bool> {
    let ((a, a_alone), (b, b_alone)) = (option(a)?, option(b)?);
    (a_alone || b_alone).then_some(a == b)
}

/// The option's letter, and whether it stands alone.
fn option(tokens: &[Spaced]) -> Option<(&str, bool)> {
    let token = |at: usize| tokens.get(at).map(|spaced| &spaced.token);
    let bracket = token(0) == Some(&Token::Punct('('));
    let Some(Token::Symbol(letter)) = token(usize::from(bracket)) else { return None };
    if !matches!(letter.as_bytes(), [b'A'..=b'J']) {
        return None;
    }
    let after = token(usize::from(bracket) + 1);
    match (bracket, after) {
        (false, None) => Some((letter, true)),
        (true, Some(Token::Punct(')'))) => Some((letter, tokens.len() == 3)),
        (false, Some(Token::Punct(')' | '.' | ':'))) => Some((letter, tokens.len() == 2)),
        _ => None,
    }
}
