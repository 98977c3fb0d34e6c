//! `y = x W^T` in f32 with a fixed order of additions.
//!
//! Every output is one chain of fused multiply-adds over the contraction index in ascending order, whatever the number
//! of rows, so a row's result does not depend on its neighbours: this is what makes a trace the same alone and in a
//! batch, bit for bit. The weights lie in panels of as many outputs as two of the machine's vectors hold,
//! [panel][in][output], rows are taken in tiles of 1, 2 or 4, and panels are shared out between threads. A panel is
//! multiplied in stretches of [`STRETCH`] inputs, which stay in the first cache while all tiles pass; the sums wait in the
//! result meanwhile, which changes no bit.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Vectors of outputs in one panel of weights.
const VECTORS: usize = 2;

/// Rows that one tile holds at most.
const TILE: usize = 4;

/// Inputs of a panel that are multiplied with all tiles before the next ones.
const STRETCH: usize = 256;

/// Multiply-adds below which a product stays on one thread.
const SERIAL_PRODUCTS: usize = 1 << 19;

/// A weight matrix `[outputs, inputs]`, stored in panels.
#[derive(Debug, Clone)]
pub(crate) struct PackedMatrix {
    panels: Vec<f32>,
    outputs: usize,
    inputs: usize,
    /// Outputs in a panel.
    panel: usize,
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
    pub fn from_rows<E>(
        outputs: usize,
        inputs: usize,
        mut read_rows: impl FnMut(usize, &mut [f32]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let panel = panel_outputs();
        let mut panels = vec![0.0; outputs.div_ceil(panel) * panel * inputs];
        let mut rows = vec![0.0; panel * inputs];
        for (index, panel_values) in panels.chunks_exact_mut(panel * inputs).enumerate() {
            let first = index * panel;
            let rows = &mut rows[..panel.min(outputs - first) * inputs];
            read_rows(first, rows)?;
            for (output, row) in rows.chunks_exact(inputs).enumerate() {
                panel_values[output..].iter_mut().step_by(panel).zip(row).for_each(|(slot, &value)| *slot = value);
            }
        }
        Ok(Self { panels, outputs, inputs, panel })
    }

    /// Bytes that the weights take.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.panels)
    }

    /// `y = x W^T` for y `[rows, outputs]`.
    pub fn multiply(&self, x: &PackedRows, y: &mut [f32]) {
        let rows = y.len() / self.outputs;
        let tiles = &x.tiles;
        let mut by_panel = vec![0.0; self.outputs.div_ceil(self.panel) * rows * self.panel];
        let arch = Arch::new();
        let panel_size = self.panel * self.inputs;
        let product = |(out, panel): (&mut [f32], &[f32])| {
            arch.dispatch(PanelProduct { tiles, panel, out });
        };
        let is_alone = rayon::current_thread_index().is_none();
        if is_alone || rows * self.outputs * self.inputs < SERIAL_PRODUCTS {
            by_panel.chunks_mut(rows * self.panel).zip(self.panels.chunks(panel_size)).for_each(product);
        } else {
            by_panel.par_chunks_mut(rows * self.panel).zip(self.panels.par_chunks(panel_size)).for_each(product);
        }
        self.scatter(&by_panel, rows, y);
    }

    fn scatter(&self, by_panel: &[f32], rows: usize, y: &mut [f32]) {
        for (row, y) in y.chunks_exact_mut(self.outputs).enumerate() {
            for (panel, y) in y.chunks_mut(self.panel).enumerate() {
                y.copy_from_slice(&by_panel[(panel * rows + row) * self.panel..][..y.len()]);
            }
        }
    }
}

/// Rows of x, regrouped in tiles; the last tile is filled up with zeros.
#[derive(Debug)]
pub(crate) struct PackedRows {
    tiles: Vec<Tile>,
}

impl PackedRows {
    /// Regroups x `[rows, inputs]`.
    pub fn new(x: &[f32], inputs: usize) -> Self {
        Self { tiles: pack_tiles(x, inputs) }
    }
}

/// `height` rows as [in][height].
#[derive(Debug)]
struct Tile {
    height: usize,
    values: Vec<f32>,
}

fn pack_tiles(x: &[f32], inputs: usize) -> Vec<Tile> {
    x.chunks(TILE * inputs)
        .map(|rows| {
            let height = (rows.len() / inputs).next_power_of_two();
            let mut values = vec![0.0; height * inputs];
            for (r, row) in rows.chunks_exact(inputs).enumerate() {
                for (slot, &value) in values[r..].iter_mut().step_by(height).zip(row) {
                    *slot = value;
                }
            }
            Tile { height, values }
        })
        .collect()
}

/// The product of all tiles with one panel: `out` is `[rows, panel]` and holds zeros before.
struct PanelProduct<'a> {
    tiles: &'a [Tile],
    panel: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for PanelProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (panel, _) = S::as_simd_f32s(self.panel);
        let (panel, _) = panel.as_chunks::<VECTORS>();
        let (out, _) = S::as_mut_simd_f32s(self.out);
        let (out, _) = out.as_chunks_mut::<VECTORS>();
        for (stretch, weights) in panel.chunks(STRETCH).enumerate() {
            for (tile, out) in self.tiles.iter().zip(out.chunks_mut(TILE)) {
                let values = &tile.values[stretch * STRETCH * tile.height..];
                match tile.height {
                    1 => tile_product::<S, 1>(simd, values, weights, out),
                    2 => tile_product::<S, 2>(simd, values, weights, out),
                    _ => tile_product::<S, TILE>(simd, values, weights, out),
                }
            }
        }
    }
}

/// Adds the product of `ROWS` rows, `[inputs, ROWS]`, and some inputs of a panel to `out`, which may lack the last rows.
#[inline(always)]
fn tile_product<S: Simd, const ROWS: usize>(
    simd: S,
    values: &[f32],
    weights: &[[S::f32s; VECTORS]],
    out: &mut [[S::f32s; VECTORS]],
) {
    let (inputs, _) = values.as_chunks::<ROWS>();
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    sums.iter_mut().zip(&*out).for_each(|(sum, before)| *sum = *before);
    for (x, w) in inputs.iter().zip(weights) {
        for row in 0..ROWS {
            let x = simd.splat_f32s(x[row]);
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
            Ok::<_, std::convert::Infallible>(())
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
            matrix.multiply(&PackedRows::new(&x, inputs), &mut y);
            for (index, &got) in y.iter().enumerate() {
                let (row, output) = (index / outputs, index % outputs);
                let term = |i| f64::from(x[row * inputs + i]) * f64::from(value(output * inputs + i));
                let expected: f64 = (0..inputs).map(term).sum();
                assert!((f64::from(got) - expected).abs() < 1e-5 * inputs as f64, "{got} {expected}");
            }
        }
    }

    #[test]
    fn a_row_is_the_same_bits_in_any_company() {
        let (outputs, inputs) = (300, 597);
        let matrix = packed(outputs, inputs);
        let x: Vec<f32> = (0..150 * inputs).map(|i| value(i * 17)).collect();
        let mut together = vec![0.0; 150 * outputs];
        matrix.multiply(&PackedRows::new(&x, inputs), &mut together);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let mut on_threads = vec![0.0; 150 * outputs];
        pool.install(|| matrix.multiply(&PackedRows::new(&x, inputs), &mut on_threads));
        assert!(on_threads == together);
        for rows in [1, 2, 3, 5, 8] {
            let mut alone = vec![0.0; rows * outputs];
            matrix.multiply(&PackedRows::new(&x[6 * inputs..][..rows * inputs], inputs), &mut alone);
            assert!(alone.iter().zip(&together[6 * outputs..]).all(|(a, b)| a.to_bits() == b.to_bits()), "{rows}");
        }
    }
}
