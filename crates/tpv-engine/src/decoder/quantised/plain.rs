//! Products in plain loops.

use super::{BLOCK, Blocks, PANEL, Part, Products, Weights, for_height};

const PAIRS: usize = BLOCK / 2;

pub(super) fn run(part: Part<'_, '_>) {
    part.run(|tile, weights, out| {
        for_height!(tile, out, ROWS in [1 2 3 4] => product::<ROWS>(tile.blocks(), weights));
    });
}

fn product<const ROWS: usize>(tile: Blocks<'_, PAIRS, ROWS>, weights: Weights<'_>) -> Products<ROWS> {
    let mut sums = [[0.0; PANEL]; ROWS];
    let inputs = tile.quants.iter().zip(tile.starts).zip(tile.scales);
    for ((quants, scales), ((x, starts), x_scales)) in weights.quants.iter().zip(weights.scales).zip(inputs) {
        for row in 0..ROWS {
            let mut whole = [starts[row]; PANEL];
            for (pairs, x) in quants.0.as_chunks::<{ 2 * PANEL }>().0.iter().zip(x[row]) {
                let (low, high) = (i32::from(x as i16), x >> 16);
                for (sum, two) in whole.iter_mut().zip(pairs.as_chunks::<2>().0) {
                    *sum += low * i32::from(two[0] as i8) + high * i32::from(two[1] as i8);
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
