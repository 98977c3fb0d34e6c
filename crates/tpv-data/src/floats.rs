//! Little-endian floating-point arrays in files: f16, f32 and f64 to and from bytes.

use half::f16;
use half::slice::HalfFloatSliceExt;
use std::io::{self, Write};

/// Elements that are converted at a time: 8 KiB of f32, which stays in the first cache.
const BLOCK: usize = 2048;

/// The floating-point types that files hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatType {
    /// IEEE half precision.
    F16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

impl FloatType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// Appends the elements in `bytes` to `out` as f32; a rest shorter than an element is ignored.
    pub fn decode_f32(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::F16 => decode_f16(bytes, out),
            Self::F32 => out.extend(elements(bytes).map(f32::from_le_bytes)),
            Self::F64 => out.extend(elements(bytes).map(|b| f64::from_le_bytes(b) as f32)),
        }
    }

    /// Appends the bytes of `values` to `out`, rounded to this type.
    pub fn encode_f32(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::F16 => encode_f16(values, out),
            Self::F32 => append_elements(out, values, f32::to_le_bytes),
            Self::F64 => append_elements(out, values, |value| f64::from(value).to_le_bytes()),
        }
    }

    /// The elements in `bytes` as f64.
    pub fn decode_f64(self, bytes: &[u8]) -> Vec<f64> {
        match self {
            Self::F16 => elements(bytes).map(|b| f16::from_le_bytes(b).to_f64()).collect(),
            Self::F32 => elements(bytes).map(|b| f64::from(f32::from_le_bytes(b))).collect(),
            Self::F64 => elements(bytes).map(f64::from_le_bytes).collect(),
        }
    }
}

/// Fixed-size pieces of `bytes`.
pub(crate) fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.chunks_exact(N).map(|chunk| chunk.try_into().expect("chunks_exact gives chunks of N bytes"))
}

fn decode_f16(bytes: &[u8], out: &mut Vec<f32>) {
    let mut halves = [f16::ZERO; BLOCK];
    for chunk in bytes.chunks(BLOCK * 2) {
        let count = chunk.len() / 2;
        for (half, raw) in halves.iter_mut().zip(elements(chunk)) {
            *half = f16::from_le_bytes(raw);
        }
        let start = out.len();
        out.resize(start + count, 0.0);
        halves[..count].convert_to_f32_slice(&mut out[start..]);
    }
}

fn encode_f16(values: &[f32], out: &mut Vec<u8>) {
    let mut halves = [f16::ZERO; 256];
    for block in values.chunks(halves.len()) {
        let halves = &mut halves[..block.len()];
        halves.convert_from_f32_slice(block);
        append_elements(out, halves, f16::to_le_bytes);
    }
}

fn append_elements<T: Copy, const N: usize>(out: &mut Vec<u8>, values: &[T], to_bytes: impl Fn(T) -> [u8; N]) {
    let start = out.len();
    out.resize(start + values.len() * N, 0);
    for (bytes, &value) in out[start..].chunks_exact_mut(N).zip(values) {
        bytes.copy_from_slice(&to_bytes(value));
    }
}

/// Writes values one after the other as `N` little-endian bytes each, through a small buffer.
pub(crate) fn write_elements<T: Copy, const N: usize>(
    writer: &mut dyn Write,
    values: &[T],
    to_bytes: impl Fn(T) -> [u8; N],
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BLOCK * N);
    for block in values.chunks(BLOCK) {
        buffer.clear();
        append_elements(&mut buffer, block, &to_bytes);
        writer.write_all(&buffer)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_decode_like_single_conversions_across_block_borders() {
        let halves: Vec<f16> = (0..5000).map(|i| f16::from_f32(i as f32 * 0.37 - 900.0)).collect();
        let mut bytes = Vec::new();
        write_elements(&mut bytes, &halves, f16::to_le_bytes).unwrap();
        let mut decoded = vec![7.0];
        FloatType::F16.decode_f32(&bytes, &mut decoded);
        assert_eq!(decoded[0], 7.0);
        assert_eq!(decoded[1..], halves.iter().map(|h| h.to_f32()).collect::<Vec<_>>());
    }

    #[test]
    fn singles_are_rounded_to_each_type_across_block_borders() {
        let values: Vec<f32> = (0..700).map(|i| i as f32 * 0.37 - 90.0).collect();
        let mut bytes = vec![9];
        FloatType::F16.encode_f32(&values, &mut bytes);
        assert_eq!(bytes[1..], values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect::<Vec<_>>());
        bytes.clear();
        FloatType::F32.encode_f32(&values, &mut bytes);
        FloatType::F64.encode_f32(&values, &mut bytes);
        let singles = values.iter().flat_map(|v| v.to_le_bytes());
        assert_eq!(bytes, singles.chain(values.iter().flat_map(|&v| f64::from(v).to_le_bytes())).collect::<Vec<_>>());
    }

    #[test]
    fn doubles_and_singles_round_trip() {
        let mut bytes = Vec::new();
        write_elements(&mut bytes, &[1.5f64, -1e300], f64::to_le_bytes).unwrap();
        assert_eq!(FloatType::F64.decode_f64(&bytes), [1.5, -1e300]);
        bytes.clear();
        write_elements(&mut bytes, &[0.1f32, f32::NAN], f32::to_le_bytes).unwrap();
        let mut out = Vec::new();
        FloatType::F32.decode_f32(&bytes, &mut out);
        assert!(out[0] == 0.1 && out[1].is_nan());
    }
}
