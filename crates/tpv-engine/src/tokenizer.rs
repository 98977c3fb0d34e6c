//! Text to token ids and back, as the checkpoint's `tokenizer.json` says.
//!
//! Encoding is that of Hugging Face `tokenizers`: special tokens inside the text are recognised, and the special
//! tokens that the model expects at the start are added on request. Going back, each token stands for exact *bytes*
//! ([`Tokenizer::token_bytes`]): a token may end inside a character, and the text of a list of tokens is the text of
//! their bytes joined ([`TextStream`](crate::text_stream::TextStream) does that one token at a time).
//!
//! Three ways of writing bytes in a vocabulary are known: the byte-level alphabet of GPT-2 (`Ġ` for a space), the
//! SentencePiece way (`▁` for a space, `<0xE2>` for a byte), and added tokens, which stand for their own text.

use crate::error::{EngineError, Result};
use crate::tokenizer_config::{NumberedToken, TokenizerConfig, eos_token_ids};
use serde::de::IgnoredAny;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use tokenizers::AddedToken;
use tpv_core::phase::ThinkingMarkers;
use tpv_core::quiet::quietly;

/// The largest `tokenizer.json` that is read, in bytes; those of known models have at most 35 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// The largest token number that a vocabulary may hold.
const MAX_TOKEN_ID: u32 = (1 << 22) - 1;

/// A checkpoint's tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    encoder: tokenizers::Tokenizer,
    table: ByteTable,
    /// Bytes of the longest token.
    longest: usize,
    sha256: String,
    /// What a prompt starts with where `tokenizer.json` is overruled.
    bos: BosRule,
}

/// What becomes of the token that begins a sequence.
#[derive(Debug, Clone, Copy)]
enum BosRule {
    /// What `tokenizer.json` says.
    Keep,
    /// It is put before every prompt.
    Add(u32),
    /// The one that `tokenizer.json` puts before every prompt is taken away.
    Remove(u32),
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn from_file(path: &Path) -> Result<Self> {
        let file = |problem: String| EngineError::File { path: path.to_path_buf(), problem };
        let length = std::fs::metadata(path).map_err(|error| file(error.to_string()))?.len();
        if length > MAX_FILE_BYTES {
            return Err(file(format!("{length} bytes are too many for a tokenizer (at most {MAX_FILE_BYTES})")));
        }
        let json = std::fs::read(path).map_err(|error| file(error.to_string()))?;
        Self::from_bytes(&json).map_err(|error| match error {
            EngineError::Tokenizer(problem) => file(problem),
            other => other,
        })
    }

    /// Reads the bytes of a `tokenizer.json`.
    pub fn from_bytes(json: &[u8]) -> Result<Self> {
        if json.len() as u64 > MAX_FILE_BYTES {
            let problem = format!("{} bytes are too many for tokenizer.json (at most {MAX_FILE_BYTES})", json.len());
            return Err(EngineError::Tokenizer(problem));
        }
        let mut encoder = parse(json)
            .map_err(|problem| EngineError::Tokenizer(format!("this is no usable tokenizer.json: {problem}")))?;
        // A file may carry the cutting and padding of the run that wrote it; prompts want neither.
        encoder.with_padding(None);
        encoder.with_truncation(None).map_err(|error| EngineError::Tokenizer(error.to_string()))?;
        Self::of(encoder, json)
    }

    /// `json` tells it from others.
    fn of(encoder: tokenizers::Tokenizer, json: &[u8]) -> Result<Self> {
        let table = ByteTable::of(&encoder)?;
        let longest = (0..table.spans.len() as u32).map(|id| table.bytes(id).len()).max().unwrap_or(0);
        Ok(Self { encoder, table, longest, sha256: hex(&Sha256::digest(json)), bos: BosRule::Keep })
    }

    /// Follows `tokenizer_config.json` where it overrules `tokenizer.json`: `add_bos_token`, for the classes whose
    /// transformers code (to 4.57; from 5 on the flag is not read at all) builds the rule anew from this flag. Other classes
    /// keep what `tokenizer.json` says.
    pub fn with_config(self, config: &TokenizerConfig) -> Self {
        let rebuilds = |class: &str| ["Llama", "Gemma", "Cohere"].iter().any(|family| class.contains(family));
        match config.add_bos_token.filter(|_| config.tokenizer_class.as_deref().is_some_and(rebuilds)) {
            Some(wanted) => self.with_bos(config.bos_token(), wanted),
            None => self,
        }
    }

    /// Puts this token before every prompt, or takes away the one that `tokenizer.json` puts there.
    pub fn with_bos(mut self, token: Option<&str>, wanted: bool) -> Self {
        let Some(id) = token.and_then(|token| self.encoder.token_to_id(token)) else { return self };
        let first = |special| self.raw_ids("a", special).ok().and_then(|ids| ids.first().copied());
        let is_added = first(true) == Some(id) && first(false) != Some(id);
        self.bos = match (wanted, is_added) {
            (true, false) => BosRule::Add(id),
            (false, true) => BosRule::Remove(id),
            _ => BosRule::Keep,
        };
        self
    }

    /// Adds the tokens that stand in other files than `tokenizer.json`, each as one token with its number, as transformers
    /// does: tokens that `tokenizer.json` has too are found as the other file says, and a new number must be the next free one.
    /// `vocabulary` is the length of the model's, if it is known. Also sentences about tokens that cannot be added.
    pub fn with_added_tokens(
        mut self,
        tokens: &BTreeMap<u32, NumberedToken>,
        special: &[String],
        vocabulary: Option<usize>,
    ) -> Result<(Self, Vec<String>)> {
        let known = self.encoder.get_added_tokens_decoder();
        let size = self.encoder.get_vocab_size(false) as u32;
        let mut next = known.keys().max().map_or(size, |last| size.max(last.saturating_add(1)));
        let (mut added, mut strange) = (Vec::new(), Vec::new());
        for (&id, token) in tokens {
            let (content, own) = (&token.content, self.encoder.token_to_id(&token.content));
            let is_known =
                |known: &AddedToken| *known == library_token(token) || (token.is_bare && known.content == *content);
            if known.get(&id).is_some_and(is_known) {
                continue;
            }
            match own {
                Some(own) if own != id => strange.push(format!("{content:?} is {own} in tokenizer.json, not {id}")),
                _ if vocabulary.is_some_and(|length| id as usize >= length) => {
                    strange.push(format!("{content:?} is {id}, which the model does not have"));
                }
                None if id != next || id > MAX_TOKEN_ID => {
                    strange.push(format!("{content:?} is {id}, but the next number after tokenizer.json is {next}"));
                }
                _ => {
                    next += u32::from(own.is_none());
                    added.push(library_token(token));
                }
            }
        }
        let unknown = special.iter().filter(|text| self.token_id(text).is_none());
        let unknown = unknown.filter(|text| tokens.values().all(|token| token.content != **text));
        let unknown: Vec<String> = unknown.map(|text| format!("{text:?}")).collect();
        let left_out = "name tokens that are left out";
        let nameless = "name special tokens without a number, which are read as plain text";
        let notices = [notice_of_tokens(left_out, &strange), notice_of_tokens(nameless, &unknown)];
        let notices = notices.into_iter().flatten().collect();
        if added.is_empty() {
            return Ok((self, notices));
        }
        let told = format!("{} {added:?}", self.sha256);
        self.encoder.add_tokens(added).map_err(|error| EngineError::Tokenizer(error.to_string()))?;
        Ok((Self { bos: self.bos, ..Self::of(self.encoder, told.as_bytes())? }, notices))
    }

    fn raw_ids(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.encoder.encode_fast(text, add_special_tokens))
            .map_err(|problem| EngineError::Tokenizer(format!("the text cannot be encoded: {problem}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The token ids of a text. Special tokens inside the text are recognised; with `add_special_tokens` those that
    /// every prompt of this model starts with are added (say `false` for a text from a chat template, which writes
    /// them itself).
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let mut ids = self.raw_ids(text, add_special_tokens)?;
        match self.bos {
            BosRule::Add(id) if add_special_tokens => ids.insert(0, id),
            BosRule::Remove(id) if add_special_tokens && ids.first() == Some(&id) => drop(ids.remove(0)),
            _ => {}
        }
        Ok(ids)
    }

    /// The bytes that a token stands for; empty for a number that is no token.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.table.bytes(id)
    }

    /// The text of some tokens, special ones included; bytes that are no text become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The text of the token with this number, as the file writes it.
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.encoder.id_to_token(id)
    }

    /// The number of the token with this text, as the file writes it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.encoder.token_to_id(token)
    }

    /// Whether the file calls the token special (such as the end of a sequence, which is no text to show).
    pub fn is_special(&self, id: u32) -> bool {
        self.table.special.get(id as usize).copied().unwrap_or(false)
    }

    /// One more than the largest token number. The model's logits may be longer (padding) but never shorter.
    pub fn vocab_size(&self) -> usize {
        self.table.spans.len()
    }

    /// More bytes than a token of a text can stand for: four times the longest one, since texts may shrink when they are
    /// brought into their normal form.
    pub fn most_bytes_per_token(&self) -> usize {
        4 * self.longest.max(1)
    }

    /// SHA-256 of the file, in hexadecimal; where tokens of other files were added, of both.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The tokens that end a sequence, from the first source that names any: `generation_config.json`, `config.json`,
    /// the `eos_token` of `tokenizer_config.json`. Empty when none does.
    pub fn eos_ids(
        &self,
        generation_config: Option<&[u8]>,
        model_config: Option<&[u8]>,
        tokenizer_config: Option<&TokenizerConfig>,
    ) -> Result<Vec<u32>> {
        for (file_name, json) in [("generation_config.json", generation_config), ("config.json", model_config)] {
            let ids = json.map_or(Ok(Vec::new()), |json| eos_token_ids(file_name, json))?;
            if !ids.is_empty() {
                return Ok(ids);
            }
        }
        let token = tokenizer_config.and_then(TokenizerConfig::eos_token);
        Ok(token.and_then(|token| self.token_id(token)).into_iter().collect())
    }

    /// The tokens that write exactly this text; none where no tokens stand for its bytes.
    pub fn ids_that_write(&self, text: &str) -> Result<Option<Vec<u32>>> {
        let encoded = self.encode(text, false)?;
        let writes = !encoded.is_empty() && encoded.iter().flat_map(|&id| self.token_bytes(id)).eq(text.as_bytes());
        Ok(if writes { Some(encoded) } else { self.table.spell(text.as_bytes()) })
    }

    /// The tokens that write the end of the thinking, one where the vocabulary has it as a token.
    ///
    /// An error when no tokens stand for its bytes.
    pub fn end_of_thinking_ids(&self, markers: &ThinkingMarkers) -> Result<Vec<u32>> {
        let marker = markers.end.as_str();
        self.ids_that_write(marker)?.ok_or_else(|| {
            EngineError::Tokenizer(format!(
                "no tokens write {marker:?}, so the end of the thinking can be neither seen nor forced; \
                 use a reasoning model, or name the text that ends its thinking"
            ))
        })
    }

    /// What a user should know about the end of the thinking: that it is several tokens, which theta must bring about
    /// one after the other. `None` when it is one token.
    pub fn end_of_thinking_notice(&self, markers: &ThinkingMarkers) -> Result<Option<String>> {
        let count = self.end_of_thinking_ids(markers)?.len();
        Ok((count > 1).then(|| {
            format!(
                "{:?} is {count} tokens in this tokenizer, not one: figures about its logit speak of the first of them",
                markers.end
            )
        }))
    }
}

fn library_token(token: &NumberedToken) -> AddedToken {
    AddedToken {
        content: token.content.clone(),
        single_word: token.single_word,
        lstrip: token.lstrip,
        rstrip: token.rstrip,
        normalized: token.normalized,
        special: token.special,
    }
}

/// One sentence about tokens that other files than `tokenizer.json` name; the first few of them.
fn notice_of_tokens(what: &str, tokens: &[String]) -> Option<String> {
    const MOST: usize = 3;
    let more = tokens.len().saturating_sub(MOST);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let listed = tokens[..tokens.len().min(MOST)].join("; ");
    (!tokens.is_empty()).then(|| format!("tokenizer_config.json or added_tokens.json {what}: {listed}{more}"))
}

/// The library's tokenizer, or why there is none.
fn parse(json: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    // The library panics on a file that ends too early, so the syntax is checked first.
    serde_json::from_slice::<IgnoredAny>(json).map_err(|error| error.to_string())?;
    guarded(|| tokenizers::Tokenizer::from_bytes(json))
}

/// Runs a part of the library that panics on some contradictory files: merges without the subword prefix that is
/// announced, a prompt template that names an unknown token.
fn guarded<T>(part: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    // Nothing that the part could leave half-changed is used after a panic but the library's cache of words.
    match quietly(part) {
        Some(outcome) => outcome.map_err(|error| error.to_string()),
        None => Err("the parts of tokenizer.json contradict each other".into()),
    }
}

/// The bytes of every token, joined, with the place of each.
#[derive(Debug, Clone, Default)]
struct ByteTable {
    bytes: Vec<u8>,
    /// Start and end in `bytes`, by token number.
    spans: Vec<(u32, u32)>,
    special: Vec<bool>,
    added: Vec<bool>,
}

impl ByteTable {
    fn of(encoder: &tokenizers::Tokenizer) -> Result<Self> {
        let added = encoder.get_added_tokens_decoder();
        let model_tokens = encoder.get_vocab(false);
        let ids = model_tokens.values().chain(added.keys());
        let Some(&last) = ids.max() else {
            return Err(EngineError::Tokenizer("the vocabulary is empty".into()));
        };
        if last > MAX_TOKEN_ID {
            return Err(EngineError::Tokenizer(format!(
                "token number {last} is out of range (at most {MAX_TOKEN_ID})"
            )));
        }
        let alphabet = Alphabet::of(encoder)?;
        let mut texts: Vec<Option<Vec<u8>>> = vec![None; last as usize + 1];
        for (token, id) in model_tokens {
            texts[id as usize] = Some(alphabet.bytes(&token));
        }
        for (&id, token) in &added {
            texts[id as usize] = Some(token.content.clone().into_bytes());
        }
        let mut table = Self { added: vec![false; texts.len()], special: vec![false; texts.len()], ..Self::default() };
        for (&id, token) in &added {
            table.added[id as usize] = true;
            table.special[id as usize] = token.special;
        }
        texts.iter().for_each(|text| table.append(text.as_deref().unwrap_or_default()));
        Ok(table)
    }

    fn append(&mut self, text: &[u8]) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(text);
        self.spans.push((start, self.bytes.len() as u32));
    }

    fn bytes(&self, id: u32) -> &[u8] {
        self.spans.get(id as usize).map_or(&[], |&(start, end)| &self.bytes[start as usize..end as usize])
    }

    /// Ordinary tokens that write `text`: always the longest one that fits.
    fn spell(&self, text: &[u8]) -> Option<Vec<u32>> {
        let mut ids = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let fits = |&id: &u32| {
                let bytes = self.bytes(id);
                !self.added[id as usize] && !bytes.is_empty() && rest.starts_with(bytes)
            };
            let longest = (0..self.spans.len() as u32).filter(fits).max_by_key(|&id| self.bytes(id).len())?;
            rest = &rest[self.bytes(longest).len()..];
            ids.push(longest);
        }
        Some(ids)
    }
}

/// How a vocabulary writes bytes as text.
#[derive(Debug, Clone)]
enum Alphabet {
    /// Every byte is one printable character (GPT-2).
    ByteLevel(HashMap<char, u8>),
    /// `▁` is a space and `<0xE2>` a byte (SentencePiece).
    SentencePiece,
}

impl Alphabet {
    fn of(encoder: &tokenizers::Tokenizer) -> Result<Self> {
        let parts = (encoder.get_decoder(), encoder.get_pre_tokenizer(), encoder.get_normalizer());
        let parts = serde_json::to_value(parts).map_err(|error| EngineError::Tokenizer(error.to_string()))?;
        let mut kinds = Vec::new();
        collect_kinds(&parts, &mut kinds);
        if kinds.iter().any(|kind| kind == "ByteLevel") {
            return Ok(Self::ByteLevel(byte_level_alphabet()));
        }
        if let Some(kind) = kinds.iter().find(|kind| ["WordPiece", "BPEDecoder", "CTC"].contains(&kind.as_str())) {
            return Err(EngineError::Tokenizer(format!(
                "its {kind} decoder does not say which bytes a token stands for; \
                 byte-level and SentencePiece tokenizers are supported"
            )));
        }
        Ok(Self::SentencePiece)
    }

    fn bytes(&self, token: &str) -> Vec<u8> {
        match self {
            Self::ByteLevel(byte_of) => {
                let bytes: Option<Vec<u8>> = token.chars().map(|letter| byte_of.get(&letter).copied()).collect();
                bytes.unwrap_or_else(|| token.as_bytes().to_vec())
            }
            Self::SentencePiece => match byte_token(token) {
                Some(byte) => vec![byte],
                None => token.replace('\u{2581}', " ").into_bytes(),
            },
        }
    }
}

/// The value of a byte token, `<0xE2>`.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
        .then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The names of all parts, nested ones included.
fn collect_kinds(parts: &Value, kinds: &mut Vec<String>) {
    match parts {
        Value::Array(list) => list.iter().for_each(|part| collect_kinds(part, kinds)),
        Value::Object(fields) => {
            kinds.extend(fields.get("type").and_then(Value::as_str).map(String::from));
            fields.values().for_each(|part| collect_kinds(part, kinds));
        }
        _ => {}
    }
}

/// GPT-2's alphabet: bytes that print stand for themselves, the others for the characters from U+0100 on, in order.
fn byte_level_alphabet() -> HashMap<char, u8> {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let hidden = (0..=255).filter(|&byte| !prints(byte));
    let moved = ('\u{100}'..).zip(hidden);
    (0..=255).filter(|&byte| prints(byte)).map(|byte| (char::from(byte), byte)).chain(moved).collect()
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
