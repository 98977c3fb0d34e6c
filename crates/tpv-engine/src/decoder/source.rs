//! Where a decoder's weights come from: a checkpoint's files, or random numbers for benchmarks.
//!
//! Names are those of Hugging Face checkpoints without `.weight`; other formats translate.

use candle_core::quantized::QMatMul;
use candle_core::{Device, Tensor};

use super::linear::Linear;
use crate::device::DtypeChoice;
use crate::error::Result;
use crate::random::RandomWeights;
use crate::weights::{StoredTensor, TensorFiles};

/// The place and form of one linear layer's weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinearShape {
    pub outputs: usize,
    pub inputs: usize,
    pub bias: bool,
    pub dtype: DtypeChoice,
}

/// Gives out the weights of a decoder, each once.
pub(crate) trait WeightSource {
    /// All entries of a tensor of this shape; `name` is whole.
    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>>;

    /// A vector of this length; `name` is whole.
    fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>> {
        self.floats(name, &[length])
    }

    /// One row of a matrix `[outputs, inputs]`; `name` is whole.
    fn row(&self, name: &str, shape: [usize; 2], row: usize) -> Result<Vec<f32>> {
        Ok(self.floats(name, &shape)?[row * shape[1]..][..shape[1]].to_vec())
    }

    /// A linear layer.
    fn linear(&self, name: &str, shape: LinearShape) -> Result<Linear>;

    /// The rows of the embedding, `[vocab, width]`.
    fn embedding(&self, vocab: usize, width: usize) -> Result<EmbeddingTable>;
}

/// The embedding's rows, in whatever form they lie.
#[derive(Debug)]
pub(crate) enum EmbeddingTable {
    /// In a mapped file.
    Stored(StoredTensor),
    /// Quantised.
    Quantised(QMatMul),
    /// In memory, `[vocab, width]`.
    Dense(Vec<f32>),
    /// Made up when they are asked for.
    Random(RandomWeights),
}

impl EmbeddingTable {
    /// Bytes that the rows take in memory; those of a mapped file are the system's to keep or drop.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Stored(_) | Self::Random(_) => 0,
            Self::Dense(table) => size_of_val(&**table),
            Self::Quantised(QMatMul::QTensor(tensor)) => tensor.storage_size_in_bytes(),
            Self::Quantised(QMatMul::Tensor(tensor) | QMatMul::TensorF16(tensor)) => {
                tensor.elem_count() * tensor.dtype().size_in_bytes()
            }
        }
    }

    /// Writes the rows of `tokens` to `out`, `[tokens, width]`.
    pub fn look_up(&self, tokens: &[u32], width: usize, out: &mut Vec<f32>) -> Result<()> {
        out.resize(tokens.len() * width, 0.0);
        let mut rows = tokens.iter().zip(out.chunks_exact_mut(width));
        match self {
            Self::Stored(tensor) => rows.try_for_each(|(&token, row)| tensor.copy(token as usize * width, row))?,
            Self::Random(weights) => rows.for_each(|(&token, row)| weights.embed(token as usize, row)),
            Self::Dense(table) => {
                rows.for_each(|(&token, row)| row.copy_from_slice(&table[token as usize * width..][..width]));
            }
            Self::Quantised(table) => {
                *out = table.embedding(&Tensor::new(tokens, &Device::Cpu)?)?.flatten_all()?.to_vec1()?;
            }
        }
        Ok(())
    }
}

impl WeightSource for TensorFiles {
    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.get(name, shape)?;
        let mut floats = vec![0.0; shape.iter().product()];
        tensor.copy(0, &mut floats)?;
        Ok(floats)
    }

    fn row(&self, name: &str, shape: [usize; 2], row: usize) -> Result<Vec<f32>> {
        let mut floats = vec![0.0; shape[1]];
        self.get(name, &shape)?.copy(row * shape[1], &mut floats)?;
        Ok(floats)
    }

    fn linear(&self, name: &str, shape: LinearShape) -> Result<Linear> {
        let LinearShape { outputs, inputs, bias, dtype } = shape;
        let tensor = self.get(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), outputs)).transpose()?;
        Linear::from_rows((outputs, inputs), dtype, bias, |first, rows| tensor.copy(first * inputs, rows))
    }

    fn embedding(&self, vocab: usize, width: usize) -> Result<EmbeddingTable> {
        Ok(EmbeddingTable::Stored(self.get("model.embed_tokens.weight", &[vocab, width])?.mapped()?))
    }
}
