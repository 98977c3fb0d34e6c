//! `tpv learn` and `tpv vectors`: a vector is made, found again by its model, measured, and removed.
#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing fails")]

use assert_cmd::Command;
use serde_json::Value;
use std::path::Path;

const PROBLEM: &str = "Ben has 29 stamps. Day 1: buys 2. How many stamps does Ben have now?";
const LEARN: [&str; 6] = ["learn", "thinker", "--problems", "24", "--generations_per_problem", "1"];

struct Output {
    events: Vec<Value>,
    text: String,
    talk: String,
}

impl Output {
    fn data(&self, kind: &str) -> Option<&Value> {
        self.events.iter().find(|event| event["type"] == kind).map(|event| &event["data"])
    }
}

fn tpv(home: &Path, args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_tpv")).args(args).env("TPV_HOME", home).output().unwrap();
    let (text, talk) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{args:?}: {talk}");
    let events = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    Output { events, text, talk }
}

fn vector_of_run(home: &Path) -> String {
    let run = tpv(home, &["run", "--json", "--max_new_tokens", "3", PROBLEM]);
    run.data("start").unwrap()["vector"].as_str().unwrap().to_owned()
}

#[test]
fn a_learned_vector_is_found_measured_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    assert_eq!(vector_of_run(home), "the bundled vector");

    let dry = tpv(home, &[&LEARN[..], &["--dry_run"]].concat());
    assert!(dry.text.contains("24 samples, at most 98304 tokens"), "{}", dry.text);
    assert!(!home.join("learn").exists(), "a dry run leaves nothing behind");

    let learned = tpv(home, &[&LEARN[..], &["--json"]].concat());
    let train = learned.data("train").unwrap();
    let traces = train["refit_traces"].as_u64().unwrap();
    assert!((12..=24).contains(&traces), "{train}");
    assert_eq!(train["calibration_problems"].as_u64(), Some(traces));
    let again = tpv(home, &[&LEARN[..], &["--json"]].concat());
    assert_eq!(again.data("generate").unwrap()["skipped"], 24, "a second run goes on where the first has ended");
    let cost = again.data("cost").unwrap();
    assert_eq!((&cost["samples"], &cost["samples_there"]), (&0.into(), &24.into()), "and costs what is left");

    assert!(vector_of_run(home).ends_with("default.safetensors"));
    let list = tpv(home, &["vectors", "list", "--json"]);
    let vector = list.data("vector").unwrap();
    assert_eq!((vector["name"].as_str(), vector["calibrated"].as_bool()), (Some("default"), Some(true)));
    assert_eq!(vector["info"]["model"]["name"], "thinker");
    let fingerprint = vector["info"]["model"]["fingerprint"].as_str().unwrap();
    let shown = tpv(home, &["vectors", "list"]).text;
    assert!(shown.contains(&fingerprint[..12]), "{fingerprint}: {shown}");

    let work = |learned: &Output| learned.data("cost").unwrap()["folder"].as_str().unwrap().to_owned();
    let dataset = format!("{}/dataset", work(&again));
    let found = tpv(home, &["evaluate", "reading", "--json", "--resamples", "100", "--input_dir", &dataset]);
    assert!(found.talk.contains("these figures may flatter it"), "{}", found.talk);
    let report = &found.data("evaluate_reading").unwrap()["report"];
    assert_eq!(report["sources"].as_array().unwrap().len(), 9);
    assert_eq!(report["calibrated"]["deciles"].as_array().unwrap().len(), 10);

    // Fewer problems in the same folder: the fit takes the first ones alone.
    let fewer = tpv(home, &["learn", "thinker", "--problems", "20", "--generations_per_problem", "1", "--json"]);
    assert_eq!((work(&fewer), &fewer.data("generate").unwrap()["skipped"]), (work(&again), &20.into()));
    let manifest: Value = serde_json::from_slice(&std::fs::read(format!("{dataset}/dataset.json")).unwrap()).unwrap();
    let traces = ["train", "test"].iter().flat_map(|part| manifest[part].as_array().unwrap());
    let problem =
        |trace: &Value| trace.as_str().unwrap()["problem_".len()..].split('/').next().unwrap().parse().unwrap();
    let problems: Vec<usize> = traces.map(problem).collect();
    assert!(problems.len() >= 12 && problems.iter().all(|&problem| problem < 20), "{problems:?}");

    let other = tpv(home, &[&LEARN[..], &["--json", "--seed", "7", "--name", "other"]].concat());
    assert_ne!(work(&other), work(&again), "other settings make another run");
    tpv(home, &["vectors", "remove", "other"]);

    let file = vector["path"].as_str().unwrap();
    tpv(home, &["vectors", "import", file, "--name", "second"]);
    assert!(tpv(home, &["vectors", "show", "second"]).text.contains("calibrated: yes"));
    for name in ["second", "default"] {
        tpv(home, &["vectors", "remove", name]);
    }
    assert_eq!(vector_of_run(home), "the bundled vector");
}

#[test]
fn a_plain_array_is_imported_for_a_model_and_reads_without_intervals() {
    let home = tempfile::tempdir().unwrap();
    let array = home.path().join("tpv_linear_weights.npy");
    let header = format!("{:<117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (192,), }");
    let numbers = (0..192).flat_map(|k: u16| (f32::from(k % 7) * 1e-3).to_le_bytes());
    let bytes = [b"\x93NUMPY\x01\x00v\x00".to_vec(), header.into_bytes(), numbers.collect()].concat();
    std::fs::write(&array, bytes).unwrap();
    let array = array.display().to_string();

    let nameless = Command::new(env!("CARGO_BIN_EXE_tpv"))
        .args(["vectors", "import", &array])
        .env("TPV_HOME", home.path())
        .output()
        .unwrap();
    let talk = String::from_utf8_lossy(&nameless.stderr).into_owned();
    assert!(!nameless.status.success() && talk.contains("add --model"), "{talk}");

    tpv(home.path(), &["vectors", "import", &array, "--model", "thinker"]);
    let run = tpv(home.path(), &["run", "--json", "--max_new_tokens", "8", PROBLEM]);
    assert!(run.talk.contains("has no calibration, so the time left is unknown"), "{}", run.talk);
    let tokens = run.events.iter().filter(|event| event["type"] == "token").map(|event| &event["data"]);
    for token in tokens {
        assert!(token["reading"]["progress"].is_number() && token["remaining_secs"].is_null(), "{token}");
    }
}

#[test]
fn a_race_compares_two_strengths() {
    let home = tempfile::tempdir().unwrap();
    let race = tpv(home.path(), &["race", "--json", "--alpha", "25", "--do_sample", "False"]);
    let race = race.data("race").unwrap();
    let tokens = |k: usize| race["runners"][k]["finish"]["thinking_tokens"].as_i64().unwrap();
    assert_eq!(race["saved_thinking_tokens"].as_i64(), Some(tokens(0) - tokens(1)));
    assert_eq!((race["runners"][0]["alpha"].as_f64(), race["runners"][1]["alpha"].as_f64()), (Some(0.0), Some(25.0)));
    let plain = tpv(home.path(), &["race", "--alpha", "25", "--do_sample", "False"]);
    assert!(plain.text.contains(&format!("saved {} of {}", tokens(0) - tokens(1), tokens(0))), "{}", plain.text);
}
