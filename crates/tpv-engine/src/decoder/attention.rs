//! Causal attention of query rows over paged keys and values, on slices.
//!
//! For one query head: `out = sum_j softmax_j(q . k_j) v_j` over the positions j that the row sees. Pages are visited
//! oldest first in runs of [`RUN`] positions, with a running maximum and sum, so a row's result depends on its own sequence
//! only, and neither on the batch nor on how its prompt was cut into steps. Long chains of additions are split in two,
//! always at the same places, so that the machine need not wait for each sum before the next.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::kernels::exponential;
use crate::kv::PAGE_TOKENS;

/// Pages that are scored before their values are added.
const RUN_PAGES: usize = 2;

/// Positions in a run.
const RUN: usize = RUN_PAGES * PAGE_TOKENS;

/// Queries that read a run of keys one after the other, while it is in the cache.
const QUERIES: usize = 8;

/// Keys [head_dim, PAGE_TOKENS] and values [PAGE_TOKENS, head_dim] of one head in one page.
pub(crate) struct HeadPage<'a> {
    pub keys: &'a [f32],
    pub values: &'a [f32],
}

/// One head of one query row, and where its result goes.
pub(crate) struct Query<'a> {
    /// `[head_dim]`, already scaled by `1 / sqrt(head_dim)`.
    pub query: &'a [f32],
    /// `[head_dim]`.
    pub out: &'a mut [f32],
    /// Positions that the row sees.
    pub seen: Range<usize>,
}

impl Query<'_> {
    /// What the row sees of a run, from the run's start on.
    fn seen_of_run(&self, run: usize) -> Range<usize> {
        let place = |position: usize| position.saturating_sub(run * RUN).min(RUN);
        place(self.seen.start)..place(self.seen.end)
    }
}

/// The pages of a run in which something is seen.
fn pages_of(seen: &Range<usize>) -> Range<usize> {
    if seen.is_empty() { 0..0 } else { seen.start / PAGE_TOKENS..seen.end.div_ceil(PAGE_TOKENS) }
}

/// Attends with queries of one sequence that share a key/value head; `page(i)` is the sequence's i-th page.
pub(crate) fn attend<'a>(queries: &mut [Query<'_>], page: impl Fn(usize) -> HeadPage<'a>) {
    Arch::new().dispatch(Attend { queries, page });
}

struct Attend<'a, 'q, P> {
    queries: &'a mut [Query<'q>],
    page: P,
}

impl<'p, P: Fn(usize) -> HeadPage<'p>> WithSimd for Attend<'_, '_, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.queries.len() == 1 {
            return attend_some::<S, _, 1>(simd, self.queries, &self.page);
        }
        for queries in self.queries.chunks_mut(QUERIES) {
            attend_some::<S, _, QUERIES>(simd, queries, &self.page);
        }
    }
}

/// Attends with some queries, `MOST` at most.
#[inline(always)]
fn attend_some<'p, S: Simd, P: Fn(usize) -> HeadPage<'p>, const MOST: usize>(
    simd: S,
    queries: &mut [Query<'_>],
    page: P,
) {
    let mut softmax = [Softmax { maximum: f32::NEG_INFINITY, sum: 0.0 }; MOST];
    let mut scores = [[[0.0; PAGE_TOKENS]; RUN_PAGES]; MOST];
    queries.iter_mut().for_each(|query| query.out.fill(0.0));
    let first = queries.iter().map(|query| query.seen.start / RUN).min().unwrap_or(0);
    let end = queries.iter().map(|query| query.seen.end.div_ceil(RUN)).max().unwrap_or(0);
    for run in first..end {
        for index in 0..RUN_PAGES {
            let seeing = queries.iter().zip(&mut scores);
            let mut seeing = seeing.filter(|(query, _)| pages_of(&query.seen_of_run(run)).contains(&index)).peekable();
            // A page that nobody sees may not exist.
            let Some(_) = seeing.peek() else { continue };
            let keys = page(run * RUN_PAGES + index).keys;
            for (query, scores) in seeing {
                score(simd, query.query, keys, &mut scores[index]);
            }
        }
        for ((query, scores), softmax) in queries.iter_mut().zip(&mut scores).zip(&mut softmax) {
            let seen = query.seen_of_run(run);
            if seen.is_empty() {
                continue;
            }
            let touched = pages_of(&seen);
            softmax.take_run::<S>(scores, touched.clone(), seen.clone(), query.out);
            let width = query.out.len();
            let pages = touched.map(|index| {
                // What lies behind the last position is another sequence's past.
                let slots = (seen.end - index * PAGE_TOKENS).min(PAGE_TOKENS);
                (&page(run * RUN_PAGES + index).values[..slots * width], &scores[index])
            });
            add_values(simd, pages, query.out);
        }
    }
    for (query, softmax) in queries.iter_mut().zip(softmax) {
        let scale = 1.0 / softmax.sum;
        query.out.iter_mut().for_each(|x| *x *= scale);
    }
}

/// `q . k_j` for all slots of a page: the even and the odd dimensions added up apart.
#[inline(always)]
fn score<S: Simd>(simd: S, query: &[f32], keys: &[f32], scores: &mut [f32; PAGE_TOKENS]) {
    let ((keys, _), (scores, _)) = (S::as_simd_f32s(keys), S::as_mut_simd_f32s(scores));
    match scores.len() {
        2 => score_vectors::<S, 2>(simd, query, keys, scores),
        4 => score_vectors::<S, 4>(simd, query, keys, scores),
        8 => score_vectors::<S, 8>(simd, query, keys, scores),
        _ => score_vectors::<S, 1>(simd, query, keys, scores),
    }
}

/// A page's slots, `VECTORS` vectors of the machine at a time.
#[inline(always)]
fn score_vectors<S: Simd, const VECTORS: usize>(simd: S, query: &[f32], keys: &[S::f32s], scores: &mut [S::f32s]) {
    let width = scores.len();
    let (queries, last) = query.as_chunks::<2>();
    for (place, scores) in scores.as_chunks_mut::<VECTORS>().0.iter_mut().enumerate() {
        let (mut even, mut odd) = ([simd.splat_f32s(0.0); VECTORS], [simd.splat_f32s(0.0); VECTORS]);
        let pairs = keys.chunks_exact(2 * width);
        let rest = pairs.remainder();
        for (q, rows) in queries.iter().zip(pairs) {
            let (first, second) = rows.split_at(width);
            let (first, second) = (&first.as_chunks::<VECTORS>().0[place], &second.as_chunks::<VECTORS>().0[place]);
            let (low, high) = (simd.splat_f32s(q[0]), simd.splat_f32s(q[1]));
            for vector in 0..VECTORS {
                even[vector] = simd.mul_add_e_f32s(low, first[vector], even[vector]);
                odd[vector] = simd.mul_add_e_f32s(high, second[vector], odd[vector]);
            }
        }
        for (q, row) in last.iter().zip(rest.chunks_exact(width)) {
            let row = &row.as_chunks::<VECTORS>().0[place];
            for vector in 0..VECTORS {
                even[vector] = simd.mul_add_e_f32s(simd.splat_f32s(*q), row[vector], even[vector]);
            }
        }
        for vector in 0..VECTORS {
            scores[vector] = simd.add_f32s(even[vector], odd[vector]);
        }
    }
}

/// The running maximum and sum of a softmax.
#[derive(Clone, Copy)]
struct Softmax {
    maximum: f32,
    sum: f32,
}

impl Softmax {
    /// Turns the scores of the seen positions into weights (others of the touched pages into 0) and rescales what was added
    /// before.
    #[inline(always)]
    fn take_run<S: Simd>(
        &mut self,
        scores: &mut [[f32; PAGE_TOKENS]; RUN_PAGES],
        touched: Range<usize>,
        seen: Range<usize>,
        out: &mut [f32],
    ) {
        let (start, end) = (touched.start * PAGE_TOKENS, touched.end * PAGE_TOKENS);
        let mask = |scores: &mut [[f32; PAGE_TOKENS]; RUN_PAGES], value: f32| {
            let scores = scores.as_flattened_mut();
            scores[start..seen.start].fill(value);
            scores[seen.end..end].fill(value);
        };
        mask(scores, f32::NEG_INFINITY);
        let maximum = reduce(&scores[touched.clone()], |a, b| if a > b { a } else { b }).max(self.maximum);
        if maximum > self.maximum {
            let scale = if self.sum > 0.0 { exponential::<S>(self.maximum - maximum) } else { 0.0 };
            self.sum *= scale;
            out.iter_mut().for_each(|x| *x *= scale);
            self.maximum = maximum;
        }
        for score in scores[touched.clone()].as_flattened_mut() {
            *score = exponential::<S>(*score - maximum);
        }
        mask(scores, 0.0);
        self.sum += reduce(&scores[touched], |a, b| a + b);
    }
}

/// Folds pages into one, and that by halves, so that the machine's vectors do it; in an order that does not depend on their
/// width.
#[inline(always)]
fn reduce(pages: &[[f32; PAGE_TOKENS]], fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut slots = pages[0];
    for page in &pages[1..] {
        for slot in 0..PAGE_TOKENS {
            slots[slot] = fold(slots[slot], page[slot]);
        }
    }
    let mut width = PAGE_TOKENS / 2;
    while width > 0 {
        for slot in 0..width {
            slots[slot] = fold(slots[slot], slots[slot + width]);
        }
        width /= 2;
    }
    slots[0]
}

/// `out += sum_j weight_j v_j` over some pages: the even and the odd positions added up apart, in strips of columns that
/// stay in registers. A page is its values `[slots, width]` and the weights of its slots.
#[inline(always)]
fn add_values<'a, S: Simd>(
    simd: S,
    pages: impl Iterator<Item = (&'a [f32], &'a [f32; PAGE_TOKENS])> + Clone,
    out: &mut [f32],
) {
    let width = out.len();
    if !width.is_multiple_of(S::F32_LANES) {
        return add_values(pulp::Scalar, pages, out);
    }
    let (out, _) = S::as_mut_simd_f32s(out);
    let mut done = 0;
    while done < out.len() {
        let strip = Strip { simd, width: out.len(), done };
        done += match out.len() - done {
            4.. => strip.add::<4>(pages.clone(), out),
            2.. => strip.add::<2>(pages.clone(), out),
            _ => strip.add::<1>(pages.clone(), out),
        };
    }
}

/// Some columns of the values.
struct Strip<S> {
    simd: S,
    /// Vectors in a row.
    width: usize,
    /// Vectors before these.
    done: usize,
}

impl<S: Simd> Strip<S> {
    #[inline(always)]
    fn add<'a, const VECTORS: usize>(
        &self,
        pages: impl Iterator<Item = (&'a [f32], &'a [f32; PAGE_TOKENS])>,
        out: &mut [S::f32s],
    ) -> usize {
        let Self { simd, width, done } = *self;
        let Some(out) = out[done..].first_chunk_mut::<VECTORS>() else { return 0 };
        let (mut even, mut odd) = (*out, [simd.splat_f32s(0.0); VECTORS]);
        let add = |sums: &mut [S::f32s; VECTORS], weight: f32, row: &[S::f32s]| {
            let row = row[done..].first_chunk::<VECTORS>().expect("the strip is within the row");
            let weight = simd.splat_f32s(weight);
            for vector in 0..VECTORS {
                sums[vector] = simd.mul_add_e_f32s(weight, row[vector], sums[vector]);
            }
        };
        for (values, weights) in pages {
            let pairs = S::as_simd_f32s(values).0.chunks_exact(2 * width);
            let (last, count) = (pairs.remainder(), pairs.len());
            let (weights, _) = weights.as_chunks::<2>();
            for (rows, weights) in pairs.zip(weights) {
                let (first, second) = rows.split_at(width);
                add(&mut even, weights[0], first);
                add(&mut odd, weights[1], second);
            }
            if !last.is_empty() {
                add(&mut even, weights[count][0], last);
            }
        }
        for vector in 0..VECTORS {
            out[vector] = simd.add_f32s(even[vector], odd[vector]);
        }
        VECTORS
    }
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
                let mut out = vec![f32::NAN; width];
                attend(&mut [Query { query: &query, out: &mut out, seen: first..end }], |i| HeadPage {
                    keys: &pages[i].0,
                    values: &pages[i].1,
                });
                for (got, expected) in out.iter().zip(expected(&query, first, end)) {
                    assert!((f64::from(*got) - expected).abs() < 2e-5, "{width} {first}..{end}: {got} {expected}");
                }
            }
        }
    }

    #[test]
    fn queries_that_share_keys_attend_as_they_would_alone() {
        let (width, count, end) = (20, 2 * QUERIES + 3, RUN + 41);
        let page = |seed: usize| -> Vec<f32> { (0..width * PAGE_TOKENS).map(|i| value(seed + i)).collect() };
        let pages: Vec<_> = (0..end.div_ceil(PAGE_TOKENS)).map(|i| (page(i * 700), page(i * 700 + 90_000))).collect();
        let page = |i: usize| HeadPage { keys: &pages[i].0, values: &pages[i].1 };
        let queries: Vec<f32> = (0..count * width).map(|i| value(i * 3 + 1) / 4.0).collect();
        for step in [0, 1, 5] {
            // Each row sees as much as the one before and some positions more, or a window of them.
            let seen = |place: usize| place * step..end - (count - 1 - place) * step;
            let attended = |places: Range<usize>| {
                let mut out = vec![f32::NAN; places.len() * width];
                let mut queries: Vec<Query<'_>> = places
                    .zip(out.chunks_exact_mut(width))
                    .map(|(place, out)| Query { query: &queries[place * width..][..width], out, seen: seen(place) })
                    .collect();
                attend(&mut queries, page);
                out.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            };
            let alone: Vec<u32> = (0..count).flat_map(|place| attended(place..place + 1)).collect();
            assert!(alone.iter().all(|&bits| f32::from_bits(bits).is_finite()));
            assert_eq!(attended(0..count), alone);
        }
    }

    #[test]
    fn what_lies_behind_the_last_position_is_not_read() {
        for end in [1, 31, 33, 64, 71] {
            let width = 8;
            let filled = |rest: f32| {
                let keys = (0..width * PAGE_TOKENS).map(|i| value(i * 5));
                let values = (0..width * PAGE_TOKENS).map(|i| value(i * 3 + 7));
                let (mut keys, mut values): (Vec<f32>, Vec<f32>) = (keys.collect(), values.collect());
                for slot in (end - 1) % PAGE_TOKENS + 1..PAGE_TOKENS {
                    keys.iter_mut().skip(slot).step_by(PAGE_TOKENS).for_each(|key| *key = rest);
                    values[slot * width..][..width].fill(rest);
                }
                (keys, values)
            };
            let attended = |last: &(Vec<f32>, Vec<f32>)| {
                let (full, mut out) = (filled(0.0), vec![0.0; width]);
                let page = |i: usize| if i == (end - 1) / PAGE_TOKENS { last } else { &full };
                let query = Query { query: &[0.5; 8], out: &mut out, seen: 0..end };
                attend(&mut [query], |i| HeadPage { keys: &page(i).0, values: &page(i).1 });
                out
            };
            let clean = attended(&filled(0.0));
            assert!(clean.iter().all(|x| x.is_finite()));
            assert_eq!(attended(&filled(f32::NAN)), clean, "{end}");
        }
    }
}
