//! Engines that expose the final hidden state of a language model, and the one decode loop that every command uses.

pub mod config;
pub mod conformance;
pub mod decode;
mod decoder;
pub mod device;
pub mod engine;
pub mod error;
pub mod generation_config;
mod gguf;
mod gguf_header;
pub mod kv;
pub mod load;
pub mod memory;
pub mod model;
pub mod prepared_vector;
pub mod random;
pub mod scripted;
pub mod template;
pub mod text_stream;
pub mod tokenizer;
pub mod tokenizer_config;
pub mod vocabulary;
mod weights;
