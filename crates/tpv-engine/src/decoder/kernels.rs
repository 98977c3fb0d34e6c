//! The small loops of the decoder on slices: norm, gate, exponential. Each row is computed alone, in a fixed order.

use std::sync::atomic::{Ordering, compiler_fence};

use pulp::{Arch, Simd, WithSimd};

/// Partial sums of a reduction; fixed, so that the order does not depend on the machine's vector width.
const LANES: usize = 16;

/// `a * b + c`, fused where the machine can.
#[inline(always)]
pub(crate) fn multiply_add<S: Simd>(a: f32, b: f32, c: f32) -> f32 {
    if S::IS_SCALAR { a * b + c } else { a.mul_add(b, c) }
}

/// `exp(x)` within 2e-7 relative for x in `[-87, 88]`; smaller x give about 1e-38. Branch-free, so that loops vectorise.
#[inline(always)]
pub(crate) fn exponential<S: Simd>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to a whole number
    let x = x.clamp(-87.0, 88.0);
    let shifted = multiply_add::<S>(x, std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let rest = multiply_add::<S>(whole, -0.693_145_75, x);
    let rest = multiply_add::<S>(whole, -1.428_606_8e-6, rest);
    let mut sum = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = multiply_add::<S>(sum, rest, coefficient);
    }
    let power = (shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23;
    sum * f32::from_bits(power)
}

/// `x / sqrt(mean(x^2) + epsilon) * weight` for every row of x `[rows, width]`, in place.
pub(crate) fn normalise(x: &mut [f32], weight: &[f32], epsilon: f64) {
    Arch::new().dispatch(Norm { x, weight, epsilon });
}

struct Norm<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    epsilon: f64,
}

impl WithSimd for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for row in self.x.chunks_exact_mut(self.weight.len()) {
            let mean = sum_of_squares::<S>(row) / row.len() as f32;
            let scale = 1.0 / (mean + self.epsilon as f32).sqrt();
            for (x, weight) in row.iter_mut().zip(self.weight) {
                *x = *x * scale * weight;
            }
        }
    }
}

#[inline(always)]
fn sum_of_squares<S: Simd>(row: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] = multiply_add::<S>(chunk[lane], chunk[lane], sums[lane]);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum = multiply_add::<S>(*x, *x, *sum);
    }
    sums.iter().sum()
}

/// `gate <- silu(gate) * up`, with `silu(x) = x / (1 + exp(-x))`.
pub(crate) fn gate(gate: &mut [f32], up: &[f32]) {
    Arch::new().dispatch(Gate { gate, up });
}

struct Gate<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl WithSimd for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (gate, up) in self.gate.iter_mut().zip(self.up) {
            *gate = *gate / (1.0 + exponential::<S>(-*gate)) * up;
        }
    }
}

/// `x <- x + y`.
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Asks for what lies at `wanted` to be brought into the second cache, where the machine can be asked.
#[inline(always)]
pub(crate) fn fetch<T>(wanted: &T) {
    #[cfg(not(target_arch = "x86_64"))]
    let _ = wanted;
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of::<T>()).step_by(64) {
        use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let line = std::ptr::from_ref(wanted).cast::<i8>().wrapping_add(line);
        #[expect(unsafe_code, reason = "the compiler wants to be told that the machine has the instruction")]
        // SAFETY: every x86-64 machine has it, and what it asks for need not be there.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(line);
        }
    }
}

/// Fetches `FETCH` things evenly over the steps of a computation: at each step those whose turn it is.
#[inline(always)]
pub(crate) fn fetch_along<const FETCH: usize, T>(wanted: &[T], step: usize, steps: usize) {
    if FETCH > 0 && step.is_multiple_of(steps / FETCH) {
        fetch(&wanted[step * FETCH / steps]);
        // The compiler would move them all to the end, where they would wait in line.
        compiler_fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_accurate() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let expected = f64::from(x).exp();
            let got = f64::from(exponential::<pulp::Scalar>(x));
            assert!((got / expected - 1.0).abs() < 4e-7, "exp({x}) = {expected}, got {got}");
        }
        assert!(exponential::<pulp::Scalar>(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn a_normalised_row_has_unit_mean_square() {
        let mut x: Vec<f32> = (0..2 * 37).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        normalise(&mut x, &[2.0; 37], 0.0);
        for row in x.chunks(37) {
            let mean = row.iter().map(|x| x * x).sum::<f32>() / 37.0;
            assert!((mean - 4.0).abs() < 1e-5);
        }
    }

    #[test]
    fn the_gate_is_silu_times_up() {
        let mut x = vec![-3.0, 0.0, 0.5, 20.0];
        gate(&mut x, &[1.0, 2.0, 3.0, 4.0]);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        for (got, expected) in x.iter().zip([silu(-3.0), 0.0, 3.0 * silu(0.5), 4.0 * silu(20.0)]) {
            assert!((f64::from(*got) - expected).abs() < 1e-5);
        }
    }
}
