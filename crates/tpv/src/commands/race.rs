//! `tpv race`: the same problem and seed at alpha 0 and at another alpha, two bars side by side.

use crate::args::RaceArgs;
use crate::console::{Console, Stopped};
use crate::live::exchange::{Update, Wish};
use crate::live::ink::{Ink, InkLine};
use crate::live::line::{bar, percent, thought_for};
use crate::live::screen::{Screen, Style};
use crate::live::session::{answer, choose_pace};
use crate::live::terminal::{Key, RawMode, keys};
use crate::live::text::harmless;
use crate::live::view::{JsonView, Start, View};
use crate::model::{open_model, paced, prompt_style};
use crate::table::table;
use crate::vectors::{OpenVector, open_vector, reader};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::io::Stdout;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tpv_core::event::{FinishEvent, FinishReason, TokenEvent};
use tpv_core::phase::Phase;
use tpv_core::policy::{Alpha, Constant};
use tpv_core::reading::Verdict;
use tpv_core::sampling::sample_seed;
use tpv_engine::decode::{PromptRequest, SampleRequest};

/// What is raced over when nothing is asked: problem 307 of the bundled list, picked because the usual push shows there; on
/// some of its neighbours it does nothing.
const PROBLEM: &str = "Box 1: 3 pens. Box 2: 8 pens. Box 3: 6 pens. Box 4: 7 pens. How many pens are there in all?";
const REDRAW: Duration = Duration::from_millis(60);
const PLAIN_LINE: Duration = Duration::from_secs(5);

/// One of the two runs.
#[derive(Debug, Clone, Serialize)]
pub struct Runner {
    /// Its strength.
    pub alpha: f32,
    /// Its thought.
    #[serde(skip)]
    newest: Option<TokenEvent>,
    /// Its answer.
    pub answer: String,
    /// How it ended.
    pub finish: Option<FinishEvent>,
}

impl Runner {
    fn new(alpha: f32) -> Self {
        Self { alpha, newest: None, answer: String::new(), finish: None }
    }

    fn token(&mut self, event: &TokenEvent) {
        if event.phase == Phase::Answer {
            self.answer.push_str(&event.text);
        } else {
            self.newest = Some(event.clone());
        }
    }

    /// Why its thought cannot be compared, where it did not come to its end by itself.
    fn unended(&self) -> Option<String> {
        let (name, finish) = (format!("alpha {}", self.alpha), self.finish.as_ref()?);
        let was_forced = self.newest.as_ref().is_some_and(|event| event.forced);
        let how = match (finish.thinking_ended, finish.reason) {
            (true, _) if was_forced => "was ended by key",
            (true, _) => return None,
            (false, FinishReason::Length) => "was cut",
            (false, FinishReason::Cancelled) => "was stopped",
            (false, _) if finish.thinking_tokens == 0 => return Some(format!("{name} did not think")),
            (false, _) => "was not closed",
        };
        Some(format!("the thought of {name} {how} at {} tokens", finish.thinking_tokens))
    }

    /// Its half of the line: its strength, a bar, percent and tokens, as far as `detail` goes (2 is everything).
    fn lane(&self, detail: usize) -> InkLine {
        let mut lane = InkLine::default();
        lane.push(if self.alpha == 0.0 { Ink::Faint } else { Ink::Push }, &format!("alpha {} ", self.alpha));
        let Some(event) = &self.newest else {
            lane.push(Ink::Faint, "waiting");
            return lane;
        };
        let progress = event.reading.and_then(|reading| reading.progress);
        let done = event.reading.is_some_and(|reading| reading.verdict == Verdict::Done);
        if detail > 1 {
            let [full, empty] = bar(progress.unwrap_or(0.0));
            lane.push(if done { Ink::Good } else { Ink::Bar }, &full);
            lane.push(Ink::Faint, &empty);
            lane.push(Ink::Plain, " ");
        }
        lane.push(if done { Ink::Good } else { Ink::Strong }, &percent(progress));
        if detail > 0 {
            lane.push(Ink::Faint, &format!(" {} tok", event.thinking_tokens));
        }
        lane
    }
}

/// What the race found.
#[derive(Debug, Clone, Serialize)]
pub struct Race {
    /// Alpha 0 and the other one.
    pub runners: Vec<Runner>,
    /// Thinking tokens of the first less those of the second; none where one of the thoughts did not end by itself.
    pub saved_thinking_tokens: Option<i64>,
}

impl Race {
    fn new(runners: Vec<Runner>) -> Self {
        let tokens = |runner: &Runner| runner.finish.as_ref().map(|finish| i64::from(finish.thinking_tokens));
        let is_fair = runners.iter().all(|runner| runner.unended().is_none());
        let saved = || Some(tokens(&runners[0])? - tokens(&runners[1])?);
        let saved_thinking_tokens = if is_fair { saved() } else { None };
        Self { runners, saved_thinking_tokens }
    }

    /// What the race found, in a sentence.
    fn verdict(&self) -> String {
        let Some(saved) = self.saved_thinking_tokens else {
            let why: Vec<String> = self.runners.iter().filter_map(Runner::unended).collect();
            return format!("not comparable: {}", why.join("; "));
        };
        let base = self.runners[0].finish.as_ref().map_or(0, |finish| finish.thinking_tokens);
        let share = 100.0 * saved.abs() as f64 / f64::from(base.max(1));
        match saved {
            ..0 => format!("took {} more than the {base} thinking tokens of alpha 0 ({share:.0} %)", -saved),
            _ => format!("saved {saved} of {base} thinking tokens ({share:.0} %)"),
        }
    }
}

/// Runs the command.
pub fn run(args: &RaceArgs, console: &Console) -> Result<()> {
    console.end_with_reader();
    args.sampling.params().validate()?;
    if args.alpha == 0.0 {
        bail!("--alpha 0 would race against itself; name another strength");
    }
    let style = prompt_style(&args.style)?;
    let pace = choose_pace(args.pace, &args.model, console);
    let mut model = open_model(&args.model, &paced(&args.run, pace.is_some(), console), console)?;
    let vector = open_vector(&args.tpv, &model, console)?
        .with_context(|| format!("a race needs a vector to push along; make one with: tpv learn {}", args.model))?;
    let problem = args.prompt.as_deref().unwrap_or(PROBLEM);
    if problem.trim().is_empty() {
        bail!("the problem is empty; leave it out to race on one of the toy's, or give one");
    }
    if args.prompt.is_none() {
        console
            .say("(a problem on which the push shows; on others it does nothing or harm, see `tpv demo` for the mean)");
    }
    console.say(problem);
    let prompt = model.prompts.prompt(&style, problem)?;
    let start = Start {
        model: &model.identity,
        vector: Some(&vector.origin),
        prompt: &prompt.text,
        prompt_tokens: prompt.tokens.len(),
        alpha: args.alpha,
        policy: None,
        seed: args.sampling.seed,
    };
    console.emit("start", &start);
    let samples = [0.0, args.alpha].map(|alpha| sample(args, alpha, &vector)).into_iter().collect();
    let request = PromptRequest { tokens: prompt.tokens, phase: prompt.phase, samples };
    let mut view = RaceView::new(args, console)?;
    answer(&mut model.decoder, request, pace, &mut view, console)?;
    let (race, interrupted) = view.finish();
    console.emit("race", &race);
    if interrupted || console.check_interrupted().is_err() {
        return Err(Stopped.into());
    }
    report(&race, console);
    Ok(())
}

fn sample(args: &RaceArgs, alpha: f32, vector: &OpenVector) -> SampleRequest {
    let seed = sample_seed(args.sampling.seed, 0, 0);
    SampleRequest {
        shift: Some(Arc::clone(&vector.prepared.shift)),
        reader: reader(Some(vector), None),
        policy: Box::new(Constant(Alpha(alpha))),
        ..SampleRequest::new(args.sampling.params(), seed, args.max_new_tokens)
    }
}

/// Both bars in one live line, or in a plain one every five seconds.
struct RaceView<'a> {
    console: &'a Console,
    runners: Vec<Runner>,
    events: Option<JsonView<'a>>,
    screen: Option<(Screen<Stdout>, RawMode)>,
    drawn: Instant,
    interrupted: bool,
}

impl<'a> RaceView<'a> {
    fn new(args: &RaceArgs, console: &'a Console) -> Result<Self> {
        let screen = || -> Result<_> {
            Ok((Screen::new(std::io::stdout(), console.width(), console.styled()), RawMode::enter()?))
        };
        Ok(Self {
            console,
            runners: vec![Runner::new(0.0), Runner::new(args.alpha)],
            events: console.json().then(|| JsonView::new(console)),
            screen: console.is_terminal().then(screen).transpose()?,
            drawn: Instant::now(),
            interrupted: false,
        })
    }

    /// Both lanes, with as much detail as fits.
    fn line(&self, width: usize) -> InkLine {
        let joined = |detail: usize| {
            let mut line = self.runners[0].lane(detail);
            line.push(Ink::Faint, "  │  ");
            line.extend(self.runners[1].lane(detail));
            line
        };
        let fitting = (0..=2).rev().map(joined).find(|line| line.width() <= width);
        fitting.unwrap_or_else(|| joined(0).truncated(width))
    }

    /// What the race found, and whether Ctrl-C ended it; the terminal is as it was.
    fn finish(self) -> (Race, bool) {
        (Race::new(self.runners), self.interrupted)
    }
}

impl View for RaceView<'_> {
    fn update(&mut self, update: &Update) -> Result<()> {
        match update {
            Update::Prompt { .. } => {}
            Update::Token(sample, event) => self.runners[*sample].token(event),
            Update::Finish(sample, event) => self.runners[*sample].finish = Some(event.clone()),
        }
        self.events.as_mut().map_or(Ok(()), |events| events.update(update))
    }

    fn refresh(&mut self, last: bool) -> Result<()> {
        let every = if self.screen.is_some() { REDRAW } else { PLAIN_LINE };
        let due = self.drawn.elapsed() >= every;
        let columns = self.console.width();
        if let Some((screen, _)) = &mut self.screen {
            screen.resize(columns)?;
        }
        let line = self.line(self.screen.as_ref().map_or(usize::MAX, |(screen, _)| screen.line_width()));
        match &mut self.screen {
            Some((screen, _)) if last => return Ok(screen.finish()?),
            Some((screen, _)) if due => screen.update("", Style::Plain, &line)?,
            None if due && !last && !self.console.json() => self.console.say(line.plain()),
            _ => return Ok(()),
        }
        self.drawn = Instant::now();
        Ok(())
    }

    fn wishes(&mut self) -> Result<Vec<Wish>> {
        if self.screen.is_none() {
            return Ok(Vec::new());
        }
        let mut wishes = Vec::new();
        for key in keys()? {
            match key {
                Key::Quit | Key::Interrupt => {
                    self.interrupted |= key == Key::Interrupt;
                    wishes.push(Wish::Cancel);
                }
                Key::EndThinking => wishes.push(Wish::EndThinking),
                Key::Up | Key::Down | Key::Resized => {}
            }
        }
        Ok(wishes)
    }
}

fn report(race: &Race, console: &Console) {
    let row = |runner: &Runner| {
        let finish = runner.finish.as_ref()?;
        let thought = match finish.thinking_ended {
            true => thought_for(finish.thinking_secs, finish.thinking_tokens),
            false => format!("{} tokens, not ended", finish.thinking_tokens),
        };
        Some(vec![format!("alpha {}", runner.alpha), thought, harmless(runner.answer.trim())])
    };
    let rows: Vec<Vec<String>> = race.runners.iter().filter_map(row).collect();
    let table = table(&["", "thinking", "answer"], rows.clone());
    let is_too_wide = |width: usize| table.lines().any(|row| InkLine::from(row).width() > width);
    if console.is_terminal() && is_too_wide(console.width()) {
        rows.iter().for_each(|row| console.print(row.join("\n")));
    } else {
        console.print(table);
    }
    console.print(race.verdict());
}
