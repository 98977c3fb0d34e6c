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

/// The lines of `tpv race --json`, and its exit code; `at_token` is called with the process once the first token has come.
fn race(args: &[&str], at_token: impl Fn(u32)) -> (Vec<Value>, Option<i32>) {
    let home = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tpv"))
        .args(["race", "--json", "--do_sample", "False"])
        .args(args)
        .env("TPV_HOME", home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines: Vec<Value> = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let is_first = lines.iter().all(|line| line["type"] != "token");
        if line["type"] == "token" && is_first {
            at_token(child.id());
        }
        lines.push(line);
    }
    (lines, child.wait().unwrap().code())
}

/// What a race found.
fn found(lines: &[Value]) -> &Value {
    let last = lines.last().unwrap();
    assert_eq!(last["type"], "race", "{last}");
    &last["data"]
}

#[test]
fn a_race_says_what_was_asked_and_whose_lines_are_whose() {
    let (lines, code) = race(&["--seed", "5", PROBLEM], |_| {});
    assert_eq!(code, Some(0));
    let start = &lines[0]["data"];
    assert_eq!(
        (&lines[0]["type"], start["seed"].as_u64(), start["alpha"].as_f64()),
        (&"start".into(), Some(5), Some(15.0))
    );
    assert!(start["prompt"].as_str().unwrap().contains(PROBLEM) && start["model"]["name"] == "thinker", "{start}");
    for sample in [0, 1] {
        let of = |kind: &str| lines.iter().filter(|it| it["type"] == kind && it["data"]["sample"] == sample).count();
        let finish = lines.iter().find(|it| it["type"] == "finish" && it["data"]["sample"] == sample).unwrap();
        assert_eq!((of("prompt"), of("finish")), (1, 1));
        assert_eq!(finish["data"]["generated_tokens"], of("token"));
        let thinking = lines.iter().filter(|it| it["data"]["sample"] == sample && it["data"]["phase"] == "thinking");
        assert_eq!(finish["data"]["thinking_tokens"], thinking.count());
    }
    let tokens = [0, 1].map(|k| found(&lines)["runners"][k]["finish"]["thinking_tokens"].as_i64().unwrap());
    assert_eq!(found(&lines)["saved_thinking_tokens"], tokens[0] - tokens[1]);
}

#[test]
fn thoughts_that_did_not_end_are_not_compared() {
    let (lines, code) = race(&["--max_new_tokens", "9", PROBLEM], |_| {});
    assert!(code == Some(0) && found(&lines)["saved_thinking_tokens"].is_null(), "{code:?} {}", found(&lines));
    // Alpha 25 ends its thought within the limit, alpha 0 does not.
    let (mut command, _home) =
        tpv(&["race", "--do_sample", "False", "--max_new_tokens", "50", "--alpha", "25", PROBLEM]);
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(said.contains("\nnot comparable: the thought of alpha 0 was cut at 50 tokens\n"), "{said}");
    assert!(!said.contains("saved") && !said.contains("of alpha 25"), "{said}");
}

#[cfg(unix)]
#[test]
fn a_race_that_is_interrupted_still_says_how_far_it_came() {
    let interrupt = |pid: u32| {
        assert!(std::process::Command::new("kill").args(["-INT", &pid.to_string()]).status().unwrap().success());
    };
    let (lines, code) = race(&["--pace", "20", PROBLEM], interrupt);
    assert_eq!(code, Some(130));
    assert!(found(&lines)["saved_thinking_tokens"].is_null());
    assert!((0..2).all(|k| found(&lines)["runners"][k]["finish"]["reason"] == "cancelled"), "{}", found(&lines));
}

#[test]
fn foreign_text_steers_no_terminal() {
    let escape = "\x1b]0;PWNED\x07\u{202e}";
    let problem = format!("{escape}{PROBLEM}");
    let path = format!("no{escape}\nwhere.safetensors");
    for args in [
        &["race", "--max_new_tokens", "3", &problem][..],
        &["run", "--tpv", &path, "x"],
        &["run", "--model", &path, "x"],
        &["prepare", "--input_dir", &path],
        &["vectors", "import", &path],
        &["serve", "--host", &path],
        &["run", "--alpha", &path],
        &["run", &format!("--{path}")],
    ] {
        let (mut command, _home) = tpv(args);
        let output = command.output().unwrap();
        let talk = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(talk.contains("\\u{1b}]0;PWNED\\u{7}\\u{202e}"), "{args:?}: {talk}");
        assert!(!talk.contains(|c: char| c != '\n' && c.is_control() || c == '\u{202e}'), "{args:?}: {talk}");
        assert!(args[0] == "race" || talk.contains("}\\nwhere"), "an error is one row: {talk}");
    }
}
