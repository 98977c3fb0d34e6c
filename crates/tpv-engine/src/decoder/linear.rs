//! Linear layers on the CPU: `y = x W^T + b` with W in packed f32, in Q8_0, or as a GGUF file quantised it.

use std::cell::OnceCell;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};

use super::packed::PackedMatrix;
use super::quantised::{QuantisedMatrix, QuantisedRows};
use crate::device::DtypeChoice;
use crate::error::Result;

/// A linear layer.
#[derive(Debug)]
pub(crate) struct Linear {
    weights: Weights,
    bias: Option<Vec<f32>>,
    outputs: usize,
}

#[derive(Debug)]
enum Weights {
    Packed(PackedMatrix),
    Quantised(QuantisedMatrix),
    /// In a format that only the tensor library computes.
    Library(QMatMul),
}

/// Who computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workers {
    /// The calling thread.
    One,
    /// All threads of the pool that the caller is in, where there is enough to do.
    All,
}

/// The rows `[rows, width]` that go into linear layers, prepared once for all layers that read them.
#[derive(Debug)]
pub(crate) struct Inputs<'a> {
    x: &'a [f32],
    width: usize,
    workers: Workers,
    quantised: OnceCell<QuantisedRows>,
}

impl<'a> Inputs<'a> {
    pub fn new(x: &'a [f32], width: usize, workers: Workers) -> Self {
        Self { x, width, workers, quantised: OnceCell::new() }
    }

    fn rows(&self) -> usize {
        self.x.len() / self.width
    }
}

impl Linear {
    /// A layer `[outputs, inputs]` in the wanted arithmetic; `read_rows(first, rows)` writes the weights from row `first`
    /// on, some rows at a time, so that no second copy of them is ever whole.
    pub fn from_rows(
        (outputs, inputs): (usize, usize),
        dtype: DtypeChoice,
        bias: Option<Vec<f32>>,
        read_rows: impl FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<Self> {
        let weights = match dtype {
            DtypeChoice::Q8_0 => Weights::Quantised(QuantisedMatrix::from_rows(outputs, inputs, read_rows)?),
            _ => Weights::Packed(PackedMatrix::from_rows(outputs, inputs, read_rows)?),
        };
        Ok(Self { weights, bias, outputs })
    }

    /// A layer whose weights `[outputs, inputs]` are quantised already.
    pub fn quantised(tensor: QTensor, bias: Option<Vec<f32>>) -> Result<Self> {
        let (outputs, inputs) = tensor.shape().dims2()?;
        let weights = if tensor.dtype() == GgmlDType::Q8_0 {
            Weights::Quantised(QuantisedMatrix::from_blocks(outputs, inputs, &tensor.data()?)?)
        } else {
            Weights::Library(QMatMul::from_qtensor(tensor)?)
        };
        Ok(Self { weights, bias, outputs })
    }

    /// Bytes that the weights take.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Packed(matrix) => matrix.bytes(),
            Weights::Quantised(matrix) => matrix.bytes(),
            Weights::Library(QMatMul::QTensor(tensor)) => tensor.storage_size_in_bytes(),
            Weights::Library(QMatMul::Tensor(tensor) | QMatMul::TensorF16(tensor)) => {
                tensor.elem_count() * tensor.dtype().size_in_bytes()
            }
        }
    }

    /// Replaces `y` with `x W^T + b`.
    pub fn apply(&self, inputs: &Inputs<'_>, y: &mut Vec<f32>) -> Result<()> {
        let Inputs { x, width, workers, quantised } = inputs;
        y.resize(inputs.rows() * self.outputs, 0.0);
        match &self.weights {
            Weights::Packed(matrix) => matrix.multiply(x, y, *workers),
            Weights::Quantised(matrix) => {
                matrix.multiply(quantised.get_or_init(|| QuantisedRows::new(x, *width, *workers)), y, *workers);
            }
            Weights::Library(matrix) => {
                let product = matrix.forward(&Tensor::from_slice(x, (inputs.rows(), *width), &Device::Cpu)?)?;
                *y = product.flatten_all()?.to_vec1()?;
            }
        }
        if let Some(bias) = &self.bias {
            y.chunks_exact_mut(self.outputs).for_each(|row| super::kernels::add(row, bias));
        }
        Ok(())
    }
}
