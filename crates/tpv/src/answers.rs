//! The answer of a finished sample, and whether it is right.

use crate::recorder::Recording;
use tpv_core::event::FinishEvent;
use tpv_core::grade::{extract_answer, grade};

/// The answer after the thinking, if there is one, and whether it equals `gold`, if that is known.
///
/// A sample that did not end its thinking has given no answer, and counts as wrong.
pub fn judge(recording: &Recording, finish: &FinishEvent, gold: Option<&str>) -> (Option<String>, Option<bool>) {
    let answer = if finish.thinking_ended { extract_answer(&recording.answer_text) } else { None };
    let answer = answer.map(|extracted| extracted.text);
    let correct = gold.map(|gold| answer.as_deref().is_some_and(|answer| grade(answer, gold).is_equal()));
    (answer, correct)
}
