//! What an answer is, once the ways of writing it are set aside: `±` becomes two values, `x < 2` an interval.

use std::collections::BTreeSet;

use super::node::Node;

/// The shape of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// One number or algebraic expression.
    Value(Node),
    /// Prose in lower case.
    Text(String),
    /// Values in any order.
    Many {
        kind: Gathering,
        items: Vec<Answer>,
    },
    /// Values by the names of their variables: `x = 1, y = 2` and `(x, y) = (1, 2)`.
    Assigned(Vec<(String, Answer)>),
    /// A tuple, point or interval, with its brackets.
    Ordered {
        open: char,
        close: char,
        items: Vec<Answer>,
        /// The variable whose interval it is, where it was named.
        of: Option<Node>,
    },
    /// Three parts or more that are equal in proportion.
    Ratio(Vec<Node>),
    /// Sets joined by a sign; the order is free for `∪` and `∩`.
    Joined {
        sign: char,
        items: Vec<Answer>,
    },
    Matrix(Vec<Vec<Answer>>),
    /// `\frac13 \approx 0.333`: the value and what it was rounded to.
    Rounded {
        exact: Node,
        rounded: Node,
    },
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

/// What holds values together whose order is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gathering {
    /// `{a, b}`: an item twice is there once.
    Set,
    /// Items without brackets.
    List,
    /// "a or b": also one value, written twice.
    Either,
}

/// Prose that says that there is no solution.
const NO_SOLUTION: &[&str] =
    &["no solution", "no real solution", "no solutions", "no real solutions", "empty set", "the empty set"];

/// The most nodes that a matrix may have once its factors stand in each cell.
const MAX_SCALED_NODES: usize = 4096;

impl From<Node> for Answer {
    fn from(node: Node) -> Self {
        if let Some((plus, minus)) = both_signs(&node) {
            return Self::Many { kind: Gathering::List, items: vec![plus.into(), minus.into()] };
        }
        if let Some(rows) = scaled_matrix(&node) {
            return Node::Matrix(rows).into();
        }
        match node {
            Node::Text(text) if text.starts_with("all real") => Node::Reals.into(),
            Node::Text(text) if NO_SOLUTION.contains(&text.as_str()) => Node::Set(Vec::new()).into(),
            Node::Text(text) => Self::Text(text),
            Node::Product(factors) if is_named_point(&factors) => {
                factors.into_iter().next_back().expect("a named point has two parts").into()
            }
            Node::List(items) => assigned(&items).unwrap_or_else(|| many(Gathering::List, items)),
            Node::Either(items) => many(Gathering::Either, items),
            Node::Set(items) => assigned(&items).unwrap_or_else(|| many(Gathering::Set, items)),
            Node::Ratio(parts) => Self::Ratio(parts),
            Node::Group { open, close, items } => group(open, close, items),
            Node::SetOperation { sign, items } => {
                Self::Joined { sign, items: items.into_iter().map(Self::from).collect() }
            }
            Node::Reals => interval('(', Node::Negate(Box::new(Node::Infinity)), Node::Infinity, ')'),
            Node::Matrix(rows) if rows.iter().all(|row| row.len() == 1) => {
                let cells: Vec<Node> = rows.into_iter().flatten().collect();
                let column = |cells: Vec<Node>| cells.into_iter().map(|cell| vec![cell.into()]).collect();
                assigned(&cells).unwrap_or_else(|| Self::Matrix(column(cells)))
            }
            Node::Matrix(rows) => {
                Self::Matrix(rows.into_iter().map(|row| row.into_iter().map(Self::from).collect()).collect())
            }
            Node::Relation { first, rest } => relation(*first, rest),
            value => Self::Value(value),
        }
    }
}

fn many(kind: Gathering, items: Vec<Node>) -> Answer {
    let items = items.into_iter().map(Answer::from).flat_map(|item| match item {
        Answer::Many { kind: Gathering::List | Gathering::Either, items } => items,
        single => vec![single],
    });
    Answer::Many { kind, items: items.collect() }
}

/// Two equations or more, each of a different variable and its value.
fn assigned(items: &[Node]) -> Option<Answer> {
    let pairs = items.iter().map(|item| match item {
        Node::Relation { first, rest } => match (&**first, rest.as_slice()) {
            (name, [('=', value)]) => Some((variable(name)?, value.clone())),
            _ => None,
        },
        _ => None,
    });
    by_name(pairs.collect::<Option<Vec<_>>>()?)
}

fn by_name(pairs: Vec<(&str, Node)>) -> Option<Answer> {
    let names: BTreeSet<&str> = pairs.iter().map(|(name, _)| *name).collect();
    let distinct = pairs.len() > 1 && names.len() == pairs.len();
    let values = |(name, value): (&str, Node)| (name.to_owned(), value.into());
    distinct.then(|| Answer::Assigned(pairs.into_iter().map(values).collect()))
}

fn variable(node: &Node) -> Option<&str> {
    match node {
        Node::Symbol(name) if is_name(node) => Some(name),
        _ => None,
    }
}

/// The matrix that a product of numbers and one matrix, its negative or its part is.
fn scaled_matrix(node: &Node) -> Option<Vec<Vec<Node>>> {
    let each = |rows: Vec<Vec<Node>>, cell: &dyn Fn(Node) -> Node| {
        rows.into_iter().map(|row| row.into_iter().map(cell).collect()).collect()
    };
    match node {
        Node::Negate(inner) => Some(each(matrix(inner)?, &|cell| Node::Negate(Box::new(cell)))),
        Node::Quotient(above, below) => {
            let rows = within_limit(matrix(above)?, &[&**below])?;
            Some(each(rows, &|cell| Node::Quotient(Box::new(cell), below.clone())))
        }
        Node::Product(factors) => {
            let found = factors.iter().map(matrix).collect::<Vec<_>>();
            let scalars: Vec<&Node> =
                factors.iter().zip(&found).filter(|(_, rows)| rows.is_none()).map(|(node, _)| node).collect();
            let product =
                |cell: Node| Node::Product(scalars.iter().map(|node| (*node).clone()).chain([cell]).collect());
            let mut matrices = found.into_iter().flatten();
            let (only, None) = (matrices.next()?, matrices.next()) else { return None };
            Some(each(within_limit(only, &scalars)?, &product))
        }
        _ => None,
    }
}

fn matrix(node: &Node) -> Option<Vec<Vec<Node>>> {
    match node {
        Node::Matrix(rows) => Some(rows.clone()),
        node => scaled_matrix(node),
    }
}

fn within_limit(rows: Vec<Vec<Node>>, factors: &[&Node]) -> Option<Vec<Vec<Node>>> {
    let cells: usize = rows.iter().map(Vec::len).sum();
    let size: usize = factors.iter().map(|factor| size(factor)).sum();
    (cells * size <= MAX_SCALED_NODES).then_some(rows)
}

fn size(node: &Node) -> usize {
    1 + node.children().into_iter().map(size).sum::<usize>()
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
    Answer::Ordered { open, close, items: items.into_iter().map(Answer::from).collect(), of: None }
}

fn is_infinite(node: &Node) -> bool {
    match node {
        Node::Negate(inner) => is_infinite(inner),
        node => *node == Node::Infinity,
    }
}

fn interval(open: char, low: Node, high: Node, close: char) -> Answer {
    Answer::Ordered { open, close, items: vec![Answer::Value(low), Answer::Value(high)], of: None }
}

/// The interval of a variable.
fn interval_of(name: Node, open: char, low: Node, high: Node, close: char) -> Answer {
    Answer::Ordered { open, close, items: vec![Answer::Value(low), Answer::Value(high)], of: Some(name) }
}

fn relation(mut first: Node, mut rest: Vec<(char, Node)>) -> Answer {
    // Of a derivation, the end.
    if let Some(at) = rest.iter().rposition(|(sign, _)| *sign == '→') {
        let tail = rest.split_off(at + 1);
        first = rest.pop().expect("the arrow is there").1;
        rest = tail;
    }
    if let Some(at) = rest.iter().rposition(|(sign, _)| *sign == '≈') {
        let exact = if at == 0 { &first } else { &rest[at - 1].1 };
        if at + 1 == rest.len() && is_calculation(exact) && is_calculation(&rest[at].1) {
            return Answer::Rounded { exact: exact.clone(), rounded: rest.swap_remove(at).1 };
        }
        rest.iter_mut().filter(|(sign, _)| *sign == '≈').for_each(|(sign, _)| *sign = '=');
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

/// Arithmetic without variables.
fn is_calculation(node: &Node) -> bool {
    !node.any(&|part| {
        matches!(
            part,
            Node::Text(_) | Node::List(_) | Node::Group { .. } | Node::Set(_) | Node::Matrix(_) | Node::Relation { .. }
        ) || matches!(part, Node::Symbol(_)) && part.has_variable()
    })
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
    if let (Node::Group { items: names, .. }, Node::Group { items: values, .. }) = (&lhs, &rhs)
        && names.len() == values.len()
        && let Some(names) = names.iter().map(variable).collect::<Option<Vec<_>>>()
        && let Some(answer) = by_name(names.into_iter().zip(values.iter().cloned()).collect())
    {
        return answer;
    }
    let named = is_name(&lhs) || matches!(lhs, Node::Text(_) | Node::Group { .. } | Node::List(_) | Node::Set(_));
    let parts =
        matches!(rhs, Node::Group { .. } | Node::Set(_) | Node::Matrix(_) | Node::SetOperation { .. } | Node::Text(_));
    let single = !parts && both_signs(&rhs).is_none();
    if named && (!single || matches!(lhs, Node::Text(_))) { rhs.into() } else { Answer::Equation { lhs, rhs } }
}

fn comparison(lhs: Node, sign: char, rhs: Node) -> Answer {
    let low = || Node::Negate(Box::new(Node::Infinity));
    match (is_name(&lhs), sign, is_name(&rhs)) {
        (true, '<', false) => interval_of(lhs, '(', low(), rhs, ')'),
        (true, '≤', false) => interval_of(lhs, '(', low(), rhs, ']'),
        (true, '>', false) => interval_of(lhs, '(', rhs, Node::Infinity, ')'),
        (true, '≥', false) => interval_of(lhs, '[', rhs, Node::Infinity, ')'),
        (false, '<', true) => interval_of(rhs, '(', lhs, Node::Infinity, ')'),
        (false, '≤', true) => interval_of(rhs, '[', lhs, Node::Infinity, ')'),
        (false, '>', true) => interval_of(rhs, '(', low(), lhs, ')'),
        (false, '≥', true) => interval_of(rhs, '(', low(), lhs, ']'),
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
        ('<' | '≤', '<' | '≤') => interval_of(middle, open(left), first, last, close(right)),
        ('>' | '≥', '>' | '≥') => interval_of(middle, open(right), last, first, close(left)),
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
        // The length of a segment, `|AB|`.
        Node::Call { name: "abs", arguments } => {
            matches!(arguments.as_slice(), [length @ Node::Product(_)] if is_name(length))
        }
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
    let has_sign = |node: &Node| node.any(&|part| matches!(part, Node::PlusMinus { .. }));
    let readings = (arithmetic && has_sign(node)).then(|| (with_sign(node, false), with_sign(node, true)));
    // Within brackets and matrices the signs stay, and there is nothing to tell apart.
    readings.filter(|(plus, _)| !has_sign(plus))
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
