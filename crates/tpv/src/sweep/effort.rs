//! Effort levels: which alpha stands for low, medium and high, from a validation run.
//!
//! Among the constant alphas along theta that were run (0 always is), a level is the one with the shortest thoughts
//! whose accuracy is at most so much below that of alpha 0: nothing for high, 1 point for medium, 5 points for low.

use super::arm::Arm;
use super::figures::ArmFigures;
use std::collections::BTreeMap;
use tpv_core::policy::{Direction, Strength, Term};

/// The levels with the accuracy that each may cost.
pub const LEVELS: [(&str, f64); 3] = [("high", 0.0), ("medium", 0.01), ("low", 0.05)];

/// The alpha of an arm that does nothing but push along theta.
pub fn plain_alpha(arm: &Arm) -> Option<f32> {
    let plain = arm.throttle.direction == Direction::Theta && !arm.brief;
    match arm.throttle.policy.terms.as_slice() {
        [] if plain => Some(0.0),
        [Term::Constant(Strength::Alpha(alpha))] if plain => Some(*alpha),
        _ => None,
    }
}

/// Chooses the levels from uncapped figures by alpha; none without alpha 0.
pub fn choose(candidates: &[(f32, &ArmFigures)]) -> Option<BTreeMap<String, f32>> {
    let accuracy = |figures: &ArmFigures| figures.correct as f64 / figures.samples.max(1) as f64;
    let base = candidates.iter().find(|(alpha, _)| *alpha == 0.0)?;
    let level = |cost: f64| {
        let good = candidates.iter().filter(|(_, it)| accuracy(it) >= accuracy(base.1) - cost - 1e-9);
        good.min_by(|a, b| a.1.mean_tokens.total_cmp(&b.1.mean_tokens)).map_or(0.0, |(alpha, _)| *alpha)
    };
    Some(LEVELS.iter().map(|&(name, cost)| (name.to_owned(), level(cost))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_trade_length_for_accuracy() {
        let row = |correct, mean_tokens| ArmFigures {
            arm: String::new(),
            family: String::new(),
            cap: None,
            samples: 100,
            mean_tokens,
            median_tokens: mean_tokens,
            ended: 100,
            forced: 0,
            answered: 100,
            correct,
            accuracy: None,
            less_base: None,
            mcnemar_p: None,
        };
        let rows = [row(97, 200.0), row(97, 180.0), row(96, 150.0), row(92, 120.0), row(60, 90.0)];
        let candidates: Vec<_> = [0.0, 5.0, 10.0, 15.0, 30.0].into_iter().zip(&rows).collect();
        let levels = choose(&candidates).unwrap();
        assert_eq!((levels["high"], levels["medium"], levels["low"]), (5.0, 10.0, 15.0));
        assert_eq!(choose(&candidates[1..]), None);
    }
}
