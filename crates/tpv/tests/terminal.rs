//! `tpv run` as a person uses it: on a pseudo-terminal, with keys, another size, and Ctrl-C.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing fails")]

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const TPV: &str = env!("CARGO_BIN_EXE_tpv");
const PROBLEM: &str = "Ben has 29 stamps. Day 1: buys 2. How many stamps does Ben have now?";
const LONG_PROBLEM: &str = "Kate has 5 cookies. Day 1: buys 2. Day 2: finds 5. Day 3: sells 9. Day 4: buys 5. Day 5: buys 7. \
     Day 6: sells 8. Day 7: buys 4. Day 8: gives 4. Day 9: buys 7. How many cookies does Kate have now?";
const UP: &str = "\x1b[A";
const DOWN: &str = "\x1b[B";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

/// A program on a terminal that is looked at and typed into.
struct Terminal {
    master: Box<dyn MasterPty + Send>,
    keyboard: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    seen: Arc<Mutex<(vt100::Parser, Vec<u8>)>>,
    _home: tempfile::TempDir,
}

fn cells(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).unwrap()
}

impl Terminal {
    fn start(program: &str, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let (rows, cols) = (30, 90);
        let pair = native_pty_system().openpty(PtySize { rows, cols, ..PtySize::default() }).unwrap();
        let home = tempfile::tempdir().unwrap();
        let mut command = CommandBuilder::new(program);
        command.args(args);
        command.env("TPV_HOME", home.path());
        command.env("TERM", "xterm-256color");
        command.env_remove("NO_COLOR");
        environment.iter().for_each(|(name, value)| command.env(name, value));
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let seen = Arc::new(Mutex::new((vt100::Parser::new(cells(rows), cells(cols), 200), Vec::new())));
        let (mut output, screen) = (pair.master.try_clone_reader().unwrap(), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let mut seen = screen.lock().unwrap();
                seen.0.process(&bytes[..count]);
                seen.1.extend_from_slice(&bytes[..count]);
            }
        });
        let keyboard = pair.master.take_writer().unwrap();
        Self { master: pair.master, keyboard, child, seen, _home: home }
    }

    /// `tpv run` at a pace that leaves time for keys.
    fn run(pace: &str, problem: &str) -> Self {
        Self::start(TPV, &["run", "--pace", pace, "--do_sample", "False", problem], &[])
    }

    fn screen(&self) -> String {
        self.seen.lock().unwrap().0.screen().contents()
    }

    /// The row of the live line, if it is there.
    fn line(&self) -> Option<String> {
        self.screen().lines().find(|row| row.contains('█') || row.contains('░')).map(str::to_owned)
    }

    fn wait_for(&self, what: &str, is_there: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !is_there(self) {
            assert!(started.elapsed() < Duration::from_secs(60), "no {what}:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn wait_for_text(&self, text: &str) {
        self.wait_for(text, |terminal| terminal.screen().contains(text));
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
    }

    fn resize(&self, rows: u16, cols: u16) {
        self.seen.lock().unwrap().0.screen_mut().set_size(cells(rows), cells(cols));
        self.master.resize(PtySize { rows, cols, ..PtySize::default() }).unwrap();
    }

    /// Waits for the end, and for the last output to arrive.
    fn exit_code(&mut self) -> u32 {
        let code = self.child.wait().unwrap().exit_code();
        std::thread::sleep(Duration::from_millis(200));
        code
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
    }
}

#[test]
fn a_thought_is_followed_to_its_answer() {
    let mut terminal = Terminal::run("40", PROBLEM);
    terminal.wait_for("a percentage and the time left", |it| {
        it.line().is_some_and(|line| line.contains(" %  ") && line.contains(" s left ("))
    });
    assert_eq!(terminal.screen().matches(" tok/s").count(), 1, "one live line:\n{}", terminal.screen());
    assert_eq!(terminal.exit_code(), 0);
    let screen = terminal.screen();
    assert!(terminal.line().is_none(), "the live line is gone:\n{screen}");
    let rows: Vec<&str> = screen.lines().map(str::trim_end).filter(|row| !row.is_empty()).collect();
    let [.., thought, answer] = rows.as_slice() else { panic!("too little on the screen:\n{screen}") };
    assert!(thought.starts_with("thought for ") && thought.ends_with(" tokens"), "{screen}");
    // The toy model may forget who it is about.
    assert!(answer.ends_with("has \\boxed{31} stamps."), "{screen}");
    assert!(!screen.contains("</think>"), "{screen}");
    assert!(terminal.seen.lock().unwrap().1.windows(4).any(|bytes| bytes == b"\x1b[2m"), "the thought is faint");
}

#[test]
fn keys_change_alpha_and_end_the_thinking() {
    let mut terminal = Terminal::run("20", LONG_PROBLEM);
    terminal.wait_for_text("alpha 0");
    terminal.press(UP);
    terminal.wait_for_text("alpha 5");
    terminal.press(DOWN);
    terminal.press(DOWN);
    terminal.wait_for_text("alpha -5");
    terminal.press("e");
    terminal.wait_for_text("thought for ");
    assert_eq!(terminal.exit_code(), 0);
    assert!(terminal.screen().contains("\\boxed{"), "an answer follows:\n{}", terminal.screen());
}

#[test]
fn q_stops() {
    let mut terminal = Terminal::run("20", LONG_PROBLEM);
    terminal.wait_for("live line", |it| it.line().is_some());
    terminal.press("q");
    assert_eq!(terminal.exit_code(), 0);
    assert!(terminal.screen().lines().any(|row| row.trim_end() == "stopped"), "{}", terminal.screen());
    assert!(terminal.line().is_none(), "the live line is gone:\n{}", terminal.screen());
}

#[test]
fn ctrl_c_stops_and_gives_the_terminal_back() {
    let shell = format!("{TPV} run --pace 20 '{LONG_PROBLEM}'; echo code $?; stty -a");
    let mut terminal = Terminal::start("sh", &["-c", &shell], &[]);
    terminal.wait_for("live line", |it| it.line().is_some());
    terminal.press(CTRL_C);
    assert_eq!(terminal.exit_code(), 0);
    let screen = terminal.screen();
    assert!(screen.contains("code 130"), "{screen}");
    let modes: Vec<&str> = screen.split_whitespace().map(|mode| mode.trim_end_matches(';')).collect();
    for mode in ["echo", "icanon", "isig", "opost"] {
        assert!(modes.contains(&mode), "{mode} is set again:\n{screen}");
    }
}

#[test]
fn the_line_follows_the_size_of_the_terminal() {
    let mut terminal = Terminal::run("20", LONG_PROBLEM);
    terminal.wait_for("whole line", |it| it.line().is_some_and(|line| line.contains("alpha 0")));
    terminal.resize(20, 48);
    terminal.wait_for("shorter line", |it| {
        it.screen().lines().any(|row| row.starts_with("thinking") && row.contains('%') && !row.contains("alpha"))
    });
    assert!(terminal.screen().lines().all(|row| row.chars().count() <= 48), "{}", terminal.screen());
    terminal.resize(30, 90);
    terminal.wait_for_text("alpha 0");
    terminal.press("q");
    assert_eq!(terminal.exit_code(), 0);
}

#[test]
fn no_color_means_no_style() {
    let args = ["run", "--pace", "0", "--do_sample", "False", PROBLEM];
    let mut terminal = Terminal::start(TPV, &args, &[("NO_COLOR", "1")]);
    assert_eq!(terminal.exit_code(), 0);
    terminal.wait_for_text("\\boxed{31}");
    let seen = terminal.seen.lock().unwrap();
    let text = String::from_utf8_lossy(&seen.1);
    let styles = text
        .split("\x1b[")
        .skip(1)
        .filter(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m'));
    assert_eq!(styles.count(), 0, "{text:?}");
}

#[test]
fn a_session_asks_until_it_is_left() {
    let mut terminal = Terminal::start(TPV, &["run", "--pace", "0", "--do_sample", "False"], &[]);
    terminal.wait_for_text("> ");
    terminal.press(&format!("{PROBLEM}\n"));
    terminal.wait_for_text("\\boxed{31}");
    terminal.wait_for("second question", |it| it.screen().lines().filter(|row| row.starts_with('>')).count() == 2);
    terminal.press(CTRL_D);
    assert_eq!(terminal.exit_code(), 0);
}
