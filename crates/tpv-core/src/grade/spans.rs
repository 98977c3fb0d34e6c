//! Formulas and numbers within running text.

use super::token::vulgar_fraction;

/// The formula that the text opens with, without its delimiters: `$..$`, `$$..$$`, `\(..\)`, `\[..\]`.
pub(super) fn math_span(text: &str) -> Option<&str> {
    delimited(text).map(|(inner, _)| inner)
}

/// The length of the formula that the text opens with, delimiters included.
pub(super) fn math_length(text: &str) -> Option<usize> {
    delimited(text).map(|(_, length)| length)
}

/// The last formula in the text that is more than the name of a variable, and where it ends.
pub(super) fn last_math_span(text: &str) -> Option<(&str, usize)> {
    let mut last = None;
    let mut at = 0;
    while let Some(next) = text[at..].find(['$', '\\']) {
        at += next;
        if let Some((inner, length)) = delimited(&text[at..]) {
            at += length;
            let variable = inner.trim().len() == 1 && inner.contains(|c: char| c.is_ascii_alphabetic());
            last = if variable && last.is_some() { last } else { Some((inner, at)) };
        } else {
            let escaped = if text[at..].starts_with('\\') { text[at + 1..].chars().next() } else { None };
            at += 1 + escaped.map_or(0, char::len_utf8);
        }
    }
    last
}

/// The formula at the start of the text and its length with the delimiters.
fn delimited(text: &str) -> Option<(&str, usize)> {
    for (open, close) in [("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]")] {
        if let Some(inner) = text.strip_prefix(open)
            && let Some(length) = inner.find(close).filter(|length| !inner[..*length].trim().is_empty())
        {
            return Some((&inner[..length], open.len() + length + close.len()));
        }
    }
    let inner = text.strip_prefix('$')?;
    let length = closing_dollar(inner)?;
    Some((&inner[..length], length + 2))
}

/// Where the formula ends whose opening dollar stands before this text. `None` where the dollars are those of prices:
/// the next one that is not escaped stands behind a space or before a digit, as in "$9 or $12".
fn closing_dollar(inner: &str) -> Option<usize> {
    let mut escaped = false;
    let length = inner.bytes().position(|byte| {
        let ends = byte == b'\n' || byte == b'$' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    let (span, after) = (&inner[..length], inner[length..].strip_prefix('$')?);
    let one_sided = span.ends_with(' ') && !span.starts_with(' ');
    let price = one_sided || after.starts_with(|c: char| c.is_ascii_digit());
    (!price && !span.trim().is_empty()).then_some(length)
}

/// The number that the text opens with, with its sign, grouping, decimals, simple fraction and percent sign; its
/// dollar sign is left out.
pub(super) fn leading_number(text: &str) -> Option<&str> {
    let unsigned = text.trim_start_matches(['-', '−']);
    let signed = unsigned.len() < text.len();
    let digits = unsigned.trim_start_matches(['\\', '$']);
    let bytes = digits.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let starts = digit(0) || bytes.first() == Some(&b'.') && digit(1);
    let mut end = 0;
    while starts && end < bytes.len() {
        let joins = match bytes[end] {
            b'.' | b',' | b'/' => digit(end + 1),
            b' ' => end > 0 && digit(end + 1) && digit(end + 2) && digit(end + 3) && !digit(end + 4),
            byte => byte.is_ascii_digit(),
        };
        if !joins {
            break;
        }
        end += 1;
    }
    if !starts {
        return None;
    }
    end += behind_digits(&digits[end..])?;
    let plain = signed && digits.len() == unsigned.len();
    if plain { text.get(..text.len() - digits.len() + end) } else { digits.get(..end) }
}

/// The last number, with its sign, grouping commas, decimals, simple fraction or percent sign.
pub(super) fn last_number(text: &str) -> Option<&str> {
    last_number_at(text).map(|(start, end)| &text[start..end])
}

/// Where the last number starts and ends.
pub(super) fn last_number_at(text: &str) -> Option<(usize, usize)> {
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
    let fraction = fraction_start(&text[..start]);
    let brace = fraction.is_some() && bytes.get(last + 1) == Some(&b'}');
    let end = last + 1 + usize::from(brace);
    Some((fraction.unwrap_or(start), end + behind_digits(&text[end..])?))
}

/// The length of what belongs to the digits before it: a percent sign, a fraction in one character. `None` where what follows
/// makes another number of them.
fn behind_digits(text: &str) -> Option<usize> {
    match text.chars().next() {
        Some('%') => Some(1),
        Some('‰') => None,
        Some(c) if vulgar_fraction(c).is_some() => Some(c.len_utf8()),
        _ => Some(0),
    }
}

/// Where `\frac{3}{` begins that ends this text, with its sign.
fn fraction_start(before: &str) -> Option<usize> {
    let above = before.strip_suffix("}{")?.trim_end_matches(|c: char| c.is_ascii_digit());
    let command = above.strip_suffix("frac{")?;
    let start = command.strip_suffix(['d', 't', 'c']).unwrap_or(command).strip_suffix('\\')?;
    let minus = ["-", "−"].iter().find_map(|minus| start.strip_suffix(minus));
    Some(minus.filter(|before| !is_operand(before)).map_or(start.len(), str::len))
}

/// Whether a minus after this text subtracts: `8-5`, `8 -5`, but not `but -5`.
fn is_operand(before: &str) -> bool {
    let trimmed = before.trim_end_matches(' ');
    let spaced = trimmed.len() < before.len();
    trimmed.ends_with(|c: char| matches!(c, ')' | '}') || c.is_numeric() || c.is_alphabetic() && !spaced)
}
