//! Causal attention of query rows over paged keys and values, on slices.
//!
//! For one query head: `out = sum_j softmax_j(q . k_j) v_j` over the positions j that the row sees. Pages are visited
//! oldest first with a running maximum and sum, so a row's result depends on its own sequence only, and neither on
//! the batch nor on how its prompt was cut into steps.

use pulp::{Arch, Simd, WithSimd};

use super::kernels::{exponential, multiply_add};
use crate::kv::PAGE_TOKENS;

/// Keys [head_dim, PAGE_TOKENS] and values [PAGE_TOKENS, head_dim] of one head in one page.
pub(crate) struct HeadPage<'a> {
    pub keys: &'a [f32],
    pub values: &'a [f32],
}

/// One query row's heads that share a key/value head.
pub(crate) struct HeadGroup<'a> {
    /// `[group, head_dim]`, already scaled by `1 / sqrt(head_dim)`.
    pub queries: &'a [f32],
    pub head_dim: usize,
    /// Positions that the row sees.
    pub first: usize,
    /// One past the last position that the row sees.
    pub end: usize,
}

/// Attends and writes `[group, head_dim]`; `page(i)` is the sequence's i-th page.
pub(crate) fn attend<'a>(group: &HeadGroup<'_>, page: impl Fn(usize) -> HeadPage<'a>, out: &mut [f32]) {
    Arch::new().dispatch(Attend { group, page, out });
}

struct Attend<'a, 'o, P> {
    group: &'a HeadGroup<'a>,
    page: P,
    out: &'o mut [f32],
}

impl<'p, P: Fn(usize) -> HeadPage<'p>> WithSimd for Attend<'_, '_, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let HeadGroup { queries, head_dim, first, end } = *self.group;
        for (query, out) in queries.chunks_exact(head_dim).zip(self.out.chunks_exact_mut(head_dim)) {
            let mut softmax = Softmax { maximum: f32::NEG_INFINITY, sum: 0.0 };
            out.fill(0.0);
            for index in first / PAGE_TOKENS..end.div_ceil(PAGE_TOKENS) {
                let page = (self.page)(index);
                let start = index * PAGE_TOKENS;
                let seen = first.saturating_sub(start)..(end - start).min(PAGE_TOKENS);
                let mut weights = scores::<S>(query, page.keys);
                softmax.take_page::<S>(&mut weights, seen.clone(), out);
                add_values::<S>(&weights, seen, page.values, out);
            }
            let scale = 1.0 / softmax.sum;
            out.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

/// `q . k_j` for all slots of a page.
#[inline(always)]
fn scores<S: Simd>(query: &[f32], keys: &[f32]) -> [f32; PAGE_TOKENS] {
    let mut scores = [0.0; PAGE_TOKENS];
    let (rows, _) = keys.as_chunks::<PAGE_TOKENS>();
    for (q, row) in query.iter().zip(rows) {
        for slot in 0..PAGE_TOKENS {
            scores[slot] = multiply_add::<S>(*q, row[slot], scores[slot]);
        }
    }
    scores
}

/// The running maximum and sum of a softmax.
struct Softmax {
    maximum: f32,
    sum: f32,
}

impl Softmax {
    /// Turns the scores of the seen slots into weights (others into 0) and rescales what was added before.
    #[inline(always)]
    fn take_page<S: Simd>(&mut self, scores: &mut [f32; PAGE_TOKENS], seen: std::ops::Range<usize>, out: &mut [f32]) {
        for (slot, score) in scores.iter_mut().enumerate() {
            *score = if seen.contains(&slot) { *score } else { f32::NEG_INFINITY };
        }
        let maximum = reduce(scores, |a, b| if a > b { a } else { b }).max(self.maximum);
        if maximum > self.maximum {
            let scale = if self.sum > 0.0 { exponential::<S>(self.maximum - maximum) } else { 0.0 };
            self.sum *= scale;
            out.iter_mut().for_each(|x| *x *= scale);
            self.maximum = maximum;
        }
        for (slot, score) in scores.iter_mut().enumerate() {
            let weight = exponential::<S>(*score - maximum);
            *score = if seen.contains(&slot) { weight } else { 0.0 };
        }
        self.sum += reduce(scores, |a, b| a + b);
    }
}

/// Folds a page's slots by halves, so that the machine's vectors do it.
#[inline(always)]
fn reduce(slots: &[f32; PAGE_TOKENS], fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut slots = *slots;
    let mut width = PAGE_TOKENS / 2;
    while width > 0 {
        for slot in 0..width {
            slots[slot] = fold(slots[slot], slots[slot + width]);
        }
        width /= 2;
    }
    slots[0]
}

/// `out += sum_j weight_j v_j`, in strips of columns that stay in registers.
#[inline(always)]
fn add_values<S: Simd>(weights: &[f32; PAGE_TOKENS], seen: std::ops::Range<usize>, values: &[f32], out: &mut [f32]) {
    let width = out.len();
    let mut done = 0;
    while done < width {
        let rows = values.chunks_exact(width).zip(weights).skip(seen.start).take(seen.len());
        let rows = rows.map(|(row, weight)| (&row[done..], *weight));
        done += match width - done {
            64.. => add_strip::<S, 64>(rows, &mut out[done..]),
            32.. => add_strip::<S, 32>(rows, &mut out[done..]),
            16.. => add_strip::<S, 16>(rows, &mut out[done..]),
            8.. => add_strip::<S, 8>(rows, &mut out[done..]),
            _ => add_strip::<S, 1>(rows, &mut out[done..]),
        };
    }
}

#[inline(always)]
fn add_strip<'a, S: Simd, const WIDTH: usize>(rows: impl Iterator<Item = (&'a [f32], f32)>, out: &mut [f32]) -> usize {
    let Some(out) = out.first_chunk_mut::<WIDTH>() else { return 0 };
    let mut sums = *out;
    for (row, weight) in rows {
        let Some(row) = row.first_chunk::<WIDTH>() else { break };
        for column in 0..WIDTH {
            sums[column] = multiply_add::<S>(weight, row[column], sums[column]);
        }
    }
    *out = sums;
    WIDTH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(seed: usize) -> f32 {
        ((seed * 7919 + 13) % 1009) as f32 / 252.0 - 2.0
    }

    /// Softmax attention in f64, straight from the formula.
    fn expected(query: &[f32], first: usize, end: usize) -> Vec<f64> {
        let width = query.len();
        let dot = |j: usize| (0..width).map(|i| f64::from(query[i]) * f64::from(value(j * width + i))).sum::<f64>();
        let most = (first..end).map(dot).fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = (first..end).map(|j| (dot(j) - most).exp()).collect();
        let total: f64 = weights.iter().sum();
        let column = |i: usize| {
            let parts = weights.iter().zip(first..end);
            parts.map(|(weight, j)| weight * f64::from(value(j * width + i + 5000))).sum::<f64>() / total
        };
        (0..width).map(column).collect()
    }

    #[test]
    fn agrees_with_the_formula_for_any_window() {
        for width in [6, 8, 20, 64, 128] {
            let pages: Vec<(Vec<f32>, Vec<f32>)> = (0..4)
                .map(|page| {
                    let token = |slot: usize| page * PAGE_TOKENS + slot;
                    let keys = (0..width * PAGE_TOKENS)
                        .map(|i| value(token(i % PAGE_TOKENS) * width + i / PAGE_TOKENS))
                        .collect();
                    let values =
                        (0..width * PAGE_TOKENS).map(|i| value(token(i / width) * width + i % width + 5000)).collect();
                    (keys, values)
                })
                .collect();
            let query: Vec<f32> = (0..width).map(|i| value(i * 3 + 1) / 4.0).collect();
            for (first, end) in [(0, 1), (0, 32), (0, 33), (0, 100), (70, 100), (31, 97), (63, 64)] {
                let group = HeadGroup { queries: &query, head_dim: width, first, end };
                let mut out = vec![f32::NAN; width];
                attend(&group, |i| HeadPage { keys: &pages[i].0, values: &pages[i].1 }, &mut out);
                for (got, expected) in out.iter().zip(expected(&query, first, end)) {
                    assert!((f64::from(*got) - expected).abs() < 2e-5, "{width} {first}..{end}: {got} {expected}");
                }
            }
        }
    }
}
