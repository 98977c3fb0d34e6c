//! From tokens to the tree: recursive descent, bounded in depth and in nodes.
//!
//! ```text
//! list     = relation (("," | ";" | "∨") relation)*
//! relation = measured (("=" | "≈" | "<" | "≤" | ">" | "≥" | "≠" | "∈" | "→") measured)*
//! measured = "$"? union multiplier* unit? remark?
//! union    = sum (("∪" | "∩" | "∖") sum)*
//! sum      = sign? ratio (sign ratio)*
//! ratio    = product (":" product)*
//! product  = power (("*" | "/" | nothing) power)*
//! power    = postfix ("^" power)?
//! ```

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive};

use super::node::Node;
use super::token::{Literal, Spaced, Token};
use super::verdict::Why;

/// The deepest nesting of brackets and operators.
const MAX_DEPTH: usize = 40;

type Parsed = Result<Node, Why>;

/// Reads the whole of a token list.
pub(super) fn parse(tokens: &[Spaced]) -> Parsed {
    if tokens.is_empty() {
        return Err(Why::Empty);
    }
    let mut parser = Parser { tokens, at: 0, depth: 0, bars: 0 };
    let node = parser.list()?;
    if parser.at < tokens.len() {
        return Err(Why::Syntax);
    }
    Ok(node)
}

struct Parser<'a> {
    tokens: &'a [Spaced],
    at: usize,
    depth: usize,
    /// Open `|`: inside them the next `|` closes.
    bars: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at).map(|s| &s.token)
    }

    fn peek_sign(&self) -> Option<char> {
        match self.peek() {
            Some(Token::Punct(c)) => Some(*c),
            _ => None,
        }
    }

    fn take(&mut self, sign: char) -> bool {
        let found = self.peek_sign() == Some(sign);
        self.at += usize::from(found);
        found
    }

    fn take_one_of(&mut self, signs: &str) -> Option<char> {
        let sign = self.peek_sign().filter(|c| signs.contains(*c))?;
        self.at += 1;
        Some(sign)
    }

    fn expect(&mut self, sign: char) -> Result<(), Why> {
        if self.take(sign) { Ok(()) } else { Err(Why::Syntax) }
    }

    /// Runs one rule a level deeper.
    fn nested(&mut self, rule: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        if self.depth >= MAX_DEPTH {
            return Err(Why::TooDeep);
        }
        self.depth += 1;
        let node = rule(self);
        self.depth -= 1;
        node
    }

    fn list(&mut self) -> Parsed {
        let mut items = vec![self.relation()?];
        let mut all_or = true;
        while let Some(sign) = self.take_one_of(",;∨") {
            all_or &= sign == '∨';
            while self.take_one_of(",;∨").is_some() {}
            items.push(self.relation()?);
        }
        Ok(single_or(items, if all_or { Node::Either } else { Node::List }))
    }

    fn relation(&mut self) -> Parsed {
        let first = self.measured()?;
        let mut rest = Vec::new();
        while let Some(sign) = self.take_one_of("=≈<≤>≥≠∈→") {
            rest.push((sign, self.measured()?));
        }
        Ok(if rest.is_empty() { first } else { Node::Relation { first: Box::new(first), rest } })
    }

    /// A value with a price's sign, the word for a power of ten, the unit and the remark that may stand around it.
    fn measured(&mut self) -> Parsed {
        let in_dollars = self.take('$');
        let value = self.union()?;
        if matches!(value, Node::Text(_)) {
            return Ok(value);
        }
        if self.peek() == Some(&Token::Word("base".into())) {
            return self.spelled_base(value);
        }
        let mut factors = vec![value];
        while let Some(factor) = self.multiplier() {
            factors.push(factor);
        }
        let value = single_or(factors, Node::Product);
        self.skip_modulus();
        self.skip_remark();
        let mut unit = if in_dollars { String::from("dollar ") } else { String::new() };
        if matches!(self.peek(), Some(Token::Word(_))) || self.begins_rate() {
            unit += &self.prose(true);
            self.skip_remark();
        }
        Ok(if unit.is_empty() { value } else { Node::Measured(Box::new(value), unit.trim_end().into()) })
    }

    /// "thousand" in "3 thousand".
    fn multiplier(&mut self) -> Option<Node> {
        let Some(Token::Word(word)) = self.peek() else { return None };
        // "5 hundred-dollar bills" are five.
        let compound =
            matches!(self.tokens.get(self.at + 1), Some(Spaced { token: Token::Punct('-'), space_before: false }));
        let factor = multiplier(word).filter(|_| !compound)?;
        self.at += 1;
        Some(factor)
    }

    /// `\text{ (mod } 17)`, of which the tokenizer leaves `mod 17 )`.
    fn skip_modulus(&mut self) {
        let modulus = matches!(self.tokens.get(self.at + 1), Some(Spaced { token: Token::Number(_), .. }));
        if modulus && self.peek() == Some(&Token::Word("mod".into())) {
            self.at += 2;
            self.take(')');
        }
    }

    /// Words in brackets behind a value, "5 (five)", say it once more.
    fn skip_remark(&mut self) {
        if !self.opens_remark() {
            return;
        }
        let closes = |spaced: &Spaced| matches!(spaced.token, Token::Punct(')' | '('));
        let end = self.tokens[self.at + 1..].iter().position(closes).map(|length| self.at + 1 + length);
        if let Some(end) = end.filter(|end| self.tokens[*end].token == Token::Punct(')')) {
            self.at = end + 1;
        }
    }

    fn opens_remark(&self) -> bool {
        matches!(
            &self.tokens[self.at..],
            [Spaced { token: Token::Punct('('), space_before: true }, Spaced { token: Token::Word(_), .. }, ..]
        )
    }

    /// `52 base 8`.
    fn spelled_base(&mut self, value: Node) -> Parsed {
        self.at += 1;
        let (Node::Number(number), Some(Token::Number(base))) = (value, self.peek()) else { return Err(Why::Syntax) };
        self.at += 1;
        Ok(Node::Based { digits: number.digits, base: base.value.to_integer() })
    }

    /// Words up to the next sign that ends a clause.
    fn prose(&mut self, is_unit: bool) -> String {
        let mut text = String::new();
        let mut power = false;
        while let Some(Spaced { token, space_before }) = self.tokens.get(self.at) {
            let piece = match token {
                Token::Word(word) => word.clone(),
                Token::Symbol(name) => name.to_lowercase(),
                Token::Function(name) | Token::Command(name) => (*name).into(),
                Token::Number(number) if !is_unit || power => number.written(),
                Token::Punct('*') => String::new(),
                Token::Punct(c @ ('^' | '/' | '-' | '\'' | '.' | '"' | '!' | '?')) => {
                    power = *c == '^';
                    c.to_string()
                }
                Token::Punct('{' | '}') if power => String::new(),
                _ => break,
            };
            let parts_words = *space_before && !text.ends_with(['^', '/']) && !matches!(piece.as_str(), "" | "^" | "/");
            if parts_words && !text.is_empty() {
                text.push(' ');
            }
            text += &piece;
            power &= !matches!(token, Token::Number(_));
            self.at += 1;
        }
        self.take_closing_brace_of_unit(is_unit);
        text.trim_end_matches(['.', '!', '?', ' ']).into()
    }

    /// `cm^{2}` leaves its closing brace behind when the exponent has ended.
    fn take_closing_brace_of_unit(&mut self, is_unit: bool) {
        let open = self.tokens[..self.at].iter().filter(|s| s.token == Token::Punct('{')).count();
        let close = self.tokens[..self.at].iter().filter(|s| s.token == Token::Punct('}')).count();
        if is_unit && self.depth == 0 && open > close {
            self.take('}');
        }
    }

    fn union(&mut self) -> Parsed {
        let mut items = vec![self.sum()?];
        let mut joined = None;
        while let Some(sign) = self.take_one_of("∪∩∖") {
            if joined.is_some_and(|before| before != sign) {
                return Err(Why::Syntax);
            }
            joined = Some(sign);
            items.push(self.sum()?);
        }
        Ok(match joined {
            Some(sign) => Node::SetOperation { sign, items },
            None => items.swap_remove(0),
        })
    }

    fn sum(&mut self) -> Parsed {
        self.nested(|parser| {
            let mut terms = Vec::new();
            loop {
                let sign = parser.take_one_of("+-±∓");
                if sign.is_none() && !terms.is_empty() {
                    break;
                }
                let term = parser.ratio()?;
                terms.push(signed(sign, term));
            }
            Ok(single_or(terms, Node::Sum))
        })
    }

    /// `3:4` is a quotient; more than two parts are equal when they are in proportion.
    fn ratio(&mut self) -> Parsed {
        let mut parts = vec![self.product()?];
        while self.take(':') {
            parts.push(self.product()?);
        }
        Ok(match parts.as_slice() {
            [above, below] => Node::Quotient(Box::new(above.clone()), Box::new(below.clone())),
            _ => single_or(parts, Node::Ratio),
        })
    }

    fn product(&mut self) -> Parsed {
        let mut factors = vec![self.signed_power()?];
        loop {
            if self.take('*') {
                let factor = self.signed_power()?;
                factors.push(factor);
            } else if self.begins_rate() {
                return Ok(single_or(factors, Node::Product));
            } else if self.take('/') {
                let below = self.signed_power()?;
                divide(&mut factors, below);
            } else if let Some(fraction) = self.mixed_fraction(factors.last()) {
                factors.pop();
                let mixed = self.postfix_signs(Node::Mixed(fraction))?;
                let mixed = self.raised(mixed)?;
                factors.push(mixed);
            } else if self.starts_factor() && !matches!(factors.last(), Some(Node::Text(_))) {
                let factor = self.power()?;
                factors.push(factor);
            } else {
                return Ok(single_or(factors, Node::Product));
            }
        }
    }

    /// A factor after an explicit operator may carry its own sign.
    fn signed_power(&mut self) -> Parsed {
        match self.take_one_of("+-") {
            Some('-') => self.nested(|parser| Ok(Node::Negate(Box::new(parser.signed_power()?)))),
            Some(_) => self.nested(Self::signed_power),
            None => self.power(),
        }
    }

    /// `/hour`, a unit without its first half.
    fn begins_rate(&self) -> bool {
        matches!(
            &self.tokens[self.at..],
            [Spaced { token: Token::Punct('/'), .. }, Spaced { token: Token::Word(_), .. }, ..]
        )
    }

    /// Whether the next token begins a factor that multiplies without a sign.
    fn starts_factor(&self) -> bool {
        match self.peek() {
            Some(Token::Symbol(_) | Token::Function(_) | Token::Command(_) | Token::Begin) => true,
            Some(Token::Number(_)) => self.at > 0 && !matches!(self.tokens[self.at - 1].token, Token::Number(_)),
            Some(Token::Punct('|')) => self.bars == 0,
            Some(Token::Punct('(')) => !self.opens_remark(),
            Some(Token::Punct('[')) => !self.ends_an_interval(),
            Some(Token::Punct(c)) => "([{⟨⌊⌈∞".contains(*c),
            _ => false,
        }
    }

    /// Whether the bracket here is the closing one of `]1, 2[`: nothing follows that it could hold.
    fn ends_an_interval(&self) -> bool {
        match self.tokens.get(self.at + 1).map(|s| &s.token) {
            None => true,
            Some(Token::Punct(c)) => "∪∩∖,;∨)]⟩}⦄&↵⟧".contains(*c),
            Some(_) => false,
        }
    }

    /// `1\frac{4}{5}` and `1 4/5`: a whole number directly before a proper fraction of whole numbers.
    fn mixed_fraction(&mut self, before: Option<&Node>) -> Option<BigRational> {
        let Some(Node::Number(whole)) = before else { return None };
        let directly_before = matches!(self.tokens.get(self.at.wrapping_sub(1))?.token, Token::Number(_));
        if whole.fraction_digits > 0 || whole.digits.is_empty() || !directly_before {
            return None;
        }
        let start = self.at;
        let fraction = self.plain_fraction().filter(|f| f.is_positive() && *f < BigRational::one());
        if fraction.is_none() {
            self.at = start;
        }
        fraction.map(|f| f + &whole.value)
    }

    fn plain_fraction(&mut self) -> Option<BigRational> {
        let (above, below) = if self.peek() == Some(&Token::Command("frac")) {
            match self.atom().ok()? {
                Node::Quotient(above, below) => (*above, *below),
                _ => return None,
            }
        } else {
            let Some(Token::Number(above)) = self.peek() else { return None };
            self.at += 1;
            let slash = self.take('/');
            let Some(Token::Number(below)) = self.peek().filter(|_| slash) else { return None };
            self.at += 1;
            (Node::Number(above.clone()), Node::Number(below.clone()))
        };
        let (above, below) = (whole_value(&above)?, whole_value(&below)?);
        (below.is_positive()).then(|| BigRational::new(above, below))
    }

    fn power(&mut self) -> Parsed {
        self.nested(|parser| {
            let base = parser.postfix()?;
            parser.raised(base)
        })
    }

    /// A base with the exponent or degree sign that may follow it.
    fn raised(&mut self, base: Node) -> Parsed {
        if !self.take('^') {
            return Ok(self.of_a_scale(base));
        }
        match self.exponent()? {
            // `4^{\text{th}}`
            Some(Node::Text(words)) => Ok(Node::Measured(Box::new(base), words)),
            None => {
                let degrees = self.postfix_signs(Node::Degrees(Box::new(base)))?;
                Ok(self.of_a_scale(degrees))
            }
            Some(exponent) => Ok(Node::Power(Box::new(base), Box::new(exponent))),
        }
    }

    /// `100^\circ C`: degrees of temperature.
    fn of_a_scale(&mut self, node: Node) -> Node {
        match (&node, self.peek()) {
            (Node::Degrees(_), Some(Token::Symbol(scale))) if matches!(scale.as_str(), "C" | "F") => {
                self.at += 1;
                Node::Measured(Box::new(node), scale.to_lowercase())
            }
            _ => node,
        }
    }

    /// An exponent; `None` for the degree sign.
    fn exponent(&mut self) -> Result<Option<Node>, Why> {
        let braced = self.peek_sign() == Some('{');
        let degree_at = self.at + usize::from(braced);
        if self.tokens.get(degree_at).map(|s| &s.token) == Some(&Token::Punct('°')) {
            self.at = degree_at + 1;
            if braced {
                self.expect('}')?;
            }
            return Ok(None);
        }
        if self.take('-') {
            return Ok(Some(Node::Negate(Box::new(self.power()?))));
        }
        self.power().map(Some)
    }

    fn postfix(&mut self) -> Parsed {
        let atom = self.atom()?;
        self.postfix_signs(atom)
    }

    fn postfix_signs(&mut self, mut node: Node) -> Parsed {
        let start = self.at;
        while self.at - start < MAX_DEPTH {
            node = match self.peek_sign() {
                Some('!') => Node::Call { name: "factorial", arguments: vec![node] },
                Some('%') => Node::Percent(Box::new(node)),
                Some('°') => Node::Degrees(Box::new(node)),
                Some('\'') => match node {
                    Node::Symbol(name) => Node::Symbol(name + "'"),
                    other => other,
                },
                Some('_') => return self.subscript(node),
                _ => return Ok(node),
            };
            self.at += 1;
        }
        Err(Why::TooDeep)
    }

    fn subscript(&mut self, node: Node) -> Parsed {
        self.expect('_')?;
        let label = self.label()?;
        match node {
            Node::Number(number) => {
                let base = label.parse::<u32>().ok().or_else(|| spelled_base(&label)).ok_or(Why::Syntax)?;
                Ok(Node::Based { digits: number.digits, base: BigInt::from(base) })
            }
            Node::Symbol(name) => Ok(Node::Symbol(format!("{name}_{label}"))),
            Node::Call { name: "log", .. } | Node::Text(_) => Err(Why::Syntax),
            other => Ok(other),
        }
    }

    /// A subscript as plain text.
    fn label(&mut self) -> Result<String, Why> {
        let mut text = String::new();
        let braced = self.take('{');
        while let Some(token) = self.peek() {
            match token {
                Token::Punct('}') => break,
                Token::Punct(c) => text.push(*c),
                Token::Number(number) => text.push_str(&number.digits),
                Token::Symbol(name) | Token::Word(name) => text.push_str(name),
                _ => return Err(Why::Syntax),
            }
            self.at += 1;
            if !braced {
                return Ok(text);
            }
        }
        self.expect('}')?;
        Ok(text)
    }

    fn atom(&mut self) -> Parsed {
        let token = self.peek().ok_or(Why::Syntax)?;
        self.at += 1;
        match token {
            Token::Number(literal) => Ok(Node::Number(literal.clone())),
            Token::Symbol(name) => Ok(Node::Symbol(name.clone())),
            Token::Word(_) => {
                self.at -= 1;
                Ok(Node::Text(self.prose(false)))
            }
            Token::Function(name) => self.call(name),
            Token::Command(name) => self.built_in(name),
            Token::Begin => self.matrix(),
            Token::Punct(c) => self.bracketed(*c),
        }
    }

    fn bracketed(&mut self, open: char) -> Parsed {
        match open {
            '(' | '[' | '⟨' => self.group(open),
            '<' if self.closes_angle() => self.group('⟨'),
            '{' => self.braces('}'),
            '⦃' => self.braces('⦄'),
            '|' => self.absolute(),
            '⌊' => self.rounded("floor", '⌋'),
            '⌈' => self.rounded("ceil", '⌉'),
            '∞' => Ok(Node::Infinity),
            '…' => Ok(Node::Symbol("…".into())),
            '∅' => Ok(Node::Set(Vec::new())),
            'ℝ' => Ok(Node::Reals),
            ']' => self.group(']'),
            _ => Err(Why::Syntax),
        }
    }

    fn closes_angle(&self) -> bool {
        self.tokens.last().is_some_and(|s| s.token == Token::Punct('>'))
    }

    fn group(&mut self, open: char) -> Parsed {
        let bars = std::mem::take(&mut self.bars);
        let inner = self.nested(Self::list);
        self.bars = bars;
        let inner = inner?;
        let close = self.take_one_of(")]⟩>[").ok_or(Why::Syntax)?;
        let close = if close == '>' { '⟩' } else { close };
        Ok(match inner {
            Node::List(items) | Node::Either(items) => Node::Group { open, close, items },
            single if matches!((open, close), ('(', ')') | ('[', ']')) => single,
            _ => return Err(Why::Syntax),
        })
    }

    /// `{..}` groups, and is a set when it holds several items or is written `\{..\}`.
    fn braces(&mut self, close: char) -> Parsed {
        if self.take(close) {
            return if close == '⦄' { Ok(Node::Set(Vec::new())) } else { Err(Why::Syntax) };
        }
        let bars = std::mem::take(&mut self.bars);
        let inner = self.nested(Self::list);
        self.bars = bars;
        let inner = inner?;
        self.expect(close)?;
        Ok(match inner {
            Node::List(items) | Node::Either(items) => Node::Set(items),
            single if close == '⦄' => Node::Set(vec![single]),
            single => single,
        })
    }

    fn absolute(&mut self) -> Parsed {
        self.bars += 1;
        let inner = self.nested(Self::sum);
        self.bars -= 1;
        let inner = inner?;
        self.expect('|')?;
        Ok(Node::Call { name: "abs", arguments: vec![inner] })
    }

    fn rounded(&mut self, name: &'static str, close: char) -> Parsed {
        let inner = self.nested(Self::sum)?;
        self.expect(close)?;
        Ok(Node::Call { name, arguments: vec![inner] })
    }

    fn built_in(&mut self, name: &'static str) -> Parsed {
        match name {
            "frac" => {
                let (above, below) = self.two_arguments()?;
                Ok(Node::Quotient(Box::new(above), Box::new(below)))
            }
            "binom" => {
                let (above, below) = self.two_arguments()?;
                Ok(Node::Call { name: "binom", arguments: vec![above, below] })
            }
            _ => self.root(),
        }
    }

    fn root(&mut self) -> Parsed {
        let index = if self.take('[') {
            let index = self.nested(Self::sum)?;
            self.expect(']')?;
            index
        } else {
            whole(2)
        };
        let radicand = self.argument()?;
        Ok(Node::Root { index: Box::new(index), radicand: Box::new(radicand) })
    }

    /// The two arguments of `\frac`; `\frac43` takes one digit each.
    fn two_arguments(&mut self) -> Result<(Node, Node), Why> {
        if let Some(Token::Number(literal)) = self.peek()
            && literal.fraction_digits == 0
            && literal.digits.len() >= 2
        {
            self.at += 1;
            let (above, below) = literal.digits.split_at(1);
            return Ok((digits(above), digits(below)));
        }
        Ok((self.argument()?, self.argument()?))
    }

    /// One argument: a brace group, or one token.
    fn argument(&mut self) -> Parsed {
        self.nested(|parser| match parser.peek() {
            Some(Token::Punct('(' | '{' | '[' | '|'))
            | Some(Token::Number(_) | Token::Symbol(_) | Token::Command(_)) => parser.atom(),
            _ => Err(Why::Syntax),
        })
    }

    fn call(&mut self, name: &'static str) -> Parsed {
        let mut arguments = Vec::new();
        if self.take('_') {
            arguments.push(self.argument()?);
        }
        let exponent = if self.take('^') { self.exponent()? } else { None };
        let operands = match self.nested(Self::call_argument)? {
            Node::Group { items, .. } => items,
            single => vec![single],
        };
        arguments.splice(0..0, operands);
        if let (Some(inverse), Some(Node::Negate(one))) = (inverse(name), &exponent)
            && whole_value(one).is_some_and(|one| one.is_one())
        {
            return Ok(Node::Call { name: inverse, arguments });
        }
        let call = Node::Call { name, arguments };
        Ok(match exponent {
            Some(exponent) => Node::Power(Box::new(call), Box::new(exponent)),
            None => call,
        })
    }

    /// `(..)`, or the factors up to the next sign: `\sin 2x`.
    fn call_argument(&mut self) -> Parsed {
        if matches!(self.peek_sign(), Some('(' | '{' | '[' | '|')) {
            return self.postfix();
        }
        let negative = self.take('-');
        let mut factors = vec![self.power()?];
        while self.starts_factor() && !matches!(self.peek(), Some(Token::Function(_) | Token::Punct('(' | '['))) {
            let factor = self.power()?;
            factors.push(factor);
        }
        let node = single_or(factors, Node::Product);
        Ok(if negative { Node::Negate(Box::new(node)) } else { node })
    }

    fn matrix(&mut self) -> Parsed {
        let mut rows = vec![Vec::new()];
        while !self.take('⟧') {
            if self.take('↵') {
                rows.push(Vec::new());
            } else if !self.take('&') {
                let cell = self.nested(Self::relation)?;
                rows.last_mut().expect("it starts with one row").push(cell);
            }
        }
        rows.retain(|row| !row.is_empty());
        // A single cell is what stands in it.
        match rows.as_mut_slice() {
            [] => Err(Why::Empty),
            [row] if row.len() == 1 => Ok(row.swap_remove(0)),
            _ => Ok(Node::Matrix(rows)),
        }
    }
}

fn single_or(mut items: Vec<Node>, many: impl FnOnce(Vec<Node>) -> Node) -> Node {
    if items.len() == 1 { items.swap_remove(0) } else { many(items) }
}

/// The number that a word behind a number multiplies it by.
fn multiplier(word: &str) -> Option<Node> {
    let tenth = |parts: u32| Some(Node::Quotient(Box::new(whole(1)), Box::new(whole(parts))));
    match word.strip_suffix('s').unwrap_or(word) {
        "dozen" => Some(whole(12)),
        "hundred" => Some(whole(100)),
        "thousand" => Some(whole(1000)),
        "million" => Some(whole(1_000_000)),
        "billion" => Some(whole(1_000_000_000)),
        "trillion" => Some(digits("1000000000000")),
        "tenth" => tenth(10),
        "hundredth" => tenth(100),
        "thousandth" => tenth(1000),
        "millionth" => tenth(1_000_000),
        _ => None,
    }
}

fn signed(sign: Option<char>, term: Node) -> Node {
    match sign {
        Some('-') => Node::Negate(Box::new(term)),
        Some(c @ ('±' | '∓')) => Node::PlusMinus { flipped: c == '∓', operand: Box::new(term) },
        _ => term,
    }
}

/// Divides the product so far: `2x/3` is `(2x)/3`.
fn divide(factors: &mut Vec<Node>, below: Node) {
    // A chain of divisions stays flat: a/b/c is a * b^-1 * c^-1.
    if factors.len() == 1 && !matches!(factors[0], Node::Quotient(..)) {
        let above = factors.swap_remove(0);
        factors.push(Node::Quotient(Box::new(above), Box::new(below)));
    } else {
        factors.push(Node::Quotient(Box::new(whole(1)), Box::new(below)));
    }
}

fn whole(value: u32) -> Node {
    digits(&value.to_string())
}

fn digits(text: &str) -> Node {
    let value = BigInt::parse_bytes(text.as_bytes(), 10).expect("called with digits only");
    Node::Number(Literal { value: BigRational::from_integer(value), fraction_digits: 0, digits: text.into() })
}

fn whole_value(node: &Node) -> Option<BigInt> {
    match node {
        Node::Number(literal) if literal.value.is_integer() => Some(literal.value.to_integer()),
        _ => None,
    }
}

/// `\sin^{-1}` is the arcsine.
fn inverse(name: &str) -> Option<&'static str> {
    match name {
        "sin" => Some("arcsin"),
        "cos" => Some("arccos"),
        "tan" => Some("arctan"),
        _ => None,
    }
}

fn spelled_base(word: &str) -> Option<u32> {
    const NAMES: &[&str] =
        &["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    NAMES.iter().position(|name| *name == word).and_then(|at| (at + 2).to_u32())
}
