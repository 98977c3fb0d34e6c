//! The thinker: a small reasoning model with its problems, as bytes inside the program.
//!
//! A 2.0M-parameter model of the Llama architecture (d 192, vocabulary 596), trained from scratch to add and subtract
//! small amounts step by step and to check its own work, so that thinking progress can be shown without a download.
//! What it can do, what it cannot, and how it was made stands in this crate's `README.md`; the Python scripts beside it
//! made the weights. This crate promises bytes in the usual checkpoint formats and leaves reading them to others.

/// The model's `config.json`.
pub const CONFIG: &[u8] = include_bytes!("../model/config.json");

/// The model's `tokenizer.json`: byte-level BPE, 596 tokens, `<think>` and `</think>` among them.
pub const TOKENIZER: &[u8] = include_bytes!("../model/tokenizer.json");

/// The model's `tokenizer_config.json`, chat template included.
pub const TOKENIZER_CONFIG: &[u8] = include_bytes!("../model/tokenizer_config.json");

/// The model's `generation_config.json`.
pub const GENERATION_CONFIG: &[u8] = include_bytes!("../model/generation_config.json");

/// The model's `model.safetensors`: bf16, 4.0 MB.
pub const WEIGHTS: &[u8] = include_bytes!("../model/model.safetensors");

/// The model's thinking progress vector with its calibration, `vector/tpv.safetensors`.
pub const VECTOR: &[u8] = include_bytes!("../vector/tpv.safetensors");

/// 400 problems for the model, one `{"problem", "answer"}` a line: 0 to 199 of the training stream, 200 to 399 of the
/// test stream, whose problems were never trained on.
pub const PROBLEMS_JSONL: &str = include_str!("../problems.jsonl");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_the_length_that_their_header_says() {
        let header_len = u64::from_le_bytes(WEIGHTS[..8].try_into().unwrap()) as usize;
        let header = std::str::from_utf8(&WEIGHTS[8..8 + header_len]).unwrap();
        let data_end = header.match_indices("data_offsets\":[").map(|(at, key)| {
            let offsets = &header[at + key.len()..];
            offsets[..offsets.find(']').unwrap()].split(',').nth(1).unwrap().parse::<usize>().unwrap()
        });
        assert_eq!(8 + header_len + data_end.max().unwrap(), WEIGHTS.len());
    }

    #[test]
    fn there_are_400_problems_and_no_two_are_the_same() {
        let lines: Vec<&str> = PROBLEMS_JSONL.lines().collect();
        assert_eq!(lines.len(), 400);
        assert!(lines.iter().all(|line| line.starts_with("{\"problem\": \"") && line.contains("\"answer\": \"")));
        let distinct: std::collections::BTreeSet<&str> = lines.into_iter().collect();
        assert_eq!(distinct.len(), 400);
    }
}
