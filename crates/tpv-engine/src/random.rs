//! Models of named shapes with random weights, for benchmarks that need no download.

use half::bf16;

use crate::config::{DecoderConfig, RopeConfig, RopePairing, RopeScaling};
use crate::decoder::{EmbeddingTable, Linear, LinearShape, WeightSource};
use crate::error::{EngineError, Result};

/// The named shapes: name, d, inner width, layers, heads, key/value heads, vocabulary.
const SHAPES: [(&str, [usize; 6]); 6] = [
    ("0.5b", [896, 4864, 24, 14, 2, 151_936]),
    ("1.5b", [1536, 8960, 28, 12, 2, 151_936]),
    ("1.5b-8-layers", [1536, 8960, 8, 12, 2, 151_936]),
    ("7b", [3584, 18_944, 28, 28, 4, 152_064]),
    ("8b", [4096, 14_336, 32, 32, 8, 128_256]),
    ("32b", [5120, 27_648, 64, 40, 8, 152_064]),
];

/// The shape of this name: `0.5b`, `1.5b`, `1.5b-8-layers`, `7b` and `32b` as in Qwen2.5, `8b` as in Llama 3.1.
pub fn named_shape(name: &str) -> Result<DecoderConfig> {
    let found = SHAPES.iter().find(|(known, _)| *known == name);
    let (_, [hidden_size, intermediate_size, layers, heads, kv_heads, vocab_size]) = *found.ok_or_else(|| {
        let known: Vec<&str> = SHAPES.iter().map(|(name, _)| *name).collect();
        EngineError::Unsupported(format!("no shape is named `{name}`; there are {}", known.join(", ")))
    })?;
    let is_llama = name == "8b";
    Ok(DecoderConfig {
        architecture: if is_llama { "LlamaForCausalLM" } else { "Qwen2ForCausalLM" }.to_owned(),
        hidden_size,
        intermediate_size,
        layers,
        heads,
        kv_heads,
        head_dim: hidden_size / heads,
        vocab_size,
        max_positions: 131_072,
        norm_epsilon: 1e-6,
        qkv_bias: !is_llama,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        tied_head: hidden_size <= 1536,
        rope: RopeConfig { theta: 1e6, scaling: RopeScaling::None, pairing: RopePairing::Halves },
        windows: vec![None; layers],
    })
}

/// Random weights whose size keeps activations near 1; a row's values depend on its tensor's name and its number alone,
/// so that no tensor need be kept.
#[derive(Debug, Default)]
pub(crate) struct RandomWeights;

const EMBEDDING: &str = "model.embed_tokens.weight";

impl RandomWeights {
    /// Writes row `token` of the embedding.
    pub fn embed(&self, token: usize, out: &mut [f32]) {
        self.fill_row(EMBEDDING, token, out);
    }

    /// Writes rows of `width` entries of a matrix from row `first` on.
    fn fill(&self, name: &str, first: usize, width: usize, out: &mut [f32]) {
        for (row, out) in out.chunks_mut(width).enumerate() {
            self.fill_row(name, first + row, out);
        }
    }

    fn fill_row(&self, name: &str, row: usize, out: &mut [f32]) {
        let spread = match name {
            EMBEDDING => 1.0,
            _ if name.ends_with(".bias") => 0.1,
            _ => (3.0 / out.len() as f32).sqrt(),
        };
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let seed = name.bytes().chain(row.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, mix);
        let mut state = seed | 1;
        for slot in out {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Rounded as published weights are.
            *slot = bf16::from_f32(((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * spread).to_f32();
        }
    }
}

impl WeightSource for RandomWeights {
    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let mut values = vec![1.0; shape.iter().product()];
        match shape {
            [length] if name.ends_with(".bias") => self.fill(name, 0, *length, &mut values),
            [_, width] => self.fill(name, 0, *width, &mut values),
            _ => {}
        }
        Ok(values)
    }

    fn row(&self, name: &str, shape: [usize; 2], row: usize) -> Result<Vec<f32>> {
        let mut floats = vec![0.0; shape[1]];
        self.fill_row(name, row, &mut floats);
        Ok(floats)
    }

    fn linear(&self, name: &str, shape: LinearShape) -> Result<Linear> {
        let LinearShape { outputs, inputs, bias, dtype } = shape;
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), outputs)).transpose()?;
        let name = format!("{name}.weight");
        Linear::from_rows((outputs, inputs), dtype, bias, |first, rows| {
            self.fill(&name, first, inputs, rows);
            Ok(())
        })
    }

    fn embedding(&self, _: usize, _: usize) -> Result<EmbeddingTable> {
        Ok(EmbeddingTable::Random(Self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_shapes_are_valid_and_unknown_names_list_them() {
        for (name, _) in SHAPES {
            named_shape(name).unwrap().validate().unwrap();
        }
        assert!(named_shape("3b").unwrap_err().to_string().contains("1.5b-8-layers"));
    }

    #[test]
    fn weights_are_spread_evenly() {
        let mut values = [0.0; 10_000];
        RandomWeights.fill(EMBEDDING, 0, 100, &mut values);
        let mean: f32 = values.iter().sum::<f32>() / 10_000.0;
        let square: f32 = values.iter().map(|v| v * v).sum::<f32>() / 10_000.0;
        assert!(mean.abs() < 0.05 && (square - 1.0 / 3.0).abs() < 0.05, "{mean} {square}");
    }
}
