//! What grading says: a verdict with its reason.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The outcome of comparing an answer with the gold answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Both say the same.
    Equal {
        /// How that was found.
        by: EqualBy,
    },
    /// Both were understood and say different things.
    Different,
    /// One of them could not be understood or is beyond the limits; it never counts as equal.
    Unparsed {
        /// Which of the two.
        which: Side,
        /// The reason.
        why: Why,
    },
}

impl Verdict {
    /// Whether the answer counts as right.
    pub fn is_equal(self) -> bool {
        matches!(self, Self::Equal { .. })
    }
}

/// The argument that showed two answers to be equal, from the strictest to the loosest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EqualBy {
    /// The same formula or words, typesetting and order aside.
    Text,
    /// The same rational number, exactly.
    Number,
    /// The same real or complex number to 11 significant digits (roots, pi, logarithms).
    Numeric,
    /// The same value at several points for the variables.
    Algebra,
    /// The same value once a unit, percent or degree sign that only one of them carries is set aside.
    Unit,
    /// The decimal is the other value rounded, to at least six significant digits.
    Rounding,
}

/// One of the two texts compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The answer under test.
    Candidate,
    /// The answer known to be right.
    Gold,
    /// Both, or the comparison itself.
    Both,
}

/// Why an answer could not be graded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// There is no answer.
    #[error("it is empty")]
    Empty,
    /// More text than is read.
    #[error("it is too long")]
    TooLong,
    /// Brackets nested beyond the limit.
    #[error("it is nested too deeply")]
    TooDeep,
    /// A number beyond the size limit.
    #[error("it holds too large a number")]
    TooLarge,
    /// The comparison used up its steps.
    #[error("it takes too many steps to compare")]
    TooCostly,
    /// A command that the grader does not know.
    #[error("it holds an unknown command")]
    UnknownCommand,
    /// Not a formula and not prose either.
    #[error("it is not a formula")]
    Syntax,
    /// No value, such as 1/0.
    #[error("it has no value")]
    Undefined,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal { by } => write!(f, "equal ({by})"),
            Self::Different => f.write_str("different"),
            Self::Unparsed { which, why } => write!(f, "not graded: {which}: {why}"),
        }
    }
}

impl fmt::Display for EqualBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "same text",
            Self::Number => "same number",
            Self::Numeric => "same value numerically",
            Self::Algebra => "same value at several points",
            Self::Unit => "same value, unit aside",
            Self::Rounding => "same value, rounded",
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Candidate => "the answer",
            Self::Gold => "the gold answer",
            Self::Both => "the pair",
        })
    }
}
