//! A vector made ready for a loaded model.

use std::sync::Arc;

use tpv_core::policy::PolicyContext;
use tpv_core::reading::{Calibration, ReadingModel};
use tpv_core::vector::ProgressVector;

use crate::error::Result;
use crate::model::TextModel;

/// What reading and pushing a model with a vector takes.
#[derive(Debug, Clone)]
pub struct PreparedVector {
    /// `W theta`, `[V]`: what one unit of alpha adds to the logits.
    pub shift: Arc<[f32]>,
    /// What policies must know.
    pub context: PolicyContext,
    /// Makes readers.
    pub reading: Arc<ReadingModel>,
}

impl PreparedVector {
    /// Projects theta with the model's head and reads the calibration, if the vector has one.
    ///
    /// # Errors
    /// If the calibration is damaged, or theta is not as wide as the model's states.
    pub fn new(vector: &ProgressVector, model: &TextModel) -> Result<Self> {
        let calibration = Calibration::of_vector(vector)?;
        let shift: Arc<[f32]> = model.decoder.project(&vector.theta)?.into();
        let context = PolicyContext::of_vector(vector, &shift, &model.prompts.think_end);
        let reading = Arc::new(ReadingModel::new(vector, calibration.as_ref()));
        Ok(Self { shift, context, reading })
    }
}
