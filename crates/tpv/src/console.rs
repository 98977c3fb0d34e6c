//! What people and programs see: data on stdout, talk and progress bars on stderr, errors once.
//!
//! Problems, names of files and models, and what others say in errors steer no terminal: [`Console`] spells out their
//! control characters.

use crate::live::text::{spelled_in_one_row, spelled_out};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stopped by the user; work that is done has been kept.
#[derive(Debug, thiserror::Error)]
#[error("stopped; run the same command again to go on from here")]
pub struct Interrupted;

/// Stopped by the user; nothing was there to be kept.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

/// Where output goes.
pub struct Console {
    json: bool,
    interrupted: Arc<AtomicBool>,
    hurried: Arc<AtomicBool>,
    /// Whether the first request to stop ends the program on the spot.
    ends_at_once: Arc<AtomicBool>,
    /// Whether the command itself obeys a second request to stop.
    obeys_hurry: Arc<AtomicBool>,
    /// Whether the command is over where nobody reads its output any more.
    ends_with_reader: AtomicBool,
}

impl Console {
    /// `json`: data as JSON lines for programs instead of tables for people.
    pub fn new(json: bool) -> Self {
        let [interrupted, hurried, ends_at_once, obeys_hurry] = [(); 4].map(|()| Arc::new(AtomicBool::new(false)));
        let ends_with_reader = AtomicBool::new(false);
        let console = Self { json, interrupted, hurried, ends_at_once, obeys_hurry, ends_with_reader };
        let [first, second, at_once, obeys] =
            [&console.interrupted, &console.hurried, &console.ends_at_once, &console.obeys_hurry].map(Arc::clone);
        // Without a handler Ctrl-C still ends the program, only less gently.
        let _ = ctrlc::set_handler(move || {
            let is_first = !first.swap(true, Ordering::SeqCst) && !at_once.load(Ordering::SeqCst);
            let is_obeyed = is_first || obeys.load(Ordering::SeqCst) && !second.swap(true, Ordering::SeqCst);
            if !is_obeyed {
                crate::live::terminal::restore();
                std::process::exit(130);
            }
        });
        console
    }

    /// Whether data goes out as JSON lines.
    pub fn json(&self) -> bool {
        self.json
    }

    /// An error once the user has asked to stop.
    pub fn check_interrupted(&self) -> Result<(), Interrupted> {
        if self.interrupted.load(Ordering::SeqCst) { Err(Interrupted) } else { Ok(()) }
    }

    /// From now on a second request to stop does not end the program: the command looks for it itself, with
    /// [`Console::is_hurried`]. A third one ends it.
    pub fn obey_hurry(&self) {
        self.obeys_hurry.store(true, Ordering::SeqCst);
    }

    /// Whether the user has asked to stop a second time.
    pub fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::SeqCst)
    }

    /// Computes what leaves nothing half done and writes nothing, which may take long: Ctrl-C ends the program there.
    pub fn compute<T>(&self, what: &str, compute: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let spinner = self.spinner(what);
        let computed = self.at_once(|| {
            self.check_interrupted()?;
            compute()
        });
        spinner.finish_and_clear();
        self.check_interrupted()?;
        computed
    }

    /// Runs something during which Ctrl-C ends the program.
    fn at_once<T>(&self, run: impl FnOnce() -> T) -> T {
        self.ends_at_once.store(true, Ordering::SeqCst);
        let result = run();
        self.ends_at_once.store(false, Ordering::SeqCst);
        result
    }

    /// From now on the command is over, and well, once nobody reads what it prints. Others go on without a word: what they
    /// write is wanted.
    pub fn end_with_reader(&self) {
        self.ends_with_reader.store(true, Ordering::SeqCst);
    }

    /// A line that the user types, without its end; none at the end of the input. Ctrl-C ends the program here.
    pub fn ask(&self, question: &str) -> std::io::Result<Option<String>> {
        write!(std::io::stderr(), "{question}")?;
        std::io::stderr().flush()?;
        let mut line = Vec::new();
        let read = self.at_once(|| std::io::stdin().lock().read_until(b'\n', &mut line));
        Ok((read? > 0).then(|| String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned()))
    }

    /// Whether data goes to people at a terminal that can move its cursor.
    pub fn is_terminal(&self) -> bool {
        let is_dumb = std::env::var_os("TERM").is_some_and(|kind| kind == "dumb");
        !self.json && !is_dumb && std::io::stdout().is_terminal()
    }

    /// Whether text may be styled: NO_COLOR turns that off.
    pub fn styled(&self) -> bool {
        std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }

    /// A remark for people, on stderr.
    pub fn say(&self, text: impl AsRef<str>) {
        // A closed stderr leaves nobody to tell.
        let _ = writeln!(std::io::stderr(), "{}", spelled_out(text.as_ref()));
    }

    /// A remark that the user should not miss, on stderr.
    pub fn notice(&self, text: impl AsRef<str>) {
        self.say(format!("note: {}", spelled_in_one_row(text.as_ref())));
    }

    /// Data for people, on stdout; nothing in JSON mode.
    pub fn print(&self, text: impl AsRef<str>) {
        if !self.json {
            self.write_stdout(&spelled_out(text.as_ref()));
        }
    }

    /// Data for programs: one JSON line with its type and version, on stdout; nothing without `--json`.
    pub fn emit(&self, kind: &str, value: &impl Serialize) {
        if self.json {
            let line = serde_json::json!({ "type": kind, "version": 1, "data": value });
            self.write_stdout(&line.to_string());
        }
    }

    fn write_stdout(&self, line: &str) {
        let Err(error) = writeln!(std::io::stdout(), "{line}") else { return };
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            // What the command has to say is lost; that it would then end well is not to be believed.
            self.say(format!("error: the output cannot be written: {error}"));
            std::process::exit(1);
        }
        if self.ends_with_reader.load(Ordering::SeqCst) {
            std::process::exit(0); // the reader has seen enough
        }
    }

    /// Columns of the terminal, 100 where there is none.
    pub fn width(&self) -> usize {
        crossterm::terminal::size().map_or(100, |(columns, _)| usize::from(columns))
    }

    /// A progress bar in bytes on stderr.
    pub fn download_bar(&self, total_bytes: u64, file: &str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr());
        let template = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
        bar.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
        bar.set_prefix(spelled_in_one_row(file));
        bar
    }

    /// A progress bar on stderr; silent where stderr is no terminal.
    pub fn bar(&self, total: u64, what: &str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let template = "{prefix} {wide_bar} {pos}/{len} {msg} {elapsed}, {eta} left";
        let style = ProgressStyle::with_template(template).expect("the template is valid").progress_chars("█▉▊▋▌▍▎▏ ");
        bar.set_style(style);
        bar.set_prefix(what.to_owned());
        if std::io::stderr().is_terminal() {
            bar.enable_steady_tick(std::time::Duration::from_millis(200));
        }
        bar
    }

    /// A sign of life on stderr for what has no steps to count; silent where stderr is no terminal.
    fn spinner(&self, what: &str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{prefix} {spinner} {elapsed}").expect("the template is valid"));
        bar.set_prefix(what.to_owned());
        if std::io::stderr().is_terminal() {
            bar.enable_steady_tick(std::time::Duration::from_millis(200));
        }
        bar
    }

    /// Prints an error with its causes and gives the exit code: 130 after an interruption, else 1.
    pub fn fail(&self, error: &anyhow::Error) -> ExitCode {
        if error.is::<Stopped>() {
            return ExitCode::from(130);
        }
        self.say(format!("error: {}", spelled_in_one_row(&sentence(error))));
        if error.is::<Interrupted>() { ExitCode::from(130) } else { ExitCode::FAILURE }
    }
}

/// An error with its causes, less those that the error before them has already told.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if sentence.is_empty() {
            sentence = cause;
        } else if !sentence.contains(&cause) {
            sentence = format!("{sentence}: {cause}");
        }
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn causes_are_told_once() {
        let cause = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = anyhow::Error::new(cause).context("x.npy: cannot be read: entity not found; check the path");
        assert_eq!(sentence(&error), "x.npy: cannot be read: entity not found; check the path");
        let error = Err::<(), _>(error).context("model m cannot be used").expect_err("it is an error");
        assert_eq!(sentence(&error), "model m cannot be used: x.npy: cannot be read: entity not found; check the path");
    }
}
