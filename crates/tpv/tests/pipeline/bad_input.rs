//! Bad input gets one sentence with the path and the next step, and leaves nothing half-written.

use crate::workplace::{Run, THINKER_FILES, Workplace, check_sentence, names, npy};
use serde_json::json;

const SMALL: &str = "--dataset thinker --end_problem_index 1 --generations_per_problem 1 --max_new_tokens 20";

fn vector(width: usize, value: f32) -> Vec<u8> {
    let values: Vec<u8> = std::iter::repeat_n(value.to_le_bytes(), width).flatten().collect();
    npy("<f4", &format!("({width},)"), &values)
}

/// A folder as the Python scripts make it: so many problems of three thinking tokens, states of one value.
fn python_folder(place: &Workplace, folder: &str, problems: usize, value: u16) {
    for problem in 0..problems {
        let at = |name: &str| format!("{folder}/problem_{problem}/generation_0/{name}");
        place.write(&at("tokens.json"), json!(["Why", "<think>", "a", "b", "</think>", "c"]).to_string());
        let metadata = json!({"input_prompt_length_tokens": 2, "output_generated_length_tokens": 4});
        place.write(&at("metadata.json"), metadata.to_string());
        let states: Vec<u8> = std::iter::repeat_n(value.to_le_bytes(), 4 * 8).flatten().collect();
        place.write(&at("token_hidden_states_output.npy"), npy("<f2", "(4, 8)", &states));
    }
}

#[test]
fn what_is_not_there_is_named() {
    let place = Workplace::new();
    let generate = format!("generate {SMALL} --output_dir out --model");
    place.refused(&format!("{generate} ./nowhere"), &["./nowhere: there is no such folder", "check the path"]);
    place.refused(
        &format!("{generate} org/unknown"),
        &["the model org/unknown", "HF_HUB_OFFLINE is set", "give the path of a local copy"],
    );
    place
        .refused("prepare --input_dir nowhere --output_dir out", &["nowhere: there is no such folder", "tpv generate"]);
    std::fs::create_dir(place.path("empty")).unwrap();
    place.refused("prepare --input_dir empty --output_dir out", &["empty: the folder holds no traces"]);
    place
        .refused("train --input_dir empty --output_dir out", &["empty: the folder has no dataset.json", "tpv prepare"]);
    place.refused(
        &format!("intervene {} --intervention_vector_path no.npy --output_generations_dir out", "--model thinker"),
        &["no.npy: cannot open the file", "check the path"],
    );
    assert!(!place.path("out").exists());
}

#[test]
fn data_sets_that_cannot_be_used_are_named() {
    let place = Workplace::new();
    place.write("empty.jsonl", "");
    place.write("broken.jsonl", "{\"problem\": \"1+1\"}\n{\"prob");
    place.write("other.jsonl", "{\"text\": \"1+1\"}\n");
    place.write("torn.parquet", "PAR1 and no end");
    let line =
        |dataset: &str| format!("generate --model thinker --end_problem_index 1 --output_dir out --dataset {dataset}");
    place.refused(&line("unknown"), &["unknown data set \"unknown\"", "thinker, math500, gsm8k"]);
    place.refused(
        &line("math500"),
        &["the data set HuggingFaceH4/MATH-500", "HF_HUB_OFFLINE is set", "give the path of a local copy"],
    );
    place.refused(&line("nowhere.jsonl"), &["nowhere.jsonl: cannot read the data set", "check the path"]);
    place.refused(&line("empty.jsonl"), &["empty.jsonl: the data set is empty"]);
    place.refused(&line("broken.jsonl"), &["broken.jsonl: line 2 is not JSON"]);
    place.refused(&line("other.jsonl"), &["other.jsonl", "--problem_field"]);
    place.refused(&line("torn.parquet"), &["torn.parquet: not a complete parquet file"]);
    place.refused(
        "generate --model thinker --dataset thinker --start_problem_index 5 --end_problem_index 5 --output_dir out",
        &["problems 5..5 of data set thinker are an empty range", "greater than the start index"],
    );
    place.refused(
        "generate --model thinker --dataset thinker --end_problem_index 401 --output_dir out",
        &["beyond the 400 problems", "at most 400"],
    );
    assert!(!place.path("out").exists());
}

#[test]
fn checkpoints_that_cannot_be_used_are_named() {
    let place = Workplace::new();
    let weights = tpv_thinker::WEIGHTS;
    for folder in ["truncated", "foreign", "wordy", "other_size", "nan"] {
        place.thinker(folder);
    }
    place.write("truncated/model.safetensors", &weights[..weights.len() / 2]);
    place.write("foreign/model.safetensors", "<html>not found</html>");
    let words = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"how": 0, "many": 1, "[UNK]": 2}, "unk_token": "[UNK]"}});
    place.write("wordy/tokenizer.json", words.to_string());
    let config = std::str::from_utf8(tpv_thinker::CONFIG).unwrap();
    place.write("other_size/config.json", config.replace("512", "256"));
    let mut damaged = weights.to_vec();
    let header = 8 + u64::from_le_bytes(damaged[..8].try_into().unwrap()) as usize;
    let shapes: serde_json::Value = serde_json::from_slice(&damaged[8..header]).unwrap();
    let start = header + shapes["model.norm.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    damaged[start..start + 2].copy_from_slice(&[0xC0, 0x7F]);
    place.write("nan/model.safetensors", damaged);
    let line = |model: &str| format!("generate {SMALL} --output_dir out --model ./{model}");
    let next = "copy or download it again";
    place.refused(
        &(line("nan") + " --dtype f32"),
        &["the score of token 0 is not a number; no arithmetic here has a wider range"],
    );
    std::fs::remove_dir_all(place.path("out")).unwrap();
    place.refused(&(line("nan") + " --dtype q8_0"), &["is not a number; try --dtype f32"]);
    std::fs::remove_dir_all(place.path("out")).unwrap();
    place.refused(&line("truncated"), &["truncated/model.safetensors: not a whole safetensors file", next]);
    place.refused(&line("foreign"), &["foreign/model.safetensors: not a whole safetensors file", next]);
    place.refused(&line("wordy"), &["./wordy", "\"</think>\"", "use a reasoning model"]);
    place.refused(
        &line("other_size"),
        &["./other_size: tensor `model.layers.0.mlp.gate_proj.weight` is [512, 192], config.json means"],
    );
    assert!(!place.path("out").exists());
}

#[test]
fn vectors_that_do_not_fit_are_refused_by_name() {
    let place = Workplace::new();
    place.write("narrow.npy", vector(100, 1.0));
    place.write("nan.npy", vector(192, f32::NAN));
    place.write("model.safetensors", tpv_thinker::WEIGHTS);
    place.write("torn.safetensors", &tpv_thinker::WEIGHTS[..1000]);
    place.write("other.npy", "not an array");
    let line = |vector: &str| {
        format!(
            "intervene --model thinker --dataset thinker --problem_start_idx 0 --problem_end_idx 1 --max_new_tokens 10 \
             --output_generations_dir out --intervention_vector_path {vector}"
        )
    };
    place.refused(&line("narrow.npy"), &["narrow.npy: ", "has width 100, thinker", "has 192", "train a vector"]);
    place.refused(&line("nan.npy"), &["nan.npy: value 0 is NaN"]);
    place.refused(&line("model.safetensors"), &["model.safetensors: "]);
    place.refused(&line("torn.safetensors"), &["torn.safetensors: not a complete safetensors file"]);
    place.refused(&line("other.npy"), &["other.npy: "]);
    assert!(!place.path("out").exists());
}

#[test]
fn a_vector_of_another_model_of_the_same_width_is_refused_by_name() {
    let place = Workplace::new();
    place.thinker("mine");
    place.thinker("tuned");
    let mut weights = tpv_thinker::WEIGHTS.to_vec();
    let header_end = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&weights[8..header_end]).unwrap();
    let offset = header["model.norm.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    weights[header_end + offset] ^= 0x40;
    place.write("tuned/model.safetensors", weights);
    place.ok("generate --model ./mine --dataset thinker --end_problem_index 6 --generations_per_problem 1 \
         --max_new_tokens 900 --output_dir traces");
    place.ok("prepare --input_dir traces --output_dir dataset");
    place.ok("train --input_dir dataset --output_dir vector");
    let line = "intervene --dataset thinker --problem_start_idx 0 --problem_end_idx 1 --max_new_tokens 10 \
                --output_generations_dir out --intervention_vector_path vector --model";
    place.refused(&format!("{line} ./tuned"), &["the vector belongs to ./mine", "this is ./tuned", "train a vector"]);
    place.ok(&format!("{line} thinker"));
}

#[test]
fn states_that_are_no_numbers_are_refused() {
    let place = Workplace::new();
    python_folder(&place, "all", 5, 0x7e00);
    place.refused("prepare --input_dir all --output_dir dataset", &["none of the 5 traces can be used", "holds NaN"]);
    assert!(!place.path("dataset").exists());

    // One of six is left out by name; where states are spoilt after the split, train refuses them.
    python_folder(&place, "traces", 5, 0x3c00);
    python_folder(&place, "spoilt", 6, 0x7e00);
    std::fs::rename(place.path("spoilt/problem_5"), place.path("traces/problem_5")).unwrap();
    let run = place.ok("prepare --input_dir traces --output_dir dataset --split reference");
    assert!(run.stdout.contains("left out: 1 (the state in row 1 holds NaN"), "{}", run.stdout);
    assert!(place.text("dataset/dataset.json").contains("problem_5/generation_0"));
    python_folder(&place, "traces", 5, 0x7e00);
    place.refused("train --input_dir dataset --output_dir vector", &["problem_", "generation_0", "NaN"]);
    assert!(!place.path("vector").exists());
}

#[test]
fn traces_without_an_end_are_counted_and_refused() {
    let place = Workplace::new();
    place.ok(&format!("generate --model thinker {SMALL} --output_dir traces"));
    place.refused(
        "prepare --input_dir traces --output_dir dataset",
        &["none of the 1 traces", "1 unfinished", "--max_new_tokens"],
    );
    assert!(!place.path("dataset").exists());
}

#[test]
fn a_theta_of_zeros_is_no_vector() {
    let place = Workplace::new();
    python_folder(&place, "scripts", 12, 0x3c00);
    place.ok("prepare --input_dir scripts --output_dir set");
    place.refused(
        "train --input_dir set --output_dir vector --epsilon 1e300",
        &["nothing is left of theta", "a smaller --epsilon than 1e300"],
    );
    assert!(!place.path("vector").exists());
}

#[test]
fn singular_sums_are_solved_and_said() {
    let place = Workplace::new();
    python_folder(&place, "traces", 5, 0x3c00);
    place.ok("prepare --input_dir traces --output_dir dataset --split reference");
    let run = place.ok("train --input_dir dataset --output_dir vector --epsilon 0");
    assert!(run.stderr.contains("note: train fit: ") && run.stderr.contains("note: final fit: "), "{}", run.stderr);
}

#[test]
fn wishes_that_the_machine_cannot_grant_get_a_notice() {
    let place = Workplace::new();
    for (wish, part) in [("--dtype bf16", "bf16"), ("--torch_dtype float16", "f16")] {
        let run = place.ok(&format!("generate --model thinker {SMALL} --device cpu --output_dir {part} {wish}"));
        assert!(run.stderr.contains("note: ") && run.stderr.contains("using f32"), "{}", run.stderr);
    }
    if !cfg!(feature = "cuda") {
        let run = place.ok(&format!("generate --model thinker {SMALL} --device cuda --output_dir cuda"));
        assert!(run.stderr.contains("note: ") && run.stderr.contains("running on the CPU"), "{}", run.stderr);
    }
    place.refused(
        &format!("generate --model thinker {SMALL} --device tpu --output_dir tpu"),
        &["unknown device \"tpu\""],
    );
    assert!(!place.path("tpu").exists());
}

/// A bound on the size of files stands in for a disk that fills up.
#[cfg(unix)]
#[test]
fn a_file_that_cannot_grow_leaves_nothing_half_written() {
    let place = Workplace::new();
    // Eight states fit into the buffer of a problem, of sixty in f32 the first go through a temporary file.
    let short = SMALL.replace("--max_new_tokens 20", "--max_new_tokens 8");
    let long = SMALL.replace("--max_new_tokens 20", "--max_new_tokens 60 --states_dtype f32");
    for (folder, small, parts) in [
        ("short", &*short, ["short/problem_0.safetensors: cannot write the file", "check the disk"]),
        ("long", &*long, ["long: cannot keep states in a temporary file of this folder", "check the disk"]),
    ] {
        let line = format!("generate --model thinker {small} --output_dir {folder}");
        let limited = format!("trap '' XFSZ; ulimit -f 4; exec \"$TPV\" {line}");
        let run: Run = place.shell(&limited).output().unwrap().into();
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        check_sentence(&run, &line, &parts);
        assert_eq!(names(&place.path(folder)), ["run.json"]);
        place.ok(&line);
        assert!(place.path(folder).join("problem_0.safetensors").exists());
    }
}

/// A real full disk, where the system lets a test mount one: once when the first problem's file is written, and once
/// while states are kept for later problems than those that are there.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let place = Workplace::new();
    std::fs::create_dir(place.path("small")).unwrap();
    let long = SMALL.replace("--max_new_tokens 20", "--max_new_tokens 60");
    let line = format!("generate --model thinker {long} --states_dtype f32 --output_dir small");
    let one = line.replace("--max_new_tokens 60", "--max_new_tokens 4");
    let two = line.replace("--end_problem_index 1", "--end_problem_index 2");
    let many = line.replace("--end_problem_index 1", "--end_problem_index 8");
    for (size, before, line, parts, left) in [
        ("8k", "true", &one, "small/problem_0.safetensors: no space is left on the disk", "run.json\n"),
        (
            "224k",
            &*format!("\"$TPV\" {two} >&2"),
            &many,
            "error: small: no space is left on the disk",
            "problem_0.safetensors\nproblem_1.safetensors\nrun.json\ntimings.jsonl\n",
        ),
    ] {
        let script = format!(
            "mount -t tmpfs -o size={size} none small || exit 77; {before} 2>/dev/null; \"$TPV\" {line} >&2; code=$?; \
             ls -A small; exit $code"
        );
        let output = place.shell(&format!("exec unshare -rm sh -c '{script}'")).output().unwrap();
        let mut run: Run = output.into();
        if !matches!(run.code, Some(0 | 1)) || run.stderr.contains("unshare:") {
            return eprintln!("skipped: no file system can be mounted here: {}", run.stderr.trim());
        }
        assert_eq!(run.code, Some(1), "{}{}", run.stdout, run.stderr);
        run.stderr = run.stderr.lines().filter(|text| text.starts_with("error")).collect();
        check_sentence(&run, line, &[parts, "free some space"]);
        assert_eq!(run.stdout, left);
    }
}

#[test]
fn a_gguf_file_takes_its_tokenizer_from_where_it_is_named() {
    let place = Workplace::new();
    place.write("weights/tiny.gguf", "not weights");
    for (file, content) in THINKER_FILES.iter().filter(|(file, _)| *file != "model.safetensors") {
        place.write(&format!("words/{file}"), content);
    }
    let line = format!("generate --model weights/tiny.gguf {SMALL} --output_dir out");
    place.refused(&line, &["weights/tokenizer.json: cannot be read", "--tokenizer_name_or_path"]);
    let named = place.run(&format!("{line} --tokenizer_name_or_path words"));
    assert!(
        named.code == Some(1) && !named.stderr.contains("tokenizer"),
        "only the weights are wrong: {}",
        named.stderr
    );
    let run = place.ok(&format!("generate --model thinker {SMALL} --output_dir out --tokenizer_name_or_path words"));
    assert!(run.stdout.contains("1 samples"), "{}", run.stdout);
}

#[test]
fn a_response_that_is_there_twice_counts_once() {
    let place = Workplace::new();
    place.write("zero.npy", vector(192, 0.0));
    let line = "intervene --json --model thinker --dataset thinker --problem_start_idx 0 --problem_end_idx 1 --max_new_tokens 10 \
                --output_generations_dir out --task_name t --alpha 5 --intervention_vector_path zero.npy";
    let first = place.ok(line).stdout;
    let lines = place.text("out/thinker/t/results.jsonl");
    place.write("out/thinker/t/results.jsonl", format!("{lines}{lines}"));
    assert_eq!(place.ok(line).stdout, first);
}

#[test]
fn responses_that_are_gone_or_of_other_settings_are_written_again() {
    let place = Workplace::new();
    place.write("zero.npy", vector(192, 0.0));
    let line = "intervene --model thinker --dataset thinker --problem_start_idx 0 --problem_end_idx 1 --max_new_tokens 30 \
                --output_generations_dir out --task_name t --alpha 5 --intervention_vector_path zero.npy";
    let response = "out/thinker/t/intervention/problem_0/response_alpha_5.0.txt";
    place.ok(line);
    let first = place.text(response);
    place.ok(&format!("{line} --temperature 1.5 --seed 3"));
    assert_ne!(place.text(response), first);
    place.ok(line);
    assert_eq!(place.text(response), first);
    std::fs::remove_file(place.path(response)).unwrap();
    place.ok(line);
    assert_eq!(place.text(response), first);
}

#[test]
fn a_model_whose_scores_are_no_numbers_fails_everywhere() {
    let place = Workplace::new();
    place.thinker("broken");
    let config = place.text("broken/config.json").replace("\"rope_theta\": 10000.0", "\"rope_theta\": 0");
    assert!(config.contains("\"rope_theta\": 0"), "{config}");
    place.write("broken/config.json", config);
    place.write("zero.npy", vector(192, 0.0));
    for line in ["run hi --model broken", "race hi --model broken --tpv zero.npy"] {
        for json in ["", " --json"] {
            let run = place.run(&format!("{line}{json}"));
            assert_eq!(run.code, Some(1), "{line}{json}: {}{}", run.stdout, run.stderr);
            assert!(run.stderr.contains("the sample failed: the score of token 0 is not a number"), "{}", run.stderr);
        }
    }
    let bench = "bench broken --batch 2 --steps 3 --prompt_tokens 8";
    let run = place.run(bench);
    assert_eq!(run.code, Some(1), "{}", run.stdout);
    assert!(run.stderr.contains("no numbers"), "{}", run.stderr);
}

#[test]
fn numbers_that_no_machine_could_hold_are_wrong_usage() {
    let place = Workplace::new();
    for (line, part) in [
        ("generate --generations_per_problem 99999999999", "more than 1000000"),
        ("sweep --generations_per_problem 99999999999", "more than 1000000"),
        ("bench --batch 1,999999999", "more than 1000000"),
        ("generate --max_batch 0", "at least 1"),
        ("race --max_new_tokens 0", "at least 1"),
        ("generate --max_new_tokens 0", "at least 1"),
        ("explain --max_new_tokens 4294967297", "more than 100000000"),
        ("learn thinker --generations_per_problem 0", "at least 1"),
        ("train --effort_problems 5", "fewer than 30"),
        ("serve --pace 0.1", "at least 0.5, or 0"),
        ("run --alpha nan hi", "not a finite number"),
        ("race --alpha inf", "not a finite number"),
        ("run --pace nan hi", "not a finite number"),
        ("race --pace=-1", "at least 0.5, or 0"),
        ("generate --chat_template --prompt_template {problem}", "cannot be used with"),
    ] {
        let run = place.run(line);
        assert_eq!(run.code, Some(2), "{line}: {}{}", run.stdout, run.stderr);
        assert!(run.stderr.contains(part), "{line}: {}", run.stderr);
    }
}

#[test]
fn traces_without_the_run_that_made_them_are_not_adopted() {
    let place = Workplace::new();
    let line = format!("generate --model thinker {SMALL} --output_dir out");
    place.ok(&line);
    std::fs::remove_file(place.path("out/run.json")).unwrap();
    place.refused(&format!("{line} --seed 9"), &["has traces but no run.json", "choose another folder"]);
    assert!(!place.path("out/run.json").exists());
}

#[test]
fn what_the_python_scripts_wrote_is_kept() {
    let place = Workplace::new();
    python_folder(&place, "scripts", 3, 0x3c00);
    place.refused(
        &format!("generate --model thinker {SMALL} --output_dir scripts"),
        &["scripts: the folder has traces of the Python scripts", "choose another folder"],
    );
    place.write("scripts/problem_007/generation_0/tokens.json", "[]");
    place.write("scripts/problem_1/generation_01/tokens.json", "[]");
    place.write("scripts/problem_9", "no folder");
    let run = place.ok("prepare --input_dir scripts --output_dir set");
    assert!(run.stdout.contains("left out"), "{}", run.stdout);
    let set = place.text("set/dataset.json");
    for name in ["problem_007", "problem_1/generation_01", "problem_9"] {
        assert!(set.contains(&format!("\"{name}\"")), "{name}: {set}");
    }
    place.write("zero.npy", vector(192, 0.0));
    let line = "intervene --model thinker --dataset thinker --problem_start_idx 0 --problem_end_idx 1 --max_new_tokens 10 \
                --output_generations_dir out --task_name t --alpha 5 --intervention_vector_path zero.npy";
    let response = "out/thinker/t/intervention/problem_0/response_alpha_5.0.txt";
    place.write(response, "of the scripts");
    place.refused(line, &["response_alpha_5.0.txt: 1 response files here are of no run", "--task_name"]);
    assert_eq!(place.text(response), "of the scripts");
}

#[test]
fn numbers_of_problems_are_checked_by_their_own_flags() {
    let place = Workplace::new();
    place.write("v.safetensors", tpv_thinker::VECTOR);
    place.refused(
        "explain v.safetensors --model thinker --dataset thinker --problems 1000",
        &["--problems 1000: data set thinker has 400 problems"],
    );
    assert_eq!(place.run("learn thinker --problems 0 --dry_run").code, Some(2));
    place.refused(
        "learn thinker --problems 390 --effort_problems 30 --dry_run --output_dir out",
        &["leaves 10 of its 400 problems for effort levels", "fewer --problems"],
    );
    let line = "learn thinker --problems 2 --generations_per_problem 1 --max_new_tokens 20 --dry_run --output_dir out";
    place.ok("generate --model thinker --dataset thinker --end_problem_index 2 --seed 5 --generations_per_problem 1 --max_new_tokens 20 \
              --output_dir out/traces");
    let other = place.run(line);
    assert_eq!((other.code, other.stdout.as_str()), (Some(1), ""), "{}", other.stderr);
    assert!(other.stderr.contains("seed"), "{}", other.stderr);
    let all = place.ok("learn thinker --problems 1000 --generations_per_problem 1 --dry_run --output_dir fresh");
    assert!(all.stderr.contains("data set thinker has 400 problems"), "{}", all.stderr);
}
