//! The pooled rank correlation of rows whose problems are drawn again and again.
//!
//! The average rank of row i in a resample that holds problem h `w_h` times is `1/2 + sum_h w_h L_h(i)`, where `L_h(i)` is how
//! many rows of h lie below row i, ties counting half. Less the mean of all ranks that is `sum_h w_h A_h(i)` with
//! `A_h(i) = L_h(i) - n_h / 2`, which does not change from resample to resample. With A of the predictions and B of the
//! targets the covariance of the ranks is a cubic form in the weights,
//!
//! ```text
//! sum_g w_g sum_h w_h sum_k w_k C[g, h, k],     C[g, h, k] = sum over the rows i of problem g of A_h(i) B_k(i)
//! ```
//!
//! and so are both variances. Few problems are therefore ranked once for all resamples; many are walked row by row.

/// More problems than this are walked, for the cubic forms grow with their third power.
const MOST_PROBLEMS: usize = 48;
/// Most entries of A: 32 MB.
const MOST_ENTRIES: usize = 4_000_000;

/// Rows prepared for many resamples.
pub(super) struct Ranks {
    /// Rows of each problem.
    sizes: Vec<f64>,
    form: Form,
}

enum Form {
    /// `[P, P, P]` of the covariance and of the variances of predictions and targets.
    Cubic([Vec<f64>; 3]),
    Walked(Walked),
}

/// Rows in the order of the predictions, and in that of the targets.
struct Walked {
    by_predicted: Vec<RankedRow>,
    by_target: Vec<RankedRow>,
}

/// Rows, in the order of one value, tied where the value equals that of the row before.
struct RankedRow {
    problem: u32,
    /// The row's place in the order of the predictions.
    row: u32,
    tied: bool,
}

impl Ranks {
    /// Both values of all rows, and the problem of each, numbered from 0.
    pub(super) fn new(predicted: &[f64], target: &[f64], problem_of_row: &[u32], problems: usize) -> Self {
        if problems <= MOST_PROBLEMS && problems * problem_of_row.len() <= MOST_ENTRIES {
            Self::cubic(predicted, target, problem_of_row, problems)
        } else {
            Self::walked(predicted, target, problem_of_row, problems)
        }
    }

    fn cubic(predicted: &[f64], target: &[f64], problem_of_row: &[u32], problems: usize) -> Self {
        let sizes = sizes(problem_of_row, problems);
        let a = ranks_among_each(predicted, problem_of_row, &sizes);
        let b = ranks_among_each(target, problem_of_row, &sizes);
        let form = [(&a, &b), (&a, &a), (&b, &b)].map(|(a, b)| cubic_form(a, b, problem_of_row, problems));
        Self { sizes, form: Form::Cubic(form) }
    }

    fn walked(predicted: &[f64], target: &[f64], problem_of_row: &[u32], problems: usize) -> Self {
        let order = sorted_order(predicted);
        let mut place = vec![0; order.len()];
        (0..).zip(&order).for_each(|(at, &row)| place[row as usize] = at);
        let by_predicted = ranked_rows(&order, predicted, problem_of_row, &place);
        let by_target = ranked_rows(&sorted_order(target), target, problem_of_row, &place);
        Self { sizes: sizes(problem_of_row, problems), form: Form::Walked(Walked { by_predicted, by_target }) }
    }

    /// Rows that every resample visits.
    pub(super) fn visits(&self) -> usize {
        match &self.form {
            Form::Cubic(_) => 1,
            Form::Walked(rows) => rows.by_target.len().max(1),
        }
    }

    /// The rank correlation of the weighted rows, each counted as often as its problem was drawn; NaN where either side is
    /// constant. `scratch` is overwritten.
    pub(super) fn correlation(&self, weights: &[u32], scratch: &mut Vec<f64>) -> f64 {
        let [cross, predicted, target] = match &self.form {
            Form::Cubic(forms) => {
                scratch.clear();
                scratch.extend(weights.iter().map(|&weight| f64::from(weight)));
                forms.each_ref().map(|form| value_of_cubic(form, scratch))
            }
            Form::Walked(rows) => {
                let total: f64 = weights.iter().zip(&self.sizes).map(|(&weight, size)| f64::from(weight) * size).sum();
                rows.products(weights, (total + 1.0) / 2.0, scratch)
            }
        };
        cross / (predicted * target).sqrt()
    }
}

/// How many rows each problem has.
fn sizes(problem_of_row: &[u32], problems: usize) -> Vec<f64> {
    let mut sizes = vec![0.0; problems];
    problem_of_row.iter().for_each(|&problem| sizes[problem as usize] += 1.0);
    sizes
}

/// `A_h(i)` of every row i and problem h: its rank among the rows of h alone, less their mean rank; `[rows, P]`.
fn ranks_among_each(values: &[f64], problem_of_row: &[u32], sizes: &[f64]) -> Vec<f64> {
    let problems = sizes.len();
    let mut ranks = vec![0.0; values.len() * problems];
    let mut below = vec![0.0; problems];
    let mut tied_rows = vec![0.0; problems];
    let mut middle = vec![0.0; problems];
    let order = sorted_order(values);
    for tied in order.chunk_by(|&a, &b| values[a as usize] == values[b as usize]) {
        tied_rows.fill(0.0);
        tied.iter().for_each(|&row| tied_rows[problem_of_row[row as usize] as usize] += 1.0);
        for h in 0..problems {
            middle[h] = below[h] + (tied_rows[h] - sizes[h]) / 2.0;
            below[h] += tied_rows[h];
        }
        for &row in tied {
            ranks[row as usize * problems..][..problems].copy_from_slice(&middle);
        }
    }
    ranks
}

fn cubic_form(a: &[f64], b: &[f64], problem_of_row: &[u32], problems: usize) -> Vec<f64> {
    let mut form = vec![0.0; problems.pow(3)];
    let rows = a.chunks_exact(problems).zip(b.chunks_exact(problems));
    for ((a, b), &problem) in rows.zip(problem_of_row) {
        let square = &mut form[problem as usize * problems * problems..][..problems * problems];
        for (entries, a) in square.chunks_exact_mut(problems).zip(a) {
            entries.iter_mut().zip(b).for_each(|(entry, b)| *entry += a * b);
        }
    }
    form
}

fn value_of_cubic(form: &[f64], weights: &[f64]) -> f64 {
    let problems = weights.len();
    let linear = |row: &[f64]| row.iter().zip(weights).map(|(entry, weight)| entry * weight).sum::<f64>();
    let quadratic =
        |square: &[f64]| square.chunks_exact(problems).zip(weights).map(|(row, w)| w * linear(row)).sum::<f64>();
    let drawn = form.chunks_exact(problems * problems).zip(weights).filter(|(_, weight)| **weight > 0.0);
    drawn.map(|(square, weight)| weight * quadratic(square)).sum()
}

impl Walked {
    /// The sums of products of the ranks less `centre`. Linear time: the orders are fixed, only the ranks change with the
    /// weights.
    fn products(&self, weights: &[u32], centre: f64, ranks: &mut Vec<f64>) -> [f64; 3] {
        ranks.clear();
        ranks.resize(self.by_predicted.len(), 0.0);
        for_each_rank(&self.by_predicted, weights, |row, _, rank| ranks[row.row as usize] = rank);
        let (mut cross, mut predicted, mut target) = (0.0, 0.0, 0.0);
        for_each_rank(&self.by_target, weights, |row, weight, rank| {
            let (a, b) = (ranks[row.row as usize] - centre, rank - centre);
            cross += weight * a * b;
            predicted += weight * a * a;
            target += weight * b * b;
        });
        [cross, predicted, target]
    }
}

fn ranked_rows(order: &[u32], values: &[f64], problem_of_row: &[u32], place: &[u32]) -> Vec<RankedRow> {
    let mut previous = f64::NAN;
    order
        .iter()
        .map(|&row| {
            let value = values[row as usize];
            let tied = value == previous;
            previous = value;
            RankedRow { problem: problem_of_row[row as usize], row: place[row as usize], tied }
        })
        .collect()
}

/// Calls `visit(row, weight, rank)` with the average rank of every row among the weighted rows.
fn for_each_rank(rows: &[RankedRow], weights: &[u32], mut visit: impl FnMut(&RankedRow, f64, f64)) {
    let mut before = 0.0;
    for tied in rows.chunk_by(|_, next| next.tied) {
        let weight_of = |row: &RankedRow| f64::from(weights[row.problem as usize]);
        let weight: f64 = tied.iter().map(weight_of).sum();
        let rank = before + (weight + 1.0) / 2.0;
        tied.iter().for_each(|row| visit(row, weight_of(row), rank));
        before += weight;
    }
}

/// The rows' numbers in the order of their values.
pub(super) fn sorted_order(values: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    order.sort_unstable_by(|&a, &b| values[a as usize].total_cmp(&values[b as usize]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::spearman;

    /// Both forms give the correlation of the rows written out as often as their problem was drawn.
    #[test]
    fn both_forms_are_the_correlation_of_the_repeated_rows() {
        // Ties within and between problems in either value, in rows of five mixed problems.
        let rows = 400;
        let problem_of_row: Vec<u32> = (0..rows).map(|i| (i * i + i / 7) % 5).collect();
        let predicted: Vec<f64> = (0..rows).map(|i| f64::from(i * 7919 % 101) + f64::from(i % 3)).collect();
        let target: Vec<f64> = (0..rows).map(|i| f64::from(i * 7919 % 53) - f64::from(i * i % 11)).collect();
        let cubic = Ranks::cubic(&predicted, &target, &problem_of_row, 5);
        let walked = Ranks::walked(&predicted, &target, &problem_of_row, 5);
        for weights in [[1, 1, 1, 1, 1], [0, 3, 0, 1, 0], [2, 0, 1, 1, 1], [5, 0, 0, 0, 0]] {
            let times = |row: usize| weights[problem_of_row[row] as usize] as usize;
            let repeated = |values: &[f64]| -> Vec<f64> {
                (0..rows as usize).flat_map(|row| std::iter::repeat_n(values[row], times(row))).collect()
            };
            let expected = spearman(&repeated(&predicted), &repeated(&target)).unwrap();
            for ranks in [&cubic, &walked] {
                let value = ranks.correlation(&weights, &mut Vec::new());
                assert!((value - expected).abs() < 1e-12, "{weights:?}: {value}, expected {expected}");
            }
        }
    }

    #[test]
    fn a_constant_side_has_no_correlation() {
        // Problem 0 is constant in itself; with problem 1 it is not.
        let (predicted, target) = ([2.0, 2.0, 2.0, 5.0], [1.0, 2.0, 3.0, 4.0]);
        for ranks in [Ranks::cubic, Ranks::walked].map(|new| new(&predicted, &target, &[0, 0, 0, 1], 2)) {
            assert!(ranks.correlation(&[4, 0], &mut Vec::new()).is_nan());
            assert!(ranks.correlation(&[1, 1], &mut Vec::new()) > 0.7);
        }
    }
}
