//! Whether two answers say the same, and by which argument.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Signed, ToPrimitive, Zero};

use super::answer::{Answer, Gathering, is_name};
use super::node::Node;
use super::unit::Unit;
use super::value::{Budget, Evaluator, Likeness, Value};
use super::verdict::{EqualBy, Why};

/// Points at which expressions with variables are compared.
const POINTS: u32 = 8;
/// Points that both expressions must be defined at.
const NEEDED_POINTS: usize = 4;
/// A rounded decimal must show at least this many digits after the point, and as many significant ones.
const ROUNDED_DIGITS: usize = 6;

/// How far a value and its rounding may lie apart: this part of the value, or half a unit.
const NEAR: f64 = 0.01;
const NEAR_UNITS: f64 = 0.5;

/// `None`: they differ.
pub(super) type Found = Result<Option<EqualBy>, Why>;

/// Compares two answers. Symmetric.
pub(super) fn answers(a: &Answer, b: &Answer, budget: &mut Budget) -> Found {
    budget.pay(1)?;
    match (a, b) {
        (Answer::Value(a), Answer::Value(b)) => values(a, b, budget),
        (Answer::Text(a), Answer::Text(b)) => Ok(same_words(a, b).then_some(EqualBy::Text)),
        (Answer::Matrix(a), Answer::Matrix(b)) => matrices(a, b, budget),
        (Answer::Ordered { .. }, Answer::Ordered { .. }) => tuples(a, b, budget),
        (Answer::Joined { sign: s, items: a }, Answer::Joined { sign: t, items: b }) => match (s, t) {
            ('∖', '∖') => in_order(a, b, budget),
            (s, t) if s == t => in_any_order(a, b, budget),
            _ => Ok(None),
        },
        (Answer::Many { kind: k, items: a }, Answer::Many { kind: l, items: b }) => gathered((*k, a), (*l, b), budget),
        (Answer::Ratio(a), Answer::Ratio(b)) => in_proportion(a, b, budget),
        (Answer::Assigned(a), Answer::Assigned(b)) => by_names(a, b, budget),
        (Answer::Assigned(pairs), Answer::Many { items, .. })
        | (Answer::Many { items, .. }, Answer::Assigned(pairs)) => {
            in_any_order(&values_of(pairs.iter()), items, budget)
        }
        (Answer::Assigned(pairs), Answer::Ordered { items, .. })
        | (Answer::Ordered { items, .. }, Answer::Assigned(pairs)) => in_order(&in_reading_order(pairs), items, budget),
        (Answer::Assigned(pairs), Answer::Matrix(rows)) | (Answer::Matrix(rows), Answer::Assigned(pairs)) => {
            vector(rows, &in_reading_order(pairs), budget)
        }
        // "x < 2 or x > 3".
        (Answer::Many { items: a, .. }, Answer::Joined { sign: '∪', items: b })
        | (Answer::Joined { sign: '∪', items: a }, Answer::Many { items: b, .. }) => in_any_order(a, b, budget),
        (Answer::Rounded { exact, rounded }, other) | (other, Answer::Rounded { exact, rounded }) => {
            either_of(exact, rounded, other, budget)
        }
        (Answer::Equation { .. }, Answer::Equation { .. }) => equations(a, b, budget),
        (Answer::Comparison { sign: s, lhs: a, rhs: b }, Answer::Comparison { sign: t, lhs: c, rhs: d }) if s == t => {
            proportional(&difference(a, b), &difference(c, d), *s != '≠', budget)
        }
        (Answer::Equation { lhs, rhs }, other) | (other, Answer::Equation { lhs, rhs }) => {
            assigned(lhs, rhs, other, budget)
        }
        (Answer::Many { kind: Gathering::List, items: a }, Answer::Ordered { items: b, .. })
        | (Answer::Ordered { items: b, .. }, Answer::Many { kind: Gathering::List, items: a })
            if a.len() == b.len() =>
        {
            in_order(a, b, budget)
        }
        (Answer::Many { kind, items }, other) | (other, Answer::Many { kind, items })
            if items.len() == 1 || *kind != Gathering::List && !items.is_empty() =>
        {
            all(items.iter().map(|item| answers(item, other, budget)))
        }
        (Answer::Matrix(rows), Answer::Ordered { items, .. })
        | (Answer::Ordered { items, .. }, Answer::Matrix(rows)) => vector(rows, items, budget),
        _ => Ok(None),
    }
}

/// The loosest argument of all the parts, or that one of them differs.
fn all(found: impl Iterator<Item = Found>) -> Found {
    let mut loosest = EqualBy::Text;
    for part in found {
        match part? {
            Some(by) => loosest = loosest.max(by),
            None => return Ok(None),
        }
    }
    Ok(Some(loosest))
}

fn in_order(a: &[Answer], b: &[Answer], budget: &mut Budget) -> Found {
    if a.len() != b.len() {
        return Ok(None);
    }
    all(a.iter().zip(b).map(|(a, b)| answers(a, b, budget)))
}

fn in_any_order(a: &[Answer], b: &[Answer], budget: &mut Budget) -> Found {
    if a.len() != b.len() {
        return Ok(None);
    }
    let mut rest: Vec<&Answer> = b.iter().collect();
    all(a.iter().map(|a| {
        for at in 0..rest.len() {
            if let Some(by) = answers(a, rest[at], budget)? {
                rest.swap_remove(at);
                return Ok(Some(by));
            }
        }
        Ok(None)
    }))
}

/// `1/3 ≈ 0.333` is both, where the two are as near as they claim.
fn either_of(exact: &Node, rounded: &Node, other: &Answer, budget: &mut Budget) -> Found {
    let (exact_value, rounded_value) = (Unit::split(exact).0, Unit::split(rounded).0);
    let mut at = Evaluator { point: 0, floating: false, budget };
    let (a, b) = (at.value(&exact_value)?.float()?, at.value(&rounded_value)?.float()?);
    let near = (a - b).norm() <= (NEAR * a.norm()).max(NEAR_UNITS);
    let found = answers(&Answer::Value(rounded.clone()), other, budget)?;
    if found.is_some() || !near { Ok(found) } else { answers(&Answer::Value(exact.clone()), other, budget) }
}

/// Sets and lists. A set against items of another number is compared with each of its values once.
fn gathered((kind_a, a): (Gathering, &[Answer]), (kind_b, b): (Gathering, &[Answer]), budget: &mut Budget) -> Found {
    if a.len() == b.len() || kind_a != Gathering::Set && kind_b != Gathering::Set {
        return in_any_order(a, b, budget);
    }
    let a = if kind_a == Gathering::Set { distinct(a, budget)? } else { a.to_vec() };
    let b = if kind_b == Gathering::Set { distinct(b, budget)? } else { b.to_vec() };
    in_any_order(&a, &b, budget)
}

fn distinct(items: &[Answer], budget: &mut Budget) -> Result<Vec<Answer>, Why> {
    let mut kept: Vec<Answer> = Vec::new();
    for item in items {
        let mut known = false;
        for before in &kept {
            known = known || answers(before, item, budget)?.is_some();
        }
        if !known {
            kept.push(item.clone());
        }
    }
    Ok(kept)
}

/// `1:2:3` against `2:4:6`.
fn in_proportion(a: &[Node], b: &[Node], budget: &mut Budget) -> Found {
    if a == b {
        return Ok(Some(EqualBy::Text));
    }
    if a.len() != b.len() {
        return Ok(None);
    }
    let part = |whole: &[Node], at: usize| Node::Quotient(Box::new(whole[at].clone()), Box::new(whole[0].clone()));
    all((1..a.len()).map(|at| values(&part(a, at), &part(b, at), budget)))
}

/// The same names with the same values.
fn by_names(a: &[(String, Answer)], b: &[(String, Answer)], budget: &mut Budget) -> Found {
    if a.len() != b.len() {
        return Ok(None);
    }
    all(a.iter().map(|(name, value)| match b.iter().find(|(other, _)| other == name) {
        Some((_, other)) => answers(value, other, budget),
        None => Ok(None),
    }))
}

fn values_of<'a>(pairs: impl Iterator<Item = &'a (String, Answer)>) -> Vec<Answer> {
    pairs.map(|(_, value)| value.clone()).collect()
}

/// The values in the order in which a tuple without names has them: that of neighbouring letters (`x, y`; `a, b, c`)
/// or of their numbers (`x_1, x_2`), otherwise as they were written.
fn in_reading_order(pairs: &[(String, Answer)]) -> Vec<Answer> {
    let letter = |name: &str| match name.as_bytes() {
        [letter] if letter.is_ascii_alphabetic() => Some(u64::from(*letter)),
        _ => None,
    };
    let number = |name: &str| match name.split_once('_') {
        Some((stem, number)) if pairs[0].0.split('_').next() == Some(stem) => number.parse().ok(),
        _ => None,
    };
    let places = |place: &dyn Fn(&str) -> Option<u64>| -> Option<Vec<u64>> {
        let places = pairs.iter().map(|(name, _)| place(name)).collect::<Option<Vec<u64>>>()?;
        let (low, high) = (places.iter().min()?, places.iter().max()?);
        (high - low + 1 == places.len() as u64).then_some(places)
    };
    let Some(places) = places(&letter).or_else(|| places(&number)) else { return values_of(pairs.iter()) };
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    order.sort_by_key(|at| places[*at]);
    values_of(order.into_iter().map(|at| &pairs[at]))
}

fn tuples(a: &Answer, b: &Answer, budget: &mut Budget) -> Found {
    let (
        Answer::Ordered { open, close, items: a, of },
        Answer::Ordered { open: open_b, close: close_b, items: b, of: of_b },
    ) = (a, b)
    else {
        return Ok(None);
    };
    if of.is_some() && of_b.is_some() && of != of_b {
        return Ok(None);
    }
    let (brackets, brackets_b) = ((kind(*open), kind(*close)), (kind(*open_b), kind(*close_b)));
    // Two items may be an interval, whose brackets mean something; of more items, `[..]` is as good as `(..)`.
    let vector = |brackets| a.len() > 2 && matches!(brackets, ('(', ')') | ('[', ']'));
    if brackets == brackets_b || vector(brackets) && vector(brackets_b) { in_order(a, b, budget) } else { Ok(None) }
}

/// Angle brackets stand for round ones.
fn kind(bracket: char) -> char {
    match bracket {
        '⟨' => '(',
        '⟩' => ')',
        other => other,
    }
}

fn matrices(a: &[Vec<Answer>], b: &[Vec<Answer>], budget: &mut Budget) -> Found {
    if a.len() != b.len() {
        return Ok(None);
    }
    all(a.iter().zip(b).map(|(a, b)| in_order(a, b, budget)))
}

/// A matrix of one row or one column against a tuple.
fn vector(rows: &[Vec<Answer>], items: &[Answer], budget: &mut Budget) -> Found {
    if rows.len() > 1 && rows.iter().any(|row| row.len() != 1) {
        return Ok(None);
    }
    let cells: Vec<&Answer> = rows.iter().flatten().collect();
    if cells.len() != items.len() {
        return Ok(None);
    }
    all(cells.into_iter().zip(items).map(|(a, b)| answers(a, b, budget)))
}

/// `x = 5` against `5`.
fn assigned(lhs: &Node, rhs: &Node, other: &Answer, budget: &mut Budget) -> Found {
    let calculation = !(lhs.has_variable() || rhs.has_variable()) && values(lhs, rhs, budget)?.is_some();
    if is_name(lhs) || calculation {
        return answers(&Answer::Value(rhs.clone()), other, budget);
    }
    if is_name(rhs) {
        return answers(&Answer::Value(lhs.clone()), other, budget);
    }
    Ok(None)
}

fn equations(a: &Answer, b: &Answer, budget: &mut Budget) -> Found {
    let (Answer::Equation { lhs, rhs }, Answer::Equation { lhs: lhs_b, rhs: rhs_b }) = (a, b) else { return Ok(None) };
    if lhs == lhs_b {
        return values(rhs, rhs_b, budget);
    }
    if !(lhs.has_variable() || rhs.has_variable()) {
        let same_lhs = values(lhs, lhs_b, budget)?;
        return all([Ok(same_lhs), values(rhs, rhs_b, budget)].into_iter());
    }
    proportional(&difference(lhs, rhs), &difference(lhs_b, rhs_b), false, budget)
}

fn difference(a: &Node, b: &Node) -> Node {
    Node::Sum(vec![a.clone(), Node::Negate(Box::new(b.clone()))])
}

/// Whether two expressions are the same but for a constant factor (a positive one, if so asked).
fn proportional(a: &Node, b: &Node, positive: bool, budget: &mut Budget) -> Found {
    let mut factor: Option<Value> = None;
    let mut points = 0;
    for point in 0..POINTS {
        let mut at = Evaluator { point, floating: false, budget };
        let Some((a, b)) = both_defined(at.value(a), at.value(b))? else { continue };
        let Ok(ratio) = at.divide(a, b) else { return Ok(None) };
        let zero = ratio.float()?.norm() < 1e-9;
        let unlike = factor.as_ref().map(|factor| factor.likeness(&ratio)).transpose()? == Some(Likeness::Unlike);
        if zero || unlike || positive && ratio.float()?.re < 0.0 {
            return Ok(None);
        }
        factor = Some(ratio);
        points += 1;
    }
    if points < NEEDED_POINTS { Err(Why::Undefined) } else { Ok(Some(EqualBy::Algebra)) }
}

fn both_defined(a: Result<Value, Why>, b: Result<Value, Why>) -> Result<Option<(Value, Value)>, Why> {
    match (a, b) {
        (Err(Why::Undefined), _) | (_, Err(Why::Undefined)) => Ok(None),
        (a, b) => Ok(Some((a?, b?))),
    }
}

/// Two values with their units.
fn values(a: &Node, b: &Node, budget: &mut Budget) -> Found {
    if a == b {
        return Ok(Some(EqualBy::Text));
    }
    if let (Some(a), Some(b)) = (infinite_sign(a), infinite_sign(b)) {
        return Ok((a == b).then_some(EqualBy::Number));
    }
    if infinite_sign(a).is_some() || infinite_sign(b).is_some() {
        return Ok(None);
    }
    if let (Node::Based { digits, base }, other) | (other, Node::Based { digits, base }) = (a, b) {
        return based(digits, base, other);
    }
    let ((a, unit_a), (b, unit_b)) = (Unit::split_beside(a, b), Unit::split_beside(b, a));
    let bare = numbers(&a, &b, budget)?;
    if unit_a == unit_b {
        return Ok(bare);
    }
    if unit_a.conflicts(&unit_b) {
        return Ok(None);
    }
    if bare.is_some() {
        return Ok(Some(EqualBy::Unit));
    }
    let in_full = |node: &Node, unit: &Unit| unit.meaning(node.clone());
    Ok(numbers(&in_full(&a, &unit_a), &in_full(&b, &unit_b), budget)?.map(|_| EqualBy::Unit))
}

fn based(digits: &str, base: &BigInt, other: &Node) -> Found {
    let same = match other {
        Node::Based { digits: digits_b, base: base_b } => {
            digits.trim_start_matches('0') == digits_b.trim_start_matches('0') && base == base_b
        }
        _ => false,
    };
    Ok(same.then_some(EqualBy::Number))
}

fn infinite_sign(node: &Node) -> Option<bool> {
    match node {
        Node::Infinity => Some(true),
        Node::Negate(inner) => infinite_sign(inner).map(|sign| !sign),
        _ => None,
    }
}

/// Two expressions without units.
fn numbers(a: &Node, b: &Node, budget: &mut Budget) -> Found {
    if a.has_variable() || b.has_variable() {
        return match identical(a, b, false, budget) {
            Err(Why::TooLarge) => identical(a, b, true, budget),
            found => found,
        };
    }
    let mut at = Evaluator { point: 0, floating: false, budget };
    let (value_a, value_b) = (at.value(a)?, at.value(b)?);
    match value_a.likeness(&value_b)? {
        Likeness::Exact => Ok(Some(EqualBy::Number)),
        Likeness::Approximate => Ok(Some(EqualBy::Numeric)),
        Likeness::Unlike => {
            let rounded = is_rounding(a, &value_a, &value_b)? || is_rounding(b, &value_b, &value_a)?;
            Ok(rounded.then_some(EqualBy::Rounding))
        }
    }
}

/// Whether two expressions have equal values at all points where both have one.
fn identical(a: &Node, b: &Node, floating: bool, budget: &mut Budget) -> Found {
    let mut points = 0;
    for point in 0..POINTS {
        let mut at = Evaluator { point, floating, budget };
        let Some((a, b)) = both_defined(at.value(a), at.value(b))? else { continue };
        if a.likeness(&b)? == Likeness::Unlike {
            return Ok(None);
        }
        points += 1;
    }
    if points < NEEDED_POINTS { Err(Why::Undefined) } else { Ok(Some(EqualBy::Algebra)) }
}

/// Whether a decimal as written is the other value, rounded to the digits shown.
fn is_rounding(written: &Node, value: &Value, other: &Value) -> Result<bool, Why> {
    let literal = match written {
        Node::Negate(inner) => inner,
        other => other,
    };
    let (Node::Number(literal), Value::Exact(shown)) = (literal, value) else { return Ok(false) };
    let significant = literal.digits.trim_start_matches('0').len();
    if literal.fraction_digits < ROUNDED_DIGITS || significant < ROUNDED_DIGITS || shown.is_zero() {
        return Ok(false);
    }
    let half = BigRational::new(BigInt::from(5), BigInt::from(10).pow(literal.fraction_digits as u32 + 1));
    if let Value::Exact(other) = other {
        return Ok((other - shown).abs() <= half && finer(other, literal.fraction_digits));
    }
    let gap = (other.float()? - value.float()?).norm();
    Ok(gap <= half.to_f64().unwrap_or(0.0) * 1.000_001)
}

/// Whether an exact value needs more digits than were shown: two decimals of equal length are never roundings.
fn finer(value: &BigRational, fraction_digits: usize) -> bool {
    let scale = BigInt::from(10).pow(fraction_digits.min(400) as u32);
    !(value * BigRational::from_integer(scale)).is_integer()
}

/// Prose is the same when its words, numbers and signs are, articles before another word aside.
fn same_words(a: &str, b: &str) -> bool {
    let without_articles = |text: &str| -> Vec<String> {
        let words = words(text);
        let next = words.iter().skip(1).map(Some).chain([None]);
        let is_article = |word: &str, next: Option<&String>| matches!(word, "the" | "a" | "an") && next.is_some();
        words.iter().zip(next).filter(|(word, next)| !is_article(word, *next)).map(|(word, _)| word.clone()).collect()
    };
    without_articles(a) == without_articles(b)
}

/// Letters and digits, each comparison by itself, and within numbers their sign, point and stroke; other signs part words.
fn words(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let digit = |place: Option<usize>| place.and_then(|place| letters.get(place)).is_some_and(char::is_ascii_digit);
    let mut words = vec![String::new()];
    for (place, &letter) in letters.iter().enumerate() {
        let before = place.checked_sub(1);
        let after_word = before.is_some_and(|before| letters[before].is_alphanumeric());
        match letter {
            _ if letter.is_alphanumeric() => {}
            '.' | '/' if digit(before) && digit(Some(place + 1)) => {}
            '-' | '\u{2212}' if digit(Some(place + 1)) && !after_word => {}
            '<' | '>' | '=' | '\u{2264}' | '\u{2265}' | '\u{2260}' => {
                words.extend([letter.to_string(), String::new()]);
                continue;
            }
            _ => {
                words.push(String::new());
                continue;
            }
        }
        words.last_mut().expect("there is always a word").push(if letter == '\u{2212}' { '-' } else { letter });
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_keeps_its_numbers_signs_and_last_words() {
        for (a, b) in [
            ("the red box", "red box."),
            ("3 apples", "3, apples"),
            ("a well-known case", "well known case"),
            ("2.5 km", "2.5 km"),
            ("it is 5.", "it is 5"),
        ] {
            assert!(same_words(a, b), "{a} | {b}");
        }
        for (a, b) in [
            ("-3 apples", "3 apples"),
            ("ben has -5 coins", "ben has 5 coins"),
            ("x < 3 always", "x > 3 always"),
            ("2.5 km", "2/5 km"),
            ("type a", "type"),
            ("between 2 and 5", "between 25"),
        ] {
            assert!(!same_words(a, b), "{a} | {b}");
        }
    }
}
