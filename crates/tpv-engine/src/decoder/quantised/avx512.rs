//! Products with AVX-512 and VNNI: 64 multiply-adds of 8-bit numbers an instruction.
//!
//! The instruction multiplies numbers of 0 to 255 by numbers of -128 to 127. Weights are the former, with
//! [`WEIGHT_OFFSET`] added, so a block's sum begins with what that adds too much: `-128 sum_k q_k`.

use core::arch::x86_64::{
    __m512i, _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_mul_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
};

use super::{BLOCK, Blocks, LINES, PANEL, Part, Products, Weights, for_height};
use crate::decoder::kernels::fetch_along;

const QUADS: usize = BLOCK / 4;

/// Added to weights, so that none is negative.
pub(super) const WEIGHT_OFFSET: u8 = 128;

/// Says that this machine has the instructions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vnni(());

impl Vnni {
    pub fn try_new() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        all.then_some(Self(()))
    }

    pub fn run(self, part: Part<'_, '_>) {
        #[expect(unsafe_code, reason = "the compiler cannot know that the instructions were looked for")]
        // SAFETY: a value of this type is only made where the machine has them.
        unsafe {
            run(part);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn run(part: Part<'_, '_>) {
    part.run(|tile, weights, out| match weights.next.len() / weights.quants.len() {
        0 => for_height!(tile, out, ROWS in [1 2 3 4 5 6 7 8] => product::<ROWS, 0>(tile.blocks(), weights)),
        1 => for_height!(tile, out, ROWS in [1 2 3 4 5 6 7 8] => product::<ROWS, 1>(tile.blocks(), weights)),
        2 => for_height!(tile, out, ROWS in [1 2 3 4 5 6 7 8] => product::<ROWS, 2>(tile.blocks(), weights)),
        4 => for_height!(tile, out, ROWS in [1 2 3 4 5 6 7 8] => product::<ROWS, 4>(tile.blocks(), weights)),
        _ => for_height!(tile, out, ROWS in [1 2 3 4 5 6 7 8] => product::<ROWS, LINES>(tile.blocks(), weights)),
    });
}

/// While a block is computed, `FETCH` lines of the next panel are fetched into the second cache: left to itself the processor
/// reads ahead too little, and a third of the memory's bandwidth stays unused with eight rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn product<const ROWS: usize, const FETCH: usize>(
    tile: Blocks<'_, QUADS, ROWS>,
    weights: Weights<'_>,
) -> Products<ROWS> {
    let mut sums = [_mm512_setzero_ps(); ROWS];
    let inputs = tile.quants.iter().zip(tile.starts).zip(tile.scales);
    let next = if FETCH == 0 { bytemuck::cast_slice(weights.quants) } else { weights.next };
    let weights = weights.quants.iter().zip(weights.scales).zip(next.chunks_exact(FETCH.max(1)));
    for (((quants, scales), next), ((x, starts), x_scales)) in weights.zip(inputs) {
        let quants: &[[u8; 4 * PANEL]; QUADS] = bytemuck::cast_ref(&quants.0);
        let mut whole = starts.map(|start| _mm512_set1_epi32(start));
        for quad in 0..QUADS {
            fetch_along::<FETCH, _>(next, quad, QUADS);
            let weights: __m512i = pulp::cast(quants[quad]);
            for row in 0..ROWS {
                whole[row] = _mm512_dpbusd_epi32(whole[row], weights, _mm512_set1_epi32(x[row][quad]));
            }
        }
        let scales = _mm512_cvtph_ps(pulp::cast(*scales));
        for row in 0..ROWS {
            let scale = _mm512_mul_ps(scales, _mm512_set1_ps(x_scales[row]));
            sums[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[row]), scale, sums[row]);
        }
    }
    sums.map(pulp::cast)
}
