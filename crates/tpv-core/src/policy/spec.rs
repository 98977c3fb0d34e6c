//! Policies as text: what a flag, a configuration file or a field of the API holds.
//!
//! ```
//! use tpv_core::policy::PolicySpec;
//! let policy: PolicySpec = "deadline:tokens=256".parse().unwrap();
//! assert_eq!(policy.to_string(), "deadline:tokens=256");
//! assert!("deadline:tokens=soon".parse::<PolicySpec>().unwrap_err().to_string().contains("tokens=soon"));
//! ```

use super::deadline::{Deadline, DeadlineGains, DeadlineTarget, EndMarker};
use super::entropy::{EntropyBase, EntropyGuided};
use super::{Alpha, Budget, Constant, Control, Observation, Policy, Ramp, scale};
use crate::reading::Calibration;
use crate::text::shortened;
use crate::vector::ProgressVector;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The name under which a vector's figures hold the measured logits of `</think>` per unit of alpha.
pub const SCALE_FIGURE: &str = "think_end_logits_per_alpha";

/// What a deadline adds to `</think>` at the end of its last stretch, where that is not given.
const DEADLINE_END_BIAS: f32 = 8.0;
/// What a deadline adds to `</think>` at the last door in time.
const DEADLINE_OPEN_BIAS: f32 = 6.0;
/// Most policies that act together: each is asked at every token.
const MOST_TERMS: usize = 16;
/// Most bytes of a policy's text.
const MOST_BYTES: usize = 1024;
/// Numbers beyond this are typing errors; within it nothing overflows.
const LARGEST: f32 = 1e6;

const POLICIES: &str = "the policies are none; constant:20 (or constant:1.5logits, or an effort: low, medium, high); \
    ramp:from=0,to=30,tokens=200; entropy:base=10,range=10,k=100,u=0.02 (or base=auto,easy=50); \
    deadline:tokens=256 or deadline:seconds=8 (further keys: max, end, and wait=yes to think on while there is time); budget:256; think-end:2; several joined by +";

/// A text that is no policy, or a policy that the vector cannot serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The text is malformed.
    #[error("policy \"{text}\": {what}; {POLICIES}")]
    Malformed {
        /// The text.
        text: String,
        /// What is wrong with it.
        what: String,
    },
    /// The vector knows no such effort level.
    #[error("the vector has no effort level \"{effort}\"; it knows {known}")]
    UnknownEffort {
        /// The level asked for.
        effort: String,
        /// The levels that there are.
        known: String,
    },
    /// The direction leaves `</think>` alone.
    #[error("a strength in logits needs a vector that moves </think>; give alpha itself, such as constant:20")]
    NoScale,
}

impl PolicyError {
    pub(super) fn in_text(text: &str, what: impl fmt::Display) -> Self {
        Self::Malformed { text: shortened(text).to_owned(), what: shortened(&what.to_string()).to_owned() }
    }
}

/// A strength on one of the scales.
#[derive(Debug, Clone, PartialEq)]
pub enum Strength {
    /// The paper's alpha.
    Alpha(f32),
    /// Logits of `</think>` against the model's usual continuation.
    Logits(f32),
    /// A calibrated level of the vector: low effort is a strong push.
    Effort(String),
}

/// One policy of a [`PolicySpec`].
#[derive(Debug, Clone, PartialEq)]
pub enum Term {
    /// The same strength at every thinking token.
    Constant(Strength),
    /// From one alpha to another.
    Ramp(Ramp),
    /// By the model's certainty.
    Entropy {
        /// The base, or none for one that depends on the predicted length.
        base: Option<f32>,
        /// The base for easy problems where it depends.
        easy: f32,
        /// What certainty adds.
        range: f32,
        /// Steepness.
        k: f32,
        /// Normalised entropy at which half of the range acts.
        u: f32,
    },
    /// In time.
    Deadline {
        /// What must be met.
        target: DeadlineTarget,
        /// Most push before the first door, if not none.
        max: Option<Strength>,
        /// Most bias on `</think>` in logits, if not the default.
        end: Option<f32>,
        /// Whether to think on while another round fits, instead of ending early.
        wait: bool,
    },
    /// At most so many thinking tokens.
    Budget(u32),
    /// A bias on `</think>` alone, in logits.
    ThinkEnd(f32),
}

/// A policy as text: no term is the model as it is, several act together.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PolicySpec {
    /// The policies that act together; their pushes add up.
    pub terms: Vec<Term>,
}

/// What a policy must know of vector and model.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyContext {
    /// Effort level to alpha.
    pub efforts: BTreeMap<String, f32>,
    /// Logits of `</think>` per unit of alpha, see [`scale`]; none without a vector.
    pub think_end_logits_per_alpha: Option<f32>,
    /// Whether that was measured on thoughts; else it is a stand-in, which may be far from it.
    pub scale_is_measured: bool,
    /// The first token of `</think>`, by which deadlines see where a thought may close.
    pub think_end_token: Option<u32>,
    /// Tokens that `</think>` takes.
    pub think_end_tokens: u32,
    /// Thirds of the lengths of calibrating thoughts, in tokens.
    pub length_thirds: Option<[f32; 2]>,
}

impl PolicyContext {
    /// What is known where there is no vector; `think_end` are the tokens of `</think>`.
    pub fn without_vector(think_end: &[u32]) -> Self {
        Self {
            efforts: BTreeMap::new(),
            think_end_logits_per_alpha: None,
            scale_is_measured: false,
            think_end_token: think_end.first().copied(),
            think_end_tokens: think_end.len().max(1) as u32,
            length_thirds: None,
        }
    }

    /// What a vector and its shift `[V]` say; `think_end` are the tokens of `</think>`.
    pub fn of_vector(vector: &ProgressVector, shift: &[f32], think_end: &[u32]) -> Self {
        let measured = vector.info.figures.get(SCALE_FIGURE).and_then(serde_json::Value::as_f64).map(|it| it as f32);
        let unmeasured = || think_end.first().map(|&end| scale::unmeasured_logits_per_alpha(shift, end));
        let lengths = Calibration::of_vector(vector).ok().flatten().map(|it| it.lengths).unwrap_or_default();
        let third = |k: usize| lengths.get(lengths.len() * k / 3).map(|&length| length as f32);
        Self {
            efforts: vector.efforts.clone(),
            think_end_logits_per_alpha: measured.or_else(unmeasured),
            scale_is_measured: measured.is_some(),
            length_thirds: third(1).zip(third(2)).map(|(short, long)| [short, long]),
            ..Self::without_vector(think_end)
        }
    }

    /// The alpha that a strength amounts to.
    pub fn alpha(&self, strength: &Strength) -> Result<f32, PolicyError> {
        match strength {
            Strength::Alpha(alpha) => Ok(*alpha),
            Strength::Logits(logits) => self
                .think_end_logits_per_alpha
                .and_then(|per_alpha| scale::alpha_of_logits(*logits, per_alpha))
                .ok_or(PolicyError::NoScale),
            Strength::Effort(effort) => self.efforts.get(effort).copied().ok_or_else(|| {
                let known: Vec<&str> = self.efforts.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none: calibrate it first".into() } else { known.join(", ") };
                PolicyError::UnknownEffort { effort: effort.clone(), known }
            }),
        }
    }
}

impl PolicySpec {
    /// The paper's constant alpha.
    pub fn constant(alpha: f32) -> Self {
        Self { terms: vec![Term::Constant(Strength::Alpha(alpha))] }
    }

    /// Whether the model is left as it is.
    pub fn is_none(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether a strength is given in logits of `</think>`.
    pub fn uses_logits(&self) -> bool {
        self.terms.iter().any(|term| match term {
            Term::Constant(strength) | Term::Deadline { max: Some(strength), .. } => {
                matches!(strength, Strength::Logits(_))
            }
            _ => false,
        })
    }

    /// The same policy with every strength as plain alpha, which says all that the vector's levels and scale add to it.
    pub fn resolved(&self, context: &PolicyContext) -> Result<Self, PolicyError> {
        Ok(Self { terms: self.terms.iter().map(|term| term.resolved(context)).collect::<Result<_, _>>()? })
    }

    /// A policy for one sequence.
    pub fn build(&self, context: &PolicyContext) -> Result<Box<dyn Policy>, PolicyError> {
        let mut policies = self.terms.iter().map(|term| term.build(context)).collect::<Result<Vec<_>, _>>()?;
        Ok(match policies.len() {
            0 => Box::new(Constant::default()),
            1 => policies.remove(0),
            _ => Box::new(Together(policies)),
        })
    }
}

impl Term {
    fn resolved(&self, context: &PolicyContext) -> Result<Self, PolicyError> {
        let plain = |strength: &Strength| context.alpha(strength).map(Strength::Alpha);
        Ok(match self {
            Self::Constant(strength) => Self::Constant(plain(strength)?),
            Self::Deadline { target, max, end, wait } => {
                let max = max.as_ref().map(plain).transpose()?;
                Self::Deadline { target: *target, max, end: *end, wait: *wait }
            }
            other => other.clone(),
        })
    }

    fn build(&self, context: &PolicyContext) -> Result<Box<dyn Policy>, PolicyError> {
        let think_end_tokens = context.think_end_tokens;
        Ok(match self {
            Self::Constant(strength) => Box::new(Constant(Alpha(context.alpha(strength)?))),
            Self::Ramp(ramp) => Box::new(*ramp),
            Self::Entropy { base, easy, range, k, u } => {
                let by_length = EntropyBase::ByLength { easy: *easy, bounds: context.length_thirds };
                Box::new(EntropyGuided::new(base.map_or(by_length, EntropyBase::Fixed), *range, *k, *u))
            }
            Self::Deadline { target, max, end, wait } => {
                let gains = DeadlineGains {
                    max_alpha: max.as_ref().map_or(Ok(0.0), |max| context.alpha(max))?,
                    open: DEADLINE_OPEN_BIAS,
                    wait: *wait,
                    end: end.unwrap_or(DEADLINE_END_BIAS),
                };
                let think_end = EndMarker { token: context.think_end_token, tokens: think_end_tokens };
                Box::new(Deadline::new(*target, gains, think_end))
            }
            Self::Budget(tokens) => Box::new(Budget { tokens: *tokens, think_end_tokens }),
            Self::ThinkEnd(bias) => Box::new(ThinkEnd(*bias)),
        })
    }
}

/// A bias on `</think>` alone.
struct ThinkEnd(f32);

impl Policy for ThinkEnd {
    fn control(&mut self, _: &Observation<'_>) -> Control {
        Control { think_end_bias: self.0, ..Control::default() }
    }
}

/// Several policies whose pushes add up.
struct Together(Vec<Box<dyn Policy>>);

impl Policy for Together {
    fn control(&mut self, observation: &Observation<'_>) -> Control {
        self.0.iter_mut().map(|policy| policy.control(observation)).fold(Control::default(), |sum, one| Control {
            alpha: Alpha(sum.alpha.0 + one.alpha.0),
            think_end_bias: sum.think_end_bias + one.think_end_bias,
            end_thinking: sum.end_thinking || one.end_thinking,
            wait: sum.wait || one.wait,
        })
    }
}

impl FromStr for PolicySpec {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MOST_BYTES {
            return Err(PolicyError::in_text(text, format!("it is longer than {MOST_BYTES} bytes")));
        }
        let trimmed = text.trim();
        if matches!(trimmed, "none" | "off") {
            return Ok(Self::default());
        }
        if trimmed.split('+').count() > MOST_TERMS {
            return Err(PolicyError::in_text(text, format!("more than {MOST_TERMS} policies are joined")));
        }
        let terms = trimmed.split('+').map(|term| parse_term(term.trim()));
        let terms = terms.collect::<Result<Vec<_>, _>>().map_err(|what| PolicyError::in_text(text, what))?;
        Ok(Self { terms })
    }
}

impl TryFrom<String> for PolicySpec {
    type Error = PolicyError;

    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

impl From<PolicySpec> for String {
    fn from(policy: PolicySpec) -> Self {
        policy.to_string()
    }
}

fn parse_term(text: &str) -> Result<Term, String> {
    let (name, values) = text.split_once(':').map_or((text, None), |(name, values)| (name.trim(), Some(values.trim())));
    let needed = || values.filter(|values| !values.is_empty()).ok_or_else(|| format!("{name} needs a value"));
    match name {
        "constant" => Ok(Term::Constant(parse_strength(needed()?)?)),
        "low" | "medium" | "high" if values.is_none() => Ok(Term::Constant(Strength::Effort(name.into()))),
        "budget" => Ok(Term::Budget(parse_tokens(needed()?)?)),
        "think-end" => Ok(Term::ThinkEnd(parse_number(needed()?)?)),
        "ramp" => parse_ramp(&mut Keys::parse(name, needed()?)?),
        "entropy" => parse_entropy(&mut Keys::parse(name, values.unwrap_or(""))?),
        "deadline" => parse_deadline(&mut Keys::parse(name, needed()?)?),
        "" => Err("it is empty".into()),
        _ => Err(format!("unknown policy \"{name}\"")),
    }
}

fn parse_ramp(keys: &mut Keys<'_>) -> Result<Term, String> {
    let from = keys.take("from", parse_number)?.unwrap_or(0.0);
    let to = keys.take("to", parse_number)?.ok_or("ramp needs to=ALPHA")?;
    let tokens = keys.take("tokens", parse_tokens)?.ok_or("ramp needs tokens=LENGTH")?;
    keys.finish()?;
    Ok(Term::Ramp(Ramp { from, to, tokens }))
}

fn parse_entropy(keys: &mut Keys<'_>) -> Result<Term, String> {
    let base = keys.take("base", |text| if text == "auto" { Ok(None) } else { parse_number(text).map(Some) })?;
    let easy = keys.take("easy", parse_number)?;
    let range = keys.take("range", parse_number)?.unwrap_or(10.0);
    let k = keys.take("k", parse_number)?.unwrap_or(100.0);
    let u = keys.take("u", parse_number)?.unwrap_or(0.02);
    keys.finish()?;
    let base = base.flatten();
    if base.is_some() && easy.is_some() {
        return Err("easy belongs to base=auto".into());
    }
    Ok(Term::Entropy { base, easy: easy.unwrap_or(50.0), range, k, u })
}

fn parse_deadline(keys: &mut Keys<'_>) -> Result<Term, String> {
    let tokens = keys.take("tokens", parse_tokens)?;
    let seconds = keys.take("seconds", parse_seconds)?;
    let max = keys.take("max", parse_strength)?;
    let end = keys.take("end", parse_number)?;
    let wait = keys.take("wait", parse_flag)?.unwrap_or(false);
    keys.finish()?;
    let target = match (tokens, seconds) {
        (Some(tokens), None) => DeadlineTarget::Tokens(tokens),
        (None, Some(seconds)) if seconds > 0.0 => DeadlineTarget::Seconds(seconds),
        (None, Some(_)) => return Err("seconds must be above zero".into()),
        _ => return Err("deadline needs either tokens= or seconds=".into()),
    };
    Ok(Term::Deadline { target, max, end, wait })
}

fn parse_strength(text: &str) -> Result<Strength, String> {
    if let Some(logits) = text.strip_suffix("logits") {
        return parse_number(logits.trim()).map(Strength::Logits);
    }
    if matches!(text, "low" | "medium" | "high") {
        return Ok(Strength::Effort(text.into()));
    }
    parse_number(text).map(Strength::Alpha)
}

fn parse_flag(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("it is neither yes nor no".into()),
    }
}

fn parse_number(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(number) if number.abs() <= LARGEST => Ok(number),
        Ok(_) => Err(format!("{text} is not a number between -{LARGEST} and {LARGEST}")),
        Err(_) => Err(format!("\"{text}\" is not a number")),
    }
}

/// In double precision, so that a target is shown as it was written.
fn parse_seconds(text: &str) -> Result<f64, String> {
    parse_number(text)?;
    text.parse().map_err(|_| format!("\"{text}\" is not a number"))
}

fn parse_tokens(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(tokens) if tokens > 0 => Ok(tokens),
        _ => Err(format!("\"{text}\" is not a number of tokens of at least 1")),
    }
}

/// The `key=value` pairs of one policy.
struct Keys<'a> {
    policy: &'a str,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Keys<'a> {
    fn parse(policy: &'a str, values: &'a str) -> Result<Self, String> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for pair in values.split(',').filter(|_| !values.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| format!("\"{pair}\" is not of the form key=value"))?;
            let key = key.trim();
            if pairs.iter().any(|&(other, _)| other == key) {
                return Err(format!("{key} is given twice"));
            }
            pairs.push((key, value.trim()));
        }
        Ok(Self { policy, pairs })
    }

    fn take<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
        let Some(place) = self.pairs.iter().position(|&(other, _)| other == key) else { return Ok(None) };
        let (_, value) = self.pairs.remove(place);
        parse(value).map(Some).map_err(|what| format!("{key}={value}: {what}"))
    }

    fn finish(&self) -> Result<(), String> {
        match self.pairs.first() {
            Some((key, _)) => Err(format!("{} knows no key \"{key}\"", self.policy)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Strength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alpha(alpha) => alpha.fmt(f),
            Self::Logits(logits) => write!(f, "{logits}logits"),
            Self::Effort(effort) => effort.fmt(f),
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(strength) => write!(f, "constant:{strength}"),
            Self::Ramp(Ramp { from, to, tokens }) => write!(f, "ramp:from={from},to={to},tokens={tokens}"),
            Self::Entropy { base: Some(base), range, k, u, .. } => {
                write!(f, "entropy:base={base},range={range},k={k},u={u}")
            }
            Self::Entropy { base: None, easy, range, k, u } => {
                write!(f, "entropy:base=auto,easy={easy},range={range},k={k},u={u}")
            }
            Self::Deadline { target, max, end, wait } => {
                match target {
                    DeadlineTarget::Tokens(tokens) => write!(f, "deadline:tokens={tokens}")?,
                    DeadlineTarget::Seconds(seconds) => write!(f, "deadline:seconds={seconds}")?,
                }
                max.iter().try_for_each(|max| write!(f, ",max={max}"))?;
                end.iter().try_for_each(|end| write!(f, ",end={end}"))?;
                if *wait { f.write_str(",wait=yes") } else { Ok(()) }
            }
            Self::Budget(tokens) => write!(f, "budget:{tokens}"),
            Self::ThinkEnd(bias) => write!(f, "think-end:{bias}"),
        }
    }
}

impl fmt::Display for PolicySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("none");
        }
        let terms: Vec<String> = self.terms.iter().map(Term::to_string).collect();
        f.write_str(&terms.join("+"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Throttle;
    use super::*;
    use crate::reading::{Estimate, Reading};
    use proptest::prelude::*;

    const VALID: [&str; 18] = [
        "none",
        "constant:20",
        "constant:-3.5",
        "constant:1.5logits",
        "constant:low",
        "ramp:from=0,to=30,tokens=200",
        "entropy:base=10,range=10,k=100,u=0.02",
        "entropy:base=auto,easy=50,range=10,k=100,u=0.02",
        "deadline:tokens=256",
        "deadline:seconds=8",
        "deadline:seconds=0.1",
        "deadline:tokens=64,max=2logits,end=3",
        "deadline:tokens=64,max=low",
        "deadline:tokens=40,wait=yes",
        "budget:256",
        "think-end:2",
        "constant:15+budget:128",
        "think-end:1+deadline:tokens=99",
    ];

    #[test]
    fn policies_go_to_text_and_back() {
        for text in VALID {
            let policy: PolicySpec = text.parse().unwrap();
            assert_eq!(policy.to_string(), text);
            assert_eq!(serde_json::from_str::<PolicySpec>(&serde_json::to_string(&policy).unwrap()).unwrap(), policy);
        }
        for (short, long) in
            [("off", "none"), (" medium ", "constant:medium"), ("ramp:tokens=9,to=3", "ramp:from=0,to=3,tokens=9")]
        {
            assert_eq!(short.parse::<PolicySpec>().unwrap().to_string(), long);
        }
        let throttle: Throttle = "constant:15@random:3".parse().unwrap();
        assert_eq!(throttle.to_string(), "constant:15@random:3");
    }

    #[test]
    fn malformed_policies_are_told_what_is_wrong() {
        for (text, what) in [
            ("", "it is empty"),
            ("fast", "unknown policy \"fast\""),
            ("constant", "constant needs a value"),
            ("constant:much", "\"much\" is not a number"),
            ("constant:NaN", "NaN is not a number"),
            ("constant:1e30", "is not a number between"),
            ("budget:0", "at least 1"),
            ("budget:-5", "at least 1"),
            ("deadline:tokens=4,seconds=2", "either tokens= or seconds="),
            ("deadline:seconds=0", "above zero"),
            ("deadline:tokens=soon", "tokens=soon"),
            ("deadline:4", "form key=value"),
            ("deadline:tokens=4,wait=8", "yes nor no"),
            ("entropy:base=1,base=2", "given twice"),
            ("entropy:bass=1", "no key \"bass\""),
            ("entropy:base=10,easy=30", "easy belongs to base=auto"),
            ("constant:1+", "it is empty"),
            ("constant:1@north", "unknown direction"),
            ("constant:1.5logits@random:1", "speaks of theta"),
            ("budget:9+deadline:tokens=90,max=2logits@without-end", "speaks of theta"),
        ] {
            let error = text.parse::<Throttle>().unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("the policies are"), "{text}: {error}");
        }
    }

    #[test]
    fn long_policies_are_refused_and_not_repeated() {
        let joined = |count: usize| vec!["entropy"; count].join("+").parse::<Throttle>().map_err(|it| it.to_string());
        assert_eq!(joined(MOST_TERMS).unwrap().policy.terms.len(), MOST_TERMS);
        assert!(joined(MOST_TERMS + 1).unwrap_err().contains("more than 16 policies are joined"));
        let number = "1".repeat(1000);
        for text in [
            vec!["entropy"; 10_000].join("+"),
            format!("budget:{number}"),
            format!("constant:1@{}", "é".repeat(100_000)),
            format!("none{}", " ".repeat(MOST_BYTES)),
        ] {
            let error = text.parse::<Throttle>().unwrap_err().to_string();
            assert!(error.len() < 1200 && error.contains("the policies are"), "{error}");
        }
    }

    #[test]
    fn without_a_vector_a_budget_leaves_room_for_the_whole_end() {
        let context = PolicyContext::without_vector(&[7, 8, 9]);
        assert_eq!((context.think_end_token, context.think_end_tokens), (Some(7), 3));
        assert!("low".parse::<PolicySpec>().unwrap().build(&context).is_err());
        let due = |text| controls_in(&context, text, &[Reading::default(); 12], &[0.0; 10], None);
        let due = |text| due(text).iter().position(|it| it.end_thinking);
        // Six tokens, and three for `</think>`.
        assert_eq!((due("budget:9"), due("deadline:tokens=9")), (Some(6), Some(6)));
    }

    #[test]
    fn a_resolved_policy_says_what_the_vector_adds() {
        let resolved = |text: &str, low: f32| {
            let mut context = context();
            context.efforts.insert("low".into(), low);
            text.parse::<PolicySpec>().unwrap().resolved(&context).unwrap().to_string()
        };
        assert_eq!(resolved("low+budget:9", 25.0), "constant:25+budget:9");
        assert_ne!(resolved("low", 25.0), resolved("low", 26.0));
        assert_eq!(resolved("deadline:tokens=9,max=2logits", 1.0), "deadline:tokens=9,max=20");
    }

    #[test]
    fn strengths_are_resolved_by_the_vector() {
        let context = PolicyContext {
            efforts: BTreeMap::from([("low".to_owned(), 25.0)]),
            think_end_logits_per_alpha: Some(0.1),
            ..PolicyContext::without_vector(&[])
        };
        let alpha = |text: &str| -> Result<f32, PolicyError> {
            let reading = Reading { position: 1, ..Reading::default() };
            let policy = text.parse::<PolicySpec>()?;
            Ok(policy.build(&context)?.control(&Observation::of(&reading)).alpha.0)
        };
        assert_eq!(alpha("low"), Ok(25.0));
        assert_eq!(alpha("constant:2logits"), Ok(20.0));
        assert_eq!(alpha("constant:5+constant:7"), Ok(12.0));
        assert!(alpha("high").unwrap_err().to_string().contains("it knows low"));
        let nothing = PolicyContext::without_vector(&[]);
        assert_eq!("constant:1logits".parse::<PolicySpec>().unwrap().build(&nothing).err(), Some(PolicyError::NoScale));
    }

    fn any_float() -> impl Strategy<Value = f32> {
        prop_oneof![4 => -1e3f32..1e3, 1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 1 => Just(-f32::INFINITY), 1 => Just(0.0)]
    }

    fn any_reading() -> impl Strategy<Value = Reading> {
        (any_float(), any_float(), any::<bool>()).prop_map(|(remaining, progress, calibrated)| Reading {
            progress: Some(progress),
            remaining_tokens: calibrated.then_some(Estimate { value: remaining, low: remaining, high: remaining }),
            ..Reading::default()
        })
    }

    fn context() -> PolicyContext {
        PolicyContext {
            efforts: BTreeMap::from([("low".to_owned(), 25.0)]),
            think_end_logits_per_alpha: Some(0.1),
            scale_is_measured: true,
            think_end_token: Some(1),
            think_end_tokens: 2,
            length_thirds: Some([100.0, 200.0]),
        }
    }

    fn controls(text: &str, readings: &[Reading], logits: &[f32], speed: Option<f32>) -> Vec<Control> {
        controls_in(&context(), text, readings, logits, speed)
    }

    fn controls_in(
        context: &PolicyContext,
        text: &str,
        readings: &[Reading],
        logits: &[f32],
        speed: Option<f32>,
    ) -> Vec<Control> {
        let mut policy = text.parse::<PolicySpec>().unwrap().build(context).unwrap();
        let observe = |(position, reading): (u32, &Reading)| {
            let reading = Reading { position, ..*reading };
            let elapsed_secs = f64::from(position) * 0.05;
            let observation =
                Observation { reading: &reading, logits_before_shift: logits, elapsed_secs, tokens_per_sec: speed };
            policy.control(&observation)
        };
        (1..).zip(readings).map(observe).collect()
    }

    proptest! {
        #[test]
        fn controls_are_finite_and_deterministic(
            readings in prop::collection::vec(any_reading(), 1..60),
            logits in prop::collection::vec(any_float(), 4),
            speed in prop::option::of(any_float()),
            alpha in -1e6f32..1e6,
        ) {
            let pushed = [format!("constant:{alpha}"), format!("ramp:from={alpha},to={},tokens=20", -alpha), format!("deadline:tokens=40,max={alpha}")];
            for text in VALID.into_iter().chain(pushed.iter().map(String::as_str)) {
                let first = controls(text, &readings, &logits, speed);
                prop_assert!(first.iter().all(|it| it.alpha.0.is_finite() && it.think_end_bias.is_finite()), "{text}: {first:?}");
                prop_assert_eq!(first, controls(text, &readings, &logits, speed));
            }
        }

        #[test]
        fn budgets_and_deadlines_always_close_the_thought_in_time(
            readings in prop::collection::vec(any_reading(), 80),
            logits in prop::collection::vec(any_float(), 4),
            tokens in 1u32..70,
            alpha in -1e6f32..1e6,
        ) {
            for text in [format!("budget:{tokens}"), format!("deadline:tokens={tokens},max={alpha}"), format!("deadline:tokens={tokens},wait=yes"), format!("constant:{alpha}+budget:{tokens}")] {
                let due = controls(&text, &readings, &logits, None).iter().position(|it| it.end_thinking);
                // `</think>` takes two tokens here; one that is due at once cannot come earlier.
                prop_assert_eq!(due, Some(tokens.saturating_sub(2) as usize), "{}", text);
            }
        }

        #[test]
        fn any_text_near_a_policy_is_one_that_reads_back_or_is_refused(
            start in 0..VALID.len(), cut in 0usize..40, middle in "[a-z0-9=:,+@.-]{0,3}", rest in 0usize..40, end in 0..VALID.len(),
        ) {
            let (start, end) = (VALID[start], VALID[end]);
            let text = format!("{}{middle}{}", &start[..cut.min(start.len())], &end[rest.min(end.len())..]);
            if let Ok(throttle) = text.parse::<Throttle>() {
                prop_assert_eq!(throttle.to_string().parse::<Throttle>().unwrap(), throttle);
            }
        }
    }
}
