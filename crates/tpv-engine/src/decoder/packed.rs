//! `y = x W^T` in f32 with a fixed order of additions.
//!
//! Every output is one chain of fused multiply-adds over the contraction index in ascending order, whatever the number
//! of rows, so a row's result does not depend on its neighbours: this is what makes a trace the same alone and in a
//! batch, bit for bit. The weights lie in panels of as many outputs as two of the machine's vectors hold,
//! [panel][in][output], rows are taken in tiles, and panels are shared out between threads. A panel is
//! multiplied in stretches of [`STRETCH`] inputs, which stay in the first cache while all tiles pass; the sums wait in the
//! result meanwhile, which changes no bit.
//!
//! Weights that are bf16 numbers, as nearly all published ones are, are stored as such: half the memory and half the bytes to
//! read. The arithmetic is in f32 all the same, and its results are the same bits.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::kernels::fetch;
use super::linear::Workers;
use crate::error::Result;
use crate::memory::Memory;

/// Vectors of outputs in one panel of weights.
const VECTORS: usize = 2;

/// Rows that one tile holds at most on a machine with 16 vectors: as many sums as it has room for.
const TILE: usize = 6;

/// And on one with 32 vectors. There would be room for more, but not for the places of their rows.
const HIGH_TILE: usize = 8;

/// Rows that all panels are multiplied with before the next ones take so many bytes, which stay in the second cache.
const BLOCK_BYTES: usize = 1 << 20;

/// Inputs of a panel that are multiplied with all tiles before the next ones.
const STRETCH: usize = 256;

/// Multiply-adds below which a product stays on one thread.
const SERIAL_PRODUCTS: usize = 1 << 19;

/// A weight matrix `[outputs, inputs]`, stored in panels.
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    panels: Panels,
    outputs: usize,
    inputs: usize,
    /// Outputs in a panel.
    panel: usize,
}

/// The weights, `[panel][in][output]`.
#[derive(Debug)]
enum Panels {
    F32(Memory<f32>),
    /// Two weights in a word: the lower bits are of an output in the panel's first vector, the upper of the one in the same
    /// place of the second.
    Bf16(Memory<u32>),
}

/// The bits of an f32 that a bf16 number has.
const BF16_BITS: u32 = 0xffff_0000;

impl Panels {
    /// Writes what words stand for; `lanes` words are one input.
    fn to_f32(words: &[u32], lanes: usize, values: &mut [f32]) {
        for (words, values) in words.chunks_exact(lanes).zip(values.chunks_exact_mut(2 * lanes)) {
            let (low, high) = values.split_at_mut(lanes);
            for ((word, low), high) in words.iter().zip(low).zip(high) {
                (*low, *high) = (f32::from_bits(word << 16), f32::from_bits(word & BF16_BITS));
            }
        }
    }
}

/// Outputs in a panel on this machine.
fn panel_outputs() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;

        fn with_simd<S: Simd>(self, _: S) -> usize {
            VECTORS * S::F32_LANES
        }
    }
    Arch::new().dispatch(Lanes)
}

impl PackedMatrix {
    /// Packs a matrix whose rows from `first` on are written by `read_rows(first, rows)`, some at a time.
    pub fn from_rows(
        outputs: usize,
        inputs: usize,
        mut read_rows: impl FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<Self> {
        let panel = panel_outputs();
        let (count, lanes) = (outputs.div_ceil(panel), panel / VECTORS);
        let mut panels = Panels::Bf16(Memory::zeroed(count * lanes * inputs)?);
        let mut rows = vec![0.0; panel * inputs];
        for (index, first) in (0..outputs).step_by(panel).enumerate() {
            let values = &mut rows[..panel.min(outputs - first) * inputs];
            read_rows(first, values)?;
            rows[panel.min(outputs - first) * inputs..].fill(0.0);
            let bits = |output: usize, input: usize| rows[output * inputs + input].to_bits();
            if let Panels::Bf16(words) = &mut panels {
                if rows.iter().all(|value| value.to_bits() & !BF16_BITS == 0) {
                    let words = words[index * lanes * inputs..].chunks_exact_mut(lanes).take(inputs);
                    for (input, words) in words.enumerate() {
                        for (lane, word) in words.iter_mut().enumerate() {
                            *word = (bits(lane, input) >> 16) | bits(lanes + lane, input);
                        }
                    }
                    continue;
                }
                let mut values = Memory::zeroed(count * panel * inputs)?;
                Panels::to_f32(&words[..index * lanes * inputs], lanes, &mut values);
                panels = Panels::F32(values);
            }
            if let Panels::F32(values) = &mut panels {
                let values = values[index * panel * inputs..].chunks_exact_mut(panel).take(inputs);
                for (input, values) in values.enumerate() {
                    for (output, value) in values.iter_mut().enumerate() {
                        *value = f32::from_bits(bits(output, input));
                    }
                }
            }
        }
        Ok(Self { panels, outputs, inputs, panel })
    }

    /// Bytes that the weights take.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(values) => size_of_val(&**values),
            Panels::Bf16(words) => size_of_val(&**words),
        }
    }

    /// `y = x W^T` for x `[rows, inputs]` and y `[rows, outputs]`.
    pub fn multiply(&self, x: &[f32], y: &mut [f32], workers: Workers) {
        let rows = (BLOCK_BYTES / size_of::<f32>() / self.inputs).max(1).next_multiple_of(HIGH_TILE);
        for (x, y) in x.chunks(rows * self.inputs).zip(y.chunks_mut(rows * self.outputs)) {
            match &self.panels {
                Panels::F32(values) => self.multiply_panels(values, self.panel, x, y, workers),
                Panels::Bf16(words) => self.multiply_panels(words, self.panel / VECTORS, x, y, workers),
            }
        }
    }

    /// `width` stored numbers are one input of a panel.
    fn multiply_panels<W: Weight>(&self, panels: &[W], width: usize, x: &[f32], y: &mut [f32], workers: Workers) {
        let (rows, inputs) = (y.len() / self.outputs, self.inputs);
        let mut by_panel = vec![0.0; self.outputs.div_ceil(self.panel) * rows * self.panel];
        let arch = Arch::new();
        let (out_size, panel_size) = (rows * self.panel, width * self.inputs);
        let product = |(index, out): (usize, &mut [f32])| {
            let (panel, following) = panels[index * panel_size..].split_at(panel_size);
            let next = &following[..panel_size.min(following.len())];
            arch.dispatch(PanelProduct { x, inputs, panel, next, out });
        };
        if workers == Workers::One || rows * self.outputs * self.inputs < SERIAL_PRODUCTS {
            by_panel.chunks_mut(out_size).enumerate().for_each(product);
        } else {
            by_panel.par_chunks_mut(out_size).enumerate().for_each(product);
        }
        arch.dispatch(Scatter { by_panel: &by_panel, outputs: self.outputs, y });
    }
}

/// Copies `[panel][row][output of the panel]` to `y`, `[rows, outputs]`.
struct Scatter<'a> {
    by_panel: &'a [f32],
    outputs: usize,
    y: &'a mut [f32],
}

impl WithSimd for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { by_panel, outputs, y } = self;
        let (rows, panel_outputs) = (y.len() / outputs, VECTORS * S::F32_LANES);
        let by_panel = S::as_simd_f32s(by_panel).0.as_chunks::<VECTORS>().0;
        for (row, y) in y.chunks_exact_mut(outputs).enumerate() {
            let (whole, rest) = y.split_at_mut(outputs / panel_outputs * panel_outputs);
            let whole = S::as_mut_simd_f32s(whole).0.as_chunks_mut::<VECTORS>().0;
            let mut values = by_panel[row..].iter().step_by(rows);
            whole.iter_mut().zip(&mut values).for_each(|(y, value)| *y = *value);
            if let Some(last) = values.next() {
                rest.copy_from_slice(&pulp::bytemuck::cast_slice(last)[..rest.len()]);
            }
        }
    }
}

/// A stored number of a panel.
trait Weight: Copy + Send + Sync {
    /// What is loaded at once for one input.
    type Loaded<S: Simd>: Copy;

    /// A panel, input by input.
    fn load<S: Simd>(panel: &[Self]) -> &[Self::Loaded<S>];

    /// The weights of one input for all outputs of the panel.
    fn weights<S: Simd>(simd: S, loaded: Self::Loaded<S>) -> [S::f32s; VECTORS];
}

impl Weight for f32 {
    type Loaded<S: Simd> = [S::f32s; VECTORS];

    #[inline(always)]
    fn load<S: Simd>(panel: &[Self]) -> &[Self::Loaded<S>] {
        S::as_simd_f32s(panel).0.as_chunks().0
    }

    #[inline(always)]
    fn weights<S: Simd>(_: S, loaded: Self::Loaded<S>) -> [S::f32s; VECTORS] {
        loaded
    }
}

impl Weight for u32 {
    type Loaded<S: Simd> = S::u32s;

    #[inline(always)]
    fn load<S: Simd>(panel: &[Self]) -> &[Self::Loaded<S>] {
        S::as_simd_u32s(panel).0
    }

    #[inline(always)]
    fn weights<S: Simd>(simd: S, loaded: Self::Loaded<S>) -> [S::f32s; VECTORS] {
        let low = simd.wrapping_dyn_shl_u32s(loaded, simd.splat_u32s(16));
        let high = simd.and_u32s(loaded, simd.splat_u32s(BF16_BITS));
        [simd.transmute_f32s_u32s(low), simd.transmute_f32s_u32s(high)]
    }
}

/// The product of all rows with one panel: `out` is `[rows, panel]` and holds zeros before.
struct PanelProduct<'a, W> {
    /// `[rows, inputs]`.
    x: &'a [f32],
    inputs: usize,
    panel: &'a [W],
    /// The panel after it, or nothing.
    next: &'a [W],
    out: &'a mut [f32],
}

impl<W: Weight> WithSimd for PanelProduct<'_, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, inputs, panel, next, out } = self;
        let (out, _) = S::as_mut_simd_f32s(out);
        let (out, _) = out.as_chunks_mut::<VECTORS>();
        let count = out.len().div_ceil(if S::REGISTER_COUNT < 32 { TILE } else { HIGH_TILE });
        let mut following = W::load::<S>(next).chunks(STRETCH);
        for (stretch, weights) in W::load::<S>(panel).chunks(STRETCH).enumerate() {
            let (rows, mut rest, mut x) = (out.len(), &mut *out, x);
            // The first tile fetches the next panel.
            let mut next = following.next();
            // Tiles of heights as even as possible.
            for tile in 0..count {
                let height = rows / count + usize::from(tile < rows % count);
                let out = rest.split_off_mut(..height).expect("there is a row for each of the tile's");
                let x = x.split_off(..height * inputs).expect("and of x");
                let rows = Rows { x, inputs, first: stretch * STRETCH };
                let next = next.take();
                match height {
                    1 => tile_product::<S, W, 1>(simd, rows, weights, next, out),
                    2 => tile_product::<S, W, 2>(simd, rows, weights, next, out),
                    3 => tile_product::<S, W, 3>(simd, rows, weights, next, out),
                    4 => tile_product::<S, W, 4>(simd, rows, weights, next, out),
                    5 => tile_product::<S, W, 5>(simd, rows, weights, next, out),
                    6 => tile_product::<S, W, 6>(simd, rows, weights, next, out),
                    7 => tile_product::<S, W, 7>(simd, rows, weights, next, out),
                    _ => tile_product::<S, W, 8>(simd, rows, weights, next, out),
                }
            }
        }
    }
}

/// Rows of a tile, `[height, inputs]`, from an input on.
#[derive(Clone, Copy)]
struct Rows<'a> {
    x: &'a [f32],
    inputs: usize,
    first: usize,
}

/// Adds the product of `ROWS` rows and some inputs of a panel to `out`. Meanwhile the same inputs of the next panel are
/// fetched.
#[inline(always)]
fn tile_product<S: Simd, W: Weight, const ROWS: usize>(
    simd: S,
    rows: Rows<'_>,
    weights: &[W::Loaded<S>],
    next: Option<&[W::Loaded<S>]>,
    out: &mut [[S::f32s; VECTORS]],
) {
    match next {
        Some(next) => tile_sums::<S, W, true, ROWS>(simd, rows, weights, next, out),
        None => tile_sums::<S, W, false, ROWS>(simd, rows, weights, weights, out),
    }
}

#[inline(always)]
fn tile_sums<S: Simd, W: Weight, const FETCH: bool, const ROWS: usize>(
    simd: S,
    rows: Rows<'_>,
    weights: &[W::Loaded<S>],
    next: &[W::Loaded<S>],
    out: &mut [[S::f32s; VECTORS]],
) {
    let count = weights.len();
    let rows: [&[f32]; ROWS] = std::array::from_fn(|row| &rows.x[row * rows.inputs + rows.first..][..count]);
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    sums.iter_mut().zip(&*out).for_each(|(sum, before)| *sum = *before);
    for (input, (loaded, next)) in weights.iter().zip(next).enumerate() {
        if FETCH {
            fetch(next);
        }
        let w = W::weights(simd, *loaded);
        for row in 0..ROWS {
            let x = simd.splat_f32s(rows[row][input]);
            for vector in 0..VECTORS {
                sums[row][vector] = simd.mul_add_e_f32s(x, w[vector], sums[row][vector]);
            }
        }
    }
    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(seed: usize) -> f32 {
        ((seed * 7919 + 13) % 1009) as f32 / 504.5 - 1.0
    }

    fn packed(outputs: usize, inputs: usize) -> PackedMatrix {
        let read = |first: usize, rows: &mut [f32]| {
            for (i, slot) in rows.iter_mut().enumerate() {
                *slot = value(first * inputs + i);
            }
            Ok(())
        };
        PackedMatrix::from_rows(outputs, inputs, read).unwrap()
    }

    #[test]
    fn agrees_with_the_sum_in_f64() {
        for (rows, outputs, inputs) in [(1, 5, 3), (2, 64, 32), (3, 65, 40), (7, 130, 33), (70, 200, 96), (5, 40, 600)]
        {
            let matrix = packed(outputs, inputs);
            let x: Vec<f32> = (0..rows * inputs).map(|i| value(i * 31 + 7)).collect();
            let mut y = vec![f32::NAN; rows * outputs];
            matrix.multiply(&x, &mut y, Workers::One);
            for (index, &got) in y.iter().enumerate() {
                let (row, output) = (index / outputs, index % outputs);
                let term = |i| f64::from(x[row * inputs + i]) * f64::from(value(output * inputs + i));
                let expected: f64 = (0..inputs).map(term).sum();
                assert!((f64::from(got) - expected).abs() < 1e-5 * inputs as f64, "{got} {expected}");
            }
        }
    }

    /// A matrix of bf16 numbers, but for the last output, which is one more than wanted where `last` is given.
    fn of_bf16(outputs: usize, inputs: usize, last: Option<f32>) -> PackedMatrix {
        let read = |first: usize, rows: &mut [f32]| {
            for (i, slot) in rows.iter_mut().enumerate() {
                let index = first * inputs + i;
                let bf16 = f32::from_bits(value(index).to_bits() & BF16_BITS);
                *slot = last.filter(|_| index / inputs == outputs).unwrap_or(bf16);
            }
            Ok(())
        };
        PackedMatrix::from_rows(outputs + usize::from(last.is_some()), inputs, read).unwrap()
    }

    #[test]
    fn bf16_weights_take_half_the_memory_and_give_the_same_bits() {
        for (rows, outputs, inputs) in [(1, 16, 3), (3, 65, 40), (7, 130, 300), (20, 5, 600)] {
            let short = of_bf16(outputs, inputs, None);
            assert!(matches!(short.panels, Panels::Bf16(_)));
            // One number that is none in bf16, read last, makes the whole matrix f32.
            let long = of_bf16(outputs, inputs, Some(0.1));
            assert!(matches!(long.panels, Panels::F32(_)));
            let panels = |matrix: &PackedMatrix| matrix.outputs.div_ceil(matrix.panel) * matrix.panel * inputs;
            assert_eq!((short.bytes(), long.bytes()), (2 * panels(&short), 4 * panels(&long)));
            let x: Vec<f32> = (0..rows * inputs).map(|i| value(i * 31 + 7)).collect();
            let (mut y, mut z) = (vec![0.0; rows * outputs], vec![0.0; rows * (outputs + 1)]);
            short.multiply(&x, &mut y, Workers::One);
            long.multiply(&x, &mut z, Workers::One);
            for (y, z) in y.chunks_exact(outputs).zip(z.chunks_exact(outputs + 1)) {
                assert_eq!(
                    y.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
                    z[..outputs].iter().map(|v| v.to_bits()).collect::<Vec<_>>()
                );
            }
        }
    }

    #[test]
    fn a_row_is_the_same_bits_in_any_company() {
        same_bits_in_any_company(150, 300, 597);
        // More than one block of rows.
        same_bits_in_any_company(40, 33, 20_011);
    }

    fn same_bits_in_any_company(rows: usize, outputs: usize, inputs: usize) {
        let matrix = packed(outputs, inputs);
        let x: Vec<f32> = (0..rows * inputs).map(|i| value(i * 17)).collect();
        let mut together = vec![0.0; rows * outputs];
        matrix.multiply(&x, &mut together, Workers::One);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let mut on_threads = vec![0.0; rows * outputs];
        pool.install(|| matrix.multiply(&x, &mut on_threads, Workers::All));
        assert!(on_threads == together);
        for rows in [1, 2, 3, 4, 5, 6, 7, 8, 13, 15] {
            let mut alone = vec![0.0; rows * outputs];
            matrix.multiply(&x[6 * inputs..][..rows * inputs], &mut alone, Workers::One);
            assert!(alone.iter().zip(&together[6 * outputs..]).all(|(a, b)| a.to_bits() == b.to_bits()), "{rows}");
        }
    }
}
