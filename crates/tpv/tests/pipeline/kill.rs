//! A run that is killed at any moment and repeated leaves the same files as one that was left alone.

use crate::workplace::{Workplace, names, npy};
use std::process::Stdio;
use std::time::{Duration, Instant};

const PROBLEMS: usize = 8;
const LINE: &str = "generate --model thinker --dataset thinker --end_problem_index 8 --generations_per_problem 2 \
                    --max_new_tokens 100 --dtype f32 --max_batch 4 --output_dir";

fn problem_files(place: &Workplace, folder: &str) -> usize {
    names(&place.path(folder)).iter().filter(|name| name.starts_with("problem_")).count()
}

/// Starts the run and kills it as soon as `moment` holds; returns whether it was killed before its end.
fn kill_when(place: &Workplace, folder: &str, moment: impl FnMut() -> bool) -> bool {
    kill_line_when(place, &format!("{LINE} {folder}"), moment)
}

fn kill_line_when(place: &Workplace, line: &str, mut moment: impl FnMut() -> bool) -> bool {
    let mut command = place.command();
    let command = command.args(line.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    while child.try_wait().unwrap().is_none() && !moment() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap().code().is_none()
}

#[test]
fn killed_at_any_moment_and_repeated_the_files_are_the_same() {
    let place = Workplace::new();
    place.ok(&format!("{LINE} whole"));
    let expected = place.run_files("whole");
    assert_eq!(expected.len(), PROBLEMS + 1);

    // By progress, in one folder that is killed again and again; a file appears at once when it is complete, so
    // killing on its hidden forerunner hits the writing itself.
    let mut killed = kill_when(&place, "cut", || names(&place.path("cut")).iter().any(|it| it.ends_with(".tmp")));
    for wanted in [1, 3, 6] {
        killed |= kill_when(&place, "cut", || problem_files(&place, "cut") >= wanted);
    }
    assert!(killed, "no kill came in time");
    let there = problem_files(&place, "cut");
    let run = place.ok(&format!("{LINE} cut"));
    if there > 0 {
        assert!(run.stderr.contains(&format!("{there} of {PROBLEMS} problems are in cut already")), "{}", run.stderr);
    }
    assert_eq!(place.run_files("cut"), expected);

    // By time, each in a folder of its own.
    for milliseconds in [0, 10, 60, 200] {
        let folder = format!("after_{milliseconds}");
        let start = Instant::now();
        kill_when(&place, &folder, || start.elapsed() >= Duration::from_millis(milliseconds));
        place.ok(&format!("{LINE} {folder}"));
        assert_eq!(place.run_files(&folder), expected, "killed after {milliseconds} ms");
    }
}

#[test]
fn a_streaming_fit_that_is_killed_and_repeated_has_the_same_sums_to_the_bit() {
    let place = Workplace::new();
    let line = LINE.replace("--max_new_tokens 100", "--max_new_tokens 700 --fit --keep_states none");
    place.ok(&format!("{line} whole"));
    let expected = place.run_files("whole");
    assert_eq!(expected.len(), PROBLEMS + 2, "{:?}", expected.keys());

    let line = format!("{line} cut");
    let folder = place.path("cut");
    let mut killed = kill_line_when(&place, &line, || problem_files(&place, "cut") >= 1);
    killed |= kill_line_when(&place, &line, || names(&folder).iter().any(|it| it.starts_with(".sums")));
    killed |= kill_line_when(&place, &line, || names(&folder).iter().any(|it| it == "sums.safetensors"));
    killed |= kill_line_when(&place, &line, || problem_files(&place, "cut") >= 5);
    killed |= kill_line_when(&place, &line, || problem_files(&place, "cut") >= PROBLEMS);
    assert!(killed, "no kill came in time");
    place.ok(&line);
    assert_eq!(place.run_files("cut"), expected);
    // Once more: nothing is there to be done, and nothing is added twice.
    place.ok(&line);
    assert_eq!(place.run_files("cut"), expected);
}

#[test]
fn leftovers_and_damaged_files_are_replaced() {
    let place = Workplace::new();
    let line = "generate --model thinker --dataset thinker --end_problem_index 2 --generations_per_problem 1 \
                --max_new_tokens 20 --dtype f32 --output_dir";
    place.ok(&format!("{line} whole"));
    place.ok(&format!("{line} cut"));
    place.write("cut/.problem_1.safetensors.x7Yz.tmp", "half of it");
    let damaged = place.read("cut/problem_1.safetensors");
    place.write("cut/problem_1.safetensors", &damaged[..damaged.len() / 2]);
    let run = place.ok(&format!("{line} cut"));
    assert!(run.stderr.contains("problem_1.safetensors") && run.stderr.contains("generated again"), "{}", run.stderr);
    assert_eq!(place.run_files("cut"), place.run_files("whole"));
}

#[test]
fn another_run_is_not_mixed_into_a_folder() {
    let place = Workplace::new();
    let line = "generate --model thinker --dataset thinker --end_problem_index 1 --generations_per_problem 1 \
                --max_new_tokens 10 --output_dir run";
    place.ok(line);
    let before = place.run_files("run");
    place.refused(&format!("{line} --seed 43"), &["run/run.json", "its seed is 42, now 43", "choose another folder"]);
    place.refused(&format!("{line} --temperature 0.7"), &["its sampling.temperature is 0.6, now 0.7"]);
    place.refused(&line.replace("tokens 10", "tokens 11"), &["its max_new_tokens is 10, now 11"]);
    assert_eq!(place.run_files("run"), before);
}

#[test]
fn an_intervention_goes_on_where_it_was_killed() {
    let place = Workplace::new();
    let values: Vec<u8> = (0..192).flat_map(|i| ((i % 7) as f32 * 1e-3).to_le_bytes()).collect();
    place.write("v.npy", crate::workplace::npy("<f4", "(192,)", &values));
    let line = "intervene --model thinker --dataset thinker --intervention_vector_path v.npy --problem_start_idx 0 \
                --problem_end_idx 4 --alpha 5 --max_new_tokens 60 --dtype f32 --max_batch 2 --output_generations_dir";
    place.ok(&format!("{line} whole"));
    let mut command = place.command();
    let mut child = command.args(format!("{line} cut").split_whitespace()).stderr(Stdio::null()).spawn().unwrap();
    let log = place.path("cut/thinker/math500/results.jsonl");
    let complete_line = || std::fs::read(&log).is_ok_and(|bytes| bytes.contains(&b'\n'));
    while child.try_wait().unwrap().is_none() && !complete_line() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let run = place.ok(&format!("{line} cut"));
    assert!(run.stderr.contains("of 8 responses are there already"), "{}", run.stderr);
    for problem in 0..4 {
        for alpha in ["0.0", "5.0"] {
            let name = format!("thinker/math500/intervention/problem_{problem}/response_alpha_{alpha}.txt");
            assert_eq!(place.text(&format!("cut/{name}")), place.text(&format!("whole/{name}")), "{name}");
        }
    }
}

/// Three commands whose prompts print the date go on on another day.
#[test]
fn the_prompts_of_a_run_print_the_date_of_its_beginning() {
    const OLD: &str = "1000000000"; // in 2001
    let place = Workplace::new();
    place.thinker("dated");
    let template = "{{ bos_token }}{{ strftime_now('%Y') }} {{ messages[0].content }}<think>";
    place.write("dated/chat_template.jinja", template);
    place.write("v.npy", npy("<f4", "(192,)", &1e-3f32.to_le_bytes().repeat(192)));
    let problem = |name: &str| format!("{{\"problem\": \"{name} has 2 pens.\", \"answer\": \"2\"}}\n");
    place.write("two.jsonl", ["Ben", "Ann"].map(problem).concat());
    let line = "--dataset two.jsonl --chat_template --max_new_tokens 5";
    let generate = format!("generate --model dated {line} --generations_per_problem 1 --output_dir traces");
    let intervene = format!("intervene --model dated {line} --vector v.npy --alpha 5 --output_generations_dir out");
    let sweep = format!(
        "sweep --model dated {line} --tpv v.npy --policy constant:5 --budgets 3 --generations_per_problem 1 --output_dir sweep"
    );
    for (line, first, second, file) in [
        (generate, "--end_problem_index 1", "--end_problem_index 2", "traces/run.json"),
        (intervene, "--problem_end_idx 1", "--problem_end_idx 2", "out/dated/math500/results.jsonl"),
        (sweep, "--problem_end_idx 1", "--problem_end_idx 2", "sweep/results.jsonl"),
    ] {
        let line = line.replace("--vector", "--intervention_vector_path");
        let start = if line.starts_with("generate") { "" } else { "--problem_start_idx 0" };
        place.ok(&format!("{line} {start} {first}"));
        let text = place.text(file);
        let (before, clock) = text.split_once("\"clock_unix_secs\":").expect(file);
        let clock: String = clock.trim_start().chars().take_while(char::is_ascii_digit).collect();
        assert!(clock.len() == 10 && !before.contains(&clock), "{clock}");
        place.write(file, text.replace(&clock, OLD));
        place.ok(&format!("{line} {start} {second}"));
        let text = place.text(file);
        assert!(text.contains(OLD) && !text.contains(&clock), "{file}: {text}");
    }
    let prompts = place.text("out/dated/math500/results.jsonl");
    assert!(prompts.lines().filter(|line| line.contains("2001 Ann has 2 pens.")).count() == 2, "{prompts}");
    let traces = String::from_utf8_lossy(&place.read("traces/problem_1.safetensors")).into_owned();
    assert!(traces.contains("2001 Ann has 2 pens."), "the generation that came later");
}
