//! Products with AVX2: 16 multiply-adds an instruction, of weights that are widened to 16 bits.

use core::arch::x86_64::{__m256, __m256i};

use half::f16;
use pulp::NullaryFnOnce;
use pulp::x86::V3;

use super::{BLOCK, Blocks, LINES, PANEL, Part, Products, Weights, for_height};
use crate::decoder::kernels::fetch_along;

const PAIRS: usize = BLOCK / 2;

pub(super) fn run(simd: V3, part: Part<'_, '_>) {
    struct OnAvx2<'a, 'y> {
        simd: V3,
        part: Part<'a, 'y>,
    }
    impl NullaryFnOnce for OnAvx2<'_, '_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let simd = self.simd;
            self.part.run(
                #[inline(always)]
                |tile, weights, out| match weights.next.len() / weights.quants.len() {
                    0 => for_height!(tile, out, ROWS in [1 2 3 4] => product::<ROWS, 0>(simd, tile.blocks(), weights)),
                    1 => for_height!(tile, out, ROWS in [1 2 3 4] => product::<ROWS, 1>(simd, tile.blocks(), weights)),
                    2 => for_height!(tile, out, ROWS in [1 2 3 4] => product::<ROWS, 2>(simd, tile.blocks(), weights)),
                    4 => for_height!(tile, out, ROWS in [1 2 3 4] => product::<ROWS, 4>(simd, tile.blocks(), weights)),
                    _ => for_height!(tile, out, ROWS in [1 2 3 4] => product::<ROWS, LINES>(simd, tile.blocks(), weights)),
                },
            );
        }
    }
    simd.vectorize(OnAvx2 { simd, part });
}

/// While a block is computed, `FETCH` lines of the next panel are fetched into the second cache, as with AVX-512.
#[inline(always)]
fn product<const ROWS: usize, const FETCH: usize>(
    simd: V3,
    tile: Blocks<'_, PAIRS, ROWS>,
    weights: Weights<'_>,
) -> Products<ROWS> {
    let mut sums = [[simd.avx._mm256_setzero_ps(); 2]; ROWS];
    let inputs = tile.quants.iter().zip(tile.scales);
    let next = if FETCH == 0 { bytemuck::cast_slice(weights.quants) } else { weights.next };
    let weights = weights.quants.iter().zip(weights.scales).zip(next.chunks_exact(FETCH.max(1)));
    for (((quants, scales), next), (x, x_scales)) in weights.zip(inputs) {
        let quants: &[[u8; 2 * PANEL]; PAIRS] = bytemuck::cast_ref(&quants.0);
        let mut whole = [[simd.avx._mm256_setzero_si256(); 2]; ROWS];
        for pair in 0..PAIRS {
            fetch_along::<FETCH, _>(next, pair, PAIRS);
            let weights = widen(simd, quants[pair]);
            for row in 0..ROWS {
                let x = simd.avx._mm256_set1_epi32(x[row][pair]);
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
fn widen(simd: V3, weights: [u8; 2 * PANEL]) -> [__m256i; 2] {
    let halves: [[u8; PANEL]; 2] = pulp::cast(weights);
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
