//! `tpv explain`: what a vector does to the logits, and how much of the shortening `</think>` alone explains.

use crate::args::{BRIEF_TEMPLATE, ExplainArgs, SamplingArgs, SweepArgs};
use crate::console::Console;
use crate::model::{open_dataset, open_model};
use crate::sweep::result::{SweepResult, by_arm};
use crate::sweep::runner::Sweep;
use crate::sweep::tables::percent;
use crate::table::{figure, table};
use crate::throttles::Throttles;
use crate::vectors::check_path;
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use tpv_core::bootstrap::{Bootstrap, Interval};
use tpv_core::policy::SCALE_FIGURE;
use tpv_core::policy::scale::unmeasured_logits_per_alpha;
use tpv_core::vector::dot;
use tpv_data::atomic::{create_folder, write_json};
use tpv_engine::model::TextModel;

/// The file with the explanation.
pub const EXPLAIN_FILE: &str = "explain.json";

/// A token with what one unit of alpha does to its logit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenShift {
    /// The token's text.
    pub token: String,
    /// Logits per unit of alpha.
    pub shift: f32,
}

/// One direction's effect on the thoughts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartFigures {
    /// What was pushed.
    pub part: String,
    /// Mean thinking tokens.
    pub mean_tokens: f64,
    /// Thinking tokens less than the model as it is, with the bootstrap interval by problem (and by draw).
    #[serde(default)]
    pub shortening: Option<Interval>,
    /// Share of theta's shortening, with its bootstrap interval by problem; 1 for theta itself. None where theta's own is not
    /// shown to be one.
    pub share_of_shortening: Option<Interval>,
    /// Right answers.
    pub correct: usize,
    /// Samples.
    pub samples: usize,
}

/// What is to be said about a vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Length of theta.
    pub theta_norm: f32,
    /// Cosine between theta and the pattern cov(h, y), where the vector holds it.
    pub cosine_with_pattern: Option<f32>,
    /// What one unit of alpha does to the logit of `</think>`.
    pub think_end_shift: f32,
    /// Tokens that are promoted more than `</think>`.
    pub think_end_rank: usize,
    /// The same less its mean over the vocabulary.
    pub think_end_shift_over_mean: f32,
    /// The same against the model's usual continuation, where it was measured.
    pub think_end_logits_per_alpha: Option<f64>,
    /// Most promoted, descending.
    pub promoted: Vec<TokenShift>,
    /// Most demoted, ascending.
    pub demoted: Vec<TokenShift>,
    /// The alpha of the parts.
    pub alpha: f32,
    /// What the parts of the push do; empty unless measured.
    pub parts: Vec<PartFigures>,
}

/// Runs the command.
pub fn run(args: &ExplainArgs, console: &Console) -> Result<Explanation> {
    check_path(&args.vector)?;
    if args.problems > 0 {
        let set = open_dataset(&args.dataset, console)?;
        let count = set.problems.len();
        if args.problems > count {
            bail!("--problems {}: data set {} has {count} problems", args.problems, set.name);
        }
    }
    let mut model = open_model(&args.model, &args.run, console)?;
    let throttles = Throttles::open(&args.vector, &model, console)?;
    let mut explanation = explain(&throttles, &model, args);
    if args.problems > 0 {
        let sweep_args = sweep_args(args, throttles.file.vector.pattern.is_some());
        let mut sweep = Sweep::new(&sweep_args, &model, console)?;
        sweep.measure(&mut model, console)?;
        let arms: Vec<String> = sweep.arms.iter().map(ToString::to_string).collect();
        explanation.parts = parts(&arms, &sweep.done);
    }
    create_folder(&args.output_dir)?;
    write_json(&args.output_dir.join(EXPLAIN_FILE), &explanation)?;
    report(&explanation, console);
    Ok(explanation)
}

fn explain(throttles: &Throttles, model: &TextModel, args: &ExplainArgs) -> Explanation {
    let (vector, shift) = (&throttles.file.vector, &throttles.prepared.shift);
    let end = model.prompts.think_end[0];
    let mut order: Vec<usize> = (0..shift.len()).collect();
    order.sort_by(|&a, &b| shift[b].total_cmp(&shift[a]));
    let tokenizer = &model.prompts.tokenizer;
    let of = |&id: &usize| TokenShift {
        token: String::from_utf8_lossy(tokenizer.token_bytes(id as u32)).into_owned(),
        shift: shift[id],
    };
    let norm = |vector: &[f32]| dot(vector, vector).sqrt();
    let cosine = |pattern: &Vec<f32>| dot(pattern, &vector.theta) / (norm(pattern) * norm(&vector.theta));
    Explanation {
        theta_norm: norm(&vector.theta),
        cosine_with_pattern: vector.pattern.as_ref().map(cosine),
        think_end_shift: shift[end as usize],
        think_end_rank: order.iter().position(|&id| id == end as usize).unwrap_or(order.len()),
        think_end_shift_over_mean: unmeasured_logits_per_alpha(shift, end),
        think_end_logits_per_alpha: vector.info.figures.get(SCALE_FIGURE).and_then(serde_json::Value::as_f64),
        promoted: order.iter().take(args.tokens).map(of).collect(),
        demoted: order.iter().rev().take(args.tokens).map(of).collect(),
        alpha: args.alpha,
        parts: Vec::new(),
    }
}

/// The sweep over the parts of the push; along the pattern too where the vector holds it, which a `.npy` never does.
fn sweep_args(args: &ExplainArgs, has_pattern: bool) -> SweepArgs {
    let named = ["", "@end-only", "@without-end"].into_iter().chain(has_pattern.then_some("@pattern"));
    let named = named.map(str::to_owned);
    let random = (1..=args.random_directions).map(|seed| format!("@random:{seed}"));
    SweepArgs {
        model: args.model.clone(),
        tpv: args.vector.clone(),
        policy: named.chain(random).map(|direction| format!("constant:{}{direction}", args.alpha)).collect(),
        budgets: vec![args.max_new_tokens as u32],
        brief: false,
        brief_template: BRIEF_TEMPLATE.into(),
        problem_start_idx: 0,
        problem_end_idx: Some(args.problems),
        left_out: BTreeSet::new(),
        generations_per_problem: args.generations_per_problem,
        max_new_tokens: args.max_new_tokens,
        write_efforts: false,
        output_dir: args.output_dir.clone(),
        dataset: args.dataset.clone(),
        sampling: SamplingArgs::default(),
        run: args.run.clone(),
    }
}

/// What each arm saves of theta's saving. The first arm is the model as it is, the second theta itself; the random
/// directions are also taken together, as a row of their own.
fn parts(arms: &[String], results: &[SweepResult]) -> Vec<PartFigures> {
    let sorted = by_arm(results);
    let [base, theta, ..] = arms else { return Vec::new() };
    let Some((base, theta)) = sorted.get(base).zip(sorted.get(theta)) else { return Vec::new() };
    let less = |base: &SweepResult, it: &SweepResult| f64::from(base.thinking_tokens) - f64::from(it.thinking_tokens);
    let of_theta: Vec<_> = base.iter().zip(theta).map(|(base, it)| (it.problem as u64, less(base, it))).collect();
    let is_shown = Bootstrap::default().mean(&of_theta).is_some_and(|it| it.low > 0.0);
    let part = |name: &str, of_arms: &[&Vec<&SweepResult>]| {
        let rows = of_arms.iter().enumerate().flat_map(|(draw, of_arm)| {
            of_arm.iter().zip(base.iter().zip(theta)).map(move |(it, others)| (draw, it, others))
        });
        let saved =
            rows.map(|(draw, it, (base, theta))| (it.problem as u64, draw as u64, less(base, it), less(base, theta)));
        let saved: Vec<_> = saved.collect();
        let alone: Vec<_> = saved.iter().map(|&(problem, draw, saved, _)| (problem, draw, saved, 1.0)).collect();
        let share = || Bootstrap::default().ratio_over_draws(&saved);
        let all = || of_arms.iter().flat_map(|of_arm| of_arm.iter());
        let samples = all().count();
        PartFigures {
            part: name.into(),
            mean_tokens: all().map(|it| f64::from(it.thinking_tokens)).sum::<f64>() / samples.max(1) as f64,
            shortening: Bootstrap::default().ratio_over_draws(&alone),
            share_of_shortening: is_shown.then(share).flatten(),
            correct: all().filter(|it| it.correct == Some(true)).count(),
            samples,
        }
    };
    let random: Vec<&Vec<&SweepResult>> =
        arms.iter().filter(|arm| arm.contains("@random:")).filter_map(|arm| sorted.get(arm)).collect();
    let mut parts: Vec<PartFigures> = arms.iter().map(|arm| part(arm, &[&sorted[arm]])).collect();
    if random.len() > 1 {
        parts.push(part(&format!("{} random directions together", random.len()), &random));
    }
    parts
}

fn report(explanation: &Explanation, console: &Console) {
    console.emit("explain", explanation);
    let optional = |value: Option<f64>| value.map_or_else(|| "not measured".into(), |value| format!("{value:.4}"));
    let facts = [
        ("|theta|", format!("{:.4}", explanation.theta_norm)),
        ("cosine of theta and cov(h, y)", optional(explanation.cosine_with_pattern.map(f64::from))),
        ("logits of </think> per alpha", format!("{:+.4}", explanation.think_end_shift)),
        ("  less the mean over the vocabulary", format!("{:+.4}", explanation.think_end_shift_over_mean)),
        ("  against the usual continuation", optional(explanation.think_end_logits_per_alpha)),
        ("tokens promoted more than </think>", explanation.think_end_rank.to_string()),
    ];
    console.print(table(&["the vector", ""], facts.map(|(name, value)| vec![name.to_owned(), value])));
    let rows = explanation.promoted.iter().zip(&explanation.demoted).map(|(up, down)| {
        vec![
            format!("{:?}", up.token),
            format!("{:+.4}", up.shift),
            format!("{:?}", down.token),
            format!("{:+.4}", down.shift),
        ]
    });
    console.print(table(&["promoted", "per alpha", "demoted", "per alpha"], rows));
    if !explanation.parts.is_empty() {
        let rows = explanation.parts.iter().map(|part| {
            vec![
                part.part.clone(),
                format!("{:.1}", part.mean_tokens),
                figure(part.shortening, 1),
                percent(part.share_of_shortening),
                format!("{} of {}", part.correct, part.samples),
            ]
        });
        console.print(table(&["part of the push", "mean tokens", "shortening", "% of theta's", "correct"], rows));
        if explanation.parts.iter().all(|part| part.share_of_shortening.is_none()) {
            console.notice(
                "theta is not shown to shorten thoughts here, so nothing is a share of that; more --problems show more",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_theta_saves() {
        let arms = ["none", "constant:5", "constant:5@end-only", "constant:5@random:1", "constant:5@random:2"];
        let lengths = [[100, 140], [60, 80], [70, 110], [100, 140], [80, 120]];
        let results: Vec<SweepResult> = arms
            .iter()
            .zip(lengths)
            .flat_map(|(arm, lengths)| {
                lengths.into_iter().enumerate().map(move |(problem, length)| (arm, problem, length))
            })
            .map(|(arm, problem, thinking_tokens)| SweepResult {
                arm: (*arm).into(),
                problem,
                thinking_tokens,
                ..SweepResult::default()
            })
            .collect();
        let parts = parts(&arms.map(str::to_owned), &results);
        let shares: Vec<f64> = parts.iter().map(|part| part.share_of_shortening.unwrap().value).collect();
        // Theta saves 40 and 60 tokens, </think> alone 30 and 30, the second random direction 20 and 20.
        assert_eq!(shares, [0.0, 1.0, 0.6, 0.0, 0.4, 0.2]);
        assert_eq!((parts[5].samples, parts[5].mean_tokens), (4, 110.0));
    }
}
