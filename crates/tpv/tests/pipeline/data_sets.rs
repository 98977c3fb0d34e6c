//! Problems and models by name: from the cache, from a file, from a hub that answers on the loopback interface.

use crate::hub::{COMMIT, Hub};
use crate::workplace::{Run, THINKER_FILES, Workplace};
use serde_json::json;
use std::path::PathBuf;
use tpv_data::sums::load_sums;
use tpv_data::trace::{ProblemRecord, TraceStore};

const TINY: &str = "--generations_per_problem 1 --max_new_tokens 4";

fn record(place: &Workplace, folder: &str, problem: usize) -> ProblemRecord {
    TraceStore::open(&place.path(folder)).unwrap().record(problem).unwrap()
}

/// A file of the data sets that may lie beside the checkout.
fn shared(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.is_file() {
        eprintln!("skipped: {} is not there", path.display());
    }
    path.canonicalize().ok()
}

#[test]
fn a_problem_that_is_too_long_for_the_model_stops_nobody_else() {
    let place = Workplace::new();
    let problem = |text: &str| json!({ "problem": text, "answer": "1" }).to_string();
    let lines = [problem("Bob has 2 pens."), problem(&"one ".repeat(3000)), problem("Ann has 3 pens.")];
    place.write("mixed.jsonl", lines.join("\n"));
    let line =
        "generate --model thinker --dataset mixed.jsonl --generations_per_problem 1 --max_new_tokens 9 --output_dir";
    let run = place.ok(&format!("{line} run --fit"));
    assert!(run.stderr.contains("problem 1 is left out: its prompt has"), "{}", run.stderr);
    let (record, _) = load_sums(&place.path("run/sums.safetensors")).unwrap();
    assert_eq!(record.problems, [0, 2]);
    assert!(place.path("run/problem_2.safetensors").is_file() && !place.path("run/problem_1.safetensors").exists());
    place.write("long.jsonl", &lines[1]);
    place.refused(&format!("{line} none").replace("mixed", "long"), &["no problem's prompt leaves room"]);
    place.write("v.safetensors", tpv_thinker::VECTOR);
    let intervene = "intervene --model thinker --dataset mixed.jsonl --problem_start_idx 0 --problem_end_idx 3 --alpha 5 \
                     --intervention_vector_path v.safetensors --max_new_tokens 9 --output_generations_dir out --task_name t";
    assert!(place.ok(intervene).stderr.contains("problem 1 is left out"));
    assert_eq!(place.text("out/thinker/t/results.jsonl").lines().count(), 4);
    let sweep = "sweep --model thinker --dataset mixed.jsonl --tpv v.safetensors --budgets 5 --policy budget:5 --max_new_tokens 9 \
                 --generations_per_problem 1 --temperature 0 --output_dir swept";
    assert!(place.ok(sweep).stderr.contains("problem 1 is left out"));
    assert_eq!(place.text("swept/results.jsonl").lines().count(), 4);
}

#[test]
fn a_shard_without_problems_is_no_failure() {
    let place = Workplace::new();
    let line = "generate --model thinker --dataset thinker --end_problem_index 1 --output_dir out --json --shard";
    let empty: Vec<Run> = (1..=8).map(|shard| place.ok(&format!("{line} {shard}/8 {TINY}"))).collect();
    let told = |run: &&Run| run.stderr.contains("none of these problems belongs to this shard");
    assert_eq!(empty.iter().filter(told).count(), 7);
    assert!(empty.iter().all(|run| run.stdout.contains("\"type\":\"generate\"")));
}

#[test]
fn a_sweep_wants_right_answers() {
    let place = Workplace::new();
    place.write("v.safetensors", tpv_thinker::VECTOR);
    place.write("open.jsonl", json!({ "problem": "Bob has 2 pens." }).to_string());
    let line = "sweep --model thinker --tpv v.safetensors --dataset open.jsonl --budgets 8 --max_new_tokens 20 --output_dir out";
    place.refused(line, &["no problem has a right answer"]);
}

#[test]
fn math500_comes_from_the_cache() {
    let place = Workplace::new();
    let folder = "hf/hub/datasets--HuggingFaceH4--MATH-500";
    place.write(&format!("{folder}/refs/main"), COMMIT);
    let lines =
        "{\"problem\": \"What is $1+1$?\", \"answer\": \"2\"}\n{\"problem\": \"What is $2+2$?\", \"answer\": \"4\"}\n";
    place.write(&format!("{folder}/snapshots/{COMMIT}/test.jsonl"), lines);
    place
        .ok(&format!("generate --model thinker --start_problem_index 1 --end_problem_index 2 {TINY} --output_dir out"));
    let record = record(&place, "out", 1);
    assert_eq!((record.problem_text.as_str(), record.gold.as_deref()), ("What is $2+2$?", Some("4")));
    assert!(record.prompt.starts_with("What is $2+2$?\nPlease reason step by step"), "{}", record.prompt);
}

#[test]
fn the_published_math500_reads_as_a_file() {
    let Some(path) = shared("math500.jsonl") else { return };
    let place = Workplace::new();
    let line = format!("generate --model thinker --dataset {} {TINY} --output_dir", path.display());
    place.ok(&format!("{line} default --start_problem_index 499 --end_problem_index 500"));
    place.ok(&format!("{line} named --end_problem_index 1 --problem_field problem --answer_field answer"));
    assert_eq!(record(&place, "named", 0).gold.as_deref(), Some("\\left( 3, \\frac{\\pi}{2} \\right)"));
    place.refused(&format!("{line} out --end_problem_index 501"), &["beyond the 500 problems"]);
    place.refused(&format!("{line} out --end_problem_index 1 --problem_field task"), &["task", "--problem_field"]);
}

#[test]
fn the_published_gsm8k_reads_as_a_file() {
    let Some(path) = shared("gsm8k_train.jsonl") else { return };
    let place = Workplace::new();
    place.ok(&format!(
        "generate --model thinker --dataset {} --end_problem_index 1 {TINY} --output_dir out",
        path.display()
    ));
    let record = record(&place, "out", 0);
    assert!(record.problem_text.starts_with("Natalia sold clips"), "{}", record.problem_text);
    assert_eq!(record.gold.as_deref(), Some("72"));
}

#[test]
fn a_model_comes_from_the_hub_and_then_from_the_cache() {
    let hub = Hub::start(&[("org/thinker", &THINKER_FILES)]);
    let place = Workplace::new();
    let line = format!("generate --model org/thinker --dataset thinker --end_problem_index 1 {TINY} --output_dir");
    let mut online = place.command();
    let output = hub.prepare(&mut online).args(format!("{line} online").split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    place.ok(&format!("{line} offline"));
    assert_eq!(place.run_files("online"), place.run_files("offline"));
    assert!(place.text("online/run.json").contains(COMMIT));
    place.ok(&line.replace("org/thinker", "thinker").replace("--output_dir", "--output_dir bundled"));
    assert_eq!(record(&place, "bundled", 0).generations, record(&place, "online", 0).generations);
}

#[test]
fn another_data_set_of_the_same_name_is_not_mixed_into_a_run() {
    let place = Workplace::new();
    let problem = |text: &str, answer: &str| json!({"problem": text, "answer": answer}).to_string() + "\n";
    let (first, second) = (problem("Bob has 2 pens. How many?", "2"), problem("Ann has 3 caps. How many?", "3"));
    place.write("a/set.jsonl", &first);
    place.write("b/set.jsonl", second.clone() + &second);
    place.write("c/set.jsonl", problem("Bob has 2 pens. How many?", "4"));
    place.write("d/set.jsonl", first.clone() + &second);
    place.write("e/set.jsonl", first.clone() + &first);
    place.write("f/set.jsonl", first + &problem("Ann has 3 caps. How many?", "4"));
    let line = |folder: &str, end: usize| {
        format!(
            "generate --model thinker --dataset {folder}/set.jsonl --end_problem_index {end} \
             --generations_per_problem 1 --max_new_tokens 9 --output_dir out"
        )
    };
    place.ok(&line("a", 1));
    for other in ["b", "c"] {
        place.refused(&line(other, 1), &["run.json", "another data set named set.jsonl"]);
    }
    place.ok(&line("d", 2));
    place.refused(&line("e", 2), &["problem_1.safetensors", "problem 1 is another one"]);
    place.refused(&line("f", 2), &["problem 1 has another answer"]);
    place.refused(
        "prepare --input_dir out --output_dir set --end_of_thinking_token </foo>",
        &["leave --end_of_thinking_token out"],
    );
}

#[test]
fn a_short_data_set_is_taken_whole_unless_more_is_asked_for() {
    let place = Workplace::new();
    let problem = json!({"problem": "Bob has 2 pens. How many?", "answer": "2"}).to_string() + "\n";
    place.write("three.jsonl", problem.repeat(3));
    let line = format!("generate --model thinker --dataset three.jsonl {TINY} --output_dir out");
    assert!(place.ok(&line).stdout.contains("3 samples of 3 problems"));
    place.refused(&format!("{line} --end_problem_index 4"), &["beyond the 3 problems"]);
}
