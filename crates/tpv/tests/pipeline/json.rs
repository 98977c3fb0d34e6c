//! What programs rely on: data alone on stdout, JSON lines, exit codes, quiet on a broken pipe.

use crate::workplace::Workplace;
use serde_json::Value;
use std::process::Stdio;

/// Parses every line of stdout, checks the envelope, and gives type and data.
fn lines(place: &Workplace, line: &str) -> Vec<(String, Value)> {
    let run = place.ok(&format!("{line} --json"));
    let parse = |text: &str| -> (String, Value) {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{line}\n{text}\n{error}"));
        assert_eq!(value["version"], 1, "{text}");
        (value["type"].as_str().unwrap().into(), value["data"].clone())
    };
    run.stdout.lines().map(parse).collect()
}

#[test]
fn json_lines_are_all_that_stdout_holds() {
    let place = Workplace::new();
    let generate = lines(
        &place,
        "generate --model thinker --dataset thinker --end_problem_index 6 --generations_per_problem 1 \
         --max_new_tokens 900 --output_dir traces",
    );
    assert_eq!(generate[0].0, "generate");
    assert_eq!((&generate[0].1["problems"], &generate[0].1["samples"]), (&6.into(), &6.into()));
    let prepare = lines(&place, "prepare --input_dir traces --output_dir dataset");
    assert_eq!((prepare[0].0.as_str(), &prepare[0].1["format"]), ("prepare", &"tpv-dataset".into()));
    let train = lines(&place, "train --input_dir dataset --output_dir vector");
    assert_eq!(train[0].0, "train");
    let predictors: Vec<&str> =
        train[0].1["test"].as_array().unwrap().iter().filter_map(|it| it["predictor"].as_str()).collect();
    assert_eq!(predictors, ["mean", "position only", "theta", "theta + intercept", "position + theta"]);
    for figure in ["mse", "mae", "r2", "spearman"] {
        let interval = &train[0].1["test"][2]["figures"][figure];
        let [value, low, high] = ["value", "low", "high"].map(|key| interval[key].as_f64().unwrap());
        assert!(low <= value && value <= high, "{figure}: {interval}");
    }
    let stored: Value = serde_json::from_slice(&place.read("vector/metrics.json")).unwrap();
    assert_eq!(stored, train[0].1);
    let intervene = lines(
        &place,
        "intervene --model thinker --dataset thinker --intervention_vector_path vector --problem_start_idx 200 \
         --problem_end_idx 202 --alpha 15,25 --max_new_tokens 40 --output_generations_dir out",
    );
    let alphas: Vec<f64> = intervene.iter().map(|(_, data)| data["alpha"].as_f64().unwrap()).collect();
    assert_eq!(alphas, [0.0, 15.0, 25.0]);
    assert!(intervene.iter().all(|(kind, data)| kind == "intervene_alpha" && data["responses"] == 2));
}

/// The names of all commands, as the help lists them.
fn commands(place: &Workplace) -> Vec<String> {
    let help = place.ok("--help").stdout;
    let section = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap().to_owned();
    let names = section.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.map(|line| line.split_whitespace().next().unwrap().to_owned()).filter(|name| name != "help").collect()
}

#[test]
fn every_command_has_help_with_an_example() {
    let place = Workplace::new();
    let commands = commands(&place);
    assert!(commands.len() >= 5, "{commands:?}");
    for command in commands {
        let help = place.ok(&format!("{command} --help")).stdout;
        assert!(help.contains(&format!("tpv {command}")), "{command}:\n{help}");
        assert!(help.contains("Example") && help.contains("Usage: tpv"), "{command}:\n{help}");
    }
}

#[test]
fn exit_codes_tell_what_happened() {
    let place = Workplace::new();
    for (line, code) in
        [("--version", 0), ("prepare --input_dir nowhere", 1), ("", 2), ("train --epsilon", 2), ("fly", 2)]
    {
        assert_eq!(place.run(line).code, Some(code), "tpv {line}");
    }
    let usage = place.run("generate --temprature 1");
    assert!(usage.stdout.is_empty() && usage.stderr.contains("--temperature"), "{}", usage.stderr);
}

#[cfg(unix)]
#[test]
fn an_interruption_has_its_own_exit_code_and_keeps_what_is_done() {
    let place = Workplace::new();
    let line = "generate --model thinker --dataset thinker --end_problem_index 200 --generations_per_problem 1 \
                --max_batch 2 --output_dir traces";
    let mut command = place.command();
    let child = command.args(line.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let file = place.path("traces/problem_0.safetensors");
    while !file.exists() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("run the same command again to go on from here") && file.exists(), "{stderr}");
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let place = Workplace::new();
    for line in [
        "--help",
        "generate --help",
        "generate --json --model thinker --dataset thinker --end_problem_index 1 \
         --generations_per_problem 1 --max_new_tokens 4 --output_dir traces",
    ] {
        let mut command = place.command();
        let mut child =
            command.args(line.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.success() && !stderr.contains("error") && !stderr.contains("panicked"),
            "{line}: {stderr}"
        );
    }
}

#[cfg(unix)]
#[test]
fn output_that_is_lost_is_an_error() {
    if !std::path::Path::new("/dev/full").exists() {
        return eprintln!("skipped: there is no /dev/full here");
    }
    let place = Workplace::new();
    let generate = "generate --model thinker --dataset thinker --end_problem_index 1 --generations_per_problem 1 \
                    --max_new_tokens 4 --output_dir traces";
    for line in ["run --json hi", "run hi", generate] {
        let output = place.shell(&format!("\"$TPV\" {line} > /dev/full")).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}: {stderr}");
        assert!(stderr.contains("No space left") && !stderr.contains("panicked"), "{line}: {stderr}");
    }
}
