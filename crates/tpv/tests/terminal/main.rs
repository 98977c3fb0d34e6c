//! `tpv run` and `tpv race` as a person uses them: on a pseudo-terminal, with keys, another size, and Ctrl-C.
//!
//! Whole screens are compared with `golden/*.txt`. A drawing is picked by the number of tokens that it shows, so it does
//! not matter how fast the machine is; where a machine that has stalled left the wanted drawing out, the program is run again.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing fails")]

mod picture;
mod pty;
mod wide;

use picture::assert_golden;
use pty::{TPV, Terminal};

const PROBLEM: &str = "Ben has 29 stamps. Day 1: buys 2. How many stamps does Ben have now?";
const LONG_PROBLEM: &str = "Kate has 5 cookies. Day 1: buys 2. Day 2: finds 5. Day 3: sells 9. Day 4: buys 5. Day 5: buys 7. \
     Day 6: sells 8. Day 7: buys 4. Day 8: gives 4. Day 9: buys 7. How many cookies does Kate have now?";
const UP: &str = "\x1b[A";
const DOWN: &str = "\x1b[B";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const LARGE: (u16, u16) = (16, 120);
const USUAL: (u16, u16) = (16, 90);

/// Runs of a program that are tried for a drawing which a stalled machine may leave out.
const TRIES: usize = 5;

/// `tpv run` at a pace that leaves time for keys.
fn run(size: (u16, u16), pace: &str, problem: &str) -> Terminal {
    Terminal::start(size, TPV, &["run", "--pace", pace, "--do_sample", "False", problem], &[])
}

/// Runs a program to its end and picks the drawings that show these texts, with the last screen behind them.
fn drawings(start: impl Fn() -> Terminal, texts: &[&str]) -> Vec<String> {
    for _ in 0..TRIES {
        let mut terminal = start();
        assert_eq!(terminal.exit_code(), 0, "{}", terminal.screen());
        let found: Option<Vec<String>> =
            texts.iter().map(|text| terminal.drawing(|screen| screen.contains(text))).collect();
        if let Some(mut pictures) = found {
            pictures.push(terminal.picture());
            return pictures;
        }
    }
    panic!("in {TRIES} runs no drawing shows all of {texts:?}");
}

#[test]
fn a_thought_is_followed_to_its_answer() {
    let drawings = drawings(|| run(LARGE, "15", PROBLEM), &["%  3 tok", "  20 tok"]);
    let [first, middle, last] = drawings.try_into().unwrap();
    assert_golden("run", &[("the third token", first), ("in the middle", middle), ("the end", last)]);
}

#[test]
fn a_narrow_terminal_shows_less_and_breaks_the_rows() {
    let drawings = drawings(|| run((16, 42), "15", PROBLEM), &["  20 tok"]);
    let [middle, last] = drawings.try_into().unwrap();
    assert_golden("run_narrow", &[("in the middle", middle), ("the end", last)]);
}

#[test]
fn wide_characters_stay_whole() {
    let model = wide::model();
    let folder = model.path().display().to_string();
    let args = ["run", "--model", &folder, "--pace", "0", "--do_sample", "False", wide::PROBLEM];
    // In 18 columns the last one is left empty where the day would need it and the one after it.
    let mut terminal = Terminal::start((24, 18), TPV, &args, &[]);
    assert_eq!(terminal.exit_code(), 0);
    assert_golden("run_wide", &[("the end", terminal.picture())]);
}

#[test]
fn no_color_means_no_style() {
    let args = ["run", "--pace", "15", "--do_sample", "False", PROBLEM];
    let drawings = drawings(|| Terminal::start(USUAL, TPV, &args, &[("NO_COLOR", "1")]), &["  20 tok"]);
    let [middle, last] = drawings.try_into().unwrap();
    assert!(!middle.contains('|') && !last.contains('|'), "no inks:\n{middle}");
    assert_golden("run_no_color", &[("in the middle", middle), ("the end", last)]);
}

#[test]
fn the_line_follows_the_size_of_the_terminal() {
    let resized = || {
        let mut terminal = run(USUAL, "15", LONG_PROBLEM);
        terminal.wait_for_text("  20 tok  ");
        terminal.resize(14, 48);
        terminal.wait_for_text("  40 tok  ");
        terminal.press("q");
        terminal
    };
    let narrow = |screen: &str| screen.contains("  40 tok  ") && !screen.contains("alpha");
    for _ in 0..TRIES {
        let mut terminal = resized();
        assert_eq!(terminal.exit_code(), 0);
        let (wide, narrow) = (terminal.drawing(|screen| screen.contains("  20 tok  ")), terminal.drawing(narrow));
        // The row at which the size changed is not known; what comes after it is.
        let (Some(wide), Some(narrow)) = (wide, narrow) else { continue };
        assert!(narrow.lines().all(|row| row.split('|').map(str::len).sum::<usize>() < 120), "{narrow}");
        let line = narrow.lines().rev().find(|row| row.starts_with("thinking")).unwrap().to_owned();
        assert_golden("run_resized", &[("wide", wide), ("the live line in 48 columns", line)]);
        return;
    }
    panic!("in {TRIES} runs the wanted drawings were left out");
}

#[test]
fn keys_change_alpha_and_end_the_thinking() {
    let mut terminal = run(LARGE, "15", LONG_PROBLEM);
    terminal.wait_for_text("alpha 0");
    terminal.press(UP);
    terminal.wait_for_text("alpha 5");
    terminal.press(DOWN);
    terminal.press(DOWN);
    terminal.wait_for_text("alpha -5");
    terminal.press("e");
    terminal.wait_for_text("thought for ");
    assert_eq!(terminal.exit_code(), 0);
    let pushed = |text: &'static str| {
        let drawing = terminal.drawing(|screen| screen.contains(text)).unwrap();
        let row = drawing.lines().find(|row| row.contains("alpha")).unwrap().to_owned();
        row[row.find("alpha").unwrap()..].to_owned()
    };
    assert_golden("keys", &[("up", pushed("alpha 5")), ("down twice", pushed("alpha -5"))]);
    // What the toy says when it is cut off in mid-sentence is its own affair.
    assert!(terminal.screen().contains("\\boxed{"), "an answer follows:\n{}", terminal.screen());
    assert!(terminal.line().is_none(), "the live line is gone:\n{}", terminal.screen());
}

#[test]
fn q_stops() {
    let mut terminal = run(LARGE, "15", LONG_PROBLEM);
    terminal.wait_for("live line", |it| it.line().is_some());
    terminal.press("q");
    assert_eq!(terminal.exit_code(), 0);
    assert!(terminal.screen().lines().any(|row| row.trim_end() == "stopped"), "{}", terminal.screen());
    assert!(terminal.line().is_none(), "the live line is gone:\n{}", terminal.screen());
}

#[test]
fn ctrl_c_stops_and_gives_the_terminal_back() {
    let shell = format!("{TPV} run --pace 20 '{LONG_PROBLEM}'; echo code $?; stty -a");
    let mut terminal = Terminal::start((30, 90), "sh", &["-c", &shell], &[]);
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
fn a_broken_pipe_is_quiet_on_the_terminal() {
    let shell = format!("{TPV} run --json --pace 100 '{PROBLEM}' | head -n 1 | cut -c 1-30; echo done");
    let mut terminal = Terminal::start(USUAL, "sh", &["-c", &shell], &[]);
    assert_eq!(terminal.exit_code(), 0);
    assert_golden("broken_pipe", &[("the end", terminal.picture())]);
}

#[test]
fn a_session_asks_until_it_is_left() {
    let mut terminal = Terminal::start(USUAL, TPV, &["run", "--pace", "0", "--do_sample", "False"], &[]);
    terminal.wait_for_text("> ");
    terminal.press(&format!("{PROBLEM}\n"));
    terminal.wait_for_text("\\boxed{31}");
    terminal.wait_for("second question", |it| it.screen().lines().filter(|row| row.starts_with('>')).count() == 2);
    terminal.press(CTRL_D);
    assert_eq!(terminal.exit_code(), 0);
    assert_golden("session", &[("the end", terminal.picture())]);
}

#[test]
fn lines_that_are_pasted_together_are_one_question() {
    let mut terminal = Terminal::start(USUAL, TPV, &["run", "--pace", "0", "--do_sample", "False"], &[]);
    terminal.wait_for_text("> ");
    let (first, second) = PROBLEM.split_once(". ").unwrap();
    terminal.press(&format!("{first}.\n{second}\n"));
    terminal.wait_for_text("an empty line ends it");
    terminal.press("\n");
    terminal.wait_for_text("\\boxed{");
    terminal.wait_for("second question", |it| it.screen().lines().filter(|row| row.starts_with('>')).count() == 2);
    terminal.press(CTRL_D);
    assert_eq!(terminal.exit_code(), 0);
}

#[cfg(unix)]
#[test]
fn ctrl_z_suspends_and_fg_goes_on() {
    let Ok(true) = std::fs::exists("/bin/bash") else { return eprintln!("skipped: no bash, whose jobs are suspended") };
    let mut terminal = Terminal::start((30, 90), "/bin/bash", &["--norc", "--noprofile", "-i"], &[("PS1", "$ ")]);
    terminal.wait_for_text("$ ");
    terminal.press(&format!("{TPV} run --pace 20 --do_sample False '{PROBLEM}'\n"));
    terminal.wait_for("live line", |it| it.line().is_some());
    terminal.press("\x1a");
    terminal.wait_for_text("Stopped");
    terminal.press("fg\n");
    terminal.wait_for_text("\\boxed{31}");
    terminal.wait_for("the shell's prompt", |it| it.screen().trim_end().ends_with('$'));
    terminal.press("exit\n");
    assert_eq!(terminal.exit_code(), 0);
}

#[test]
fn a_race_has_two_bars_side_by_side() {
    let args = ["race", "--alpha", "25", "--pace", "15", "--do_sample", "False", PROBLEM];
    // A drawing may come between the twentieth tokens of the two.
    let both = " 20 tok  │  alpha 25 ░░░░░░░░░░  9 % 20 tok";
    let drawings = drawings(|| Terminal::start(USUAL, TPV, &args, &[]), &[both]);
    let [middle, last] = drawings.try_into().unwrap();
    assert_golden("race", &[("in the middle", middle), ("the end", last)]);
}

#[test]
fn a_race_in_a_narrow_terminal_keeps_both_percentages() {
    let args = ["race", "--alpha", "25", "--pace", "0", "--do_sample", "False", PROBLEM];
    let mut terminal = Terminal::start((16, 50), TPV, &[&args[..4], &["10"], &args[5..]].concat(), &[]);
    terminal.wait_for("two percentages", |it| it.screen().lines().any(|row| row.matches(" %").count() == 2));
    terminal.press("q");
    assert_eq!(terminal.exit_code(), 0);
}

#[test]
fn a_race_that_does_not_fit_into_a_table_ends_without_one() {
    let args = ["race", "--alpha", "25", "--pace", "0", "--do_sample", "False", PROBLEM];
    let mut terminal = Terminal::start((16, 40), TPV, &args, &[]);
    assert_eq!(terminal.exit_code(), 0);
    assert_golden("race_narrow", &[("the end in 40 columns", terminal.picture())]);
    let mut terminal = Terminal::start((30, 20), TPV, &args, &[]);
    assert_eq!(terminal.exit_code(), 0);
    let screen = terminal.screen();
    let has = |text: &str| screen.lines().any(|row| row.trim_end() == text);
    assert!(has("alpha 0") && has("alpha 25") && !screen.contains('─'), "{screen}");
}

#[test]
fn a_race_whose_thoughts_were_ended_by_a_key_compares_nothing() {
    for (key, how) in [("q", "stopped"), ("e", "ended by key")] {
        let args = ["race", "--pace", "20", "--do_sample", "False", LONG_PROBLEM];
        let mut terminal = Terminal::start((16, 160), TPV, &args, &[]);
        terminal.wait_for_text(" tok");
        terminal.press(key);
        assert_eq!(terminal.exit_code(), 0);
        let screen = terminal.screen();
        for alpha in ["0", "15"] {
            assert!(screen.contains(&format!("the thought of alpha {alpha} was {how} at ")), "{screen}");
        }
        assert!(
            screen.contains("not comparable: ") && !screen.contains("saved") && !screen.contains("took"),
            "{screen}"
        );
    }
}

#[test]
fn a_terminal_that_cannot_move_its_cursor_gets_plain_lines() {
    let args = ["run", "--pace", "0", "--do_sample", "False", PROBLEM];
    let mut terminal = Terminal::start(USUAL, TPV, &args, &[("TERM", "dumb")]);
    assert_eq!(terminal.exit_code(), 0);
    assert!(!terminal.picture().contains('|'), "no inks:\n{}", terminal.picture());
}
