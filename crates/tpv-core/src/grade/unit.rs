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
    /// Degrees Celsius or Fahrenheit.
    Temperature(char),
    /// A unit of the table, under its short name, and the one that it counts for: dollars a day are dollars too.
    Known {
        name: String,
        per: Option<String>,
    },
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
    ("l", &["l", "L", "liter", "litre"]),
    ("ml", &["ml", "milliliter", "millilitre"]),
    ("s", &["s", "sec", "second"]),
    ("min", &["min", "minute"]),
    ("h", &["h", "hr", "hour"]),
    ("day", &["day"]),
    ("week", &["week"]),
    ("month", &["month"]),
    ("year", &["year"]),
    ("dollar", &["dollar", "usd", "buck"]),
    ("cent", &["cent"]),
];

/// Units of one letter.
const LETTERS: &[&str] = &["m", "g", "s", "h", "L", "J", "N", "W", "V", "C", "F"];

impl Unit {
    /// Takes the unit off a value.
    pub(super) fn split(node: &Node) -> (Node, Self) {
        match node {
            Node::Percent(inner) => ((**inner).clone(), Self::Percent),
            Node::Degrees(inner) => ((**inner).clone(), Self::Degrees),
            Node::Measured(inner, words) => match (Self::split(inner), words.as_str()) {
                ((inner, Self::None), words) => (inner, Self::named(words)),
                ((inner, Self::Degrees), "c" | "celsius") => (inner, Self::Temperature('C')),
                ((inner, Self::Degrees), "f" | "fahrenheit") => (inner, Self::Temperature('F')),
                (within, _) => within,
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
                [number @ Node::Number(_), Node::Power(letter, power)] => match (&**letter, &**power) {
                    (Node::Symbol(letter), Node::Number(power)) if letter == "m" => {
                        (number.clone(), Self::named(&format!("m^{}", power.digits)))
                    }
                    _ => Self::split(node),
                },
                _ => Self::split(node),
            },
            node => Self::split(node),
        }
    }

    /// Whether words are a unit of the table and nothing more.
    pub(super) fn is_known(words: &str) -> bool {
        exact_name(&words.to_lowercase()).is_some()
    }

    /// The unit that words mean: "square inches", "cm^2", "miles per hour", "km/h", "dollars in total".
    fn named(words: &str) -> Self {
        let (words, per) = match (words, words.split_once('/').or_else(|| words.split_once(" per "))) {
            ("mph", _) => ("mi", Some("h")),
            ("kph" | "kmh", _) => ("km", Some("h")),
            (_, Some((words, per))) => (words, Some(per)),
            (words, None) => (words, None),
        };
        match short_name(words) {
            Some(name) => Self::Known { name, per: per.and_then(short_name) },
            None => Self::Other,
        }
    }

    /// Whether both are known and differ, so that equal numbers mean different things.
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None | Self::Other, _) | (_, Self::None | Self::Other) => false,
            (Self::Degrees, Self::Temperature(_)) | (Self::Temperature(_), Self::Degrees) => false,
            (Self::Known { name, per: Some(per) }, Self::Known { name: other, per: Some(other_per) }) => {
                (name, per) != (other, other_per)
            }
            (Self::Known { name, .. }, Self::Known { name: other, .. }) => name != other,
            (unit, other) => unit != other,
        }
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

/// The short name of a unit with its power: `in^2` for "square inches".
fn exact_name(words: &str) -> Option<String> {
    let words = words.trim();
    let (name, power) = match words.split_once([' ', '-']) {
        Some(("square" | "sq" | "sq.", name)) => (name, "^2"),
        Some(("cubic" | "cu" | "cu.", name)) => (name, "^3"),
        _ => words.find('^').map_or((words, ""), |at| words.split_at(at)),
    };
    let name = name.trim().trim_end_matches('.');
    let singular = name.strip_suffix('s').filter(|singular| !singular.is_empty()).unwrap_or(name);
    let (short, _) = NAMES.iter().find(|(_, names)| names.contains(&singular) || names.contains(&name))?;
    Some(format!("{short}{power}"))
}

/// As [`exact_name`], and further words may follow: "hours of work".
fn short_name(words: &str) -> Option<String> {
    let first = words.trim().split(' ').next().filter(|first| first.len() > 2);
    exact_name(words).or_else(|| exact_name(first?))
}
