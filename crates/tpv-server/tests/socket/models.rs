//! What is served in the tests: the bundled model with a vector, and models that follow a script.

use std::sync::Arc;
use tpv_core::vector::{LinearHead, ProgressVector};
use tpv_engine::decode::{DecodeLimits, Decoder};
use tpv_engine::load::{LoadOptions, ModelSource};
use tpv_engine::model::{LimitWishes, TextFiles, TextModel};
use tpv_engine::scripted::{ScriptedEngine, ScriptedStep};
use tpv_engine::vocabulary::{ModelVocabulary, Vocabulary};
use tpv_server::{Served, ServedVector};

pub fn thinker() -> TextModel {
    thinker_with(&LoadOptions::default())
}

pub fn thinker_with(options: &LoadOptions) -> TextModel {
    let source = ModelSource::Embedded { config: tpv_thinker::CONFIG, weights: tpv_thinker::WEIGHTS };
    let text = TextFiles {
        tokenizer: tpv_thinker::TOKENIZER.into(),
        tokenizer_config: Some(tpv_thinker::TOKENIZER_CONFIG.into()),
        generation_config: Some(tpv_thinker::GENERATION_CONFIG.into()),
        config: Some(tpv_thinker::CONFIG.into()),
        special_tokens_map: None,
        added_tokens: None,
        chat_template: None,
    };
    let wishes = LimitWishes { max_batch: Some(32), ..LimitWishes::default() };
    TextModel::load("thinker", None, &source, &text, options, wishes).unwrap()
}

/// A vector that reads something and, pushed, ends the thinking: the row of `</think>` itself.
pub fn vector(model: &TextModel) -> ServedVector {
    let width = model.identity.hidden_size;
    let end = model.prompts.think_end[0] as usize;
    let unit = |place: usize| (0..width).map(|k| f32::from(u8::from(k == place))).collect::<Vec<f32>>();
    let row: Vec<f32> = (0..width).map(|place| model.decoder.project(&unit(place)).unwrap()[end]).collect();
    let head = LinearHead { weights: row.clone(), intercept: 0.0 };
    let efforts = [("low".to_string(), 50.0)].into();
    let vector = ProgressVector { theta: row, progress: head, efforts, ..ProgressVector::default() };
    ServedVector { vector, warnings: Vec::new() }
}

/// A model with the bundled tokenizer that says what `next` returns for the tokens so far, and never ends by itself.
pub fn scripted(next: impl Fn(&[u32]) -> u32 + Send + 'static) -> Served {
    let model = thinker();
    let (vocab_size, think_end) = (model.identity.vocab_size, model.prompts.think_end.clone());
    let script = move |tokens: &[u32]| ScriptedStep { next: next(tokens), progress: 0.5 };
    let engine = ScriptedEngine::new(vocab_size, think_end[0], script);
    let vocabulary = ModelVocabulary::new(Arc::clone(&model.prompts.tokenizer), Vec::new(), think_end, Vec::new());
    let decoder = Decoder::new(Box::new(engine), Arc::new(vocabulary), DecodeLimits::default());
    Served { model: TextModel { decoder, ..model }, vector: None }
}

/// Where the pieces of [`pieces`] begin, beyond the bundled tokenizer's tokens.
const FIRST_PIECE: usize = 600;

struct Pieces {
    bytes: Vec<Vec<u8>>,
    think_end: Vec<u32>,
}

impl Vocabulary for Pieces {
    fn token_bytes(&self, token: u32) -> &[u8] {
        (token as usize).checked_sub(FIRST_PIECE).and_then(|place| self.bytes.get(place)).map_or(&[], Vec::as_slice)
    }

    fn is_end_of_sequence(&self, token: u32) -> bool {
        token as usize == FIRST_PIECE + self.bytes.len()
    }

    fn think_end_tokens(&self) -> &[u32] {
        &self.think_end
    }

    fn wait_tokens(&self) -> &[u32] {
        &[]
    }
}

/// A model that says these bytes, one token for each entry, and ends.
pub fn pieces(bytes: Vec<Vec<u8>>) -> Served {
    let model = thinker();
    let think_end = model.prompts.think_end.clone();
    let said = |tokens: &[u32]| tokens.iter().filter(|&&token| token as usize >= FIRST_PIECE).count();
    let script = move |tokens: &[u32]| ScriptedStep { next: (FIRST_PIECE + said(tokens)) as u32, progress: 0.5 };
    let engine = ScriptedEngine::new(FIRST_PIECE + bytes.len() + 1, think_end[0], script);
    let vocabulary = Pieces { bytes, think_end };
    let decoder = Decoder::new(Box::new(engine), Arc::new(vocabulary), DecodeLimits::default());
    Served { model: TextModel { decoder, ..model }, vector: None }
}

struct LongWords(String);

impl Vocabulary for LongWords {
    fn token_bytes(&self, _: u32) -> &[u8] {
        self.0.as_bytes()
    }

    fn is_end_of_sequence(&self, _: u32) -> bool {
        false
    }

    fn think_end_tokens(&self) -> &[u32] {
        &[]
    }

    fn wait_tokens(&self) -> &[u32] {
        &[]
    }
}

/// A model whose every token is 2 KiB of text, and which never ends: few tokens fill what a socket holds.
pub fn endless() -> Served {
    let model = thinker();
    let engine = ScriptedEngine::new(model.identity.vocab_size, 0, |_| ScriptedStep { next: 1, progress: 0.5 });
    let decoder = Decoder::new(Box::new(engine), Arc::new(LongWords("x".repeat(2048))), DecodeLimits::default());
    Served { model: TextModel { decoder, ..model }, vector: None }
}

/// The token that the bundled tokenizer makes of a letter.
pub fn letter(text: &str) -> u32 {
    thinker().prompts.tokenizer.encode(text, false).unwrap()[0]
}
