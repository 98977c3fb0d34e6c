//! Units: set aside when only one answer has one, decisive when both have one that is known.

use num_bigint::BigInt;
use num_rational::BigRational;

use super::node::Node;
use super::token::Literal;

/// What stands behind a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unit {
    None,
    Percent,
    Degrees,
    /// A unit of the table, under its short name.
    Known(String),
    /// Other words: "apples".
    Other,
}

/// Short names and what else they are called.
const NAMES: &[(&str, &[&str])] = &[
    ("cm", &["cm", "centimeter", "centimetre"]),
    ("mm", &["mm", "millimeter", "millimetre"]),
    ("km", &["km", "kilometer", "kilometre"]),
    ("m", &["m", "meter", "metre"]),
    ("in", &["in", "inch", "inche"]),
    ("ft", &["ft", "foot", "feet"]),
    ("yd", &["yd", "yard"]),
    ("mi", &["mi", "mile"]),
    ("kg", &["kg", "kilogram"]),
    ("g", &["g", "gram"]),
    ("lb", &["lb", "pound"]),
    ("oz", &["oz", "ounce"]),
    ("s", &["s", "sec", "second"]),
    ("min", &["min", "minute"]),
    ("h", &["h", "hr", "hour"]),
    ("day", &["day"]),
    ("week", &["week"]),
    ("month", &["month"]),
    ("year", &["year"]),
    ("dollar", &["dollar"]),
    ("cent", &["cent"]),
    ("mph", &["mph", "miles per hour", "miles/hour"]),
];

/// Units of one letter.
const LETTERS: &[&str] = &["m", "g", "s", "h", "L", "J", "N", "W", "V", "C", "F"];

impl Unit {
    /// Takes the unit off a value.
    pub(super) fn split(node: &Node) -> (Node, Self) {
        match node {
            Node::Percent(inner) => ((**inner).clone(), Self::Percent),
            Node::Degrees(inner) => ((**inner).clone(), Self::Degrees),
            Node::Measured(inner, words) => match Self::split(inner) {
                (inner, Self::None) => (inner, Self::named(words)),
                within => within,
            },
            Node::Negate(inner) => {
                let (inner, unit) = Self::split(inner);
                (Node::Negate(Box::new(inner)), unit)
            }
            other => (other.clone(), Self::None),
        }
    }

    /// As [`Self::split`], and beside a plain number `5 m` is five metres rather than five times a variable.
    pub(super) fn split_beside(node: &Node, other: &Node) -> (Node, Self) {
        let plain = !Self::split(other).0.any(&|part| matches!(part, Node::Symbol(_)));
        match node {
            Node::Product(factors) if plain => match factors.as_slice() {
                [number @ Node::Number(_), Node::Symbol(letter)] if LETTERS.contains(&letter.as_str()) => {
                    (number.clone(), Self::named(letter))
                }
                _ => Self::split(node),
            },
            node => Self::split(node),
        }
    }

    /// Whether words are a unit of the table.
    pub(super) fn is_known(words: &str) -> bool {
        matches!(Self::named(&words.trim().to_lowercase()), Self::Known(_))
    }

    fn named(words: &str) -> Self {
        let power = words.find('^').map_or("", |at| &words[at..]);
        let name = words[..words.len() - power.len()].trim().trim_end_matches(['.', 's']);
        let (name, power) = match name.split_once(' ') {
            Some(("square" | "sq", name)) => (name, "^2"),
            Some(("cubic" | "cu", name)) => (name, "^3"),
            _ => (name, power),
        };
        NAMES
            .iter()
            .find(|(_, names)| names.contains(&name))
            .map_or(Self::Other, |(short, _)| Self::Known(format!("{short}{power}")))
    }

    /// Whether both are known and differ, so that equal numbers mean different things.
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        let vague = |unit: &Self| matches!(unit, Self::None | Self::Other);
        !vague(self) && !vague(other) && self != other
    }

    /// The number that a percentage or an angle stands for.
    pub(super) fn meaning(&self, node: Node) -> Node {
        match self {
            Self::Percent => {
                let hundred = BigRational::from_integer(BigInt::from(100));
                let below = Node::Number(Literal { value: hundred, fraction_digits: 0, digits: "100".into() });
                Node::Quotient(Box::new(node), Box::new(below))
            }
            Self::Degrees => Node::Degrees(Box::new(node)),
            _ => node,
        }
    }
}
