//! From a problem or a conversation to the text of a prompt.
//!
//! [`PromptTemplate`] is the plain template with `{problem}` in it; [`ChatTemplate`] is the checkpoint's own Jinja
//! template, run as transformers runs it. Chat templates come with downloaded models, so they get no files, no
//! network and only so much work and memory.

use crate::error::{EngineError, Result};
use crate::tokenizer::hex;
use crate::tokenizer_config::TokenizerConfig;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error as JinjaError, ErrorKind, State};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::time::{SystemTime, UNIX_EPOCH};

/// The template around a problem when no other is asked for: the prompt of the paper's scripts.
pub const DEFAULT_PROMPT_TEMPLATE: &str =
    "{problem}\nPlease reason step by step, and put your final answer within \\boxed{{}}.\n<think>\n";

/// A text with a place for the problem, in the manner of Python's format strings.
///
/// `{problem}` is replaced by the problem, `{{` by `{` and `}}` by `}`. Everything else stays as it is, so a lone
/// `\boxed{}`, as people type it, means the same as the strict spelling `\boxed{{}}`.
///
/// ```
/// use tpv_engine::template::PromptTemplate;
/// let template = PromptTemplate::new(r"{problem} Answer in \boxed{{}} or \boxed{}.")?;
/// assert_eq!(template.render("1 + {x}?"), r"1 + {x}? Answer in \boxed{} or \boxed{}.");
/// # Ok::<(), tpv_engine::error::EngineError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTemplate {
    source: String,
    /// What stands before, between and after the places of the problem.
    literals: Vec<String>,
}

impl PromptTemplate {
    /// Reads a template; an error when it has no place for the problem.
    pub fn new(source: &str) -> Result<Self> {
        let mut literals = vec![String::new()];
        let mut rest = source;
        while let Some(next) = rest.chars().next() {
            let (taken, literal) = match rest {
                _ if rest.starts_with("{problem}") => ("{problem}".len(), None),
                _ if rest.starts_with("{{") || rest.starts_with("}}") => (2, Some(next)),
                _ => (next.len_utf8(), Some(next)),
            };
            match (literal, literals.last_mut()) {
                (Some(letter), Some(last)) => last.push(letter),
                _ => literals.push(String::new()),
            }
            rest = &rest[taken..];
        }
        if literals.len() < 2 {
            return Err(EngineError::Request(format!(
                "the prompt template {source:?} has no {{problem}}, so the model would never see one"
            )));
        }
        Ok(Self { source: source.to_owned(), literals })
    }

    /// The prompt for a problem. Braces in the problem mean nothing.
    pub fn render(&self, problem: &str) -> String {
        self.literals.join(problem)
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

impl Default for PromptTemplate {
    fn default() -> Self {
        Self::new(DEFAULT_PROMPT_TEMPLATE).expect("the default template has a place for the problem")
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant` or whatever the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
    /// The thinking before it, where an earlier answer of the model came with its thinking.
    pub reasoning_content: Option<String>,
}

impl ChatMessage {
    /// A message without thinking.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), reasoning_content: None }
    }

    fn to_value(&self) -> Value {
        let thinking = self.reasoning_content.as_ref().map(|text| ("reasoning_content", text));
        let fields = [("role", &self.role), ("content", &self.content)].into_iter().chain(thinking);
        Value::from_pairs(fields.map(|(name, text)| (name, Value::from(text.as_str()))))
    }
}

/// What a chat template is told besides the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChatOptions {
    /// Whether the prompt ends where the model's answer begins.
    pub add_generation_prompt: bool,
    /// Whether the model should think, for templates that can switch it off; `None` leaves it to the template.
    pub enable_thinking: Option<bool>,
    /// The time that the template may print, in seconds since 1970 (UTC); `None` is the present.
    pub now_unix_secs: Option<u64>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self { add_generation_prompt: true, enable_thinking: None, now_unix_secs: None }
    }
}

/// The name under which the one template is kept; without a file ending nothing is escaped for HTML.
const NAME: &str = "chat_template";
/// The longest template that is compiled, in bytes.
const MAX_SOURCE_BYTES: usize = 1 << 18;
/// The stack that a template is compiled on: the compiler calls itself for each part of an expression, and takes up to a hundred
/// bytes for each byte of the text.
const COMPILER_STACK_BYTES: usize = 1 << 27;
/// Work that a template may do beyond what its input calls for, in instructions (each may allocate about 64 bytes).
const BASE_FUEL: u64 = 500_000;
/// Further instructions for each byte of the messages.
const FUEL_PER_BYTE: u64 = 64;

/// A checkpoint's Jinja chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    sha256: String,
    bos_token: String,
    eos_token: String,
    pad_token: Option<String>,
}

impl ChatTemplate {
    /// Compiles a template; `config` supplies the special tokens that templates print.
    pub fn new(source: &str, config: &TokenizerConfig) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(EngineError::ChatTemplate(format!(
                "{} bytes are too many (at most {MAX_SOURCE_BYTES})",
                source.len()
            )));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| refusal(&error))?);
        environment.set_unknown_method_callback(python_method);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        environment.add_filter("string", to_text);
        let text = without_generation_tags(&source.replace("\r\n", "\n"));
        std::thread::scope(|scope| {
            let compile = || environment.add_template_owned(NAME, text).map_err(|error| refusal(&error));
            let thread = std::thread::Builder::new().stack_size(COMPILER_STACK_BYTES).spawn_scoped(scope, compile);
            let broken = || EngineError::ChatTemplate("it cannot be compiled".into());
            let no_stack = |error| EngineError::ChatTemplate(format!("no memory to compile it on ({error})"));
            thread.map_err(no_stack)?.join().unwrap_or_else(|_| Err(broken()))
        })?;
        let token = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let (bos_token, eos_token) = (token(config.bos_token()), token(config.eos_token()));
        let pad_token = config.pad_token().filter(|_| source.contains("pad_token")).map(str::to_owned);
        let written = format!("{source}\0{bos_token}\0{eos_token}");
        let written = pad_token.iter().fold(written, |written, token| format!("{written}\0{token}"));
        Ok(Self { environment, sha256: hex(&Sha256::digest(written)), bos_token, eos_token, pad_token })
    }

    /// SHA-256 of the template and the special tokens that it may print, hexadecimal: what tells prompts apart.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The template of a checkpoint: the text of its `chat_template.jinja`, else the one in its
    /// `tokenizer_config.json`; `None` when it has neither.
    pub fn from_checkpoint(jinja_file: Option<&str>, config: &TokenizerConfig) -> Result<Option<Self>> {
        jinja_file.or(config.chat_template()).map(|source| Self::new(source, config)).transpose()
    }

    /// The prompt for a conversation. Encode it without adding special tokens: the template has written them.
    pub fn render(&self, messages: &[ChatMessage], options: &ChatOptions) -> Result<String> {
        let mut environment = self.environment.clone();
        let message_bytes: usize = messages.iter().map(message_bytes).sum();
        environment.set_fuel(Some(BASE_FUEL + FUEL_PER_BYTE * message_bytes as u64));
        let now_unix_secs = options.now_unix_secs.unwrap_or_else(present_unix_secs);
        environment.add_function("strftime_now", move |format: String| strftime(&format, now_unix_secs));
        let (variables, mut text) = (self.variables(messages, options), Bounded::default());
        let template = environment.get_template(NAME).map_err(|error| refusal(&error))?;
        template.render_captured_to(variables, &mut text).map_err(|error| refusal(&error))?;
        Ok(text.into_text())
    }

    /// The variables of a template, named as transformers names them.
    fn variables(&self, messages: &[ChatMessage], options: &ChatOptions) -> Value {
        let mut variables = vec![
            ("messages", Value::from(messages.iter().map(ChatMessage::to_value).collect::<Vec<_>>())),
            ("add_generation_prompt", Value::from(options.add_generation_prompt)),
            ("bos_token", Value::from(self.bos_token.as_str())),
            ("eos_token", Value::from(self.eos_token.as_str())),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        variables.extend(self.pad_token.as_deref().map(|token| ("pad_token", Value::from(token))));
        variables.extend(options.enable_thinking.map(|thinks| ("enable_thinking", Value::from(thinks))));
        Value::from_pairs(variables)
    }
}

/// The length of a message, in bytes.
fn message_bytes(message: &ChatMessage) -> usize {
    message.role.len() + message.content.len() + message.reasoning_content.as_ref().map_or(0, String::len)
}

fn present_unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// One sentence about why a template failed.
fn refusal(error: &JinjaError) -> EngineError {
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    EngineError::ChatTemplate(match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("it does more work than a prompt needs and was stopped{line}"),
        (_, Some(detail)) => format!("{detail}{line}"),
        (kind, None) => format!("{kind}{line}"),
    })
}

/// Transformers marks the assistant's text for training with a tag of its own, which means nothing for a prompt.
fn without_generation_tags(source: &str) -> String {
    let mut text = source.to_owned();
    for (left, right) in [("{%", "%}"), ("{%-", "%}"), ("{%", "-%}"), ("{%-", "-%}")] {
        for space in ["", " "] {
            let tag = |name: &str| format!("{left}{space}{name}{space}{right}");
            text = text.replace(&tag("generation"), &format!("{left} if true {right}"));
            text = text.replace(&tag("endgeneration"), &format!("{left} endif {right}"));
        }
    }
    text
}

/// The widest field that a template may pad with spaces.
const WIDEST_FIELD: usize = 99;

/// The longest text that a template may make, in bytes.
const MOST_TEXT_BYTES: usize = 1 << 26;

/// Text that grows to [`MOST_TEXT_BYTES`] and no further: printing pays no fuel.
#[derive(Debug, Default)]
struct Bounded(Vec<u8>);

impl Bounded {
    fn into_text(self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_TEXT_BYTES {
            return Err(std::io::Error::other(too_long()));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn too_long() -> String {
    format!("it makes a text of more than {MOST_TEXT_BYTES} bytes")
}

/// A value as it is printed.
fn to_text(value: &Value) -> Result<String, JinjaError> {
    use std::io::Write;
    let mut text = Bounded::default();
    write!(text, "{value}").map_err(|_| JinjaError::new(ErrorKind::InvalidOperation, too_long()))?;
    Ok(text.into_text())
}

/// Python's methods of strings, lists and dictionaries. They pay no fuel for the text that they make, so it is bounded here.
fn python_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, JinjaError> {
    let text = value.as_str().unwrap_or_default();
    let refuse = |message| Err(JinjaError::new(ErrorKind::InvalidOperation, message));
    if method == "format" && !pads_little(text) {
        return refuse(format!("a field wider than {WIDEST_FIELD} in format"));
    }
    // The most that may come out: the inserted text at each place where it can stand, beside the text itself.
    let places = match (method, args) {
        ("replace", [from, to, ..]) => {
            let found = from.as_str().map_or(0, |from| text.matches(from).count());
            found.saturating_mul(to.as_str().map_or(0, str::len))
        }
        ("join", [parts, ..]) => parts.len().unwrap_or(0).saturating_mul(text.len()),
        _ => 0,
    };
    if places > MOST_TEXT_BYTES {
        return refuse(too_long());
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// Whether no number in a format's fields is greater than [`WIDEST_FIELD`], nor taken from an argument.
fn pads_little(format: &str) -> bool {
    let mut numbers = format.split(|letter: char| !letter.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let nested = format.split('{').any(|field| field.contains(':') && !field.contains('}'));
    !nested && numbers.all(|digits| digits.parse::<usize>().is_ok_and(|number| number <= WIDEST_FIELD))
}

/// A template's way of refusing a conversation.
fn raise_exception(message: String) -> Result<Value, JinjaError> {
    Err(JinjaError::new(ErrorKind::InvalidOperation, message))
}

/// Python's `json.dumps(value, ensure_ascii=False)`, as transformers defines it: nothing is escaped for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<String, JinjaError> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<Value> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let failed = |error: serde_json::Error| JinjaError::new(ErrorKind::InvalidOperation, error.to_string());
    let mut json = Bounded::default();
    match indent {
        Some(width) => {
            let spaces = vec![b' '; width.min(16)];
            let pretty = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, pretty)).map_err(failed)?;
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, PythonStyle)).map_err(failed)?,
    }
    Ok(json.into_text())
}

/// JSON with a space after every comma and colon.
struct PythonStyle;

impl serde_json::ser::Formatter for PythonStyle {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// The part of C's `strftime` that chat templates use, in UTC, with glibc's `-` for no padding. Unknown directives stay as
/// they are.
fn strftime(format: &str, unix_secs: u64) -> String {
    let mut text = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        text += &rest[..at];
        rest = &rest[at + 1..];
        let is_bare = rest.starts_with('-');
        let Some(letter) = rest[usize::from(is_bare)..].chars().next() else { return text + "%" + rest };
        let length = usize::from(is_bare) + letter.len_utf8();
        match (directive(letter, unix_secs), is_bare) {
            (Some(value), false) => text += &value,
            (Some(value), true) => text += unpadded(&value),
            (None, _) => text += &format!("%{}", &rest[..length]),
        }
        rest = &rest[length..];
    }
    text + rest
}

/// A number without the zeros or spaces before it.
fn unpadded(value: &str) -> &str {
    let last = value.len().saturating_sub(1);
    let padding = value.bytes().take(last).take_while(|byte| matches!(byte, b' ' | b'0')).count();
    &value[padding..]
}

/// What one directive of `strftime` stands for.
fn directive(letter: char, unix_secs: u64) -> Option<String> {
    let days = unix_secs / 86_400;
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (unix_secs / 3600 % 24, unix_secs / 60 % 60, unix_secs % 60);
    let (month_name, weekday) = (MONTHS[month as usize - 1], WEEKDAYS[(days % 7) as usize]);
    let hour_of_half_day = (hour + 11) % 12 + 1;
    // 1 January 1970 was a Thursday; Sunday is 0.
    let weekday_number = (days + 4) % 7;
    let day_of_year = (1..month).map(|month| month_length(year, month)).sum::<u64>() + day;
    let half_day = if hour < 12 { "AM" } else { "PM" };
    Some(match letter {
        'Y' => year.to_string(),
        'C' => format!("{:02}", year / 100),
        'y' => format!("{:02}", year % 100),
        'm' => format!("{month:02}"),
        'd' => format!("{day:02}"),
        'e' => format!("{day:2}"),
        'j' => format!("{day_of_year:03}"),
        'B' => month_name.to_owned(),
        'b' | 'h' => month_name[..3].to_owned(),
        'A' => weekday.to_owned(),
        'a' => weekday[..3].to_owned(),
        'u' => ((weekday_number + 6) % 7 + 1).to_string(),
        'w' => weekday_number.to_string(),
        'U' => format!("{:02}", (day_of_year + 6 - weekday_number) / 7),
        'W' => format!("{:02}", (day_of_year + 6 - (weekday_number + 6) % 7) / 7),
        'H' => format!("{hour:02}"),
        'k' => format!("{hour:2}"),
        'I' => format!("{hour_of_half_day:02}"),
        'l' => format!("{hour_of_half_day:2}"),
        'p' => half_day.to_owned(),
        'P' => half_day.to_lowercase(),
        'M' => format!("{minute:02}"),
        'S' => format!("{second:02}"),
        'f' => "000000".to_owned(),
        's' => unix_secs.to_string(),
        'F' => format!("{year}-{month:02}-{day:02}"),
        'D' | 'x' => format!("{month:02}/{day:02}/{:02}", year % 100),
        'T' | 'X' => format!("{hour:02}:{minute:02}:{second:02}"),
        'R' => format!("{hour:02}:{minute:02}"),
        'r' => format!("{hour_of_half_day:02}:{minute:02}:{second:02} {half_day}"),
        'c' => format!("{} {} {day:2} {hour:02}:{minute:02}:{second:02} {year}", &weekday[..3], &month_name[..3]),
        // Of a time without a zone, as `datetime.now()` gives it.
        'Z' | 'z' => String::new(),
        'n' => "\n".to_owned(),
        't' => "\t".to_owned(),
        '%' => "%".to_owned(),
        _ => return None,
    })
}

/// Days of a month, counted from 1.
fn month_length(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// Year, month and day of the Gregorian calendar, `days` after 1 January 1970.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // 400 years have 146,097 days; counting starts in the period that began with 1970.
    let mut year = 1970 + days / 146_097 * 400;
    let mut days = days % 146_097;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let mut month = 1;
    while days >= month_length(year, month) {
        days -= month_length(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TokenizerConfig {
        TokenizerConfig::from_bytes(br#"{"bos_token": "<B>", "eos_token": {"content": "<E>"}}"#).unwrap()
    }

    fn render(source: &str, messages: &[(&str, &str)], options: ChatOptions) -> Result<String> {
        let messages: Vec<ChatMessage> = messages.iter().map(|&(role, text)| ChatMessage::new(role, text)).collect();
        ChatTemplate::new(source, &config())?.render(&messages, &options)
    }

    /// After the manner of R1: the thinking of earlier turns is dropped and the prompt opens the next one.
    const R1_LIKE: &str = r"
{%- if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{%- set ns = namespace(system='') %}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}{% set ns.system = message['content'] %}{% endif %}
{%- endfor %}
{{- bos_token }}{{ ns.system }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '<U>' + message['content'] }}
    {%- elif message['role'] == 'assistant' and message['content'] is not none %}
        {%- set content = message['content'] %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1] %}
        {%- endif %}
        {{- '<A>' + content + eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<A><think>\n' }}{% endif %}";

    /// After the manner of Qwen 3: thinking kept after the last question alone, and switched off by an empty thought.
    const QWEN3_LIKE: &str = r"
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == 'user' and message.content is string %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set reasoning = '' %}
        {%- set content = message.content %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or reasoning) %}
            {{- '<|im_start|>assistant\n<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}";

    #[test]
    fn the_default_prompt_is_the_papers() {
        let expected = "1+1?\nPlease reason step by step, and put your final answer within \\boxed{}.\n<think>\n";
        assert_eq!(PromptTemplate::default().render("1+1?"), expected);
        let typed = DEFAULT_PROMPT_TEMPLATE.replace("{{}}", "{}");
        assert_eq!(PromptTemplate::new(&typed).unwrap().render("1+1?"), expected);
        assert_eq!(PromptTemplate::default().as_str(), DEFAULT_PROMPT_TEMPLATE);
    }

    #[test]
    fn braces_follow_pythons_rules_and_lone_ones_stay() {
        let render = |source: &str| PromptTemplate::new(source).unwrap().render("{p}");
        assert_eq!(render("{{problem}} {problem}"), "{problem} {p}");
        assert_eq!(render("{{{problem}}}"), "{{p}}");
        assert_eq!(render("{problem}{problem}"), "{p}{p}");
        assert_eq!(render("{problem} {x} { } {}} é}"), "{p} {x} { } {} é}");
    }

    #[test]
    fn a_template_without_a_place_for_the_problem_is_refused() {
        for source in ["", "{{problem}}", "{question}"] {
            assert!(PromptTemplate::new(source).unwrap_err().to_string().contains("{problem}"), "{source}");
        }
    }

    #[test]
    fn an_r1_prompt_drops_old_thinking_and_opens_the_next() {
        let talk =
            [("system", "Be kind."), ("user", "1+1?"), ("assistant", "<think>\nhm\n</think>\n\n2"), ("user", "2+2?")];
        let prompt = render(R1_LIKE, &talk, ChatOptions::default()).unwrap();
        assert_eq!(prompt, "<B>Be kind.<U>1+1?<A>\n\n2<E><U>2+2?<A><think>\n");
        let closed = ChatOptions { add_generation_prompt: false, ..ChatOptions::default() };
        assert!(render(R1_LIKE, &talk, closed).unwrap().ends_with("2+2?"));
    }

    #[test]
    fn a_qwen3_prompt_can_switch_thinking_off() {
        let talk = [("system", "S"), ("user", "1+1?"), ("assistant", "<think>\nhm\n</think>\n\n2"), ("user", "2+2?")];
        let before = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n\
                      <|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n";
        let with = |enable_thinking| ChatOptions { enable_thinking, ..ChatOptions::default() };
        assert_eq!(render(QWEN3_LIKE, &talk, with(None)).unwrap(), before);
        assert_eq!(render(QWEN3_LIKE, &talk, with(Some(true))).unwrap(), before);
        assert_eq!(render(QWEN3_LIKE, &talk, with(Some(false))).unwrap(), format!("{before}<think>\n\n</think>\n\n"));
    }

    #[test]
    fn reasoning_of_the_last_turn_is_passed_on() {
        let template = ChatTemplate::new(QWEN3_LIKE, &config()).unwrap();
        let mut answer = ChatMessage::new("assistant", "2");
        answer.reasoning_content = Some("hm".into());
        let options = ChatOptions { add_generation_prompt: false, ..ChatOptions::default() };
        let prompt = template.render(&[ChatMessage::new("user", "1+1?"), answer], &options).unwrap();
        assert!(prompt.ends_with("<|im_start|>assistant\n<think>\nhm\n</think>\n\n2<|im_end|>\n"), "{prompt}");
    }

    #[test]
    fn json_is_pythons_and_nothing_is_escaped_for_html() {
        let source =
            r#"{{ {"a": [1, "é<b>'"], "c": none} | tojson }}|{{ [1] | tojson(indent=2) }}|{{ messages[0].content }}"#;
        let prompt = render(source, &[("user", "<i>&")], ChatOptions::default()).unwrap();
        assert_eq!(prompt, "{\"a\": [1, \"é<b>'\"], \"c\": null}|[\n  1\n]|<i>&");
    }

    #[test]
    fn a_refusal_of_the_template_is_passed_on() {
        let source = "{% if messages[0].role != 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}";
        let error = render(source, &[("system", "")], ChatOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), "chat template: roles must alternate (line 1)");
        assert!(matches!(error, EngineError::ChatTemplate(_)));
    }

    #[test]
    fn broken_templates_are_refused_with_their_line() {
        let error = render("\n{% for x in %}", &[], ChatOptions::default()).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(render("{{ messages[9].content.x }}", &[], ChatOptions::default()).is_err());
        assert!(render(&"x".repeat(MAX_SOURCE_BYTES + 1), &[], ChatOptions::default()).is_err());
    }

    /// The compiler calls itself for each of these, and would leave the stack of a usual thread.
    #[test]
    fn long_chains_are_compiled_or_refused() {
        let room = MAX_SOURCE_BYTES - 100;
        let many = |part: &str| part.repeat(room / part.len());
        let chains = [
            format!("{{{{ 1{} }}}}", many("+1")),
            format!("{{{{ {}1 }}}}", many("not ")),
            format!("{{{{ a{} }}}}", many(".a")),
            format!("{{{{ 1{} }}}}", many("|string")),
            format!("{{{{ {}1{} }}}}", "(".repeat(room / 2), ")".repeat(room / 2)),
            format!("{{% if a %}}{}{{% endif %}}", many("{% elif %}")),
            format!("{{% if a %}}{}{{% endif %}}", many("{% elif a %}")),
        ];
        for chain in chains {
            let short: String = chain.chars().take(30).collect();
            let made = ChatTemplate::new(&chain, &TokenizerConfig::default());
            assert!(made.is_err() || chain.len() > room / 2, "{short}");
            drop(made);
        }
    }

    #[test]
    fn hostile_templates_are_stopped() {
        let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}";
        let doubles = "{% set ns = namespace(s='x') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}";
        let repeats = "{{ 'x' * 99999999999 }}";
        let replaces = "{% set ns = namespace(s='xx') %}{% for a in range(60) %}{% set ns.s = ns.s.replace('x', 'xx') %}{% endfor %}";
        let recursion = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
        let pads = "{{ '{:>99999999999999}'.format('x') }}";
        let nested_pads = "{{ '{:>{}}'.format('x', 99999999999999) }}";
        let filters = [
            "{{ 'x' | indent(99999999999, true) }}",
            "{{ 'x' | center(99999999999) }}",
            "{{ '%99999999999d' | format(1) }}",
        ];
        let prints = "{% set a=[[[[[1]*99]*99]*99]*99]*99 %}";
        let prints = ["{{ a }}", "{{ a | tojson }}", "{{ a | tojson(indent=16) }}", "{{ a | string }}"]
            .map(|end| format!("{prints}{end}"));
        let grows = [
            "{% set a='x'*400000 %}{{ a.replace('x', a)|length }}",
            "{% set a='x'*200000 %}{{ a.join(a)|length }}",
            "{% set a='x'*400000 %}{{ a | replace('x', a) | length }}",
            "{% set a='x'*200000 %}{{ a | join(a) | length }}",
        ];
        for source in prints.iter().map(String::as_str).chain(grows) {
            assert!(render(source, &[], ChatOptions::default()).is_err(), "{source}");
        }
        let hostile = [loops, doubles, repeats, replaces, recursion, pads, nested_pads];
        for source in hostile.into_iter().chain(filters) {
            assert!(render(source, &[], ChatOptions::default()).is_err(), "{source}");
        }
        assert!(render(&"{{ (".repeat(5_000), &[], ChatOptions::default()).is_err());
    }

    #[test]
    fn python_formats_of_ordinary_width_work() {
        assert_eq!(render("{{ '{:>4}|{}'.format('x', 2) }}", &[], ChatOptions::default()).unwrap(), "   x|2");
    }

    #[test]
    fn a_long_conversation_is_no_attack() {
        let talk = vec![("user", "x".repeat(10_000)); 300];
        let talk: Vec<(&str, &str)> = talk.iter().map(|(role, text)| (*role, text.as_str())).collect();
        assert!(render(QWEN3_LIKE, &talk, ChatOptions::default()).unwrap().len() > 3_000_000);
    }

    #[test]
    fn generation_tags_are_passed_over() {
        let source = "{%- for m in messages %}{% generation %}{{ m.content }}{%- endgeneration %}{% endfor %}";
        for source in [
            source.to_owned(),
            source.replace(" generation ", "generation").replace(" endgeneration ", "endgeneration"),
        ] {
            assert_eq!(render(&source, &[("user", "a"), ("user", "b")], ChatOptions::default()).unwrap(), "ab");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |now_unix_secs: u64, format: &str| strftime(format, now_unix_secs);
        assert_eq!(at(0, "%d %b %Y %A %T"), "01 Jan 1970 Thursday 00:00:00");
        assert_eq!(at(951_782_400, "%Y-%m-%d %a"), "2000-02-29 Tue");
        assert_eq!(at(1_735_689_599, "%F %I:%M:%S %p %%%q"), "2024-12-31 11:59:59 PM %%q");
        assert_eq!(at(4_107_542_400, "%e %B %y"), " 1 March 00");
        // What Python's `strftime` gives for 2024-01-05 06:07:08, a Friday, and for 2023-12-31 00:00:00, a Sunday.
        let all = "%-d %-m %-H %-I %-M %-S %-y %-j %j %D %R %r %c %h %C %k %l %P %u %w %U %W %Z|%-e %-";
        let expected =
            "5 1 6 6 7 8 24 5 005 01/05/24 06:07 06:07:08 AM Fri Jan  5 06:07:08 2024 Jan 20  6  6 am 5 5 00 01 |5 %-";
        assert_eq!(at(1_704_434_828, all), expected);
        assert_eq!(at(1_703_980_800, "%-d/%-m %-H %-I %j %u %w %U %W %é"), "31/12 0 12 365 7 0 53 52 %é");
        let options = ChatOptions { now_unix_secs: Some(1_735_689_600), ..ChatOptions::default() };
        assert_eq!(render("{{ strftime_now('%d %B %Y') }}", &[], options).unwrap(), "01 January 2025");
    }

    #[test]
    fn the_file_comes_before_the_configuration() {
        let config = TokenizerConfig::from_bytes(br#"{"chat_template": "old"}"#).unwrap();
        let text = |template: Option<ChatTemplate>| template.unwrap().render(&[], &ChatOptions::default()).unwrap();
        assert_eq!(text(ChatTemplate::from_checkpoint(Some("new"), &config).unwrap()), "new");
        assert_eq!(text(ChatTemplate::from_checkpoint(None, &config).unwrap()), "old");
        assert!(ChatTemplate::from_checkpoint(None, &TokenizerConfig::default()).unwrap().is_none());
    }

    /// What Jinja in Python gives: dictionaries keep their order, and `apply_chat_template` always passes tools and documents.
    #[test]
    fn dictionaries_and_variables_are_pythons() {
        let source = "{{ {'z': 1, 'a': {'y': 2, 'b': 3}} | tojson }}|{% for k, v in {'z': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}|\
                      {{ messages[0].keys() | list }}|{{ messages[0] | tojson }}|{{ tools is none }} {{ documents is none }} \
                      {{ tools is defined }}|{% if tools is not none %}TOOLS{% endif %}|{{ dict(b=1, a=2) | tojson }}";
        let expected = "{\"z\": 1, \"a\": {\"y\": 2, \"b\": 3}}|z1a2|['role', 'content']|\
                        {\"role\": \"user\", \"content\": \"Hi\"}|True True True||{\"b\": 1, \"a\": 2}";
        assert_eq!(render(source, &[("user", "Hi")], ChatOptions::default()).unwrap(), expected);
    }

    #[test]
    fn a_pad_token_is_passed_where_it_is_known_and_told_apart_where_it_is_printed() {
        let template = |source: &str, config: &str| {
            let config = TokenizerConfig::from_bytes(config.as_bytes()).unwrap();
            let template = ChatTemplate::new(source, &config).unwrap();
            (template.render(&[], &ChatOptions::default()).unwrap(), template.sha256().to_owned())
        };
        let source = "{{ pad_token is defined }}{{ pad_token }}";
        let (known, unknown) = (template(source, r#"{"pad_token": "<P>"}"#), template(source, "{}"));
        assert_eq!((known.0.as_str(), unknown.0.as_str()), ("True<P>", "False"));
        assert_ne!(known.1, unknown.1);
        assert_eq!(template("x", r#"{"pad_token": "<P>"}"#), template("x", "{}"));
    }

    #[test]
    fn the_thinkers_template_equals_the_default_prompt() {
        let config = TokenizerConfig::from_bytes(tpv_thinker::TOKENIZER_CONFIG).unwrap();
        let template = ChatTemplate::from_checkpoint(None, &config).unwrap().unwrap();
        let prompt = template.render(&[ChatMessage::new("user", "1+1?")], &ChatOptions::default()).unwrap();
        let with_bos = format!("<|bos|>{}", PromptTemplate::default().render("1+1?"));
        assert_eq!(prompt, with_bos, "a chat's prompt is tokenised without the tokens that others get added");
    }
}
