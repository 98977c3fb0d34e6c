//! Problems whose prompts leave no room for an answer: they are passed over, and that is said.

use crate::console::Console;
use anyhow::{Context, Result, bail};
use tpv_data::problems::Problem;
use tpv_engine::model::{Prompt, PromptStyle, TextModel};

/// What is wrong where no problem is left.
pub const NO_ROOM: &str = "no problem's prompt leaves room for an answer; give another model or shorter problems";

/// A problem's prompt; none, and a notice, where it fills the model's positions.
pub fn fitting_prompt(
    problem: &Problem,
    style: &PromptStyle,
    model: &TextModel,
    console: &Console,
) -> Result<Option<Prompt>> {
    let positions = model.decoder.spec().max_positions;
    let leave_out = |tokens: &str| {
        console.notice(format!(
            "problem {} is left out: its prompt has {tokens} tokens, and the model's {positions} positions leave no room",
            problem.index
        ));
        Ok(None)
    };
    // One that is too long however it is cut is not cut: that takes seconds and hundreds of times its bytes.
    let least = model.prompts.least_tokens(problem.text.len());
    if least >= positions {
        return leave_out(&format!("at least {least}"));
    }
    let prompt = model.prompts.prompt(style, &problem.text).with_context(|| format!("problem {}", problem.index))?;
    if prompt.tokens.len() >= positions { leave_out(&prompt.tokens.len().to_string()) } else { Ok(Some(prompt)) }
}

/// The problems whose prompts leave room in every style.
pub fn fitting_problems(
    problems: &[Problem],
    styles: &[PromptStyle],
    model: &TextModel,
    console: &Console,
) -> Result<Vec<Problem>> {
    let mut kept = Vec::new();
    for problem in problems {
        let mut has_room = true;
        for style in styles {
            has_room = has_room && fitting_prompt(problem, style, model, console)?.is_some();
        }
        if has_room {
            kept.push(problem.clone());
        }
    }
    if kept.is_empty() && !problems.is_empty() {
        bail!(NO_ROOM);
    }
    Ok(kept)
}
