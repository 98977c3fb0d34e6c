//! From one seed to many: the mixing behind every seeded decision, fixed for good so that results can be repeated.

use rand_pcg::Pcg64;

/// The golden ratio's fraction, the increment of SplitMix64.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// One step of SplitMix64: a bijection of u64 in which every input bit flips about half of the output bits.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Folds several numbers, in order, into one seed.
pub(crate) fn combine(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |state, &part| mix(state ^ part))
}

/// The generator that a seed stands for.
pub(crate) fn generator(seed: u64) -> Pcg64 {
    let word = |n: u64| u128::from(combine(&[seed, n]));
    Pcg64::new(word(0) << 64 | word(1), word(2) << 64 | word(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mix_is_splitmix64() {
        // The first outputs of the published SplitMix64 from state 0.
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(mix(GOLDEN), 0x6E78_9E6A_A1B9_65F4);
        assert_eq!(mix(GOLDEN.wrapping_mul(2)), 0x06C4_5D18_8009_454F);
    }

    #[test]
    fn order_and_value_of_the_parts_matter() {
        assert_ne!(combine(&[1, 2]), combine(&[2, 1]));
        assert_ne!(combine(&[1, 2]), combine(&[1, 3]));
        assert_ne!(combine(&[0]), combine(&[0, 0]));
    }
}
