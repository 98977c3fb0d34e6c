//! What an answer is, once the ways of writing it are set aside: `±` becomes two values, `x < 2` an interval.

use super::node::Node;

/// The shape of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// One number or algebraic expression.
    Value(Node),
    /// Prose in lower case.
    Text(String),
    /// Values in any order: a set, or a list without brackets (then `bare`).
    Many {
        bare: bool,
        items: Vec<Answer>,
    },
    /// A tuple, point or interval, with its brackets.
    Ordered {
        open: char,
        close: char,
        items: Vec<Answer>,
    },
    /// Sets joined by a sign; the order is free for `∪` and `∩`.
    Joined {
        sign: char,
        items: Vec<Answer>,
    },
    Matrix(Vec<Vec<Answer>>),
    /// `lhs = rhs`, of a chain the first and the last.
    Equation {
        lhs: Node,
        rhs: Node,
    },
    /// `lhs sign rhs` with `<`, `≤`, `≠` or `∈`, where no interval could be made of it.
    Comparison {
        sign: char,
        lhs: Node,
        rhs: Node,
    },
}

impl From<Node> for Answer {
    fn from(node: Node) -> Self {
        if let Some((plus, minus)) = both_signs(&node) {
            return Self::Many { bare: true, items: vec![plus.into(), minus.into()] };
        }
        match node {
            Node::Text(text) if text.starts_with("all real") => Node::Reals.into(),
            Node::Text(text) => Self::Text(text),
            Node::Product(factors) if is_named_point(&factors) => {
                factors.into_iter().next_back().expect("a named point has two parts").into()
            }
            Node::List(items) => many(true, items),
            Node::Set(items) => many(false, items),
            Node::Group { open, close, items } => group(open, close, items),
            Node::SetOperation { sign, items } => {
                Self::Joined { sign, items: items.into_iter().map(Self::from).collect() }
            }
            Node::Reals => interval('(', Node::Negate(Box::new(Node::Infinity)), Node::Infinity, ')'),
            Node::Matrix(rows) => {
                Self::Matrix(rows.into_iter().map(|row| row.into_iter().map(Self::from).collect()).collect())
            }
            Node::Relation { first, rest } => relation(*first, rest),
            value => Self::Value(value),
        }
    }
}

fn many(bare: bool, items: Vec<Node>) -> Answer {
    let items = items.into_iter().map(Answer::from).flat_map(|item| match item {
        Answer::Many { bare: true, items } => items,
        single => vec![single],
    });
    Answer::Many { bare, items: items.collect() }
}

fn group(open: char, close: char, items: Vec<Node>) -> Answer {
    // The French way: ]a, b[ is open.
    let (open, close) = match (open, close) {
        (']', '[') => ('(', ')'),
        (']', close) => ('(', close),
        (open, '[') => (open, ')'),
        as_is => as_is,
    };
    // No set holds infinity, so the bracket beside it says nothing.
    let open = if items.first().is_some_and(is_infinite) { '(' } else { open };
    let close = if items.last().is_some_and(is_infinite) { ')' } else { close };
    Answer::Ordered { open, close, items: items.into_iter().map(Answer::from).collect() }
}

fn is_infinite(node: &Node) -> bool {
    match node {
        Node::Negate(inner) => is_infinite(inner),
        node => *node == Node::Infinity,
    }
}

fn interval(open: char, low: Node, high: Node, close: char) -> Answer {
    Answer::Ordered { open, close, items: vec![Answer::Value(low), Answer::Value(high)] }
}

fn relation(mut first: Node, mut rest: Vec<(char, Node)>) -> Answer {
    // Of a derivation, the end.
    if let Some(at) = rest.iter().rposition(|(sign, _)| *sign == '→') {
        let tail = rest.split_off(at + 1);
        first = rest.pop().expect("the arrow is there").1;
        rest = tail;
    }
    let Some((sign, last)) = rest.pop() else { return first.into() };
    match sign {
        '∈' if is_name(&first) && rest.is_empty() => last.into(),
        '=' if rest.iter().all(|(sign, _)| *sign == '=') => equation(first, last),
        _ if rest.is_empty() => comparison(first, sign, last),
        _ if rest.len() == 1 && is_name(&rest[0].1) && sign != '∈' => between(first, rest.swap_remove(0), sign, last),
        _ => {
            rest.push((sign, last));
            chain(first, rest)
        }
    }
}

/// Every link of `a = b < c` by itself.
fn chain(mut first: Node, rest: Vec<(char, Node)>) -> Answer {
    let links = rest.into_iter().map(|(sign, next)| {
        let before = std::mem::replace(&mut first, next.clone());
        if sign == '=' { equation(before, next) } else { comparison(before, sign, next) }
    });
    Answer::Joined { sign: '∧', items: links.collect() }
}

fn equation(lhs: Node, rhs: Node) -> Answer {
    let named = is_name(&lhs) || matches!(lhs, Node::Text(_) | Node::Group { .. } | Node::List(_) | Node::Set(_));
    let parts =
        matches!(rhs, Node::Group { .. } | Node::Set(_) | Node::Matrix(_) | Node::SetOperation { .. } | Node::Text(_));
    let single = !parts && both_signs(&rhs).is_none();
    if named && (!single || matches!(lhs, Node::Text(_))) { rhs.into() } else { Answer::Equation { lhs, rhs } }
}

fn comparison(lhs: Node, sign: char, rhs: Node) -> Answer {
    let low = || Node::Negate(Box::new(Node::Infinity));
    match (is_name(&lhs), sign, is_name(&rhs)) {
        (true, '<', false) => interval('(', low(), rhs, ')'),
        (true, '≤', false) => interval('(', low(), rhs, ']'),
        (true, '>', false) => interval('(', rhs, Node::Infinity, ')'),
        (true, '≥', false) => interval('[', rhs, Node::Infinity, ')'),
        (false, '<', true) => interval('(', lhs, Node::Infinity, ')'),
        (false, '≤', true) => interval('[', lhs, Node::Infinity, ')'),
        (false, '>', true) => interval('(', low(), lhs, ')'),
        (false, '≥', true) => interval('(', low(), lhs, ']'),
        (_, '>', _) => Answer::Comparison { sign: '<', lhs: rhs, rhs: lhs },
        (_, '≥', _) => Answer::Comparison { sign: '≤', lhs: rhs, rhs: lhs },
        _ => Answer::Comparison { sign, lhs, rhs },
    }
}

/// `a < x <= b` and its mirror image.
fn between(first: Node, (left, middle): (char, Node), right: char, last: Node) -> Answer {
    let open = |sign| if matches!(sign, '≤' | '≥') { '[' } else { '(' };
    let close = |sign| if matches!(sign, '≤' | '≥') { ']' } else { ')' };
    match (left, right) {
        ('<' | '≤', '<' | '≤') => interval(open(left), first, last, close(right)),
        ('>' | '≥', '>' | '≥') => interval(open(right), last, first, close(left)),
        (left, right) => chain(first, vec![(left, middle), (right, last)]),
    }
}

/// `B(6, 8)`: a point and its name.
fn is_named_point(factors: &[Node]) -> bool {
    matches!(factors, [Node::Symbol(name), Node::Group { .. }] if name.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// What an answer may be called before an equals sign: a variable `x`, a function of one `f(x)`, a segment or angle `ABC`.
pub(super) fn is_name(node: &Node) -> bool {
    match node {
        Node::Symbol(name) => !matches!(name.as_str(), "pi" | "e" | "i"),
        Node::Product(factors) => match factors.as_slice() {
            [Node::Symbol(f), Node::Symbol(_)] if f.starts_with(['f', 'g', 'h', 'p', 'q']) => true,
            factors => factors.iter().all(is_capital),
        },
        _ => false,
    }
}

fn is_capital(node: &Node) -> bool {
    matches!(node, Node::Symbol(name) if name.starts_with(|c: char| c.is_ascii_uppercase()))
        || matches!(node, Node::Symbol(name) if name == "x")
}

/// Both readings of an expression with `±`.
fn both_signs(node: &Node) -> Option<(Node, Node)> {
    let arithmetic = matches!(
        node,
        Node::PlusMinus { .. }
            | Node::Sum(_)
            | Node::Product(_)
            | Node::Quotient(..)
            | Node::Degrees(_)
            | Node::Measured(..)
    );
    let present = arithmetic && node.any(&|part| matches!(part, Node::PlusMinus { .. }));
    present.then(|| (with_sign(node, false), with_sign(node, true)))
}

fn with_sign(node: &Node, minus: bool) -> Node {
    let inner = |node: &Node| Box::new(with_sign(node, minus));
    let all = |nodes: &[Node]| nodes.iter().map(|node| with_sign(node, minus)).collect();
    match node {
        Node::PlusMinus { flipped, operand } if *flipped != minus => Node::Negate(inner(operand)),
        Node::PlusMinus { operand, .. } => with_sign(operand, minus),
        Node::Sum(terms) => Node::Sum(all(terms)),
        Node::Product(factors) => Node::Product(all(factors)),
        Node::Quotient(above, below) => Node::Quotient(inner(above), inner(below)),
        Node::Negate(a) => Node::Negate(inner(a)),
        Node::Degrees(a) => Node::Degrees(inner(a)),
        Node::Measured(a, unit) => Node::Measured(inner(a), unit.clone()),
        Node::Power(a, b) => Node::Power(inner(a), inner(b)),
        Node::Root { index, radicand } => Node::Root { index: index.clone(), radicand: inner(radicand) },
        Node::Call { name, arguments } => Node::Call { name, arguments: all(arguments) },
        other => other.clone(),
    }
}
