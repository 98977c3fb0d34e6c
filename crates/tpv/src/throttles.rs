//! What a policy needs of a vector and a loaded model: shifts by direction, readers, the scale of alpha.

use crate::console::Console;
use crate::vectors::at_path_or_of_model;
use anyhow::Result;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use tpv_core::policy::{Direction, Policy, PolicyContext, PolicySpec, Throttle};
use tpv_core::reading::Reader;
use tpv_data::vector::VectorFile;
use tpv_engine::model::TextModel;
use tpv_engine::prepared_vector::PreparedVector;

/// A vector made ready to throttle a model.
pub struct Throttles {
    /// The file that was loaded.
    pub file: VectorFile,
    /// What is made of it for the model.
    pub prepared: PreparedVector,
    shifts: HashMap<Direction, Arc<[f32]>>,
}

/// What a sample is throttled with.
pub struct Parts {
    /// Logits per unit of alpha, `[V]`.
    pub shift: Arc<[f32]>,
    /// Chooses alpha.
    pub policy: Box<dyn Policy>,
    /// Reads the states.
    pub reader: Box<dyn Reader>,
}

impl Throttles {
    /// Loads a vector for a model.
    pub fn open(path: &Path, model: &TextModel, console: &Console) -> Result<Self> {
        Self::new(at_path_or_of_model(path, &model.identity, console)?, model)
    }

    /// Prepares a vector that belongs to the model.
    pub fn new(file: VectorFile, model: &TextModel) -> Result<Self> {
        let prepared = PreparedVector::new(&file.vector, model)?;
        Ok(Self { file, prepared, shifts: HashMap::new() })
    }

    /// Whether time left is known, which deadlines work best with.
    pub fn is_calibrated(&self) -> bool {
        self.prepared.reading.is_calibrated()
    }

    /// Prepares a throttle's direction and checks that its policy can be built.
    pub fn prepare(&mut self, throttle: &Throttle, model: &TextModel) -> Result<()> {
        throttle.policy.build(&self.prepared.context)?;
        if !self.shifts.contains_key(&throttle.direction) {
            let direction = throttle.direction.in_hidden_space(&self.file.vector)?;
            let mut shift = model.decoder.project(&direction)?;
            throttle.direction.mask(&mut shift, model.prompts.think_end[0]);
            self.shifts.insert(throttle.direction, shift.into());
        }
        Ok(())
    }

    /// The throttle with every strength as plain alpha, which names what the vector's levels and scale make of it.
    pub fn resolved(&self, throttle: &Throttle) -> Result<String> {
        let policy = throttle.policy.resolved(&self.prepared.context)?;
        Ok(Throttle { policy, ..throttle.clone() }.to_string())
    }

    /// The parts for one sample of a prepared throttle.
    pub fn parts(&self, throttle: &Throttle) -> Result<Parts> {
        let shift = self.shifts.get(&throttle.direction).unwrap_or(&self.prepared.shift);
        let policy = throttle.policy.build(&self.prepared.context)?;
        Ok(Parts { shift: Arc::clone(shift), policy, reader: Box::new(self.prepared.reading.reader(None)) })
    }
}

/// What to know of a policy whose strength is given in logits: the alpha that they amount to, and what that rests on.
pub fn remark_on_scale(policy: &PolicySpec, context: &PolicyContext) -> Option<String> {
    let scale = context.think_end_logits_per_alpha.filter(|_| policy.uses_logits())?;
    let resolved = policy.resolved(context).ok()?;
    let basis = match context.scale_is_measured {
        true if scale > 0.0 => "as measured",
        true => "as measured: this vector does not push towards it",
        false => {
            "by a stand-in, which may be many times off: the vector's scale was not measured (tpv sweep --write_efforts \
             measures it)"
        }
    };
    Some(format!("{policy} is {resolved} here: one alpha is {scale:.4} logits of </think>, {basis}"))
}
