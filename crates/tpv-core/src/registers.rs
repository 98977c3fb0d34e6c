//! The processor's vector registers after the linear-algebra library.

/// Empties the upper halves of the vector registers. faer's AVX-512 products leave numbers in them, and on Intel processors
/// what the thread does later in instructions of the older kind, `exp` for one, then takes several times as long.
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
