//! The answer that a text announces: "the answer is ..", "answer: ..", "#### ..".

use super::spans::{last_math_span, last_number_at, leading_number, math_length, math_span};
use super::unit::Unit;
use super::{parser, token};

const MARKS: &[&str] = &["answer is", "answers are", "answer:", "answer**:", "answer:**", "answer =", "####"];

/// Words between the mark and the answer.
const FILLERS: &[&str] = &[
    "therefore",
    "thus",
    "hence",
    "then",
    "so",
    "now",
    "simply",
    "just",
    "exactly",
    "precisely",
    "about",
    "approximately",
    "roughly",
    "around",
    "clearly",
    "indeed",
    "actually",
    "also",
    "and",
    "but",
    "however",
    "equal to",
    "given by",
];

/// What stands between the formulas of one answer.
const JOINTS: &[&str] = &[" and ", " or ", ", and ", ", or ", ", "];

/// Words before the letter of an option.
const OPTION_WORDS: &[&str] = &["option", "choice", "letter"];

/// What ends a clause that is itself the answer, beside [`REASONS`].
const CLAUSE_ENDS: &[&str] = &[", so ", ", which ", " (i.e"];

/// What ends the part of a sentence that can hold the answer.
const REASONS: &[&str] = &[
    " because ",
    " since ",
    ", because ",
    ", as ",
    ", where ",
    ", i.e",
    " i.e.",
    ", that is",
    ", not ",
    " and not ",
    ", rather than ",
    " rather than ",
    ", instead of ",
    " instead of ",
];

/// Words with a full stop that ends no sentence.
const ABBREVIATIONS: &[&str] = &["mr", "mrs", "ms", "dr", "st", "sq", "ft", "approx", "vs"];

/// Words that change what the number behind them means.
const BOUNDS: &[&str] = &[
    "at least",
    "at most",
    "more than",
    "less than",
    "fewer than",
    "greater than",
    "not",
    "no",
    "any",
    "between",
    "either",
    "neither",
    "all real",
];

/// Words of a clause that gives no answer.
const NO_ANSWER: &[&str] = &["cannot", "can't", "can not", "not enough", "insufficient", "impossible", "undetermined"];

/// From so many words on, a clause that begins with one is a sentence of prose.
const PROSE_WORDS: usize = 2;
/// From so many words on, a clause is no name and no verdict either, and what follows it may hold the answer.
const LONG_PROSE_WORDS: usize = 5;

/// The most text in which an announced answer is looked for, in bytes.
const SENTENCE_BYTES: usize = 4096;

/// The answer behind the last mark.
///
/// It is the formula that stands there, or the words in bold, or the clause. A clause that is no answer by itself
/// ("It takes 160 minutes to ..") is searched for the formula or number that it holds.
pub(super) fn announced(text: &str) -> Option<&str> {
    let lower = text.to_ascii_lowercase();
    let (at, mark) = MARKS.iter().filter_map(|mark| Some((lower.rfind(mark)?, mark))).max()?;
    let mut rest = &text[at + mark.len()..];
    let line = &text[text[..at].rfind('\n').map_or(0, |end| end + 1)..at + mark.len()];
    let mark_in_bold = line.matches("**").count() % 2 == 1;
    let frame = skip_lead_in(&mut rest, mark.contains(':'));
    if let Some(frame) = frame.filter(|frame| *frame != "**" || !mark_in_bold)
        && let Some((framed, _)) = rest.split_once(frame)
        && !framed.contains('\n')
    {
        rest = framed;
    }
    let answer = opening_math(rest).unwrap_or_else(|| answer_of(line_of(rest)));
    let answer = answer.trim().trim_end_matches(['.', '*', ',', ' ', '`', '"']);
    (!answer.is_empty()).then_some(answer)
}

/// The formula that the text opens with, or several with "and", "or" or commas between that make up its first sentence.
fn opening_math(text: &str) -> Option<&str> {
    let first = math_span(text)?;
    let mut end = math_length(text)?;
    let joined =
        |rest: &str| JOINTS.iter().find_map(|joint| Some(joint.len() + math_length(rest.strip_prefix(joint)?)?));
    let mut several = false;
    while let Some(length) = joined(&text[end..]) {
        several = true;
        end += length;
    }
    let rest = text[end..].trim_start_matches('*');
    let ends_sentence = matches!(rest, "" | ".") || ["\n", ". ", ".\n", ".*"].iter().any(|end| rest.starts_with(end));
    Some(if several && ends_sentence { &text[..end] } else { first })
}

/// Skips signs, line breaks, bullets and filler words before an answer; gives the sign of bold words or of code among
/// them, which comes again behind the answer.
fn skip_lead_in(rest: &mut &str, announced_by_colon: bool) -> Option<&'static str> {
    let mut frame = None;
    loop {
        let trimmed =
            rest.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ':' | '*' | '=' | ',' | '`' | '_'));
        let skipped = &rest[..rest.len() - trimmed.len()];
        if !skipped.is_empty() {
            frame = ["**", "`"].into_iter().find(|sign| skipped.contains(*sign));
        }
        let bulleted = if skipped.contains('\n') {
            without_bullet(trimmed, announced_by_colon || skipped.contains(':'))
        } else {
            None
        };
        let shorter = bulleted.or_else(|| without_filler(trimmed));
        *rest = shorter.unwrap_or(trimmed);
        if shorter.is_none() {
            return frame;
        }
    }
}

/// The text behind the bullet `- ` or the number `1. ` of a list's first item.
fn without_bullet(text: &str, announced_by_colon: bool) -> Option<&str> {
    if let Some(item) = text.strip_prefix("- ").or_else(|| text.strip_prefix("• ")) {
        // "- 42" alone is a number with its sign.
        let is_number = leading_number(item).is_some_and(|number| line_of(item).trim_end_matches(['.', ' ']) == number);
        return Some(item).filter(|_| text.starts_with('•') || !is_number);
    }
    let item = text.strip_prefix("1. ").or_else(|| text.strip_prefix("1) "))?.trim_start_matches(' ');
    let starts_item = |c: char| c.is_ascii_digit() || matches!(c, '$' | '\\' | '*' | '-' | '(');
    (!item.is_empty() && !item.starts_with('\n') && (announced_by_colon || item.starts_with(starts_item)))
        .then_some(item)
}

fn without_filler(text: &str) -> Option<&str> {
    let after = |word: &&str| {
        let (head, tail) = text.split_at_checked(word.len())?;
        (head.eq_ignore_ascii_case(word) && tail.starts_with([' ', ',', ':', '\n'])).then_some(tail)
    };
    let is_letter = |tail: &&str| {
        let letter = tail.trim_start_matches([' ', '*', ':', '(', '$']);
        let mut chars = letter.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic()) && !chars.next().is_some_and(char::is_alphanumeric)
    };
    FILLERS.iter().find_map(after).or_else(|| OPTION_WORDS.iter().find_map(after).filter(is_letter))
}

/// The first line, or what is read of it.
fn line_of(text: &str) -> &str {
    let mut limit = text.find('\n').unwrap_or(text.len()).min(SENTENCE_BYTES);
    while !text.is_char_boundary(limit) {
        limit -= 1;
    }
    &text[..limit]
}

/// The first sentence of a line.
fn sentence(line: &str) -> &str {
    let stop = line.match_indices(". ").map(|(at, _)| at).find(|at| !ends_with_abbreviation(&line[..*at]));
    let cry = line.match_indices("! ").map(|(at, _)| at + 1).find(|at| line[at + 1..].starts_with(char::is_uppercase));
    let end = stop.into_iter().chain(cry).min().unwrap_or(line.len());
    if Some(end) == stop { &line[..end] } else { without_cry(&line[..end]) }
}

/// "20!" at the end of a sentence is no factorial, but `n!` and `(n+1)!` are.
fn without_cry(sentence: &str) -> &str {
    let trimmed = sentence.trim_end_matches(['*', ' ', '`']);
    let before = trimmed.trim_end_matches('!');
    let (stem, last) = before.char_indices().next_back().map_or((before, None), |(at, c)| (&before[..at], Some(c)));
    let factorial = match last {
        Some(')') => stem.ends_with(|c: char| c.is_ascii_digit() || c.is_lowercase()),
        Some(letter) => letter.is_lowercase() && !stem.ends_with(char::is_alphabetic),
        None => false,
    };
    if before.len() < trimmed.len() && !factorial { before } else { sentence }
}

/// "Mr", and letters with stops between them: "p.m".
fn ends_with_abbreviation(text: &str) -> bool {
    let word = text.rsplit([' ', '(']).next().unwrap_or_default();
    let letters = word.contains('.')
        && word.split('.').all(|part| part.len() == 1 && !part.starts_with(|c: char| c.is_ascii_digit()));
    letters || ABBREVIATIONS.iter().any(|short| word.eq_ignore_ascii_case(short))
}

fn cut<'a>(text: &'a str, ends: &[&str]) -> &'a str {
    &text[..ends.iter().filter_map(|end| text.find(end)).min().unwrap_or(text.len())]
}

/// What a line says that stands where an answer should.
fn answer_of(line: &str) -> &str {
    let line = without_labels(line);
    let sentence = sentence(line);
    let reasoned = cut(sentence, REASONS);
    let clause = without_remark(cut_at_dash(cut(reasoned, CLAUSE_ENDS)));
    let clause = if leading_number(clause).is_some() { without_comment(clause) } else { clause };
    if let Some(word) = yes_or_no(clause) {
        return word;
    }
    let words = prose_words(clause);
    if words >= PROSE_WORDS && opens_with_prose(clause) {
        return if is_bound(clause, words) || says_none(reasoned) {
            clause
        } else {
            found_in_prose(reasoned, sentence, line, words).unwrap_or(clause)
        };
    }
    let says_more = prose_words(reasoned) > reasoned.matches(" and ").count();
    let result = if says_more { named_values(reasoned).or_else(|| equals(reasoned)) } else { None };
    if result.is_none() && is_readable(clause) {
        return clause;
    }
    let number = || equals(clause).or_else(|| leading_number(clause)).or_else(|| found_within(clause));
    result.or_else(number).unwrap_or(clause)
}

fn is_readable(text: &str) -> bool {
    token::tokens(text).and_then(|tokens| parser::parse(&tokens)).is_ok()
}

/// "Total: 20" without its label.
fn without_labels(mut line: &str) -> &str {
    while let Some((label, rest)) = line.split_once(':') {
        let is_label = label.len() > 2 && label.split([' ', '*']).all(|word| word.chars().all(char::is_alphabetic));
        if !is_label || !opens_with_prose(label) || rest.trim().is_empty() {
            break;
        }
        line = rest.trim_start_matches([' ', '*']);
    }
    line
}

fn found_in_prose<'a>(reasoned: &'a str, sentence: &'a str, line: &'a str, words: usize) -> Option<&'a str> {
    let wider = || if words >= LONG_PROSE_WORDS { found_within(sentence).or_else(|| found_within(line)) } else { None };
    found_within(reasoned).or_else(wider)
}

/// How many words of prose a clause has.
fn prose_words(clause: &str) -> usize {
    clause.split(|c: char| c.is_whitespace() || matches!(c, '-' | '/' | '*')).filter(|word| is_word(word)).count()
}

fn is_word(word: &str) -> bool {
    let bare = word.trim_end_matches([',', ':', ';', '.']).trim_start_matches('(');
    bare.len() > 1 && bare.chars().all(|c| c.is_alphabetic() || matches!(c, '\'' | '’')) && token::is_prose(bare)
}

/// Whether a clause begins with a word: "It takes", "A total", but not `x = 3`.
fn opens_with_prose(clause: &str) -> bool {
    let mut words = clause.split(' ').map(|word| word.trim_matches('*'));
    let first = words.next().unwrap_or_default();
    is_word(first) || matches!(first, "I" | "A") && words.next().is_some_and(is_word)
}

/// "at least 5": no number by itself.
fn is_bound(clause: &str, words: usize) -> bool {
    let lower = clause.to_ascii_lowercase();
    let opens = |bound: &str| lower.strip_prefix(bound).is_some_and(|tail| tail.starts_with(' '));
    words <= LONG_PROSE_WORDS && BOUNDS.iter().any(|bound| opens(bound))
}

/// "cannot be determined from the 3 facts", "between 5 and 6 hours": its numbers are not the answer.
fn says_none(clause: &str) -> bool {
    let lower = clause.to_ascii_lowercase();
    let numbers = |text: &str| text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()).count();
    let range =
        lower.split_once("between ").is_some_and(|(_, tail)| leading_number(tail).is_some() && numbers(tail) < 3);
    range || NO_ANSWER.iter().any(|words| lower.contains(words))
}

/// "x = 2 or x = 3", "x = 2, y = 3": values with names, from the first to the end of the clause.
fn named_values(clause: &str) -> Option<&str> {
    let name_before = |equals: usize| {
        let before = clause[..equals].trim_end_matches(' ');
        let (start, name) = before.char_indices().next_back()?;
        let alone = before[..start].chars().next_back().is_none_or(|c| matches!(c, ' ' | ',' | '('));
        (name.is_ascii_alphabetic() && alone).then_some(start)
    };
    let starts: Option<Vec<usize>> = clause.match_indices('=').map(|(at, _)| name_before(at)).collect();
    let starts = starts.filter(|starts| starts.len() > 1)?;
    let values = clause[starts[0]..].trim_end_matches(['.', ',', ' ', '*']);
    // Nothing but joints stands between them.
    let joints = values.matches(" or ").count() + values.matches(" and ").count();
    let is_plain = prose_words(values) <= joints;
    (is_plain && is_readable(values)).then_some(values)
}

/// The clause without a remark in brackets: "5 (five)", "20 cups (for the last meal)".
fn without_remark(clause: &str) -> &str {
    let remark = clause.match_indices(" (").find(|(at, _)| *at > 0 && opens_with_word(&clause[at + 2..]));
    remark.map_or(clause, |(at, _)| &clause[..at])
}

/// "3 – three bolts".
fn cut_at_dash(clause: &str) -> &str {
    let dash = clause.match_indices([' ', '—', '–']).find(|(at, _)| {
        let dashed = clause[*at..].trim_start_matches(' ');
        let after = dashed.trim_start_matches(['—', '–', '-']);
        *at > 0
            && after.len() < dashed.len()
            && opens_with_word(after.trim_start_matches(' '))
            && after.starts_with(' ')
    });
    dash.map_or(clause, |(at, _)| &clause[..at])
}

/// Whether the text opens with a word of prose, of three letters at least.
fn opens_with_word(text: &str) -> bool {
    let word = text.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
    word.chars().count() >= 3 && token::is_prose(word)
}

/// "18, she sells 9 eggs": a number, and a clause of prose behind a comma or semicolon.
fn without_comment(clause: &str) -> &str {
    let is_comment = |tail: &str| {
        opens_with_prose(tail) && prose_words(tail) >= 2 && !tail.starts_with("and ") && !tail.starts_with("or ")
    };
    let comma =
        clause.match_indices([',', ';']).find(|(at, _)| clause[at + 1..].strip_prefix(' ').is_some_and(is_comment));
    comma.map_or(clause, |(at, _)| &clause[..at])
}

/// "Yes, it converges".
fn yes_or_no(clause: &str) -> Option<&str> {
    let word = &clause[..clause.find(|c: char| !c.is_ascii_alphabetic())?];
    let is_verdict = ["yes", "no", "true", "false"].iter().any(|known| word.eq_ignore_ascii_case(known));
    let ends = clause[word.len()..].starts_with([',', '.', ';', ':', '!', '*']);
    (is_verdict && ends).then_some(word)
}

/// The formula or number that a sentence of prose leads to: the last formula, unless a number follows it; what the
/// last equals sign gives; the words in bold; signs of a formula at its end; the last number.
fn found_within(sentence: &str) -> Option<&str> {
    let number = last_number_at(sentence);
    if let Some((formula, end)) = last_math_span(sentence)
        && number.is_none_or(|(start, _)| start < end)
    {
        return Some(end_of_chain(formula));
    }
    named_values(sentence)
        .or_else(|| equals(sentence))
        .or_else(|| bold_number(sentence))
        .or_else(|| closing_formula(sentence))
        .or_else(|| number.map(|(start, end)| &sentence[start..end]))
}

/// Of `a + b = 2 + 3 = 5` the 5; an equation with one sign stays whole.
fn end_of_chain(formula: &str) -> &str {
    match formula.rsplit_once('=') {
        Some((chain, end)) if chain.contains('=') && !formula.contains("\\begin") && !end.trim().is_empty() => end,
        _ => formula,
    }
}

/// The number behind the last equals sign, with its unit where that is a known one.
fn equals(sentence: &str) -> Option<&str> {
    let (_, after) = sentence.rsplit_once('=')?;
    let after = after.trim_start_matches([' ', '*']).trim_end_matches(['.', ',', '*', ' ', '"']);
    let number = leading_number(after)?;
    let rest = after.trim_start_matches(['\\', '$']).strip_prefix(number).unwrap_or_default();
    let goes_on =
        rest.starts_with(|c: char| c.is_alphabetic()) || rest.trim_start().starts_with(['+', '*', '^', '\\', '(', '_']);
    if goes_on {
        return None;
    }
    Some(if rest.starts_with(' ') && Unit::is_known(rest) { after } else { number })
}

fn bold_number(sentence: &str) -> Option<&str> {
    let (before, _) = sentence.rsplit_once("**")?;
    let (_, bold) = before.rsplit_once("**")?;
    bold.contains(|c: char| c.is_ascii_digit()).then_some(bold)
}

/// "the point (3, 4)", "we get 3\sqrt{13}": what follows the last word, where it is more than a number.
fn closing_formula(sentence: &str) -> Option<&str> {
    let mut ends = sentence.match_indices(' ').map(|(at, _)| at).filter(|at| {
        let word = sentence[..*at].rsplit(' ').next().unwrap_or_default();
        is_word(word)
    });
    let start = ends.next_back()?;
    let formula = sentence[start..].trim_matches([' ', '.', '*', ',', ':']);
    let more_than_number = formula.contains(['\\', '√', 'π', '^', '(', '[', '{']);
    (more_than_number && is_readable(formula)).then_some(formula)
}
