//! `y = x W^T` with W in Q8_0: blocks of 32 weights along the contraction, each with a scale in f16.
//!
//! A row of x is quantised the same way, so that
//!
//! ```text
//! y_o = sum_b  s_b t_ob  sum_k q_bk w_obk        q, w in -127 ..= 127, s and t the scales of the blocks
//! ```
//!
//! The inner sums are whole numbers and exact; the outer one is a chain of fused multiply-adds in ascending order of the
//! blocks, whatever the number of rows and the machine. So a row's result does not depend on its neighbours here either.
//! Weights lie in panels of [`PANEL`] outputs, [panel][block][group][output][weights of a group], as the machine's
//! [`Instructions`] take them; rows are taken in tiles, and panels are shared out between threads. Any contraction length
//! that is a multiple of 32 runs at full speed.

use std::mem::discriminant;

use half::f16;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::linear::Workers;
use crate::error::Result;
use crate::memory::Memory;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod plain;

/// Weights that share a scale.
pub(crate) const BLOCK: usize = 32;

/// Outputs in one panel of weights.
const PANEL: usize = 16;

/// Rows in a tile at most, with any instructions.
const MOST_ROWS: usize = 8;

/// Multiply-adds below which a product stays on one thread.
const SERIAL_PRODUCTS: usize = 1 << 18;

/// Parts of a product for each thread, so that one that is held up does not hold up all.
const PARTS_PER_THREAD: usize = 4;

/// Bytes of quantised rows that pass a panel before the next panel's turn: about what stays in the second cache.
const ROWS_IN_CACHE: usize = 1 << 20;

/// What the products are computed with.
#[derive(Debug, Clone, Copy)]
enum Instructions {
    /// Whatever the compiler makes of plain loops.
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    /// AVX-512 with VNNI, which multiplies and adds 8-bit numbers in one instruction.
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Vnni),
}

impl Instructions {
    /// All that this machine has, the fastest first.
    fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let vectors =
            [avx512::Vnni::try_new().map(Self::Avx512), pulp::x86::V3::try_new().map(Self::Avx2)].into_iter().flatten();
        #[cfg(not(target_arch = "x86_64"))]
        let vectors = std::iter::empty();
        vectors.chain([Self::Plain])
    }

    fn fastest() -> Self {
        Self::available().next().expect("plain loops are always there")
    }

    /// Weights of an output that lie side by side: as many as one instruction adds up.
    fn group(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => 4,
            _ => 2,
        }
    }

    /// Rows in a tile at most: as many sums as there are vectors for.
    fn rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => MOST_ROWS,
            _ => 4,
        }
    }

    /// What is added to weights in memory, modulo 256.
    fn weight_offset(self) -> u8 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => avx512::WEIGHT_OFFSET,
            _ => 0,
        }
    }
}

/// What memory is read by.
type Line = [u8; 64];

/// [group][output][weights of a group] for one block of one panel.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct PanelBlock([u8; PANEL * BLOCK]);

/// Lines of a block.
const LINES: usize = size_of::<PanelBlock>() / size_of::<Line>();

/// A weight matrix `[outputs, inputs]` in Q8_0.
#[derive(Debug)]
pub(crate) struct QuantisedMatrix {
    instructions: Instructions,
    quants: Memory<PanelBlock>,
    scales: Memory<[f16; PANEL]>,
    outputs: usize,
    inputs: usize,
}

impl QuantisedMatrix {
    /// Quantises a matrix whose rows from `first` on are written by `read_rows(first, rows)`, some at a time.
    pub fn from_rows(
        outputs: usize,
        inputs: usize,
        read_rows: impl FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<Self> {
        Self::zeros(Instructions::fastest(), outputs, inputs)?.with_rows(read_rows)
    }

    fn with_rows(mut self, mut read_rows: impl FnMut(usize, &mut [f32]) -> Result<()>) -> Result<Self> {
        let Self { outputs, inputs, .. } = self;
        let mut rows = vec![0.0; PANEL * inputs];
        for first in (0..outputs).step_by(PANEL) {
            let rows = &mut rows[..PANEL.min(outputs - first) * inputs];
            read_rows(first, rows)?;
            for (row, output) in rows.chunks_exact(inputs).zip(first..) {
                for (block, values) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
                    let (scale, quants) = quantise(values);
                    self.put(output, block, f16::from_f32(scale), &quants.map(|q| q as i8));
                }
            }
        }
        Ok(self)
    }

    /// Takes blocks of a scale (f16) and 32 weights (i8), row after row, as GGUF files hold them.
    pub fn from_blocks(outputs: usize, inputs: usize, bytes: &[u8]) -> Result<Self> {
        let mut matrix = Self::zeros(Instructions::fastest(), outputs, inputs)?;
        let blocks = inputs / BLOCK;
        for (index, bytes) in bytes.as_chunks::<{ BLOCK + 2 }>().0.iter().enumerate() {
            let scale = f16::from_le_bytes([bytes[0], bytes[1]]);
            let quants: [i8; BLOCK] = std::array::from_fn(|k| bytes[k + 2] as i8);
            // The kernels take scales as magnitudes.
            let (scale, quants) =
                if scale.is_sign_negative() { (-scale, quants.map(i8::saturating_neg)) } else { (scale, quants) };
            matrix.put(index / blocks, index % blocks, scale, &quants);
        }
        Ok(matrix)
    }

    fn zeros(instructions: Instructions, outputs: usize, inputs: usize) -> Result<Self> {
        let blocks = outputs.div_ceil(PANEL) * (inputs / BLOCK);
        let (quants, scales) = (Memory::zeroed(blocks)?, Memory::zeroed(blocks)?);
        Ok(Self { instructions, quants, scales, outputs, inputs })
    }

    /// Bytes that the weights take.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.quants) + size_of_val(&*self.scales)
    }

    fn put(&mut self, output: usize, block: usize, scale: f16, quants: &[i8; BLOCK]) {
        let index = output / PANEL * (self.inputs / BLOCK) + block;
        let (group, offset) = (self.instructions.group(), self.instructions.weight_offset());
        self.scales[index][output % PANEL] = scale;
        let groups = self.quants[index].0.chunks_exact_mut(group * PANEL);
        for (slots, quants) in groups.zip(quants.chunks_exact(group)) {
            for (slot, quant) in slots[output % PANEL * group..].iter_mut().zip(quants) {
                *slot = (*quant as u8).wrapping_add(offset);
            }
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
        debug_assert_eq!(discriminant(&x.instructions), discriminant(&self.instructions));
        let blocks = self.inputs / BLOCK;
        let part =
            Part { x, quants: &self.quants[first * blocks..], scales: &self.scales[first * blocks..], blocks, y };
        match self.instructions {
            Instructions::Plain => plain::run(part),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(simd) => avx2::run(simd, part),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(simd) => simd.run(part),
        }
    }
}

/// Rows of x, quantised and regrouped in tiles.
#[derive(Debug)]
pub(crate) struct QuantisedRows {
    instructions: Instructions,
    tiles: Vec<Tile>,
}

/// `height` rows: quants [block][height][group], a group of two i16 or four i8 in an i32; starts [block][height], what takes
/// back the weights' offset; and scales [block][height].
#[derive(Debug)]
struct Tile {
    height: usize,
    quants: Vec<i32>,
    starts: Vec<i32>,
    scales: Vec<f32>,
}

impl QuantisedRows {
    /// Quantises x `[rows, inputs]`.
    pub fn new(x: &[f32], inputs: usize, workers: Workers) -> Self {
        Self::for_instructions(Instructions::fastest(), x, inputs, workers)
    }

    fn for_instructions(instructions: Instructions, x: &[f32], inputs: usize, workers: Workers) -> Self {
        let rows = x.len() / inputs;
        let count = rows.div_ceil(instructions.rows());
        // Heights as even as possible.
        let first = |index: usize| index * rows / count * inputs;
        let tile = |index: usize| {
            let rows = &x[first(index)..first(index + 1)];
            Arch::new().dispatch(QuantiseTile { rows, inputs, instructions })
        };
        let tiles = if workers == Workers::One || count < 2 {
            (0..count).map(tile).collect()
        } else {
            (0..count).into_par_iter().map(tile).collect()
        };
        Self { instructions, tiles }
    }
}

struct QuantiseTile<'a> {
    rows: &'a [f32],
    inputs: usize,
    instructions: Instructions,
}

impl WithSimd for QuantiseTile<'_> {
    type Output = Tile;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Tile {
        let Self { rows, inputs, instructions } = self;
        let (group, offset) = (instructions.group(), i32::from(instructions.weight_offset()));
        let (height, blocks, groups) = (rows.len() / inputs, inputs / BLOCK, BLOCK / group);
        let mut tile = Tile {
            height,
            quants: vec![0; inputs / group * height],
            starts: vec![0; blocks * height],
            scales: vec![0.0; blocks * height],
        };
        for (r, row) in rows.chunks_exact(inputs).enumerate() {
            for (block, values) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
                let (scale, quants) = quantise(values);
                let at = block * height + r;
                tile.scales[at] = scale;
                tile.starts[at] = -offset * quants.iter().map(|&q| i32::from(q as i8)).sum::<i32>();
                let slots = &mut tile.quants[at * groups..(at + 1) * groups];
                if group == 2 {
                    slots.copy_from_slice(&pulp::cast::<_, [i32; BLOCK / 2]>(quants.map(|q| q as i16)));
                } else {
                    slots.copy_from_slice(&pulp::cast::<_, [i32; BLOCK / 4]>(quants.map(|q| q as i8)));
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
    /// What of the next panel is to be fetched from memory meanwhile: as many lines for each block, or nothing.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "plain loops leave it to the processor"))]
    next: &'a [Line],
}

/// A tile, block by block; a block of a row is `GROUPS` groups.
#[derive(Clone, Copy)]
struct Blocks<'a, const GROUPS: usize, const ROWS: usize> {
    quants: &'a [[[i32; GROUPS]; ROWS]],
    starts: &'a [[i32; ROWS]],
    scales: &'a [[f32; ROWS]],
}

/// The product of one tile and one panel for every row of the tile.
type Products<const ROWS: usize> = [[f32; PANEL]; ROWS];

impl Tile {
    #[inline(always)]
    fn blocks<const GROUPS: usize, const ROWS: usize>(&self) -> Blocks<'_, GROUPS, ROWS> {
        let (quants, _) = self.quants.as_chunks::<GROUPS>();
        Blocks {
            quants: quants.as_chunks::<ROWS>().0,
            starts: self.starts.as_chunks::<ROWS>().0,
            scales: self.scales.as_chunks::<ROWS>().0,
        }
    }
}

impl Part<'_, '_> {
    /// Runs `product(tile, panel, out)`, which writes a row of outputs for each row of the tile, with all tiles and panels.
    #[inline(always)]
    fn run(mut self, product: impl Fn(&Tile, Weights<'_>, &mut Products<MOST_ROWS>)) {
        let Some(width) = self.y.first().map(|row| row.len()) else { return };
        let rows_at_once = (ROWS_IN_CACHE / (self.blocks * BLOCK)).max(1);
        let mut rest = &mut self.y[..];
        for tiles in self.x.tiles.chunks(rows_at_once.div_ceil(self.x.instructions.rows())) {
            let rows = tiles.iter().map(|tile| tile.height).sum();
            let y = rest.split_off_mut(..rows).expect("there is a row for each of the tiles'");
            let panels = self.quants.chunks_exact(self.blocks);
            let lines = panels.clone().map(bytemuck::cast_slice);
            let following = lines.skip(1).chain([&[] as &[Line]]);
            // As many lines a block, 1, 2, 4 or 8, as it takes for the tiles to fetch a panel between them.
            let share = self.blocks * (LINES >> tiles.len().min(LINES).ilog2());
            let panels = panels.zip(self.scales.chunks_exact(self.blocks)).zip(following);
            for (start, ((quants, scales), next)) in (0..width).step_by(PANEL).zip(panels) {
                let end = (start + PANEL).min(width);
                let mut y = y.iter_mut();
                let mut products = [[0.0; PANEL]; MOST_ROWS];
                for (index, tile) in tiles.iter().enumerate() {
                    let next = next.chunks_exact(share).nth(index).unwrap_or_default();
                    product(tile, Weights { quants, scales, next }, &mut products);
                    for (products, y) in products[..tile.height].iter().zip(&mut y) {
                        match y[start..end].first_chunk_mut() {
                            Some(panel) => *panel = *products,
                            None => y[start..end].copy_from_slice(&products[..end - start]),
                        }
                    }
                }
            }
        }
    }
}

/// Writes `$products`, in which `$name` is the tile's height, to `$out`.
macro_rules! for_height {
    ($tile:expr, $out:expr, $name:ident in [$($rows:literal)*] => $products:expr) => {
        match $tile.height {
            $($rows => {
                const $name: usize = $rows;
                $out[..$name].copy_from_slice(&$products);
            })*
            height => unreachable!("no tile has {height} rows"),
        }
    };
}
use for_height;

#[cfg(test)]
mod tests {
    use super::*;

    fn value(seed: usize) -> f32 {
        ((seed * 7919 + 13) % 1009) as f32 / 504.5 - 1.0
    }

    fn matrix_for(instructions: Instructions, outputs: usize, inputs: usize) -> QuantisedMatrix {
        let read = |first: usize, rows: &mut [f32]| {
            rows.iter_mut().enumerate().for_each(|(i, slot)| *slot = value(first * inputs + i));
            Ok(())
        };
        QuantisedMatrix::zeros(instructions, outputs, inputs).unwrap().with_rows(read).unwrap()
    }

    fn matrix(outputs: usize, inputs: usize) -> QuantisedMatrix {
        matrix_for(Instructions::fastest(), outputs, inputs)
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
        let x = QuantisedRows::for_instructions(matrix.instructions, x, matrix.inputs, workers);
        matrix.multiply(&x, &mut y, workers);
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
        let x: Vec<f32> = (0..70 * inputs).map(|i| value(i * 17)).collect();
        let plain = product(&matrix_for(Instructions::Plain, outputs, inputs), &x, Workers::One);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        for instructions in Instructions::available() {
            let matrix = matrix_for(instructions, outputs, inputs);
            assert!(product(&matrix, &x, Workers::One) == plain, "{instructions:?}");
            assert!(pool.install(|| product(&matrix, &x, Workers::All)) == plain, "{instructions:?}");
            for rows in 1..=17 {
                let alone = product(&matrix, &x[6 * inputs..][..rows * inputs], Workers::One);
                assert!(alone == plain[6 * outputs..][..rows * outputs], "{rows} rows, {instructions:?}");
            }
        }
    }

    /// Rows of more bytes than stay in the cache pass the panels in portions.
    #[test]
    fn many_long_rows_are_the_same_as_few() {
        let (rows, outputs, inputs) = (50, 20, ROWS_IN_CACHE / BLOCK);
        let x: Vec<f32> = (0..rows * inputs).map(|i| value(i * 17)).collect();
        let matrix = matrix(outputs, inputs);
        let together = product(&matrix, &x, Workers::One);
        for (x, y) in x.chunks(inputs).zip(together.chunks(outputs)) {
            assert!(product(&matrix, x, Workers::One) == y);
        }
    }

    /// The greatest sum that a block can have, and the least weight, which only files hold.
    #[test]
    fn the_greatest_numbers_do_not_overflow() {
        let inputs = 64;
        for (weight, input) in [(-128, 1.0), (-128, -1.0), (127, 1.0), (127, -1.0)] {
            for instructions in Instructions::available() {
                let mut matrix = QuantisedMatrix::zeros(instructions, 1, inputs).unwrap();
                (0..inputs / BLOCK).for_each(|block| matrix.put(0, block, f16::ONE, &[weight; BLOCK]));
                let y = product(&matrix, &vec![127.0 * input; inputs], Workers::One);
                assert_eq!(y, [f32::from(weight) * 127.0 * input * inputs as f32], "{instructions:?}");
            }
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
                let (group, offset) = (expected.instructions.group(), expected.instructions.weight_offset());
                let groups = expected.quants[index].0.chunks_exact(group * PANEL);
                let quants = groups.flat_map(|quants| &quants[output % PANEL * group..][..group]);
                bytes.extend(quants.map(|quant| (quant.wrapping_sub(offset) as i8 * sign) as u8));
            }
        }
        let x = whole_inputs(2 * inputs);
        assert_eq!(
            product(&QuantisedMatrix::from_blocks(outputs, inputs, &bytes).unwrap(), &x, Workers::One),
            product(&expected, &x, Workers::One)
        );
    }
}
