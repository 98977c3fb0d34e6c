//! Values: exact rationals as long as the mathematics allows, complex floats beyond.
//!
//! A value is exact when it comes from numbers by `+ - * /`, whole powers, and roots that come out even. Every exact
//! number is at most [`MAX_BITS`] long and every operation is paid from a [`Budget`], so that `9^{9^{9^9}}` costs nothing.

use num_bigint::BigInt;
use num_complex::Complex64;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::node::Node;
use super::verdict::Why;

/// The longest exact number, in bits.
const MAX_BITS: u64 = 2048;
/// Two floats that differ by less than this part of their size are equal.
const RELATIVE_TOLERANCE: f64 = 1e-11;

/// What the comparison of two answers may still cost.
#[derive(Debug)]
pub(super) struct Budget {
    steps_left: u32,
}

impl Budget {
    pub(super) fn new(steps: u32) -> Self {
        Self { steps_left: steps }
    }

    pub(super) fn pay(&mut self, steps: u32) -> Result<(), Why> {
        self.steps_left = self.steps_left.checked_sub(steps).ok_or(Why::TooCostly)?;
        Ok(())
    }
}

/// A number.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Exact(BigRational),
    Approximate(Complex64),
}

/// How two values are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Likeness {
    Exact,
    Approximate,
    Unlike,
}

impl Value {
    pub(super) fn likeness(&self, other: &Self) -> Result<Likeness, Why> {
        if let (Self::Exact(a), Self::Exact(b)) = (self, other) {
            return Ok(if a == b { Likeness::Exact } else { Likeness::Unlike });
        }
        let (a, b) = (self.float()?, other.float()?);
        let size = a.norm().max(b.norm()).max(1e-3);
        Ok(if (a - b).norm() <= RELATIVE_TOLERANCE * size { Likeness::Approximate } else { Likeness::Unlike })
    }

    pub(super) fn float(&self) -> Result<Complex64, Why> {
        let value = match self {
            Self::Exact(exact) => Complex64::new(exact.to_f64().unwrap_or(f64::INFINITY), 0.0),
            Self::Approximate(value) => *value,
        };
        if value.is_finite() { Ok(value) } else { Err(Why::TooLarge) }
    }

    fn approximate(value: Complex64) -> Result<Self, Why> {
        if value.is_nan() {
            Err(Why::Undefined)
        } else if value.is_infinite() {
            Err(Why::TooLarge)
        } else {
            Ok(Self::Approximate(value))
        }
    }

    fn exact(value: BigRational) -> Result<Self, Why> {
        if bits(&value) > MAX_BITS { Err(Why::TooLarge) } else { Ok(Self::Exact(value)) }
    }

    fn whole(value: i64) -> Self {
        Self::Exact(BigRational::from_integer(BigInt::from(value)))
    }

    fn as_whole(&self) -> Option<BigInt> {
        match self {
            Self::Exact(value) if value.is_integer() => Some(value.to_integer()),
            _ => None,
        }
    }
}

fn bits(value: &BigRational) -> u64 {
    value.numer().bits().max(value.denom().bits())
}

/// Evaluates trees at one point: every variable has a value that depends on its name and the point alone.
pub(super) struct Evaluator<'b> {
    /// Which point; the same point gives the same variable the same value.
    pub(super) point: u32,
    /// Variables are floats near 1 in size, for high powers.
    pub(super) floating: bool,
    pub(super) budget: &'b mut Budget,
}

type Evaluated = Result<Value, Why>;

impl Evaluator<'_> {
    /// The value of an arithmetic tree.
    pub(super) fn value(&mut self, node: &Node) -> Evaluated {
        self.budget.pay(1)?;
        match node {
            Node::Number(literal) => Value::exact(literal.value.clone()),
            Node::Mixed(value) => Value::exact(value.clone()),
            Node::Symbol(name) => self.symbol(name),
            Node::Negate(inner) => self.negated(inner),
            Node::Sum(terms) => self.folded(terms, Value::whole(0), Self::add),
            Node::Product(factors) => self.folded(factors, Value::whole(1), Self::multiply),
            Node::Quotient(above, below) => {
                let (above, below) = (self.value(above)?, self.value(below)?);
                self.divide(above, below)
            }
            Node::Power(base, exponent) => {
                let (base, exponent) = (self.value(base)?, self.value(exponent)?);
                self.power(base, exponent)
            }
            Node::Root { index, radicand } => {
                let (index, radicand) = (self.value(index)?, self.value(radicand)?);
                self.root(index, radicand)
            }
            Node::Call { name, arguments } => self.call(name, arguments),
            Node::Percent(inner) => {
                let value = self.value(inner)?;
                self.divide(value, Value::whole(100))
            }
            Node::Degrees(inner) => {
                let degrees = self.value(inner)?.float()?;
                Value::approximate(degrees * (std::f64::consts::PI / 180.0))
            }
            Node::Measured(inner, _) => self.value(inner),
            _ => Err(Why::Syntax),
        }
    }

    fn folded(
        &mut self,
        items: &[Node],
        start: Value,
        join: impl Fn(&mut Self, Value, Value) -> Evaluated,
    ) -> Evaluated {
        items.iter().try_fold(start, |sum, item| {
            let value = self.value(item)?;
            join(self, sum, value)
        })
    }

    fn symbol(&self, name: &str) -> Evaluated {
        match name {
            "pi" => Value::approximate(std::f64::consts::PI.into()),
            "e" => Value::approximate(std::f64::consts::E.into()),
            "i" => Ok(Value::Approximate(Complex64::i())),
            _ => Ok(self.variable(name)),
        }
    }

    /// A small fraction, positive or negative, from an FNV hash of the name and the point.
    fn variable(&self, name: &str) -> Value {
        let seed = 0xcbf2_9ce4_8422_2325 ^ u64::from(self.point).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = name.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let mixed = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20;
        let magnitude = 3 + i64::try_from(mixed % 89).unwrap_or(0);
        let sign = if self.point % 2 == 1 && mixed & 0x1000 != 0 { -1 } else { 1 };
        if self.floating {
            return Value::Approximate((sign as f64 * (0.7 + magnitude as f64 / 200.0)).into());
        }
        Value::Exact(BigRational::new(BigInt::from(sign * magnitude), BigInt::from(37)))
    }

    fn pay_for(&mut self, values: &[&Value]) -> Result<(), Why> {
        let longest = values.iter().map(|v| if let Value::Exact(v) = v { bits(v) } else { 0 }).max().unwrap_or(0);
        self.budget.pay(1 + (longest / 64) as u32)
    }

    fn negated(&mut self, inner: &Node) -> Evaluated {
        Ok(match self.value(inner)? {
            Value::Exact(value) => Value::Exact(-value),
            Value::Approximate(value) => Value::Approximate(-value),
        })
    }

    fn add(&mut self, a: Value, b: Value) -> Evaluated {
        self.pay_for(&[&a, &b])?;
        match (a, b) {
            (Value::Exact(a), Value::Exact(b)) => Value::exact(a + b),
            (a, b) => Value::approximate(a.float()? + b.float()?),
        }
    }

    fn multiply(&mut self, a: Value, b: Value) -> Evaluated {
        self.pay_for(&[&a, &b])?;
        match (a, b) {
            (Value::Exact(a), Value::Exact(b)) => Value::exact(a * b),
            (a, b) => Value::approximate(a.float()? * b.float()?),
        }
    }

    pub(super) fn divide(&mut self, a: Value, b: Value) -> Evaluated {
        self.pay_for(&[&a, &b])?;
        match (a, b) {
            (_, Value::Exact(b)) if b.is_zero() => Err(Why::Undefined),
            (Value::Exact(a), Value::Exact(b)) => Value::exact(a / b),
            (a, b) => {
                let below = b.float()?;
                if below.norm() < 1e-13 { Err(Why::Undefined) } else { Value::approximate(a.float()? / below) }
            }
        }
    }

    fn power(&mut self, base: Value, exponent: Value) -> Evaluated {
        self.pay_for(&[&base, &exponent])?;
        match (&base, &exponent) {
            (Value::Exact(base), Value::Exact(exponent)) if exponent.is_integer() => {
                whole_power(base, &exponent.to_integer())
            }
            (Value::Exact(base), Value::Exact(exponent)) if !base.is_negative() => {
                self.fractional_power(base, exponent)
            }
            (Value::Approximate(base), Value::Exact(exponent)) if exponent.is_integer() => {
                let power = exponent.to_integer().to_i32().ok_or(Why::TooLarge)?;
                if base.is_zero() && power < 0 { Err(Why::Undefined) } else { Value::approximate(base.powi(power)) }
            }
            _ => complex_power(base.float()?, exponent.float()?),
        }
    }

    /// A power of a number that is not negative, exact when the root comes out even.
    fn fractional_power(&mut self, base: &BigRational, exponent: &BigRational) -> Evaluated {
        if let Some(index) = exponent.denom().to_u32().filter(|index| *index <= 64)
            && let Some(root) = exact_root(base, index)
        {
            return whole_power(&root, exponent.numer());
        }
        complex_power(Value::Exact(base.clone()).float()?, Value::Exact(exponent.clone()).float()?)
    }

    /// The real root where there is one (odd roots of negative numbers too), otherwise the principal one.
    fn root(&mut self, index: Value, radicand: Value) -> Evaluated {
        let odd = index.as_whole().is_some_and(|n| n.bit(0));
        match radicand {
            Value::Exact(value) if value.is_negative() && odd => {
                let root = self.root(index, Value::Exact(-value))?;
                self.multiply(Value::whole(-1), root)
            }
            radicand => {
                let exponent = self.divide(Value::whole(1), index)?;
                self.power(radicand, exponent)
            }
        }
    }

    fn call(&mut self, name: &str, arguments: &[Node]) -> Evaluated {
        let values = arguments.iter().map(|argument| self.value(argument)).collect::<Result<Vec<_>, _>>()?;
        match (name, values.as_slice()) {
            ("factorial", [n]) => self.factorial(n),
            ("binom", [n, k]) => self.binomial(n, k),
            ("abs", [Value::Exact(x)]) => Ok(Value::Exact(x.abs())),
            ("floor", [Value::Exact(x)]) => Ok(Value::Exact(x.floor())),
            ("ceil", [Value::Exact(x)]) => Ok(Value::Exact(x.ceil())),
            ("gcd", [a, b]) => whole_pair(a, b, num_integer::Integer::gcd),
            ("lcm", [a, b]) => whole_pair(a, b, num_integer::Integer::lcm),
            ("min" | "max", [_, ..]) => extreme(name == "max", values),
            ("log", [x, base]) => {
                let (x, base) = (x.float()?, base.float()?);
                Value::approximate(x.ln() / base.ln())
            }
            (name, [x]) => transcendental(name, x.float()?),
            _ => Err(Why::Syntax),
        }
    }

    fn factorial(&mut self, n: &Value) -> Evaluated {
        let n = n.as_whole().ok_or(Why::Undefined)?;
        if n.is_negative() {
            return Err(Why::Undefined);
        }
        let n = n.to_i64().filter(|n| *n <= 400).ok_or(Why::TooLarge)?;
        (2..=n).try_fold(Value::whole(1), |product, k| self.multiply(product, Value::whole(k)))
    }

    fn binomial(&mut self, n: &Value, k: &Value) -> Evaluated {
        let (n, k) = (n.as_whole().ok_or(Why::Undefined)?, k.as_whole().ok_or(Why::Undefined)?);
        if k.is_negative() || n.is_negative() {
            return Err(Why::Undefined);
        }
        let k = if &k + &k > n && k <= n { &n - &k } else { k };
        let k = k.to_i64().filter(|k| *k <= 2000).ok_or(Why::TooLarge)?;
        (0..k).try_fold(Value::whole(1), |product, j| {
            let factor = BigRational::new(&n - BigInt::from(j), BigInt::from(j + 1));
            self.multiply(product, Value::Exact(factor))
        })
    }
}

fn whole_power(base: &BigRational, exponent: &BigInt) -> Evaluated {
    if base.is_zero() && exponent.is_negative() {
        return Err(Why::Undefined);
    }
    if base.is_one() || base.is_zero() && exponent.is_positive() {
        return Ok(Value::Exact(base.clone()));
    }
    let power = exponent.to_i32().ok_or(Why::TooLarge)?;
    if bits(base).saturating_sub(1) * u64::from(power.unsigned_abs()) > MAX_BITS && bits(base) > 1 {
        return Err(Why::TooLarge);
    }
    if bits(base) == 1 {
        // Only 1 and -1 have one bit above and below.
        return Ok(Value::whole(if power % 2 == 0 { 1 } else { -1 }));
    }
    Value::exact(base.pow(power))
}

fn complex_power(base: Complex64, exponent: Complex64) -> Evaluated {
    if base.is_zero() {
        return if exponent.re > 0.0 { Value::approximate(base) } else { Err(Why::Undefined) };
    }
    Value::approximate(base.powc(exponent))
}

fn exact_root(value: &BigRational, index: u32) -> Option<BigRational> {
    let root = BigRational::new(value.numer().nth_root(index), value.denom().nth_root(index));
    (root.pow(i32::try_from(index).ok()?) == *value).then_some(root)
}

fn whole_pair(a: &Value, b: &Value, join: impl Fn(&BigInt, &BigInt) -> BigInt) -> Evaluated {
    let (a, b) = (a.as_whole().ok_or(Why::Undefined)?, b.as_whole().ok_or(Why::Undefined)?);
    Value::exact(BigRational::from_integer(join(&a, &b)))
}

fn extreme(largest: bool, values: Vec<Value>) -> Evaluated {
    let mut best: Option<(f64, Value)> = None;
    for value in values {
        let size = value.float()?.re;
        if best.as_ref().is_none_or(|(kept, _)| (size > *kept) == largest) {
            best = Some((size, value));
        }
    }
    best.map(|(_, value)| value).ok_or(Why::Syntax)
}

/// Functions of one number. `log` without a base is the decimal one.
fn transcendental(name: &str, x: Complex64) -> Evaluated {
    if matches!(name, "ln" | "log" | "lg") && x.is_zero() {
        return Err(Why::Undefined);
    }
    let one = Complex64::one();
    let (value, pole) = match name {
        "sin" => (x.sin(), one),
        "cos" => (x.cos(), one),
        "tan" => (x.tan(), x.cos()),
        "cot" => (x.cos() / x.sin(), x.sin()),
        "sec" => (one / x.cos(), x.cos()),
        "csc" => (one / x.sin(), x.sin()),
        "arcsin" | "asin" => (x.asin(), one),
        "arccos" | "acos" => (x.acos(), one),
        "arctan" | "atan" => (x.atan(), one),
        "sinh" => (x.sinh(), one),
        "cosh" => (x.cosh(), one),
        "tanh" => (x.tanh(), one),
        "ln" => (x.ln(), one),
        "log" | "lg" => (x.ln() / std::f64::consts::LN_10, one),
        "exp" => (x.exp(), one),
        "abs" => (x.norm().into(), one),
        "floor" => (x.re.floor().into(), one),
        "ceil" => (x.re.ceil().into(), one),
        _ => return Err(Why::Syntax),
    };
    if pole.norm() < 1e-13 { Err(Why::Undefined) } else { Value::approximate(value) }
}
