//! The words of an answer: LaTeX, plain text and the Unicode signs that stand for them, as one list of tokens.
//!
//! What only shapes the print (`\left`, `\!`, `$`, `\displaystyle`, fonts) is left out, so that two texts that print
//! alike have the same tokens. Work and memory are linear in the text, which is at most [`MAX_BYTES`] long.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Zero};

use super::verdict::Why;

/// The longest answer that is read, in bytes.
pub(super) const MAX_BYTES: usize = 4096;
/// The most tokens that an answer may have.
const MAX_TOKENS: usize = 2048;
/// The most digits of one number.
const MAX_DIGITS: usize = 400;
/// The deepest nesting of `\text{..}` within `\text{..}`.
const MAX_TEXT_DEPTH: usize = 8;
/// The longest period that is recognised in a decimal that ends in dots.
const MAX_PERIOD: usize = 30;

/// A number as it was written: its exact value and how it was spelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Literal {
    pub(super) value: BigRational,
    /// Digits after the decimal point.
    pub(super) fraction_digits: usize,
    /// The digits alone, for numbers with a base.
    pub(super) digits: String,
}

impl Literal {
    /// The number as prose has it, with its point.
    pub(super) fn written(&self) -> String {
        match self.digits.len().checked_sub(self.fraction_digits) {
            _ if self.digits.is_empty() => self.value.to_string(),
            Some(point) if self.fraction_digits > 0 => format!("{}.{}", &self.digits[..point], &self.digits[point..]),
            _ => self.digits.clone(),
        }
    }
}

/// One token. Punctuation is one character, for commands the Unicode sign they stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Number(Literal),
    /// A variable or constant: one letter or a Greek name.
    Symbol(String),
    /// Prose: a plain word or the content of `\text{..}`, in lower case.
    Word(String),
    /// A named function such as `sin`.
    Function(&'static str),
    /// `\frac`, `\sqrt`, `\binom`.
    Command(&'static str),
    /// `\begin` of a matrix-like environment; its end is `Punct('⟧')`.
    Begin,
    Punct(char),
}

/// A token and whether white space stood before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spaced {
    pub(super) token: Token,
    pub(super) space_before: bool,
}

const FUNCTIONS: &[&str] = &[
    "arcsin", "arccos", "arctan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "sin", "cos", "tan", "cot", "sec",
    "csc", "log", "ln", "lg", "exp", "gcd", "lcm", "min", "max", "abs", "floor", "ceil",
];

const GREEK: &[&str] = &[
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "varepsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "pi",
    "rho",
    "sigma",
    "tau",
    "phi",
    "varphi",
    "chi",
    "psi",
    "omega",
    "Gamma",
    "Delta",
    "Theta",
    "Lambda",
    "Sigma",
    "Phi",
    "Psi",
    "Omega",
    "ell",
];

/// Commands that leave no trace.
const SILENT: &[&str] = &[
    "left",
    "right",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "displaystyle",
    "textstyle",
    "quad",
    "qquad",
    "limits",
    "bf",
    "rm",
    "it",
    "sf",
    "tt",
    "cal",
    "mathbf",
    "mathit",
    "mathsf",
    "boldsymbol",
    "bm",
    "vec",
    "hat",
    "bar",
    "boxed",
    "fbox",
    "mathop",
    "mathord",
    "phantom",
    "hspace",
    "vspace",
    "color",
    "textcolor",
    "Large",
    "large",
    "small",
    "middle",
    "widehat",
    "overrightarrow",
    "overarc",
    "underline",
    "bold",
    "mathcal",
    "ensuremath",
    "nolimits",
    "angle",
    "triangle",
];

/// Commands whose braces hold prose.
const PROSE: &[&str] = &[
    "text",
    "mbox",
    "textbf",
    "textit",
    "textrm",
    "mathrm",
    "operatorname",
    "hbox",
    "texttt",
    "textsf",
    "emph",
    "textnormal",
    "textup",
];

/// Commands that stand for one sign.
const SIGNS: &[(&str, char)] = &[
    ("cdot", '*'),
    ("times", '*'),
    ("ast", '*'),
    ("div", '/'),
    ("pm", '±'),
    ("mp", '∓'),
    ("le", '≤'),
    ("leq", '≤'),
    ("leqslant", '≤'),
    ("ge", '≥'),
    ("geq", '≥'),
    ("geqslant", '≥'),
    ("lt", '<'),
    ("gt", '>'),
    ("ne", '≠'),
    ("neq", '≠'),
    ("approx", '≈'),
    ("equiv", '='),
    ("cong", '='),
    ("sim", '='),
    ("dots", '…'),
    ("ldots", '…'),
    ("cdots", '…'),
    ("colon", ':'),
    ("in", '∈'),
    ("cup", '∪'),
    ("cap", '∩'),
    ("setminus", '∖'),
    ("backslash", '∖'),
    ("infty", '∞'),
    ("circ", '°'),
    ("degree", '°'),
    ("emptyset", '∅'),
    ("varnothing", '∅'),
    ("lbrace", '⦃'),
    ("rbrace", '⦄'),
    ("langle", '⟨'),
    ("rangle", '⟩'),
    ("lfloor", '⌊'),
    ("rfloor", '⌋'),
    ("lceil", '⌈'),
    ("rceil", '⌉'),
    ("vert", '|'),
    ("lvert", '|'),
    ("rvert", '|'),
    ("mid", '|'),
    ("land", ','),
    ("wedge", ','),
    ("lor", '∨'),
    ("vee", '∨'),
    ("prime", '\''),
    ("percent", '%'),
    ("lbrack", '['),
    ("rbrack", ']'),
    ("lparen", '('),
    ("rparen", ')'),
];

/// Unicode characters and what they stand for.
const UNICODE: &[(char, char)] = &[
    ('−', '-'),
    ('–', '-'),
    ('—', '-'),
    ('×', '*'),
    ('·', '*'),
    ('⋅', '*'),
    ('∗', '*'),
    ('∙', '*'),
    ('÷', '/'),
    ('⁄', '/'),
    ('∕', '/'),
    ('º', '°'),
    ('⟪', '⟨'),
    ('⟫', '⟩'),
    ('⩽', '≤'),
    ('⩾', '≥'),
    ('′', '\''),
    ('’', '\''),
    ('⊘', '∅'),
    ('（', '('),
    ('）', ')'),
    ('，', ','),
];

/// Short units that are not read as a product of variables when they follow a number.
const SHORT_UNITS: &[&str] = &[
    "cm", "mm", "km", "dm", "kg", "mg", "ml", "mL", "in", "ft", "yd", "mi", "oz", "lb", "hr", "pm", "am", "mph", "sq",
    "cu", "of", "st", "nd", "rd", "th", "lbs", "kgs", "hrs", "yds", "MB", "GB", "KB", "TB", "AM", "PM", "BC", "AD",
    "kW", "kWh", "USD", "EUR", "GBP",
];

/// Words that part what stands before and behind them: the `n` of "3 n and 5" is a variable.
const CONNECTIVES: &[&str] = &["and", "or", "where", "when", "if", "for", "with", "is", "as"];

/// Functions whose names are those of units too.
const UNITS_LIKE_FUNCTIONS: &[&str] = &["min", "sec"];

/// Splits an answer into tokens.
pub(super) fn tokens(text: &str) -> Result<Vec<Spaced>, Why> {
    if text.len() > MAX_BYTES {
        return Err(Why::TooLong);
    }
    let text = text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '*' | '`'));
    let mut lexer = Lexer { chars: text.chars().collect(), ..Lexer::default() };
    lexer.lone_dollar = lexer.chars.iter().filter(|c| **c == '$').count() == 1;
    lexer.run()?;
    lexer.trim();
    Ok(lexer.out)
}

/// What a character that is a fraction stands for, above and below its line.
pub(super) fn vulgar_fraction(c: char) -> Option<(u8, u8)> {
    Some(match c {
        '½' => (1, 2),
        '⅓' => (1, 3),
        '⅔' => (2, 3),
        '¼' => (1, 4),
        '¾' => (3, 4),
        '⅕' => (1, 5),
        '⅖' => (2, 5),
        '⅗' => (3, 5),
        '⅘' => (4, 5),
        '⅙' => (1, 6),
        '⅚' => (5, 6),
        '⅐' => (1, 7),
        '⅛' => (1, 8),
        '⅜' => (3, 8),
        '⅝' => (5, 8),
        '⅞' => (7, 8),
        '⅑' => (1, 9),
        '⅒' => (1, 10),
        _ => return None,
    })
}

#[derive(Default)]
struct Lexer {
    chars: Vec<char>,
    at: usize,
    out: Vec<Spaced>,
    space: bool,
    /// Within how many `\text{..}` the text stands; there short words are words rather than products.
    text_depth: usize,
    /// The only dollar sign delimits no formula: it is that of a price.
    lone_dollar: bool,
    /// The open environments, and whether their `&` only aligns.
    environments: Vec<bool>,
    /// Open round, square and set brackets: inside them a comma never groups thousands.
    brackets: usize,
}

impl Lexer {
    fn run(&mut self) -> Result<(), Why> {
        while let Some(c) = self.peek(0) {
            if self.out.len() >= MAX_TOKENS {
                return Err(Why::TooLong);
            }
            match c {
                '\\' => self.command()?,
                '0'..='9' => self.number()?,
                '.' if self.peek(1).is_some_and(|d| d.is_ascii_digit()) => self.number()?,
                c if c.is_ascii_alphabetic() => self.letters(),
                c => self.sign(c)?,
            }
        }
        Ok(())
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn push(&mut self, token: Token) {
        match &token {
            Token::Punct('(' | '[' | '⦃' | '⟨') => self.brackets += 1,
            Token::Punct(')' | ']' | '⦄' | '⟩') => self.brackets = self.brackets.saturating_sub(1),
            _ => {}
        }
        self.out.push(Spaced { token, space_before: std::mem::take(&mut self.space) });
    }

    /// A full stop, comma or similar at the very end belongs to the sentence around the answer, as does `=` or `≈` at the start.
    fn trim(&mut self) {
        while let Some(Spaced { token: Token::Punct('.' | ',' | ';' | ':' | '↵'), .. }) = self.out.last() {
            self.out.pop();
        }
        if let Some(Spaced { token: Token::Punct('=' | '≈'), .. }) = self.out.first() {
            self.out.remove(0);
        }
    }

    fn sign(&mut self, c: char) -> Result<(), Why> {
        self.at += 1;
        let c = UNICODE.iter().find(|(from, _)| *from == c).map_or(c, |(_, to)| *to);
        match c {
            c if c.is_whitespace() => self.space = true,
            '$' if self.lone_dollar => self.dollar(),
            '&' if self.environments.last() == Some(&true) => {}
            '$' | '£' | '€' | '\u{200b}' => {}
            '~' => self.space = true,
            '*' if self.peek(0) == Some('*') => {
                self.at += 1;
                self.push(Token::Punct('^'));
            }
            '<' | '>' if self.peek(0) == Some('=') => {
                self.at += 1;
                self.push(Token::Punct(if c == '<' { '≤' } else { '≥' }));
            }
            '!' if self.peek(0) == Some('=') => {
                self.at += 1;
                self.push(Token::Punct('≠'));
            }
            'π' => self.push(Token::Symbol("pi".into())),
            'θ' => self.push(Token::Symbol("theta".into())),
            'ℝ' => self.push(Token::Punct('ℝ')),
            '√' => self.push(Token::Command("sqrt")),
            '²' | '³' | '⁴' => {
                self.push(Token::Punct('^'));
                let digit = match c {
                    '²' => 2,
                    '³' => 3,
                    _ => 4,
                };
                self.push(Token::Number(integer(digit)));
            }
            c if c.is_alphabetic() => self.push(Token::Symbol(c.to_string())),
            c if c.is_control() => return Err(Why::Syntax),
            c => match vulgar_fraction(c) {
                Some((above, below)) => self.vulgar_fraction(above, below),
                None => self.push(Token::Punct(c)),
            },
        }
        Ok(())
    }

    /// A fraction in one character; right behind a whole number it belongs to it.
    fn vulgar_fraction(&mut self, above: u8, below: u8) {
        let mut value = BigRational::new(BigInt::from(above), BigInt::from(below));
        if !self.space
            && let Some(Spaced { token: Token::Number(whole), .. }) = self.out.last()
            && whole.value.is_integer()
        {
            value += &whole.value;
            self.out.pop();
        }
        self.push(Token::Number(Literal { value, fraction_digits: 0, digits: String::new() }));
    }

    fn command(&mut self) -> Result<(), Why> {
        self.at += 1;
        let Some(c) = self.peek(0) else { return Err(Why::Syntax) };
        if c.is_ascii_alphabetic() {
            let name = self.take_while(|c| c.is_ascii_alphabetic());
            return self.named(&name);
        }
        self.at += 1;
        match c {
            '\\' if self.peek(0).is_some_and(|c| c.is_ascii_alphabetic()) && !self.in_matrix() => {
                self.at -= 1;
            }
            '\\' => self.push(Token::Punct('↵')),
            '{' => self.push(Token::Punct('⦃')),
            '}' => self.push(Token::Punct('⦄')),
            '%' => self.push(Token::Punct('%')),
            '|' => self.push(Token::Punct('|')),
            '$' => self.dollar(),
            '!' | '(' | ')' | '[' | ']' | '#' | '&' | '/' => {}
            ',' | ';' | ':' | ' ' | '>' | '\n' => self.space = true,
            '_' => self.space = true,
            _ => return Err(Why::Syntax),
        }
        Ok(())
    }

    /// The sign of a price, before an item; within one it says nothing.
    fn dollar(&mut self) {
        if matches!(self.out.last().map(|s| &s.token), None | Some(Token::Punct(',' | ';' | '=' | '≈' | '∨' | '{')))
        {
            self.push(Token::Punct('$'));
        }
    }

    fn in_matrix(&self) -> bool {
        let open = self.out.iter().filter(|s| s.token == Token::Begin).count();
        open > self.out.iter().filter(|s| s.token == Token::Punct('⟧')).count()
    }

    fn named(&mut self, name: &str) -> Result<(), Why> {
        if let Some((_, sign)) = SIGNS.iter().find(|(known, _)| *known == name) {
            self.push(Token::Punct(*sign));
        } else if let Some(known) = FUNCTIONS.iter().find(|known| **known == name) {
            self.push(Token::Function(known));
        } else if GREEK.contains(&name) {
            self.push(Token::Symbol(name.trim_start_matches("var").into()));
        } else if PROSE.contains(&name) {
            self.prose(matches!(name, "mathrm" | "operatorname"))?;
        } else if SILENT.contains(&name) {
            self.silent(name);
        } else {
            match name {
                "frac" | "dfrac" | "tfrac" | "cfrac" => self.push(Token::Command("frac")),
                "sqrt" => self.push(Token::Command("sqrt")),
                "binom" | "dbinom" | "tbinom" => self.push(Token::Command("binom")),
                "overline" => self.overline()?,
                "begin" => self.environment(true)?,
                "end" => self.environment(false)?,
                "mathbb" => self.number_set()?,
                "R" => self.push(Token::Punct('ℝ')),
                "to" | "rightarrow" | "Rightarrow" | "Longrightarrow" | "implies" | "iff" => {
                    self.push(Token::Punct('→'))
                }
                "newline" => self.space = true,
                "pmod" | "bmod" | "mod" => self.modulus(),
                _ => return Err(Why::UnknownCommand),
            }
        }
        Ok(())
    }

    fn silent(&mut self, name: &str) {
        // `\left.` and `\right.` print no bracket at all.
        if matches!(name, "left" | "right") && self.peek(0) == Some('.') {
            self.at += 1;
        }
        if name.ends_with("quad") {
            self.space = true;
        }
        if matches!(name, "hspace" | "vspace" | "color" | "textcolor") {
            let _ = self.braced();
        }
    }

    /// The raw text of `{..}` that starts here, without its braces.
    fn braced(&mut self) -> Result<String, Why> {
        self.take_while(char::is_whitespace);
        if self.peek(0) != Some('{') {
            return Err(Why::Syntax);
        }
        let start = self.at + 1;
        let mut depth = 0usize;
        while let Some(c) = self.peek(0) {
            self.at += 1;
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(self.chars[start..self.at - 1].iter().collect());
            }
        }
        Err(Why::Syntax)
    }

    /// `\text{..}`: a function's name, mathematics when it holds no word (`\text{(C)}`), a connective, or prose.
    fn prose(&mut self, roman: bool) -> Result<(), Why> {
        if self.peek(0) != Some('{') {
            return Ok(());
        }
        let text = self.braced()?;
        let after_number = matches!(self.out.last().map(|s| &s.token), Some(Token::Number(_)));
        if let Some(known) = FUNCTIONS.iter().find(|known| **known == text.trim())
            && !(after_number && UNITS_LIKE_FUNCTIONS.contains(known))
        {
            self.push(Token::Function(known));
            return Ok(());
        }
        if roman && matches!(text.trim(), "e" | "i") {
            self.push(Token::Symbol(text.trim().into()));
            return Ok(());
        }
        let after_value = matches!(
            self.out.last().map(|s| &s.token),
            Some(Token::Number(_) | Token::Punct(')' | '}' | '°' | '%') | Token::Symbol(_))
        );
        let words: Vec<&str> = text.split(|c: char| !c.is_alphabetic()).filter(|w| !w.is_empty()).collect();
        let has_word = words.iter().any(|w| w.chars().count() > 1) || (after_value && !words.is_empty());
        if has_word && !has_command(&text) { self.words(&text) } else { self.within_text(&text) }
    }

    /// Mathematics within `\text{..}`.
    fn within_text(&mut self, text: &str) -> Result<(), Why> {
        if self.text_depth >= MAX_TEXT_DEPTH {
            return Err(Why::TooDeep);
        }
        let (text_depth, brackets) = (self.text_depth + 1, self.brackets);
        let mut inner = Lexer { chars: text.chars().collect(), text_depth, brackets, ..Lexer::default() };
        inner.run()?;
        for spaced in inner.out {
            self.space |= spaced.space_before;
            match spaced.token {
                Token::Punct('$') => self.dollar(),
                token => self.push(token),
            }
        }
        self.space |= inner.space;
        Ok(())
    }

    /// Words of prose; a number among them is one where it begins an item: `\text{18 dollars}`, but not `\text{June 20}`.
    fn words(&mut self, text: &str) -> Result<(), Why> {
        let word = text.replace(['\\', '{', '}', '~'], " ");
        for part in word.split_whitespace() {
            self.space = true;
            let bare = part.trim_matches(|c: char| matches!(c, '.' | ',' | ';' | ':' | '!' | '"' | '(' | ')'));
            let begins_item = matches!(self.out.last().map(|s| &s.token), None | Some(Token::Punct(_)));
            if begins_item && is_numeral(bare) {
                self.within_text(bare)?;
                if part.ends_with(',') {
                    self.push(Token::Punct(','));
                }
            } else {
                self.word(&bare.replace('$', ""));
            }
        }
        Ok(())
    }

    fn word(&mut self, word: &str) {
        match word.to_lowercase().as_str() {
            "" => {}
            "and" | "&" => self.push(Token::Punct(',')),
            "or" => self.push(Token::Punct('∨')),
            "degrees" | "degree" => self.push(Token::Punct('°')),
            "percent" => self.push(Token::Punct('%')),
            "infinity" | "inf" => self.push(Token::Punct('∞')),
            lower => self.push(Token::Word(lower.into())),
        }
    }

    fn overline(&mut self) -> Result<(), Why> {
        let Some(Spaced { token: Token::Number(literal), .. }) = self.out.last().cloned() else { return Ok(()) };
        let before = self.at;
        let digits = self.braced().unwrap_or_default();
        if digits.is_empty() || digits.len() > 60 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            self.at = before;
            return Ok(());
        }
        self.out.pop();
        let tail = periodic("", literal.fraction_digits, &digits).value;
        let value = literal.value + tail;
        self.push(Token::Number(Literal { value, fraction_digits: 0, digits: String::new() }));
        Ok(())
    }

    fn environment(&mut self, opens: bool) -> Result<(), Why> {
        let name = self.braced()?;
        let aligns = matches!(name.trim_end_matches('*'), "aligned" | "align" | "split" | "gathered" | "equation");
        if !aligns
            && !matches!(
                name.as_str(),
                "pmatrix" | "bmatrix" | "matrix" | "Bmatrix" | "vmatrix" | "smallmatrix" | "array" | "cases"
            )
        {
            return Err(Why::UnknownCommand);
        }
        if opens && name == "array" {
            self.braced()?;
        }
        if opens {
            self.environments.push(aligns);
        } else {
            self.environments.pop();
        }
        self.push(if opens { Token::Begin } else { Token::Punct('⟧') });
        Ok(())
    }

    /// A modulus is context, like a unit: `2 \pmod 7` is 2.
    fn modulus(&mut self) {
        if self.braced().is_err() {
            self.take_while(|c| c.is_ascii_digit());
        }
    }

    fn number_set(&mut self) -> Result<(), Why> {
        let name = self.braced().or_else(|_| self.peek(0).map(String::from).ok_or(Why::Syntax))?;
        self.push(if name == "R" { Token::Punct('ℝ') } else { Token::Word(format!("set {name}")) });
        Ok(())
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> String {
        let start = self.at;
        while self.peek(0).is_some_and(&keep) {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    fn letters(&mut self) {
        let follows_number = matches!(
            self.out.last().map(|s| &s.token),
            Some(Token::Number(_) | Token::Word(_) | Token::Punct(')' | '}'))
        );
        let run = self.take_while(|c| c.is_ascii_alphabetic());
        let next = self.next_word();
        let unit = follows_number && self.space && !CONNECTIVES.contains(&next.as_str());
        if is_prose(&next) && (unit || is_prose(&run)) && !FUNCTIONS.contains(&run.as_str()) {
            self.word(&run);
        } else {
            self.letter_run(&run, follows_number);
        }
    }

    /// The word behind the space that comes next, as behind the `a` of "54 a month"; empty where there is none.
    fn next_word(&self) -> String {
        let behind_space = if self.peek(0) == Some(' ') { &self.chars[self.at + 1..] } else { &[] };
        behind_space.iter().take(40).take_while(|c| c.is_ascii_alphabetic()).collect()
    }

    /// Whether nothing follows that a function could be applied to.
    fn ends_item(&self) -> bool {
        let next = self.chars[self.at..].iter().find(|c| !c.is_whitespace());
        next.is_none_or(|c| ".,;:)}/$*".contains(*c))
    }

    fn letter_run(&mut self, run: &str, follows_number: bool) {
        let plural =
            run.len() > 2 && run.ends_with('s') && run[..run.len() - 1].bytes().all(|b| b.is_ascii_uppercase());
        let unit = UNITS_LIKE_FUNCTIONS.contains(&run) && self.ends_item();
        let word = follows_number && (plural || unit || SHORT_UNITS.contains(&run));
        if let Some(known) = FUNCTIONS.iter().find(|known| **known == run).filter(|_| !word) {
            self.push(Token::Function(known));
        } else if run == "sqrt" {
            self.push(Token::Command("sqrt"));
        } else if run == "frac" {
            self.push(Token::Command("frac"));
        } else if GREEK.contains(&run) {
            self.push(Token::Symbol(run.into()));
        } else if run == "USD" && !follows_number {
            self.dollar();
        } else if word || run == "or" {
            self.word(run);
        } else if is_product(run) && !(self.text_depth > 0 && is_prose(run)) {
            run.chars().for_each(|c| self.push(Token::Symbol(c.into())));
        } else if let Some((head, tail)) = split_function(run) {
            self.letter_run(head, false);
            self.letter_run(tail, false);
        } else {
            self.word(run);
        }
    }

    fn number(&mut self) -> Result<(), Why> {
        let mut whole = self.take_while(|c| c.is_ascii_digit());
        while let Some(skip) = self.thousands(&whole) {
            self.at += skip;
            whole.push_str(&self.take_while(|c| c.is_ascii_digit()));
        }
        let mut fraction = String::new();
        if self.peek(0) == Some('.') && (self.peek(1).is_some_and(|c| c.is_ascii_digit() || c == '\\')) {
            self.at += 1;
            fraction = self.take_while(|c| c.is_ascii_digit());
        }
        if let Some(literal) = self.endless(&whole, &fraction) {
            self.push(Token::Number(literal));
            return Ok(());
        }
        let exponent = self.scientific();
        if whole.len() + fraction.len() > MAX_DIGITS || exponent.unsigned_abs() as usize > MAX_DIGITS {
            return Err(Why::TooLarge);
        }
        let digits = format!("{whole}{fraction}");
        let ten = BigRational::from_integer(BigInt::from(10u32));
        let shift = exponent - fraction.len() as i32;
        let value = BigRational::from_integer(parse_digits(&digits)) * ten.pow(shift);
        let fraction_digits = usize::try_from(-shift).unwrap_or(0);
        self.push(Token::Number(Literal { value, fraction_digits, digits }));
        Ok(())
    }

    /// `0.1666...`: a decimal whose last digits repeat, and dots.
    fn endless(&mut self, whole: &str, fraction: &str) -> Option<Literal> {
        let rest: String = self.chars[self.at..].iter().take(7).collect();
        let dots = ["...", "…", "\\ldots", "\\dots", "\\cdots"].into_iter().find(|dots| rest.starts_with(dots))?;
        let (before, period) = repeated(fraction).filter(|_| whole.len() + fraction.len() <= MAX_DIGITS)?;
        self.at += dots.chars().count();
        Some(periodic(&format!("{whole}{before}"), before.len(), period))
    }

    /// The exponent of `6.7e-5`, 0 where there is none.
    fn scientific(&mut self) -> i32 {
        let rest = &self.chars[self.at..];
        let signed = usize::from(matches!(rest.get(1), Some('+' | '-')));
        let digits: String = rest.iter().skip(1 + signed).take(5).take_while(|c| c.is_ascii_digit()).collect();
        if !matches!(rest.first(), Some('e' | 'E')) || digits.is_empty() || digits.len() > 4 {
            return 0;
        }
        let negative = rest.get(1) == Some(&'-');
        self.at += 1 + signed + digits.len();
        let size = digits.parse::<i32>().unwrap_or(0);
        if negative { -size } else { size }
    }

    /// How many characters separate the digits read so far from three more digits of the same number.
    ///
    /// `{,}`, `,\!` and `\,` always group thousands; a plain comma or space only outside of brackets, where it cannot
    /// be a list's.
    fn thousands(&self, so_far: &str) -> Option<usize> {
        let rest = &self.chars[self.at..];
        let gap: String = rest.iter().take(20).take_while(|c| "{},\\! ".contains(**c)).collect();
        let digits = rest[gap.chars().count()..].iter().take(4).take_while(|c| c.is_ascii_digit()).count();
        let marked = gap.starts_with("{,}") || gap.contains("\\!") || gap.trim() == "\\,";
        let braces = gap.contains(['{', '}']) && !gap.starts_with("{,}");
        let plain = matches!(gap.as_str(), "," | " ") && self.brackets == 0 && !so_far.starts_with('0');
        let fits = marked && !braces || plain && (so_far.len() <= 3 || self.grouped(so_far));
        (fits && digits == 3 && !so_far.is_empty()).then_some(gap.chars().count())
    }

    /// Whether the digits so far already came in groups of three.
    fn grouped(&self, so_far: &str) -> bool {
        let width = so_far.len();
        self.at > width && !self.chars[self.at - width..self.at].iter().all(|c| c.is_ascii_digit())
    }
}

/// A decimal with the digits `before`, of which `fraction_digits` stand behind the point, and a period without end.
fn periodic(before: &str, fraction_digits: usize, period: &str) -> Literal {
    let nines = BigInt::from(10u32).pow(period.len() as u32) - BigInt::one();
    let scale = BigInt::from(10u32).pow(fraction_digits as u32);
    let value = BigRational::new(parse_digits(before) * &nines + parse_digits(period), nines * scale);
    Literal { value, fraction_digits: 0, digits: String::new() }
}

/// The digits before a period that stands at the end twice at least, and the period. A single digit that is not all
/// of them must stand there three times.
fn repeated(fraction: &str) -> Option<(&str, &str)> {
    (1..=(fraction.len() / 2).min(MAX_PERIOD)).find_map(|width| {
        let period = &fraction[fraction.len() - width..];
        let before = fraction.trim_end_matches(period);
        let times = (fraction.len() - before.len()) / width;
        let enough = if width == 1 && !before.is_empty() { 3 } else { 2 };
        (times >= enough && period.bytes().any(|digit| digit != b'0')).then_some((before, period))
    })
}

/// Whether text holds a command, so that it is mathematics though it stands in `\text{..}`.
fn has_command(text: &str) -> bool {
    let mut after = text.split('\\').skip(1);
    after.any(|command| command.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '$' | '%')))
}

/// `18`, `-1,250.5`, `$18`, `50%`.
fn is_numeral(word: &str) -> bool {
    let digits = word.trim_start_matches(['-', '−', '+', '$']).trim_end_matches('%');
    let digit = |c: char| c.is_ascii_digit();
    digits.starts_with(digit)
        && digits.ends_with(digit)
        && digits.chars().all(|c| digit(c) || matches!(c, ',' | '.' | '/'))
}

/// A small whole number as a literal.
fn integer(value: u32) -> Literal {
    Literal { value: BigRational::from_integer(BigInt::from(value)), fraction_digits: 0, digits: value.to_string() }
}

fn parse_digits(digits: &str) -> BigInt {
    BigInt::parse_bytes(digits.as_bytes(), 10).unwrap_or_else(BigInt::zero)
}

/// Whether a run of letters reads as a word rather than as a product of variables, a function or a Greek letter.
pub(super) fn is_prose(run: &str) -> bool {
    const SHORT: &[&str] = &[
        "he", "it", "we", "so", "my", "in", "on", "us", "up", "as", "if", "at", "no", "is", "an", "to", "by", "of",
        "do",
    ];
    SHORT.iter().any(|word| run.eq_ignore_ascii_case(word))
        || !(run.is_empty()
            || is_product(run)
            || FUNCTIONS.contains(&run)
            || GREEK.contains(&run)
            || matches!(run, "sqrt" | "frac"))
}

/// Whether a run of letters reads as a product of variables rather than as a word.
fn is_product(run: &str) -> bool {
    const CLUSTERS: &[&str] = &["abc", "xyz", "abxy", "mnpq", "pqr", "rst", "uvw", "ijk"];
    run.len() <= 2
        && !matches!(run.to_ascii_lowercase().as_str(), "no" | "is" | "an" | "at" | "to" | "by" | "of" | "if")
        || run.len() <= 4 && run.bytes().all(|b| b.is_ascii_uppercase()) && !matches!(run, "YES" | "TRUE" | "NONE")
        || run.len() == 3 && !run.contains(['a', 'e', 'i', 'o', 'u', 'y', 'A', 'E', 'I', 'O', 'U', 'Y'])
        || run.len() <= 6 && CLUSTERS.iter().any(|cluster| run.chars().all(|c| cluster.contains(c)))
}

/// `sinx` is `sin` and `x`.
fn split_function(run: &str) -> Option<(&str, &str)> {
    ["sin", "cos", "tan", "log", "sqrt", "ln", "pi"]
        .iter()
        .find(|name| run.starts_with(**name) && run.len() == name.len() + 1)
        .map(|name| run.split_at(name.len()))
}
