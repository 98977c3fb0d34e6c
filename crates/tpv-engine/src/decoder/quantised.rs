//! `y = x W^T` with W in Q8_0: blocks of 32 weights along the contraction, each with a scale in f16.
//!
//! A row of x is quantised the same way, so that
//!
//! ```text
//! y_o = sum_b  s_b t_ob  sum_k q_bk w_obk        q, w in -127 ..= 127, s and t the scales of the blocks
//! ```
//!
//! The inner sums are whole numbers and exact; the outer one is a chain of fused multiply-adds in ascending order of the
//! blocks, whatever the number of rows. So a row's result does not depend on its neighbours here either. Weights lie in
//! panels of [`PANEL`] outputs, [panel][block][pair][output][2], rows are taken in tiles of 1 or [`TILE`], and panels are
//! shared out between threads. Any contraction length that is a multiple of 32 runs at full speed.

use half::f16;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::linear::Workers;

/// Weights that share a scale.
pub(crate) const BLOCK: usize = 32;

/// Outputs in one panel of weights.
const PANEL: usize = 16;

/// Rows in a tile that is not a single row.
const TILE: usize = 4;

/// A block is computed two weights at a time.
const PAIRS: usize = BLOCK / 2;

/// Multiply-adds below which a product stays on one thread.
const SERIAL_PRODUCTS: usize = 1 << 18;

/// Parts of a product for each thread, so that one that is held up does not hold up all.
const PARTS_PER_THREAD: usize = 4;

/// [pair][output][2] for one block of one panel.
type PanelBlock = [[i8; 2 * PANEL]; PAIRS];

/// A weight matrix `[outputs, inputs]` in Q8_0.
#[derive(Debug, Clone)]
pub(crate) struct QuantisedMatrix {
    quants: Vec<PanelBlock>,
    scales: Vec<[f16; PANEL]>,
    outputs: usize,
    inputs: usize,
}

impl QuantisedMatrix {
    /// Quantises a matrix whose rows from `first` on are written by `read_rows(first, rows)`, some at a time.
    pub fn from_rows<E>(
        outputs: usize,
        inputs: usize,
        mut read_rows: impl FnMut(usize, &mut [f32]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut matrix = Self::zeros(outputs, inputs);
        let mut rows = vec![0.0; PANEL * inputs];
        for first in (0..outputs).step_by(PANEL) {
            let rows = &mut rows[..PANEL.min(outputs - first) * inputs];
            read_rows(first, rows)?;
            for (row, output) in rows.chunks_exact(inputs).zip(first..) {
                for (block, values) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
                    let (scale, quants) = quantise(values);
                    matrix.put(output, block, f16::from_f32(scale), &quants.map(|q| q as i8));
                }
            }
        }
        Ok(matrix)
    }

    /// Takes blocks of a scale (f16) and 32 weights (i8), row after row, as GGUF files hold them.
    pub fn from_blocks(outputs: usize, inputs: usize, bytes: &[u8]) -> Self {
        let mut matrix = Self::zeros(outputs, inputs);
        let blocks = inputs / BLOCK;
        for (index, bytes) in bytes.as_chunks::<{ BLOCK + 2 }>().0.iter().enumerate() {
            let scale = f16::from_le_bytes([bytes[0], bytes[1]]);
            let quants: [i8; BLOCK] = std::array::from_fn(|k| bytes[k + 2] as i8);
            // The kernels take scales as magnitudes.
            let (scale, quants) =
                if scale.is_sign_negative() { (-scale, quants.map(i8::saturating_neg)) } else { (scale, quants) };
            matrix.put(index / blocks, index % blocks, scale, &quants);
        }
        matrix
    }

    fn zeros(outputs: usize, inputs: usize) -> Self {
        let blocks = outputs.div_ceil(PANEL) * (inputs / BLOCK);
        let (quants, scales) = (vec![[[0; 2 * PANEL]; PAIRS]; blocks], vec![[f16::ZERO; PANEL]; blocks]);
        Self { quants, scales, outputs, inputs }
    }

    /// Bytes that the weights take.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.quants) + size_of_val(&*self.scales)
    }

    fn put(&mut self, output: usize, block: usize, scale: f16, quants: &[i8; BLOCK]) {
        let index = output / PANEL * (self.inputs / BLOCK) + block;
        self.scales[index][output % PANEL] = scale;
        for (pair, two) in self.quants[index].iter_mut().zip(quants.as_chunks::<2>().0) {
            pair[output % PANEL * 2..][..2].copy_from_slice(two);
        }
    }

    /// `y = x W^T` for y `[rows, outputs]`.
    pub fn multiply(&self, x: &QuantisedRows, y: &mut [f32], workers: Workers) {
        let rows = y.len() / self.outputs;
        if workers == Workers::One || rows * self.outputs * self.inputs < SERIAL_PRODUCTS {
            let y = y.chunks_exact_mut(self.outputs).collect();
            return self.multiply_part(x, 0, y);
        }
        let panels = self.outputs.div_ceil(PANEL);
        let part = panels.div_ceil(PARTS_PER_THREAD * rayon::current_num_threads()) * PANEL;
        let mut parts: Vec<Vec<&mut [f32]>> = Vec::new();
        parts.resize_with(self.outputs.div_ceil(part), || Vec::with_capacity(rows));
        for row in y.chunks_exact_mut(self.outputs) {
            parts.iter_mut().zip(row.chunks_mut(part)).for_each(|(rows, row)| rows.push(row));
        }
        let parts = parts.into_par_iter().enumerate().with_max_len(1);
        parts.for_each(|(index, y)| self.multiply_part(x, index * part / PANEL, y));
    }

    /// Outputs from panel `first` on; `y` holds that part of every row.
    fn multiply_part(&self, x: &QuantisedRows, first: usize, y: Vec<&mut [f32]>) {
        let blocks = self.inputs / BLOCK;
        let part =
            Part { x, quants: &self.quants[first * blocks..], scales: &self.scales[first * blocks..], blocks, y };
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            return simd.vectorize(x86::OnAvx2 { simd, part });
        }
        part.run(tile_product, tile_product);
    }
}

/// Rows of x, quantised and regrouped in tiles.
#[derive(Debug)]
pub(crate) struct QuantisedRows {
    tiles: Vec<Tile>,
}

/// `height` rows: quants [block][pair][height], two i16 in an i32, and scales [block][height].
#[derive(Debug)]
struct Tile {
    height: usize,
    quants: Vec<i32>,
    scales: Vec<f32>,
}

impl QuantisedRows {
    /// Quantises x `[rows, inputs]`.
    pub fn new(x: &[f32], inputs: usize, workers: Workers) -> Self {
        let tile = |rows: &[f32]| Arch::new().dispatch(QuantiseTile { rows, inputs });
        let tiles = if workers == Workers::One || x.len() <= TILE * inputs {
            x.chunks(TILE * inputs).map(tile).collect()
        } else {
            x.par_chunks(TILE * inputs).map(tile).collect()
        };
        Self { tiles }
    }
}

struct QuantiseTile<'a> {
    rows: &'a [f32],
    inputs: usize,
}

impl WithSimd for QuantiseTile<'_> {
    type Output = Tile;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Tile {
        let Self { rows, inputs } = self;
        let height = if rows.len() == inputs { 1 } else { TILE };
        let mut tile =
            Tile { height, quants: vec![0; inputs / 2 * height], scales: vec![0.0; inputs / BLOCK * height] };
        for (r, row) in rows.chunks_exact(inputs).enumerate() {
            for (block, values) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
                let (scale, quants) = quantise(values);
                tile.scales[block * height + r] = scale;
                let slots = tile.quants[block * PAIRS * height + r..].iter_mut().step_by(height);
                for (slot, [low, high]) in slots.zip(quants.as_chunks::<2>().0) {
                    *slot = (low & 0xffff) | (high << 16);
                }
            }
        }
        tile
    }
}

/// The scale `max |x| / 127` and `x / scale` rounded. Where a value is not a number the scale is none either, so that the
/// products are not numbers as they are in f32.
#[inline(always)]
fn quantise(values: &[f32; BLOCK]) -> (f32, [i32; BLOCK]) {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to a whole number
    // Without their signs floats are in the order of their bits, and what is not a number comes last.
    let mut most = [0u32; 8];
    for eight in values.as_chunks::<8>().0 {
        for lane in 0..8 {
            most[lane] = most[lane].max(eight[lane].abs().to_bits());
        }
    }
    let most = f32::from_bits(most.into_iter().fold(0, u32::max));
    let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
    (most / 127.0, values.map(|x| (x * inverse + ROUND).to_bits() as i32 - ROUND.to_bits() as i32))
}

/// All rows times some panels.
struct Part<'a, 'y> {
    x: &'a QuantisedRows,
    quants: &'a [PanelBlock],
    scales: &'a [[f16; PANEL]],
    blocks: usize,
    y: Vec<&'y mut [f32]>,
}

/// One panel's weights, block by block.
#[derive(Clone, Copy)]
struct Weights<'a> {
    quants: &'a [PanelBlock],
    scales: &'a [[f16; PANEL]],
}

/// A tile's quants and scales, block by block.
#[derive(Clone, Copy)]
struct Blocks<'a, const ROWS: usize> {
    quants: &'a [[[i32; ROWS]; PAIRS]],
    scales: &'a [[f32; ROWS]],
}

impl Tile {
    #[inline(always)]
    fn blocks<const ROWS: usize>(&self) -> Blocks<'_, ROWS> {
        let (quants, _) = self.quants.as_chunks::<ROWS>();
        Blocks { quants: quants.as_chunks::<PAIRS>().0, scales: self.scales.as_chunks::<ROWS>().0 }
    }
}

impl Part<'_, '_> {
    /// Runs the products of a single row and of a tile with every panel.
    #[inline(always)]
    fn run(
        mut self,
        single: impl Fn(Blocks<'_, 1>, Weights<'_>) -> [[f32; PANEL]; 1],
        tiled: impl Fn(Blocks<'_, TILE>, Weights<'_>) -> [[f32; PANEL]; TILE],
    ) {
        let width = self.y.first().map_or(0, |row| row.len());
        let panels = self.quants.chunks_exact(self.blocks).zip(self.scales.chunks_exact(self.blocks));
        for (start, (quants, scales)) in (0..width).step_by(PANEL).zip(panels) {
            let (weights, end) = (Weights { quants, scales }, (start + PANEL).min(width));
            for (tile, y) in self.x.tiles.iter().zip(self.y.chunks_mut(TILE)) {
                if tile.height == 1 {
                    y[0][start..end].copy_from_slice(&single(tile.blocks(), weights)[0][..end - start]);
                } else {
                    let sums = tiled(tile.blocks(), weights);
                    let rows = y.iter_mut().zip(&sums);
                    rows.for_each(|(row, sums)| row[start..end].copy_from_slice(&sums[..end - start]));
                }
            }
        }
    }
}

/// One tile times one panel in plain loops.
fn tile_product<const ROWS: usize>(tile: Blocks<'_, ROWS>, weights: Weights<'_>) -> [[f32; PANEL]; ROWS] {
    let mut sums = [[0.0; PANEL]; ROWS];
    let inputs = tile.quants.iter().zip(tile.scales);
    for ((quants, scales), (x, x_scales)) in weights.quants.iter().zip(weights.scales).zip(inputs) {
        for row in 0..ROWS {
            let mut whole = [0i32; PANEL];
            for (pair, x) in quants.iter().zip(x) {
                let (low, high) = (i32::from(x[row] as i16), x[row] >> 16);
                for (sum, two) in whole.iter_mut().zip(pair.as_chunks::<2>().0) {
                    *sum += low * i32::from(two[0]) + high * i32::from(two[1]);
                }
            }
            for output in 0..PANEL {
                let scale = scales[output].to_f32() * x_scales[row];
                sums[row][output] = (whole[output] as f32).mul_add(scale, sums[row][output]);
            }
        }
    }
    sums
}

/// The same with AVX2: 16 multiply-adds an instruction.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::x86_64::{__m256, __m256i};

    use half::f16;
    use pulp::NullaryFnOnce;
    use pulp::x86::V3;

    use super::{Blocks, PAIRS, PANEL, Part, Weights};

    pub(super) struct OnAvx2<'a, 'y> {
        pub simd: V3,
        pub part: Part<'a, 'y>,
    }

    impl NullaryFnOnce for OnAvx2<'_, '_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let simd = self.simd;
            self.part.run(
                |tile, weights| tile_product(simd, tile, weights),
                |tile, weights| tile_product(simd, tile, weights),
            );
        }
    }

    #[inline(always)]
    fn tile_product<const ROWS: usize>(simd: V3, tile: Blocks<'_, ROWS>, weights: Weights<'_>) -> [[f32; PANEL]; ROWS] {
        let mut sums = [[simd.avx._mm256_setzero_ps(); 2]; ROWS];
        let inputs = tile.quants.iter().zip(tile.scales);
        for ((quants, scales), (x, x_scales)) in weights.quants.iter().zip(weights.scales).zip(inputs) {
            let mut whole = [[simd.avx._mm256_setzero_si256(); 2]; ROWS];
            for pair in 0..PAIRS {
                let weights = widen(simd, &quants[pair]);
                for row in 0..ROWS {
                    let x = simd.avx._mm256_set1_epi32(x[pair][row]);
                    for half in 0..2 {
                        let products = simd.avx2._mm256_madd_epi16(weights[half], x);
                        whole[row][half] = simd.avx2._mm256_add_epi32(whole[row][half], products);
                    }
                }
            }
            let scales = widen_scales(simd, scales);
            for row in 0..ROWS {
                let x_scale = simd.avx._mm256_set1_ps(x_scales[row]);
                for half in 0..2 {
                    let scale = simd.avx._mm256_mul_ps(scales[half], x_scale);
                    let whole = simd.avx._mm256_cvtepi32_ps(whole[row][half]);
                    sums[row][half] = simd.fma._mm256_fmadd_ps(whole, scale, sums[row][half]);
                }
            }
        }
        sums.map(pulp::cast)
    }

    /// 32 weights as i16, eight outputs in each half.
    #[inline(always)]
    fn widen(simd: V3, weights: &[i8; 2 * PANEL]) -> [__m256i; 2] {
        let halves: [[i8; PANEL]; 2] = pulp::cast(*weights);
        halves.map(|half| simd.avx2._mm256_cvtepi8_epi16(pulp::cast(half)))
    }

    /// Scales of at least 0 as f32: the bits of an f16 moved into place are the value times 2^-112.
    #[inline(always)]
    fn widen_scales(simd: V3, scales: &[f16; PANEL]) -> [__m256; 2] {
        let unit = simd.avx._mm256_set1_ps(f32::from_bits((127 + 112) << 23));
        let bits = scales.map(f16::to_bits);
        let halves: [[u16; PANEL / 2]; 2] = pulp::cast(bits);
        halves.map(|half| {
            let wide = simd.avx2._mm256_cvtepu16_epi32(pulp::cast(half));
            simd.avx._mm256_mul_ps(pulp::cast(simd.avx2._mm256_slli_epi32::<13>(wide)), unit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(seed: usize) -> f32 {
        ((seed * 7919 + 13) % 1009) as f32 / 504.5 - 1.0
    }

    fn matrix(outputs: usize, inputs: usize) -> QuantisedMatrix {
        let read = |first: usize, rows: &mut [f32]| {
            rows.iter_mut().enumerate().for_each(|(i, slot)| *slot = value(first * inputs + i));
            Ok::<_, std::convert::Infallible>(())
        };
        QuantisedMatrix::from_rows(outputs, inputs, read).unwrap()
    }

    /// The weight as it is stored: rounded to 127ths of the greatest of its block, with a scale in f16.
    fn stored(output: usize, inputs: usize, k: usize) -> f64 {
        let block: Vec<f32> = (k / BLOCK * BLOCK..).take(BLOCK).map(|k| value(output * inputs + k)).collect();
        let most = block.iter().fold(0.0f32, |most, w| most.max(w.abs()));
        let scale = f16::from_f32(most / 127.0).to_f64();
        f64::from((block[k % BLOCK] * 127.0 / most).round_ties_even()) * scale
    }

    fn product(matrix: &QuantisedMatrix, x: &[f32], workers: Workers) -> Vec<f32> {
        let mut y = vec![f32::NAN; x.len() / matrix.inputs * matrix.outputs];
        matrix.multiply(&QuantisedRows::new(x, matrix.inputs, workers), &mut y, workers);
        y
    }

    /// Inputs that are whole numbers up to 127, one of them 127 in each block, are quantised without error.
    fn whole_inputs(count: usize) -> Vec<f32> {
        let input = |i: usize| if i.is_multiple_of(BLOCK) { 127.0 } else { ((i * 37) % 255) as f32 - 127.0 };
        (0..count).map(input).collect()
    }

    #[test]
    fn what_is_not_a_number_stays_none() {
        let matrix = matrix(40, 64);
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x: Vec<f32> = (0..2 * 64).map(value).collect();
            x[64 + 40] = broken;
            let y = product(&matrix, &x, Workers::One);
            assert!(y[..40].iter().all(|y| y.is_finite()) && y[40..].iter().all(|y| !y.is_finite()), "{broken}");
        }
    }

    #[test]
    fn agrees_with_the_sum_in_f64() {
        for (rows, outputs, inputs) in [(1, 5, 32), (2, 16, 64), (3, 17, 96), (4, 40, 896), (9, 33, 160)] {
            let x = whole_inputs(rows * inputs);
            for (index, got) in product(&matrix(outputs, inputs), &x, Workers::One).into_iter().enumerate() {
                let (row, output) = (index / outputs, index % outputs);
                let term = |k| f64::from(x[row * inputs + k]) * stored(output, inputs, k);
                let expected: f64 = (0..inputs).map(term).sum();
                assert!((f64::from(got) - expected).abs() < 1e-5 * 127.0 * inputs as f64, "{got} {expected}");
            }
        }
    }

    #[test]
    fn quantised_inputs_cost_less_than_a_hundredth() {
        let (outputs, inputs) = (64, 896);
        let x: Vec<f32> = (0..inputs).map(|i| value(i * 31 + 7)).collect();
        let (mut error, mut size) = (0.0, 0.0);
        for (output, got) in product(&matrix(outputs, inputs), &x, Workers::One).into_iter().enumerate() {
            let exact: f64 = (0..inputs).map(|k| f64::from(x[k]) * f64::from(value(output * inputs + k))).sum();
            error += (f64::from(got) - exact).powi(2);
            size += exact.powi(2);
        }
        assert!(error > 0.0 && error < 1e-4 * size, "{error} {size}");
    }

    #[test]
    fn a_row_is_the_same_bits_in_any_company_and_on_any_machine() {
        let (outputs, inputs) = (300, 96);
        let matrix = matrix(outputs, inputs);
        let x: Vec<f32> = (0..70 * inputs).map(|i| value(i * 17)).collect();
        let together = product(&matrix, &x, Workers::One);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        assert!(pool.install(|| product(&matrix, &x, Workers::All)) == together);
        for rows in [1, 2, 3, 5, 8] {
            let alone = product(&matrix, &x[6 * inputs..][..rows * inputs], Workers::One);
            assert!(alone.iter().zip(&together[6 * outputs..]).all(|(a, b)| a.to_bits() == b.to_bits()), "{rows}");
        }
        let tile = QuantisedRows::new(&x[..4 * inputs], inputs, Workers::One);
        let weights = Weights { quants: &matrix.quants[..inputs / BLOCK], scales: &matrix.scales[..inputs / BLOCK] };
        let plain = tile_product::<TILE>(tile.tiles[0].blocks(), weights);
        for (row, sums) in plain.iter().enumerate() {
            assert_eq!(sums[..], together[row * outputs..][..PANEL], "plain loops and vectors");
        }
    }

    #[test]
    fn blocks_of_a_file_are_the_same_matrix() {
        let (outputs, inputs) = (18, 64);
        let expected = matrix(outputs, inputs);
        let mut bytes = Vec::new();
        for output in 0..outputs {
            for block in 0..inputs / BLOCK {
                let index = output / PANEL * (inputs / BLOCK) + block;
                // A negative scale with negated weights means the same.
                let sign = if block == 1 { -1 } else { 1 };
                let scale = expected.scales[index][output % PANEL];
                bytes.extend((if sign < 0 { -scale } else { scale }).to_le_bytes());
                let pairs = expected.quants[index].iter();
                let quants = pairs.flat_map(|pair| pair[output % PANEL * 2..][..2].to_vec());
                bytes.extend(quants.map(|quant| (quant * sign) as u8));
            }
        }
        let x = whole_inputs(2 * inputs);
        assert_eq!(
            product(&QuantisedMatrix::from_blocks(outputs, inputs, &bytes), &x, Workers::One),
            product(&expected, &x, Workers::One)
        );
    }
}
