//! The streaming fit: sums made while sampling, shards, and training on sums or on several data sets.

use crate::reference::{Thought, ridge};
use crate::workplace::{Workplace, names, npy_vector};
use serde_json::Value;
use std::fs;
use tpv_core::split::dealt_part;
use tpv_data::atomic::Claim;
use tpv_data::source::{TraceId, TraceSource};
use tpv_data::sums::{PARTS, load_sums};
use tpv_data::tensors::TensorFile;
use tpv_data::trace::TraceStore;

const WIDTH: usize = 192;
const GENERATE: &str = "generate --model thinker --dataset thinker --dtype f32 --end_problem_index 12 \
                        --generations_per_problem 2 --max_new_tokens 900";

/// The thinking states of the finished thoughts of a folder, read without the program's own readers of traces.
fn thoughts(place: &Workplace, folder: &str) -> Vec<(TraceId, Thought)> {
    let store = TraceStore::open(&place.path(folder)).unwrap();
    let finished = store.headers().iter().filter(|header| header.thinking_ended);
    let read = finished.map(|header| {
        let file = TensorFile::open(&store.problem_path(header.id.problem)).unwrap();
        let states = file.matrix(&format!("generation_{}.hidden_states", header.id.generation)).unwrap();
        let mut values = Vec::new();
        states.read_rows(0, header.thinking_tokens, &mut values);
        let states = values.chunks(WIDTH).map(|row| row.iter().map(|&it| f64::from(it)).collect()).collect();
        (header.id, Thought { states })
    });
    read.collect()
}

/// The bytes of the arrays of a safetensors file, without the header.
fn arrays(place: &Workplace, file: &str) -> Vec<u8> {
    let bytes = place.read(file);
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].to_vec()
}

fn json(place: &Workplace, file: &str) -> Value {
    serde_json::from_slice(&place.read(file)).unwrap()
}

fn close(a: &[f32], b: &[f32], relative: f32) -> bool {
    let greatest = b.iter().fold(0f32, |max, it| max.max(it.abs()));
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() <= relative * greatest)
}

#[test]
fn two_processes_do_not_sum_into_one_file() {
    let place = Workplace::new();
    let line = "generate --model thinker --dataset thinker --end_problem_index 1 --generations_per_problem 1 \
                --max_new_tokens 20 --fit --output_dir run";
    let claim = Claim::of(&place.path("run/sums.safetensors")).unwrap();
    assert!(claim.is_some());
    place.refused(line, &["another process is summing into it"]);
    place.ok(&format!("{line} --shard 1/2"));
    drop(claim);
    place.ok(line);
}

#[test]
fn the_sums_are_those_of_the_states_that_would_have_been_kept() {
    let place = Workplace::new();
    place.ok(&format!("{GENERATE} --fit --output_dir kept"));
    let run = place.ok(&format!("{GENERATE} --fit --keep_states none --output_dir bare"));
    assert!(run.stdout.contains("no states were kept"), "{}", run.stdout);
    assert_eq!(arrays(&place, "bare/sums.safetensors"), arrays(&place, "kept/sums.safetensors"));

    let thoughts = thoughts(&place, "kept");
    let (record, parts) = load_sums(&place.path("bare/sums.safetensors")).unwrap();
    assert_eq!(record.problems, (0..12).collect::<Vec<_>>());
    assert_eq!(record.thoughts.len(), thoughts.len());
    assert_eq!(record.thoughts.len() + record.left_out.len(), 24);
    for (number, part) in parts.iter().enumerate() {
        let of_part = thoughts.iter().filter(|(id, _)| dealt_part(id.problem as u64, PARTS) == number);
        let rows: Vec<&Vec<f64>> = of_part.flat_map(|(_, thought)| &thought.states).collect();
        assert_eq!(part.rows(), rows.len() as u64);
        for (i, j) in [(0, 0), (7, 3), (100, 191), (191, 191)] {
            let expected: f64 = rows.iter().map(|row| row[i] * row[j]).sum();
            let size = (part.gram(i, i) * part.gram(j, j)).sqrt();
            assert!((part.gram(i, j) - expected).abs() <= 1e-12 * size, "part {number}, entry {i}, {j}");
        }
    }

    // Nothing of the states is left, everything else is.
    let (kept, bare) = (TraceStore::open(&place.path("kept")).unwrap(), TraceStore::open(&place.path("bare")).unwrap());
    for (kept_header, header) in kept.headers().iter().zip(bare.headers()) {
        assert_eq!(header.thinking_rows, 0);
        assert_eq!(kept.token_ids(header.id).unwrap(), bare.token_ids(header.id).unwrap());
        assert_eq!(kept_header.thinking_tokens, header.thinking_tokens);
        let texts = |store: &TraceStore| {
            store.record(header.id.problem).unwrap().generations[header.id.generation].text.clone()
        };
        assert_eq!(texts(&kept), texts(&bare));
    }
    let states: usize = thoughts.iter().map(|(_, thought)| thought.states.len() * WIDTH * 2).sum();
    let files = names(&place.path("bare")).into_iter().filter(|name| name.starts_with("problem_"));
    let bytes: u64 = files.map(|name| fs::metadata(place.path("bare").join(name)).unwrap().len()).sum();
    assert!((bytes as usize) < states / 20, "{bytes} bytes of files for {states} bytes of states");
    place.refused("prepare --input_dir bare --output_dir no", &["no states were kept", "tpv train bare"]);
}

#[test]
fn training_on_sums_fits_and_measures_what_the_states_would_have_given() {
    let place = Workplace::new();
    place.ok(&format!("{GENERATE} --fit --output_dir traces"));
    let run = place.ok("train traces --output_dir of_sums");
    assert!(run.stdout.contains("has no calibration"), "{}", run.stdout);
    place.ok("prepare --input_dir traces --output_dir dataset");
    place.ok("train --input_dir dataset --output_dir of_states");
    let weights = |folder: &str| npy_vector(&place.read(&format!("{folder}/tpv_linear_weights.npy")));
    assert!(close(&weights("of_sums"), &weights("of_states"), 1e-4));

    // The fifth that is held out last, by Gaussian elimination and over every single state.
    let thoughts = thoughts(&place, "traces");
    let is_held_out = |id: &TraceId| dealt_part(id.problem as u64, PARTS) == PARTS - 1;
    let (held_out, others): (Vec<_>, Vec<_>) = thoughts.into_iter().partition(|(id, _)| is_held_out(id));
    let others: Vec<Thought> = others.into_iter().map(|(_, thought)| thought).collect();
    let theta = ridge(&others, 0);
    let mut errors = Vec::new();
    for (_, thought) in &held_out {
        for (j, state) in thought.states.iter().enumerate() {
            let read: f64 = state.iter().zip(&theta).map(|(h, weight)| h * weight).sum();
            errors.push((read - (j + 1) as f64 / thought.states.len() as f64).powi(2));
        }
    }
    let expected = errors.iter().sum::<f64>() / errors.len() as f64;
    let metrics = json(&place, "of_sums/metrics.json");
    let figures = metrics["held_out"].as_array().unwrap();
    let names: Vec<&str> = figures.iter().filter_map(|it| it["predictor"].as_str()).collect();
    assert_eq!(names, ["mean", "position only", "theta", "theta + intercept"]);
    let found = figures[2]["mse_of_parts"][PARTS - 1].as_f64().unwrap();
    assert!((found / expected - 1.0).abs() < 1e-5, "{found} and {expected}");

    // The vector reads a live thought, without a time left.
    place.ok("run --model thinker --tpv of_sums --max_new_tokens 30 What_is_3_+_4?");
}

#[test]
fn shards_never_overlap_and_together_are_the_whole() {
    let place = Workplace::new();
    let line = format!("{GENERATE} --fit --keep_states none --output_dir");
    place.ok(&format!("{line} whole"));
    for shard in 1..=3 {
        place.ok(&format!("{line} shard_{shard} --shard {shard}/3"));
        place.ok(&format!("{line} shared --shard {shard}/3"));
    }
    let whole = place.run_files("whole");
    let mut union = std::collections::BTreeMap::new();
    for shard in 1..=3 {
        let files = place.run_files(&format!("shard_{shard}"));
        assert!(files.contains_key(&format!("sums_{shard}_of_3.safetensors")), "{:?}", files.keys());
        assert_eq!(files["run.json"], whole["run.json"]);
        for (name, bytes) in files.into_iter().filter(|(name, _)| name.starts_with("problem_")) {
            assert_eq!(bytes, whole[&name]);
            assert!(union.insert(name, bytes).is_none(), "two shards did the same problem");
        }
    }
    assert_eq!(union.len(), 12);
    let shared = place.run_files("shared");
    assert!(union.iter().all(|(name, bytes)| shared[name] == *bytes));

    place.ok("train whole --output_dir of_whole");
    place.ok("train shard_1 shard_2 shard_3 --output_dir of_shards");
    place.ok("train shard_3 shard_1 shard_2 --output_dir of_shards_again");
    place.ok("train shared --output_dir of_shared");
    let weights = |folder: &str| place.read(&format!("{folder}/tpv_linear_weights.npy"));
    assert_eq!(weights("of_shards"), weights("of_shards_again"));
    assert_eq!(weights("of_shards"), weights("of_shared"));
    assert!(close(&npy_vector(&weights("of_shards")), &npy_vector(&weights("of_whole")), 1e-4));
    assert_eq!(json(&place, "of_shards/metrics.json")["thoughts"], json(&place, "of_whole/metrics.json")["thoughts"]);
    place.refused("train whole shard_1 --output_dir no", &["of the same run is in", "name each run or shard once"]);
}

#[test]
fn several_data_sets_are_trained_on_as_one() {
    let place = Workplace::new();
    for (folder, range) in [("a", "--end_problem_index 6"), ("b", "--start_problem_index 6 --end_problem_index 12")] {
        place.ok(&format!("{} {range} --output_dir traces_{folder}", GENERATE.replace("--end_problem_index 12 ", "")));
        place.ok(&format!("prepare --input_dir traces_{folder} --output_dir {folder}"));
    }
    place.ok(&format!("{GENERATE} --output_dir traces"));
    place.ok("prepare --input_dir traces --output_dir whole");
    place.ok("train whole --output_dir of_whole");
    place.ok("train a b --output_dir of_both");
    place.ok("train b a --output_dir of_both_again");
    let weights = |folder: &str| npy_vector(&place.read(&format!("{folder}/tpv_linear_weights.npy")));
    assert!(close(&weights("of_both"), &weights("of_whole"), 1e-4));
    assert_eq!(place.read("of_both/tpv.safetensors"), place.read("of_both_again/tpv.safetensors"));
    assert_eq!(
        json(&place, "of_both/metrics.json")["refit_traces"],
        json(&place, "of_whole/metrics.json")["refit_traces"]
    );
    place.refused("train a a --output_dir no", &["it is of the same traces as"]);
    place.refused("train a whole --output_dir no", &["of the same run", "name each run or shard once"]);
    assert!(!place.path("no").exists());
}

#[test]
fn what_cannot_be_summed_or_trained_on_is_named() {
    let place = Workplace::new();
    let line = "generate --model thinker --dataset thinker --dtype f32 --end_problem_index 3 --generations_per_problem 1 \
                --max_new_tokens 900";
    place.refused(&format!("{line} --keep_states none --output_dir no"), &["--keep_states none", "add --fit"]);
    assert!(!place.path("no").exists());
    assert_eq!(place.run(&format!("{line} --shard 4/3 --output_dir no")).code, Some(2));
    place.ok(&format!("{line} --fit --keep_states none --output_dir bare"));
    place.ok(&format!("{line} --fit --output_dir kept"));
    place.ok("prepare --input_dir kept --output_dir dataset");
    place.refused(
        "train bare dataset --output_dir no",
        &["dataset: a data set cannot be trained on together with sums"],
    );
    place.refused("train bare bare --output_dir no", &["of the same run is in", "name each run or shard once"]);
    place.write("bare/problem_9.safetensors", "");
    place.refused(&format!("{line} --fit --output_dir bare"), &["bare/run.json", "its states_kept is false"]);

    // Sums of another run that were put there are not gone on with.
    fs::copy(place.path("bare/sums.safetensors"), place.path("kept/sums.safetensors")).unwrap();
    place.refused(&format!("{line} --fit --output_dir kept"), &["the sums are of another run", "states_kept"]);

    // Where the sums are lost with the states, the problems are sampled again.
    let before = place.read("bare/sums.safetensors");
    fs::remove_file(place.path("bare/sums.safetensors")).unwrap();
    place.ok(&format!("{line} --fit --keep_states none --output_dir bare"));
    assert_eq!(place.read("bare/sums.safetensors"), before);

    let torn = &before[..before.len() - 9];
    place.write("bare/sums.safetensors", torn);
    place.refused("train bare --output_dir no", &["sums.safetensors: not a complete safetensors file"]);
    assert!(!place.path("no").exists());
}

#[test]
fn thoughts_without_an_end_are_left_out_of_the_sums_and_counted() {
    let place = Workplace::new();
    let line = "generate --model thinker --dataset thinker --dtype f32 --end_problem_index 6 --generations_per_problem 2 \
                --max_new_tokens 120 --fit --keep_states none --output_dir bare";
    let run = place.ok(line);
    let (record, _) = load_sums(&place.path("bare/sums.safetensors")).unwrap();
    assert!(!record.left_out.is_empty() && record.thoughts.len() + record.left_out.len() == 12);
    let sentence = format!("left out: {} (unfinished", record.left_out.len());
    assert!(run.stdout.contains(&sentence), "{}", run.stdout);
}

#[test]
fn a_finished_fit_says_what_its_sums_take() {
    let place = Workplace::new();
    let line = "generate --json --model thinker --dataset thinker --end_problem_index 2 --generations_per_problem 1 \
                --max_new_tokens 300 --fit --output_dir traces";
    for _ in 0..2 {
        let summary: Value = serde_json::from_str(place.ok(line).stdout.lines().last().unwrap()).unwrap();
        assert!(summary["data"]["fit"]["bytes"].as_u64().unwrap() > 0, "{summary}");
    }
}

#[test]
fn problems_that_were_generated_without_the_sums_are_told_of() {
    let place = Workplace::new();
    let line = |problems: usize| {
        format!(
            "generate --model thinker --dataset thinker --end_problem_index {problems} --generations_per_problem 1 \
             --max_new_tokens 300 --output_dir traces"
        )
    };
    place.ok(&format!("{} --fit", line(6)));
    let told =
        || place.ok("train traces --output_dir vector").stderr.contains("2 of the 8 problems in the folder are not");
    assert!(!told());
    place.ok(&line(8));
    assert!(told());
}

#[test]
fn shards_in_one_folder_are_whole_together_and_copies_in_sums_are_told_of() {
    let place = Workplace::new();
    let problem = |name: &str| {
        format!(
            "{{\"problem\": \"{name} has 2 pens. Day 1: finds 1. How many pens does {name} have now?\", \"answer\": \"3\"}}\n"
        )
    };
    let names = ["Ben", "Ann", "Tom", "Eva"];
    place.write("names.jsonl", names.map(problem).concat());
    place.write("shifted.jsonl", ["Ann", "Tom", "Eva", "Ben"].map(problem).concat());
    let line = "generate --model thinker --generations_per_problem 1 --max_new_tokens 300 --fit --end_problem_index 4";
    for shard in ["1/2", "2/2"] {
        place.ok(&format!("{line} --dataset names.jsonl --shard {shard} --output_dir names"));
    }
    place.ok(&format!("{line} --dataset shifted.jsonl --output_dir shifted"));
    let run = place.ok("train names --output_dir vector");
    assert!(
        !run.stderr.contains("are not in its sums") && !run.stderr.contains("under several indexes"),
        "{}",
        run.stderr
    );
    let run = place.ok("train names shifted --output_dir both");
    assert!(run.stderr.contains("4 problem(s) are in the sums under several indexes"), "{}", run.stderr);
    let run = place.ok(&format!("{line} --dataset names.jsonl --output_dir names"));
    assert!(run.stdout.contains("no problem is summed in names/sums.safetensors"), "{}", run.stdout);
}
