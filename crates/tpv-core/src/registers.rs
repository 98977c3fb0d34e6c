//! The processor's vector registers after the linear-algebra library.

/// Empties the upper halves of the vector registers. faer's AVX-512 products leave numbers in them, and on Intel processors
/// all later code of the thread that is compiled for any x86-64 machine, `exp` for one, then takes four times as long.
#[inline]
pub(crate) fn empty_upper_halves() {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        simd.vectorize(
            #[inline(always)]
            || simd.avx._mm256_zeroupper(),
        );
    }
}
