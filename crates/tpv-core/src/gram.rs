//! Streaming sums from which every linear fit can be made: one Gram matrix, several targets.
//!
//! For states `H [n, d]` and targets `y_t [n]`, the sums are
//!
//! ```text
//! n     H^T H  [d, d]     H^T 1  [d]     and per target   H^T y_t  [d]     1^T y_t     y_t^T y_t
//! ```
//!
//! all in f64 (the product of two f32 states is exact there). [`GramAccumulator`] takes rows as they come, in constant
//! memory; [`GramSums`] is what remains, can be merged with the sums of other shards, and is all that [`crate::fit`] needs.
//! The sums do not depend on the order or the chunking of the rows, but for rounding (below 1e-10 relative).
//!
//! ```
//! use tpv_core::gram::{GramAccumulator, PROGRESS, Parallelism, progress_labels};
//! let mut sums = GramAccumulator::new(2, &[PROGRESS], Parallelism::default())?;
//! sums.add_rows(&[1.0, 0.0, 0.5, 2.0], &[&progress_labels(2)])?;
//! let sums = sums.finish();
//! assert_eq!(sums.rows(), 2);
//! assert_eq!(sums.gram(1, 0), 1.0); // 1.0 * 0.0 + 0.5 * 2.0
//! # Ok::<(), tpv_core::gram::GramError>(())
//! ```

use crate::registers::empty_upper_halves;
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatRef, Par};

/// Name of the target `p_j = j / N`.
pub const PROGRESS: &str = "progress";
/// Name of the target `ln(1 + N - j)`.
pub const LOG_REMAINING: &str = "log_remaining";

/// `j / N` for `j = 1..=N`: the last state, which predicts `</think>`, has label 1.
pub fn progress_labels(thinking_tokens: usize) -> Vec<f64> {
    (1..=thinking_tokens).map(|j| j as f64 / thinking_tokens as f64).collect()
}

/// `ln(1 + N - j)` for `j = 1..=N`: the log of one more than the thinking tokens still to come after token j.
pub fn log_remaining_labels(thinking_tokens: usize) -> Vec<f64> {
    (0..thinking_tokens).rev().map(|remaining| (remaining as f64).ln_1p()).collect()
}

/// On how many threads the matrix products run. Threads are those of the process's pool; none are started here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parallelism {
    /// The calling thread alone.
    Sequential,
    /// All threads of the pool.
    #[default]
    All,
}

impl Parallelism {
    pub(crate) fn par(self) -> Par {
        match self {
            Self::Sequential => Par::Seq,
            Self::All => Par::rayon(0),
        }
    }
}

/// Why rows or sums were refused. Refused rows leave the sums as they were.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GramError {
    /// There is no state of width 0.
    #[error("the width of the states is 0")]
    NoWidth,
    /// The same name twice.
    #[error("target {0:?} is named twice")]
    DuplicateTarget(String),
    /// No such target in these sums.
    #[error("there is no target {wanted:?} in these sums; there are: {present}")]
    UnknownTarget {
        /// The name asked for.
        wanted: String,
        /// The names there are.
        present: String,
    },
    /// The values are not whole rows.
    #[error("{values} values are not whole rows of width {width}")]
    RaggedRows {
        /// Number of values given.
        values: usize,
        /// Width of a state, d.
        width: usize,
    },
    /// Not one slice per target.
    #[error("{got} targets were given where {expected} are expected")]
    TargetCount {
        /// Targets of these sums.
        expected: usize,
        /// Targets given.
        got: usize,
    },
    /// A target has not one value per row.
    #[error("target {target:?} has {got} values for {expected} rows")]
    TargetLength {
        /// The target's name.
        target: String,
        /// Rows given.
        expected: usize,
        /// Values given.
        got: usize,
    },
    /// A state has a NaN or an infinite entry.
    #[error("row {row} of the states has a value that is not finite, at column {column}")]
    NonFiniteState {
        /// 0-based, counted in the rows of this call.
        row: usize,
        /// 0-based.
        column: usize,
    },
    /// A label is NaN or infinite.
    #[error("row {row} of target {target:?} is not finite")]
    NonFiniteTarget {
        /// The target's name.
        target: String,
        /// 0-based, counted in the rows of this call.
        row: usize,
    },
    /// Sums of states of different widths, or of different targets.
    #[error("the sums do not fit together: {0}")]
    Mismatch(String),
    /// Sums that no rows can have.
    #[error("these are not sums of rows: {0}")]
    Impossible(String),
}

/// The sums of one target.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetSums {
    /// The target's name.
    pub name: String,
    /// `H^T y`, `[d]`.
    pub cross: Vec<f64>,
    /// `1^T y`.
    pub sum: f64,
    /// `y^T y`.
    pub sum_of_squares: f64,
}

impl TargetSums {
    fn zero(name: &str, width: usize) -> Self {
        Self { name: name.into(), cross: vec![0.0; width], sum: 0.0, sum_of_squares: 0.0 }
    }

    fn merge(&mut self, other: &Self) {
        add_into(&mut self.cross, &other.cross);
        self.sum += other.sum;
        self.sum_of_squares += other.sum_of_squares;
    }
}

/// The sums as plain numbers, for files and for waiting: half of what [`GramSums`] take.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GramParts {
    /// Width of a state, d.
    pub width: usize,
    /// Number of rows, n.
    pub rows: u64,
    /// The lower triangle of `H^T H`, column by column, diagonal first: [d (d + 1) / 2].
    pub gram_lower: Vec<f64>,
    /// `H^T 1`, `[d]`.
    pub column_sums: Vec<f64>,
    /// One per target, in the order in which the labels are given.
    pub targets: Vec<TargetSums>,
}

/// The sums of all rows so far.
#[derive(Debug, Clone)]
pub struct GramSums {
    rows: u64,
    /// `[d, d]`, of which only the lower triangle is kept up to date.
    gram: Mat<f64>,
    column_sums: Vec<f64>,
    targets: Vec<TargetSums>,
}

impl GramSums {
    /// The sums of no rows.
    pub fn new(width: usize, targets: &[&str]) -> Result<Self, GramError> {
        if width == 0 {
            return Err(GramError::NoWidth);
        }
        check_names(targets)?;
        let targets = targets.iter().map(|name| TargetSums::zero(name, width)).collect();
        Ok(Self { rows: 0, gram: zero_square(width), column_sums: vec![0.0; width], targets })
    }

    /// Width of a state, d.
    pub fn width(&self) -> usize {
        self.gram.nrows()
    }

    /// Number of rows, n.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// One entry of `H^T H`.
    pub fn gram(&self, row: usize, column: usize) -> f64 {
        self.gram[(row.max(column), row.min(column))]
    }

    /// The lower triangle of `H^T H` as a matrix; what lies above the diagonal is meaningless.
    pub(crate) fn gram_lower(&self) -> MatRef<'_, f64> {
        self.gram.as_ref()
    }

    /// `H^T 1`, `[d]`.
    pub fn column_sums(&self) -> &[f64] {
        &self.column_sums
    }

    /// The sums of every target, in the order in which the labels are given.
    pub fn targets(&self) -> &[TargetSums] {
        &self.targets
    }

    /// The sums of the target of this name.
    pub fn target(&self, name: &str) -> Result<&TargetSums, GramError> {
        self.targets.iter().find(|target| target.name == name).ok_or_else(|| GramError::UnknownTarget {
            wanted: name.into(),
            present: names_of(&self.targets).join(", "),
        })
    }

    /// Adds the sums of other rows: the result is that of all rows together.
    pub fn merge(&mut self, other: &Self) -> Result<(), GramError> {
        if self.width() != other.width() {
            let (a, b) = (self.width(), other.width());
            return Err(GramError::Mismatch(format!("states of width {a} and of width {b}")));
        }
        let (ours, theirs) = (names_of(&self.targets), names_of(&other.targets));
        if ours != theirs {
            return Err(GramError::Mismatch(format!("targets {ours:?} and {theirs:?}")));
        }
        self.rows += other.rows;
        self.gram += &other.gram;
        add_into(&mut self.column_sums, &other.column_sums);
        for (target, more) in self.targets.iter_mut().zip(&other.targets) {
            target.merge(more);
        }
        Ok(())
    }

    /// The sums as plain numbers.
    pub fn to_parts(&self) -> GramParts {
        let width = self.width();
        let mut gram_lower = Vec::with_capacity(width * (width + 1) / 2);
        for column in 0..width {
            gram_lower.extend(self.gram.col(column).iter().skip(column));
        }
        let (column_sums, targets) = (self.column_sums.clone(), self.targets.clone());
        GramParts { width, rows: self.rows, gram_lower, column_sums, targets }
    }

    /// The sums from plain numbers, refused when no rows can have them.
    pub fn from_parts(parts: GramParts) -> Result<Self, GramError> {
        parts.validate()?;
        let GramParts { width, rows, gram_lower, column_sums, targets } = parts;
        let mut gram = zero_square(width);
        let mut values = gram_lower.into_iter();
        for column in 0..width {
            for (entry, value) in gram.col_mut(column).iter_mut().skip(column).zip(&mut values) {
                *entry = value;
            }
        }
        Ok(Self { rows, gram, column_sums, targets })
    }

    /// Adds a block given as columns: `states` `[d, n]`, `labels` `[n, 1 + targets]` with ones in the first column.
    fn add_block(&mut self, states: MatRef<'_, f64>, labels: MatRef<'_, f64>, par: Par) {
        let (whole, lower) = (BlockStructure::Rectangular, BlockStructure::TriangularLower);
        triangular::matmul(&mut self.gram, lower, Accum::Add, states, whole, states.transpose(), whole, 1.0, par);
        let mut cross = Mat::zeros(self.width(), labels.ncols());
        matmul(&mut cross, Accum::Replace, states, labels, 1.0, par);
        empty_upper_halves();
        self.column_sums.iter_mut().zip(cross.col(0).iter()).for_each(|(sum, &value)| *sum += value);
        for (number, target) in self.targets.iter_mut().enumerate() {
            target.cross.iter_mut().zip(cross.col(number + 1).iter()).for_each(|(sum, &value)| *sum += value);
            target.sum += labels.col(number + 1).iter().sum::<f64>();
            target.sum_of_squares += labels.col(number + 1).iter().map(|y| y * y).sum::<f64>();
        }
        self.rows += states.ncols() as u64;
    }
}

impl GramParts {
    /// Bytes that are held.
    pub fn bytes(&self) -> usize {
        let crosses: usize = self.targets.iter().map(|target| target.cross.len()).sum();
        (self.gram_lower.len() + self.column_sums.len() + crosses) * size_of::<f64>()
    }

    /// Refuses numbers that no rows can have.
    pub fn validate(&self) -> Result<(), GramError> {
        let impossible = |reason: String| Err(GramError::Impossible(reason));
        if self.width == 0 {
            return Err(GramError::NoWidth);
        }
        let names = names_of(&self.targets);
        check_names(&names)?;
        let triangle = (self.width as u128) * (self.width as u128 + 1) / 2;
        if self.gram_lower.len() as u128 != triangle {
            return impossible(format!("the triangle has {} entries, not {triangle}", self.gram_lower.len()));
        }
        if self.column_sums.len() != self.width || self.targets.iter().any(|t| t.cross.len() != self.width) {
            return impossible(format!("a vector of sums does not have {} entries", self.width));
        }
        if !self.numbers().all(f64::is_finite) {
            return impossible("a sum is not finite".into());
        }
        if self.squares().any(|square| square < 0.0) {
            return impossible("a sum of squares is negative".into());
        }
        if let Some((row, column)) = self.impossible_entry() {
            return impossible(format!("entry ({row}, {column}) is greater than those of the diagonal allow"));
        }
        if self.rows == 0 && self.numbers().any(|sum| sum != 0.0) {
            return impossible("there are sums, but no rows".into());
        }
        Ok(())
    }

    /// An entry of the triangle that breaks `|g_ij|^2 <= g_ii g_jj` (Cauchy and Schwarz) by more than rounding.
    fn impossible_entry(&self) -> Option<(usize, usize)> {
        let roots: Vec<f64> = self.squares().take(self.width).map(f64::sqrt).collect();
        let mut entries = self.gram_lower.iter();
        (0..self.width).find_map(|column| {
            let below = entries.by_ref().take(self.width - column).zip(column..);
            let broken = |&(entry, row): &(&f64, usize)| entry.abs() > roots[row] * roots[column] * (1.0 + 1e-9);
            // All of the column is taken, whether or not one is found.
            let broken: Vec<(usize, usize)> = below.filter(broken).map(|(_, row)| (row, column)).collect();
            broken.first().copied()
        })
    }

    fn numbers(&self) -> impl Iterator<Item = f64> {
        let vectors = [&self.gram_lower, &self.column_sums];
        let of_targets = self.targets.iter().flat_map(|t| t.cross.iter().copied().chain([t.sum, t.sum_of_squares]));
        vectors.into_iter().flatten().copied().chain(of_targets)
    }

    fn squares(&self) -> impl Iterator<Item = f64> {
        let diagonal = (0..self.width).scan(0, |at, column| {
            let entry = self.gram_lower[*at];
            *at += self.width - column;
            Some(entry)
        });
        diagonal.chain(self.targets.iter().map(|target| target.sum_of_squares))
    }
}

/// Numbers from one column to the next. Columns that lie a multiple of 4 KiB apart fall on the same lines of the cache, and
/// the product then runs at down to half its speed (widths 1536, 4096 and 5120, for instance), so these get a gap.
fn stride(width: usize) -> usize {
    if width.is_multiple_of(512) { width + 8 } else { width }
}

fn zero_square(width: usize) -> Mat<f64> {
    let mut square = Mat::with_capacity(stride(width), width);
    square.resize_with(width, width, |_, _| 0.0);
    square
}

/// Rows that are multiplied at once: enough that the product is limited by arithmetic, not by reading `H^T H`.
const BLOCK_ROWS: usize = 512;

/// Takes rows as they come and adds them to a [`GramSums`] block by block.
#[derive(Debug, Clone)]
pub struct GramAccumulator {
    sums: GramSums,
    parallelism: Parallelism,
    /// States waiting for a full block, row after row, each followed by zeros up to [`stride`].
    states: Vec<f64>,
    /// Their labels, one vector per column: ones first, then the targets.
    labels: Vec<Vec<f64>>,
}

impl GramAccumulator {
    /// No rows yet; `width` is d, `targets` names the labels that will be given.
    pub fn new(width: usize, targets: &[&str], parallelism: Parallelism) -> Result<Self, GramError> {
        Ok(Self::resume(GramSums::new(width, targets)?, parallelism))
    }

    /// Goes on from earlier sums.
    pub fn resume(sums: GramSums, parallelism: Parallelism) -> Self {
        let labels = vec![Vec::new(); sums.targets.len() + 1];
        Self { sums, parallelism, states: Vec::new(), labels }
    }

    /// Adds `rows` `[n, d]`, row after row, with one slice of n labels per target. All or nothing: an error adds no row.
    pub fn add_rows(&mut self, rows: &[f32], targets: &[&[f64]]) -> Result<(), GramError> {
        self.check(rows, targets)?;
        let width = self.sums.width();
        let count = rows.len() / width;
        let mut start = 0;
        while start < count {
            let end = count.min(start + BLOCK_ROWS - self.waiting());
            self.push(&rows[start * width..end * width], targets, start..end);
            if self.waiting() == BLOCK_ROWS {
                self.flush();
            }
            start = end;
        }
        Ok(())
    }

    /// The sums of all rows so far.
    pub fn sums(&mut self) -> &GramSums {
        self.flush();
        &self.sums
    }

    /// The sums of all rows.
    pub fn finish(mut self) -> GramSums {
        self.flush();
        self.sums
    }

    /// Bytes that are held: the square of `H^T H`, and the block of states where there is one.
    pub fn bytes(&self) -> usize {
        (self.sums.width() * stride(self.sums.width()) + self.states.capacity()) * size_of::<f64>()
    }

    fn waiting(&self) -> usize {
        self.labels[0].len()
    }

    fn push(&mut self, rows: &[f32], targets: &[&[f64]], range: std::ops::Range<usize>) {
        let width = self.sums.width();
        self.states.reserve_exact((BLOCK_ROWS - self.waiting()) * stride(width));
        for row in rows.chunks_exact(width) {
            self.states.extend(row.iter().map(|&value| f64::from(value)));
            self.states.extend(std::iter::repeat_n(0.0, stride(width) - width));
        }
        let (ones, labels) = self.labels.split_first_mut().expect("the column of ones is always there");
        ones.extend(range.clone().map(|_| 1.0));
        for (label, target) in labels.iter_mut().zip(targets) {
            label.extend_from_slice(&target[range.clone()]);
        }
    }

    /// Ends the block of rows that are waiting. Equal rows with ends at equal places give equal sums to the bit.
    pub fn flush(&mut self) {
        let count = self.waiting();
        if count == 0 {
            return;
        }
        let width = self.sums.width();
        let states = MatRef::from_column_major_slice_with_stride(&self.states, width, count, stride(width));
        let labels = Mat::from_fn(count, self.labels.len(), |row, column| self.labels[column][row]);
        self.sums.add_block(states, labels.as_ref(), self.parallelism.par());
        self.states.clear();
        self.labels.iter_mut().for_each(Vec::clear);
    }

    fn check(&self, rows: &[f32], targets: &[&[f64]]) -> Result<(), GramError> {
        let width = self.sums.width();
        if !rows.len().is_multiple_of(width) {
            return Err(GramError::RaggedRows { values: rows.len(), width });
        }
        if targets.len() != self.sums.targets.len() {
            return Err(GramError::TargetCount { expected: self.sums.targets.len(), got: targets.len() });
        }
        if let Some(at) = first_not_finite(rows) {
            return Err(GramError::NonFiniteState { row: at / width, column: at % width });
        }
        self.sums
            .targets
            .iter()
            .zip(targets)
            .try_for_each(|(target, values)| check_labels(&target.name, values, rows.len() / width))
    }
}

fn check_labels(name: &str, values: &[f64], rows: usize) -> Result<(), GramError> {
    if values.len() != rows {
        return Err(GramError::TargetLength { target: name.into(), expected: rows, got: values.len() });
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(row) => Err(GramError::NonFiniteTarget { target: name.into(), row }),
        None => Ok(()),
    }
}

fn first_not_finite(values: &[f32]) -> Option<usize> {
    values.iter().position(|value| !value.is_finite())
}

fn check_names(names: &[&str]) -> Result<(), GramError> {
    match names.iter().enumerate().find(|(number, name)| names[..*number].contains(name)) {
        Some((_, name)) => Err(GramError::DuplicateTarget((*name).into())),
        None => Ok(()),
    }
}

fn names_of(targets: &[TargetSums]) -> Vec<&str> {
    targets.iter().map(|target| target.name.as_str()).collect()
}

fn add_into(sums: &mut [f64], more: &[f64]) {
    sums.iter_mut().zip(more).for_each(|(sum, value)| *sum += value);
}
