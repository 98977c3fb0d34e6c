//! Linear heads from Gram sums: ridge regression with and without intercept, and the pattern direction.
//!
//! Without intercept, for every target at once from one factorisation,
//!
//! ```text
//! theta = (H^T H + eps I)^-1 H^T y
//! ```
//!
//! With intercept the same on centred sums, `H^T H - n m m^T` and `H^T y - n m ybar` with the column means `m`; the intercept
//! `ybar - m . theta` itself is not penalised. Everything is f64; [`FittedHead::to_linear_head`] narrows to f32.
//!
//! The solver is Cholesky. When the matrix is not positive definite, or so close to singular that fewer than three digits
//! of the solution would be left (condition above [`MAX_CONDITION`]), the solution of minimum norm is taken from the
//! eigen-decomposition instead, leaving out the eigenvalues below the largest one divided by [`MAX_CONDITION`]; it is the
//! limit of the ridge solution for small eps. [`FitReport`] says which it was.
//!
//! ```
//! use tpv_core::gram::{GramAccumulator, Parallelism};
//! use tpv_core::fit::Ridge;
//! let mut sums = GramAccumulator::new(1, &["y"], Parallelism::Sequential)?;
//! sums.add_rows(&[0.0, 1.0, 2.0], &[&[1.0, 3.0, 5.0]])?; // y = 2 h + 1
//! let fit = Ridge { epsilon: 1e-10, intercept: true }.solve(sums.sums(), Parallelism::Sequential)?;
//! assert!((fit.heads[0].weights[0] - 2.0).abs() < 1e-9);
//! assert!((fit.heads[0].intercept - 1.0).abs() < 1e-9);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::gram::{GramError, GramSums, Parallelism};
use crate::registers::empty_upper_halves;
use crate::vector::LinearHead;
use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use serde::{Deserialize, Serialize};

/// The condition number above which Cholesky's solution is not trusted.
pub const MAX_CONDITION: f64 = 1e13;

/// Why nothing could be fitted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FitError {
    /// The sums hold no rows.
    #[error("there are no states to fit")]
    NoRows,
    /// Negative, infinite or NaN.
    #[error("epsilon is {0}; it must be a finite number of at least 0")]
    Epsilon(f64),
    /// A weight vector of another width.
    #[error("the weights have width {got}, but the states have width {expected}")]
    Width {
        /// Width of the states, d.
        expected: usize,
        /// Width of the weights.
        got: usize,
    },
    /// The iteration for eigenvalues failed.
    #[error("the eigenvalues of the Gram matrix could not be found; its entries may be too large")]
    NoConvergence,
    /// No such target.
    #[error(transparent)]
    Sums(#[from] GramError),
}

/// How a system was solved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SolveMethod {
    /// Cholesky factorisation; the matrix was safely positive definite.
    Cholesky,
    /// The solution of minimum norm from the eigen-decomposition; the matrix was singular, or nearly so.
    MinimumNorm,
}

/// What the solver met and did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FitReport {
    /// How the system was solved.
    pub method: SolveMethod,
    /// The ridge strength on the diagonal.
    pub epsilon: f64,
    /// Whether an intercept was fitted.
    pub intercept: bool,
    /// Number of rows, n.
    pub rows: u64,
    /// Width of a state, d.
    pub width: usize,
    /// Directions that the solution uses: d with Cholesky, the eigenvalues kept otherwise.
    pub rank: usize,
    /// Estimate of the 1-norm condition number after scaling to a unit diagonal; none when Cholesky met a pivot that is not positive.
    pub condition: Option<f64>,
}

impl FitReport {
    /// One sentence for people, none when there is nothing to remark.
    pub fn remark(&self) -> Option<String> {
        (self.method == SolveMethod::MinimumNorm).then(|| {
            format!(
                "the states span only {} of {} directions ({} rows), so the solution of minimum norm was taken",
                self.rank, self.width, self.rows
            )
        })
    }
}

/// How well a head fits rows, computed from their sums alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SumFigures {
    /// Mean squared error.
    pub mse: f64,
    /// `1 - SSE / SST` around the mean of the target; none when the target is constant.
    pub r2: Option<f64>,
}

/// A linear function of the state fitted to one target.
#[derive(Debug, Clone, PartialEq)]
pub struct FittedHead {
    /// The target's name.
    pub target: String,
    /// `[d]`
    pub weights: Vec<f64>,
    /// 0 without intercept.
    pub intercept: f64,
    /// On the rows of the fit.
    pub train: SumFigures,
}

impl FittedHead {
    /// `weights . h + intercept` in f64.
    pub fn predict(&self, hidden: &[f32]) -> f64 {
        debug_assert_eq!(self.weights.len(), hidden.len(), "state of another width");
        self.weights.iter().zip(hidden).map(|(w, &h)| w * f64::from(h)).sum::<f64>() + self.intercept
    }

    /// The same function in f32.
    pub fn to_linear_head(&self) -> LinearHead {
        LinearHead { weights: self.weights.iter().map(|&w| w as f32).collect(), intercept: self.intercept as f32 }
    }

    /// How well it fits the rows behind `sums`, for instance those of held-out problems.
    pub fn figures(&self, sums: &GramSums) -> Result<SumFigures, FitError> {
        linear_figures(sums, &self.target, &self.weights, self.intercept)
    }
}

/// The heads of one solve, in the order of the sums' targets.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// One per target.
    pub heads: Vec<FittedHead>,
    /// How they were found.
    pub report: FitReport,
}

impl Fit {
    /// The head of this target.
    pub fn head(&self, target: &str) -> Option<&FittedHead> {
        self.heads.iter().find(|head| head.target == target)
    }
}

/// Ridge regression.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ridge {
    /// Added to the diagonal; the reference uses 1e-10.
    pub epsilon: f64,
    /// Whether a constant is fitted beside the weights.
    pub intercept: bool,
}

impl Default for Ridge {
    /// The reference's: no intercept, 1e-10.
    fn default() -> Self {
        Self { epsilon: 1e-10, intercept: false }
    }
}

impl Ridge {
    /// Fits every target of the sums.
    pub fn solve(&self, sums: &GramSums, parallelism: Parallelism) -> Result<Fit, FitError> {
        if !(self.epsilon.is_finite() && self.epsilon >= 0.0) {
            return Err(FitError::Epsilon(self.epsilon));
        }
        if sums.rows() == 0 {
            return Err(FitError::NoRows);
        }
        let solved = solve_system(|| self.system(sums), self.right_sides(sums), parallelism.par())?;
        empty_upper_halves();
        let report = FitReport {
            method: solved.method,
            epsilon: self.epsilon,
            intercept: self.intercept,
            rows: sums.rows(),
            width: sums.width(),
            rank: solved.rank,
            condition: solved.condition,
        };
        let heads = (0..sums.targets().len()).map(|number| self.head(sums, number, solved.solution.as_ref()));
        Ok(Fit { heads: heads.collect::<Result<_, _>>()?, report })
    }

    /// The lower triangle of `H^T H + eps I`, centred when there is an intercept.
    fn system(&self, sums: &GramSums) -> Mat<f64> {
        let mut matrix = sums.gram_lower().to_owned();
        for column in 0..sums.width() {
            if self.intercept {
                let mean = sums.column_sums()[column] / sums.rows() as f64;
                let below = matrix.col_mut(column).iter_mut().zip(sums.column_sums());
                below.skip(column).for_each(|(entry, &sum)| *entry -= mean * sum);
            }
            matrix[(column, column)] += self.epsilon;
        }
        matrix
    }

    /// `H^T y` per target, `[d, targets]`, centred when there is an intercept.
    fn right_sides(&self, sums: &GramSums) -> Mat<f64> {
        let mean = |sum: f64| if self.intercept { sum / sums.rows() as f64 } else { 0.0 };
        Mat::from_fn(sums.width(), sums.targets().len(), |row, number| {
            let target = &sums.targets()[number];
            target.cross[row] - sums.column_sums()[row] * mean(target.sum)
        })
    }

    fn head(&self, sums: &GramSums, number: usize, solution: MatRef<'_, f64>) -> Result<FittedHead, FitError> {
        let target = &sums.targets()[number];
        let weights: Vec<f64> = solution.col(number).iter().copied().collect();
        let intercept = match self.intercept {
            true => (target.sum - dot(&weights, sums.column_sums())) / sums.rows() as f64,
            false => 0.0,
        };
        let train = linear_figures(sums, &target.name, &weights, intercept)?;
        Ok(FittedHead { target: target.name.clone(), weights, intercept, train })
    }
}

/// The pattern direction `cov(h, y) = H^T y / n - mean(h) mean(y)`, `[d]` (Haufe et al. 2014).
pub fn covariance_direction(sums: &GramSums, target: &str) -> Result<Vec<f64>, FitError> {
    if sums.rows() == 0 {
        return Err(FitError::NoRows);
    }
    let (rows, target) = (sums.rows() as f64, sums.target(target)?);
    let mean = target.sum / rows;
    Ok(target.cross.iter().zip(sums.column_sums()).map(|(cross, sum)| (cross - sum * mean) / rows).collect())
}

/// The mean squared error and R^2 of `weights . h + intercept` on the rows behind `sums`, without the rows:
/// `SSE = y^T y - 2 (w . H^T y + b 1^T y) + w^T H^T H w + 2 b w . H^T 1 + n b^2`.
pub fn linear_figures(sums: &GramSums, target: &str, weights: &[f64], intercept: f64) -> Result<SumFigures, FitError> {
    if weights.len() != sums.width() {
        return Err(FitError::Width { expected: sums.width(), got: weights.len() });
    }
    if sums.rows() == 0 {
        return Err(FitError::NoRows);
    }
    let (rows, target) = (sums.rows() as f64, sums.target(target)?);
    let explained = dot(weights, &target.cross) + intercept * target.sum;
    let own = quadratic_form(sums.gram_lower(), weights)
        + 2.0 * intercept * dot(weights, sums.column_sums())
        + rows * intercept * intercept;
    // Rounding can leave a perfect fit slightly below 0.
    let squared_error = (target.sum_of_squares - 2.0 * explained + own).max(0.0);
    let spread = target.sum_of_squares - target.sum * target.sum / rows;
    let has_spread = spread > 1e-12 * target.sum_of_squares;
    Ok(SumFigures { mse: squared_error / rows, r2: has_spread.then(|| 1.0 - squared_error / spread) })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// `w^T A w` for a symmetric A of which the lower triangle is given.
fn quadratic_form(lower: MatRef<'_, f64>, weights: &[f64]) -> f64 {
    let column_part = |column: usize| {
        let below = lower.col(column).iter().zip(weights).skip(column + 1);
        let off_diagonal: f64 = below.map(|(entry, weight)| entry * weight).sum();
        weights[column] * (lower[(column, column)] * weights[column] + 2.0 * off_diagonal)
    };
    (0..weights.len()).map(column_part).sum()
}

struct Solved {
    solution: Mat<f64>,
    method: SolveMethod,
    rank: usize,
    condition: Option<f64>,
}

/// Solves for all right sides; `system` makes the lower triangle, anew for the second attempt, so that only one copy is held.
fn solve_system(system: impl Fn() -> Mat<f64>, right: Mat<f64>, par: Par) -> Result<Solved, FitError> {
    let mut matrix = system();
    let shape = Equilibrated::of(matrix.as_ref());
    let mut condition = None;
    if factorise(matrix.as_mut(), par) {
        let estimate = shape.condition(matrix.as_ref(), par);
        condition = Some(estimate);
        if estimate <= MAX_CONDITION {
            let mut solution = right;
            solve_factorised(matrix.as_ref(), solution.as_mut(), par);
            let rank = matrix.nrows();
            return Ok(Solved { solution, method: SolveMethod::Cholesky, rank, condition });
        }
    }
    drop(matrix);
    let (solution, rank) = minimum_norm(system().as_ref(), right.as_ref(), par)?;
    Ok(Solved { solution, method: SolveMethod::MinimumNorm, rank, condition })
}

/// Cholesky in place; false when a pivot is not positive.
fn factorise(matrix: MatMut<'_, f64>, par: Par) -> bool {
    let scratch = llt::factor::cholesky_in_place_scratch::<f64>(matrix.nrows(), par, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    llt::factor::cholesky_in_place(matrix, Default::default(), par, stack, Default::default()).is_ok()
}

fn solve_factorised(factor: MatRef<'_, f64>, right: MatMut<'_, f64>, par: Par) {
    let scratch = llt::solve::solve_in_place_scratch::<f64>(factor.nrows(), right.ncols(), par);
    llt::solve::solve_in_place(factor, right, par, MemStack::new(&mut MemBuffer::new(scratch)));
}

/// The pseudo-inverse of a symmetric matrix times the right sides, and its numerical rank.
fn minimum_norm(lower: MatRef<'_, f64>, right: MatRef<'_, f64>, par: Par) -> Result<(Mat<f64>, usize), FitError> {
    let width = lower.nrows();
    let (mut vectors, mut values) = (Mat::zeros(width, width), Diag::zeros(width));
    let scratch = self_adjoint_evd_scratch::<f64>(width, ComputeEigenvectors::Yes, par, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    self_adjoint_evd(lower, values.as_mut(), Some(vectors.as_mut()), par, stack, Default::default())
        .map_err(|_| FitError::NoConvergence)?;
    let values = values.column_vector();
    let cut = values.iter().copied().fold(0.0, f64::max) / MAX_CONDITION;
    let kept = |value: f64| value > cut;
    let mut coefficients = Mat::zeros(width, right.ncols());
    matmul(&mut coefficients, Accum::Replace, vectors.transpose(), right, 1.0, par);
    for column in coefficients.col_iter_mut() {
        let entries = column.iter_mut().zip(values.iter());
        entries.for_each(|(entry, &value)| *entry = if kept(value) { *entry / value } else { 0.0 });
    }
    let mut solution = Mat::zeros(width, right.ncols());
    matmul(&mut solution, Accum::Replace, &vectors, &coefficients, 1.0, par);
    Ok((solution, values.iter().filter(|&&value| kept(value)).count()))
}

/// A symmetric matrix A as seen through `D A D` with a unit diagonal: what limits the accuracy of Cholesky.
struct Equilibrated {
    /// The diagonal of D.
    scale: Vec<f64>,
    /// Greatest absolute column sum of `D A D`.
    norm: f64,
}

impl Equilibrated {
    fn of(lower: MatRef<'_, f64>) -> Self {
        let width = lower.nrows();
        let diagonal = |at: usize| lower[(at, at)];
        let scale: Vec<f64> =
            (0..width).map(|at| if diagonal(at) > 0.0 { diagonal(at).sqrt().recip() } else { 1.0 }).collect();
        let mut sums = vec![0.0; width];
        for column in 0..width {
            for (row, &entry) in lower.col(column).iter().enumerate().skip(column) {
                let size = (entry * scale[row] * scale[column]).abs();
                sums[column] += size;
                sums[row] += if row == column { 0.0 } else { size };
            }
        }
        Self { scale, norm: sums.into_iter().fold(0.0, f64::max) }
    }

    /// Hager's estimate of the 1-norm condition number, from the Cholesky factor of A.
    fn condition(&self, factor: MatRef<'_, f64>, par: Par) -> f64 {
        let width = self.scale.len();
        let mut probe = vec![1.0 / width as f64; width];
        let mut inverse_norm = 0.0f64;
        for _ in 0..5 {
            let image = self.apply_inverse(factor, &probe, par);
            inverse_norm = inverse_norm.max(image.iter().map(|value| value.abs()).sum());
            let signs: Vec<f64> = image.iter().map(|value| 1f64.copysign(*value)).collect();
            let slope = self.apply_inverse(factor, &signs, par);
            let (steepest, size) = greatest(&slope);
            if size <= dot(&slope, &probe) {
                break;
            }
            probe.fill(0.0);
            probe[steepest] = 1.0;
        }
        let condition = inverse_norm * self.norm;
        if condition.is_nan() { f64::INFINITY } else { condition }
    }

    /// `(D A D)^-1 x`.
    fn apply_inverse(&self, factor: MatRef<'_, f64>, vector: &[f64], par: Par) -> Vec<f64> {
        let mut image = Mat::from_fn(vector.len(), 1, |row, _| vector[row] / self.scale[row]);
        solve_factorised(factor, image.as_mut(), par);
        image.col(0).iter().zip(&self.scale).map(|(value, scale)| value / scale).collect()
    }
}

/// Place and size of the entry that is greatest in size.
fn greatest(values: &[f64]) -> (usize, f64) {
    let sizes = values.iter().map(|value| value.abs()).enumerate();
    sizes.fold((0, 0.0), |best, (at, size)| if size > best.1 { (at, size) } else { best })
}
