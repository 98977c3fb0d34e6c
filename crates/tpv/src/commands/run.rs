//! `tpv run`: one prompt, or a session of them, with a live reading of the thinking.

use crate::args::AskArgs;
use crate::console::{Console, Stopped};
use crate::live::session::{answer, choose_pace};
use crate::live::terminal::waiting_lines;
use crate::live::view::{JsonView, PlainView, Start, TerminalView, Throttle, View};
use crate::model::{open_model, paced, prompt_style};
use crate::throttles::remark_on_scale;
use crate::vectors::{OpenVector, open_vector, reader};
use anyhow::{Context, Result, bail};
use std::io::{IsTerminal, Read};
use std::sync::Arc;
use tpv_core::policy::{Alpha, Constant, Policy, PolicyContext, PolicySpec, Term};
use tpv_core::sampling::sample_seed;
use tpv_core::vector::ModelIdentity;
use tpv_engine::decode::{PromptRequest, SampleRequest};
use tpv_engine::model::{PromptStyle, TextModel};

const KEYS: &str = "keys: up/down change alpha, e ends the thinking, q stops";

/// Runs the command.
pub fn run(args: &AskArgs, console: &Console) -> Result<()> {
    console.end_with_reader();
    args.sampling.params().validate()?;
    let prompt = first_prompt(args.prompt.as_deref())?;
    let style = prompt_style(&args.style)?;
    let pace = choose_pace(args.pace, &args.model, console);
    let mut model = open_model(&args.model, &paced(&args.run, pace.is_some(), console), console)?;
    let vector = open_vector(&args.tpv, &model, console)?;
    if args.alpha != 0.0 && vector.is_none() {
        bail!(
            "--alpha {} needs a vector to push along; name one with --tpv, or make one with: tpv learn {}",
            args.alpha,
            args.model
        );
    }
    let think_end = model.prompts.think_end.clone();
    let mut session = Session { args, style, vector, think_end, throttle: None, pace, turn: 0 };
    let policy = args.policy.as_ref().map(PolicySpec::to_string);
    session.policy()?;
    if let Some((vector, policy)) = session.vector.as_ref().zip(args.policy.as_ref())
        && let Some(remark) = remark_on_scale(policy, &vector.prepared.context)
    {
        console.notice(remark);
    }
    session.throttle = session.vector.as_ref().map(|_| Throttle { alpha: args.alpha, policy });
    match prompt {
        Some(prompt) => session.answer(&prompt, &mut model, console),
        None => session.talk(&mut model, console),
    }
}

/// The prompt of the command line or of stdin; none where a person sits at a terminal.
fn first_prompt(given: Option<&str>) -> Result<Option<String>> {
    let prompt = match given {
        Some(prompt) if prompt != "-" => prompt.to_owned(),
        None if std::io::stdin().is_terminal() => return Ok(None),
        _ => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("the prompt on stdin is not UTF-8 text")?;
            text
        }
    };
    let prompt = prompt.trim();
    if prompt.is_empty() {
        bail!(
            "the prompt is empty; give it as an argument, as in: tpv run \"Bob has 2 pens. Day 1: finds 3. How many pens does Bob have now?\""
        );
    }
    Ok(Some(prompt.to_owned()))
}

/// What a person asks at the terminal; none where that is nothing. Lines that come at once, as they do when somebody pastes
/// them, are one question, which an empty line ends.
fn question(console: &Console) -> Result<Option<String>> {
    let Some(mut question) = console.ask("> ")?.filter(|line| !line.trim().is_empty()) else { return Ok(None) };
    let more = waiting_lines()?;
    if more.is_empty() {
        return Ok(Some(question));
    }
    question = format!("{question}\n{more}");
    console.say("(a question of several lines: an empty line ends it)");
    while let Some(line) = console.ask("")?.filter(|line| !line.trim().is_empty()) {
        question = format!("{}\n{line}", question.trim_end_matches('\n'));
    }
    Ok(Some(question))
}

struct Session<'a> {
    args: &'a AskArgs,
    style: PromptStyle,
    vector: Option<OpenVector>,
    /// The tokens of `</think>`.
    think_end: Vec<u32>,
    /// None without a vector.
    throttle: Option<Throttle>,
    /// Most tokens a second; none is full speed.
    pace: Option<f64>,
    /// Prompts answered so far; each has draws of its own.
    turn: usize,
}

impl Session<'_> {
    fn talk(&mut self, model: &mut TextModel, console: &Console) -> Result<()> {
        let vector = self.vector.as_ref().map_or("no vector", |vector| &vector.origin);
        console
            .say(format!("model {}, {vector}; an empty line or Ctrl-D ends the session\n{KEYS}", model.identity.name));
        while let Some(prompt) = question(console)? {
            // A stopped answer does not end the session.
            match self.answer(prompt.trim(), model, console) {
                Err(error) if error.is::<Stopped>() => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn answer(&mut self, prompt: &str, model: &mut TextModel, console: &Console) -> Result<()> {
        let prompt = model.prompts.prompt(&self.style, prompt)?;
        let request = PromptRequest { tokens: prompt.tokens, phase: prompt.phase, samples: vec![self.sample()?] };
        let end = model.prompts.markers.end.clone();
        let has_vector = self.vector.is_some();
        self.turn += 1;
        if console.json() {
            console.emit("start", &self.start(&model.identity, &prompt.text, request.tokens.len()));
            return self.show(request, &mut JsonView::new(console), model, console);
        }
        if !console.is_terminal() {
            let mut view = PlainView::new(console, &end, self.throttle.clone(), has_vector);
            return self.show(request, &mut view, model, console);
        }
        let mut view = TerminalView::new(console, &end, self.throttle.clone(), has_vector)?;
        let shown = self.show(request, &mut view, model, console);
        self.throttle = view.throttle().cloned();
        if view.interrupted { Err(Stopped.into()) } else { shown }
    }

    fn show(
        &self,
        request: PromptRequest,
        view: &mut dyn View,
        model: &mut TextModel,
        console: &Console,
    ) -> Result<()> {
        answer(&mut model.decoder, request, self.pace, view, console)?;
        if console.check_interrupted().is_err() { Err(Stopped.into()) } else { Ok(()) }
    }

    fn start<'a>(&'a self, model: &'a ModelIdentity, prompt: &'a str, prompt_tokens: usize) -> Start<'a> {
        Start {
            model,
            vector: self.vector.as_ref().map(|vector| vector.origin.as_str()),
            prompt,
            prompt_tokens,
            alpha: self.args.alpha,
            policy: self.args.policy.as_ref(),
            seed: self.args.sampling.seed,
        }
    }

    /// The policy asked for, or the strength that keys have set.
    fn policy(&self) -> Result<Box<dyn Policy>> {
        let turned = self.throttle.as_ref().filter(|throttle| throttle.policy.is_none());
        match (&self.args.policy, turned) {
            (Some(policy), None) => {
                let without = || PolicyContext::without_vector(&self.think_end);
                let context = self.vector.as_ref().map_or_else(without, |vector| vector.prepared.context.clone());
                Ok(policy.build(&context)?)
            }
            (_, throttle) => Ok(Box::new(Constant(Alpha(throttle.map_or(self.args.alpha, |throttle| throttle.alpha))))),
        }
    }

    fn budget_tokens(&self) -> Option<u32> {
        let terms = self.args.policy.iter().flat_map(|policy| &policy.terms);
        terms.filter_map(|term| if let Term::Budget(tokens) = term { Some(*tokens) } else { None }).min()
    }

    fn sample(&self) -> Result<SampleRequest> {
        let seed = sample_seed(self.args.sampling.seed, self.turn as u64, 0);
        Ok(SampleRequest {
            shift: self.vector.as_ref().map(|vector| Arc::clone(&vector.prepared.shift)),
            reader: reader(self.vector.as_ref(), self.budget_tokens()),
            policy: self.policy()?,
            ..SampleRequest::new(self.args.sampling.params(), seed, self.args.max_new_tokens)
        })
    }
}
