//! `tpv run` without a terminal: plain text, JSON lines, pipes that close.
#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing fails")]

use assert_cmd::Command;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

const PROBLEM: &str = "Ben has 29 stamps. Day 1: buys 2. How many stamps does Ben have now?";
/// The end of the answer; the toy model may forget who it is about.
const ANSWER: &str = "\\boxed{31} stamps.\n";

/// The program with a vector library of its own, which is empty.
fn tpv(args: &[&str]) -> (Command, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tpv"));
    command.args(args).env("TPV_HOME", home.path());
    (command, home)
}

fn lines(args: &[&str]) -> Vec<Value> {
    let (mut command, _home) = tpv(&["run", "--json"]);
    let output = command.args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text(args: &[&str]) -> String {
    lines(args).iter().filter_map(|line| line["data"]["text"].as_str()).collect()
}

#[test]
fn the_answer_is_data_and_the_rest_is_talk() {
    let (mut command, _home) = tpv(&["run", "--do_sample", "False", PROBLEM]);
    let output = command.output().unwrap();
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(answer.ends_with(ANSWER) && answer.lines().count() == 1, "{answer}");
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(talk.contains("thought for ") && !talk.contains('\x1b'), "{talk}");
}

#[test]
fn the_prompt_may_come_on_stdin() {
    for args in [&["run", "--do_sample", "False"][..], &["run", "--do_sample", "False", "-"]] {
        let (mut command, _home) = tpv(args);
        let output = command.write_stdin(format!("{PROBLEM}\n")).output().unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(answer.ends_with(ANSWER) && answer.lines().count() == 1, "{answer}");
    }
}

#[test]
fn json_lines_tell_everything_that_the_live_line_shows() {
    let lines = lines(&["--do_sample", "False", PROBLEM]);
    assert!(lines.iter().all(|line| line["version"] == 1));
    let kinds: Vec<&str> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    let tokens = kinds.iter().filter(|&&kind| kind == "token").count();
    assert_eq!((kinds[0], kinds[1], kinds[2], kinds[kinds.len() - 1]), ("start", "prompt", "token", "finish"));
    assert_eq!(tokens, kinds.len() - 3);
    let finish = &lines[lines.len() - 1]["data"];
    assert_eq!((finish["reason"].as_str(), finish["generated_tokens"].as_u64()), (Some("stop"), Some(tokens as u64)));
    let thinking: Vec<&Value> =
        lines.iter().map(|line| &line["data"]).filter(|data| data["phase"] == "thinking").collect();
    assert_eq!(finish["thinking_tokens"].as_u64(), Some(thinking.len() as u64));
    let progress: Vec<f64> = thinking.iter().map(|data| data["reading"]["progress"].as_f64().unwrap()).collect();
    let (end, before) = progress.split_last().unwrap();
    assert!(*end == 1.0 && before.iter().all(|&progress| progress < 1.0), "100 % is the end and nothing else");
    let left = |data: &Value| data["remaining_secs"]["value"].as_f64();
    assert!(thinking.iter().skip(5).all(|data| left(data).is_some()), "the time left is known");
}

#[test]
fn a_seed_determines_the_text_and_alpha_acts() {
    let sampled = ["--seed", "7", PROBLEM];
    assert_eq!(text(&sampled), text(&sampled));
    assert_ne!(text(&["--do_sample", "False", "--alpha", "60", PROBLEM]), text(&["--do_sample", "False", PROBLEM]));
}

#[test]
fn a_closed_pipe_ends_the_program_quietly() {
    let home = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tpv"))
        .args(["run", "--json", "--pace", "200", PROBLEM])
        .env("TPV_HOME", home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("\"start\""));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn bad_input_is_answered_with_advice() {
    for (args, advice) in [
        (&["run", "  "][..], "the prompt is empty"),
        (&["run", "--tpv", "nowhere.safetensors", "x"], "nowhere.safetensors"),
        (&["run", "--tpv", "unheard-of", "x"], "unheard-of"),
        (&["run", "--max_new_tokens", "0", "x"], "at least 1"),
        (&["run", "--temperature=-1", "x"], "temperature"),
    ] {
        let (mut command, _home) = tpv(args);
        let output = command.output().unwrap();
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && talk.contains(advice) && !talk.contains("panicked"), "{args:?}: {talk}");
    }
}

#[cfg(unix)]
#[test]
fn without_a_terminal_a_line_comes_now_and_then_and_ctrl_c_ends_it() {
    let problem =
        "Kate has 5 cookies. Day 1: buys 2. Day 2: finds 5. Day 3: sells 9. How many cookies does Kate have now?";
    let home = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tpv"))
        .args(["run", "--pace", "10", problem])
        .env("TPV_HOME", home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut talk = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = talk.next().unwrap().unwrap();
    assert!(line.starts_with("thinking ") && line.contains(" %  ") && line.contains(" s left ("), "{line}");
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let rest: Vec<String> = talk.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert_eq!(rest.last().map(String::as_str), Some("stopped"));
}
