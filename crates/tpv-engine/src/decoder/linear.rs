//! Linear layers on the CPU: `y = x W^T + b` with W in packed f32 or quantised.

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};

use super::packed::PackedMatrix;
use crate::device::DtypeChoice;
use crate::error::Result;

/// A linear layer.
#[derive(Debug)]
pub(crate) struct Linear {
    weights: Weights,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
}

#[derive(Debug)]
enum Weights {
    Packed(PackedMatrix),
    Quantised(QMatMul),
}

impl Linear {
    /// A layer in f32.
    pub fn packed(matrix: PackedMatrix, inputs: usize, bias: Option<Vec<f32>>) -> Self {
        Self { outputs: matrix.outputs(), weights: Weights::Packed(matrix), bias, inputs }
    }

    /// A layer in the wanted arithmetic; `weights` is `[outputs, inputs]`.
    pub fn from_floats(weights: Vec<f32>, inputs: usize, dtype: DtypeChoice, bias: Option<Vec<f32>>) -> Result<Self> {
        if dtype == DtypeChoice::Q8_0 {
            return Self::quantised(quantise(weights, inputs)?, bias);
        }
        let read_row = |output: usize, row: &mut [f32]| {
            row.copy_from_slice(&weights[output * inputs..][..inputs]);
            Ok(())
        };
        PackedMatrix::from_rows(weights.len() / inputs, inputs, read_row)
            .map(|matrix| Self::packed(matrix, inputs, bias))
    }

    /// A layer whose weights `[outputs, inputs]` are quantised already.
    pub fn quantised(tensor: QTensor, bias: Option<Vec<f32>>) -> Result<Self> {
        let (outputs, inputs) = tensor.shape().dims2()?;
        Ok(Self { weights: Weights::Quantised(QMatMul::from_qtensor(tensor)?), bias, inputs, outputs })
    }

    /// Replaces `y` with `x W^T + b` for x `[rows, inputs]`.
    pub fn apply(&self, x: &[f32], y: &mut Vec<f32>) -> Result<()> {
        let rows = x.len() / self.inputs;
        y.resize(rows * self.outputs, 0.0);
        match &self.weights {
            Weights::Packed(matrix) => matrix.multiply(x, y),
            Weights::Quantised(matrix) => {
                let product = matrix.forward(&Tensor::from_slice(x, (rows, self.inputs), &Device::Cpu)?)?;
                *y = product.flatten_all()?.to_vec1()?;
            }
        }
        if let Some(bias) = &self.bias {
            y.chunks_exact_mut(self.outputs).for_each(|row| super::kernels::add(row, bias));
        }
        Ok(())
    }
}

/// Quantises `[rows, width]` floats to Q8_0.
pub(crate) fn quantise(floats: Vec<f32>, width: usize) -> Result<QTensor> {
    let tensor = Tensor::from_vec(floats, ((), width), &Device::Cpu)?;
    Ok(QTensor::quantize(&tensor, GgmlDType::Q8_0)?)
}
