//! The tree of an answer.

use num_bigint::BigInt;
use num_rational::BigRational;

use super::token::Literal;

/// An expression or a structure of expressions. Sums and products are flat, so that depth means nesting only.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Number(Literal),
    /// A whole number and a fraction written side by side.
    Mixed(BigRational),
    /// A variable, or one of the constants `pi`, `e`, `i`.
    Symbol(String),
    Infinity,
    Negate(Box<Node>),
    Sum(Vec<Node>),
    Product(Vec<Node>),
    Quotient(Box<Node>, Box<Node>),
    Power(Box<Node>, Box<Node>),
    Root {
        index: Box<Node>,
        radicand: Box<Node>,
    },
    Call {
        name: &'static str,
        arguments: Vec<Node>,
    },
    /// `a ± b`, or `a ∓ b` when flipped; without `a` the sign alone.
    PlusMinus {
        flipped: bool,
        operand: Box<Node>,
    },
    Percent(Box<Node>),
    Degrees(Box<Node>),
    /// A value with its unit's words.
    Measured(Box<Node>, String),
    /// Prose in lower case.
    Text(String),
    /// Digits with a base, `52_8`.
    Based {
        digits: String,
        base: BigInt,
    },
    /// Bare items with commas between.
    List(Vec<Node>),
    /// Items with "or" between: several answers, or one that is written several ways.
    Either(Vec<Node>),
    /// `1:2:3`, of three parts at least.
    Ratio(Vec<Node>),
    /// `(a, b]` and the like: a tuple, point, vector or interval.
    Group {
        open: char,
        close: char,
        items: Vec<Node>,
    },
    Set(Vec<Node>),
    /// Sets joined by `∪`, `∩` or `∖`.
    SetOperation {
        sign: char,
        items: Vec<Node>,
    },
    Reals,
    Matrix(Vec<Vec<Node>>),
    /// `a < b <= c`, `a = b`, `x ∈ S`.
    Relation {
        first: Box<Node>,
        rest: Vec<(char, Node)>,
    },
}

impl Node {
    /// The direct parts of an arithmetic node.
    pub(super) fn children(&self) -> Vec<&Node> {
        match self {
            Self::Negate(a) | Self::Percent(a) | Self::Degrees(a) | Self::Measured(a, _) => vec![a],
            Self::PlusMinus { operand, .. } => vec![operand],
            Self::Sum(items) | Self::Product(items) | Self::Ratio(items) => items.iter().collect(),
            Self::List(items) | Self::Either(items) | Self::Set(items) => items.iter().collect(),
            Self::Call { arguments: items, .. } | Self::Group { items, .. } | Self::SetOperation { items, .. } => {
                items.iter().collect()
            }
            Self::Quotient(a, b) | Self::Power(a, b) => vec![a, b],
            Self::Root { index, radicand } => vec![index, radicand],
            Self::Matrix(rows) => rows.iter().flatten().collect(),
            Self::Relation { first, rest } => std::iter::once(&**first).chain(rest.iter().map(|(_, b)| b)).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether any part of the tree, itself included, satisfies the test.
    pub(super) fn any(&self, test: &impl Fn(&Node) -> bool) -> bool {
        test(self) || self.children().into_iter().any(|child| child.any(test))
    }

    /// Whether it holds a variable (`e` and `i` and `pi` are constants).
    pub(super) fn has_variable(&self) -> bool {
        self.any(&|node| matches!(node, Self::Symbol(name) if !matches!(name.as_str(), "pi" | "e" | "i")))
    }
}
