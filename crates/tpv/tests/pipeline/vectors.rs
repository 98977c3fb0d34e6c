//! Vectors from the hub, and models that have none.

use crate::hub::Hub;
use crate::workplace::{Run, Workplace, npy};
use std::process::Command;
use tpv_core::policy::SCALE_FIGURE;
use tpv_data::library::VectorLibrary;
use tpv_data::vector::VectorFile;

const PROBLEM: &str = "Ben has 29 stamps. Day 1: buys 2. How many stamps does Ben have now?";

/// The program with a vector library of its own.
fn command(place: &Workplace) -> Command {
    let mut command = place.command();
    command.env("TPV_HOME", place.path("home"));
    command
}

fn run(mut command: Command, args: &[&str]) -> Run {
    command.args(args).output().unwrap().into()
}

#[test]
fn a_vector_comes_from_the_hub_and_then_from_the_cache() {
    let hub = Hub::start(&[
        ("org/vector", &[("README.md", b"# A vector"), ("tpv.safetensors", tpv_thinker::VECTOR)]),
        ("org/nothing", &[("README.md", b"# Nothing")]),
    ]);
    let place = Workplace::new();
    let online = || {
        let mut command = command(&place);
        hub.prepare(&mut command);
        command
    };
    let imported = run(online(), &["vectors", "import", "org/vector", "--name", "shared"]);
    assert_eq!(imported.code, Some(0), "{}", imported.stderr);
    assert!(imported.stdout.starts_with("shared of thinker is in the library"), "{}", imported.stdout);
    let shown = run(command(&place), &["vectors", "show", "shared"]);
    assert!(shown.stdout.contains("model: thinker") && shown.stdout.contains("calibrated: yes"), "{}", shown.stdout);
    let asked = run(command(&place), &["run", "--json", "--tpv", "shared", "--max_new_tokens", "2", PROBLEM]);
    assert!(asked.stdout.lines().next().unwrap().contains("shared.safetensors"), "{}{}", asked.stdout, asked.stderr);

    let again = run(command(&place), &["vectors", "import", "org/vector", "--name", "shared"]);
    assert!(again.code == Some(1) && again.stderr.contains("--replace"), "{}", again.stderr);
    let offline = run(command(&place), &["vectors", "import", "org/vector", "--name", "shared", "--replace"]);
    assert_eq!(offline.code, Some(0), "from the cache, without a hub: {}", offline.stderr);

    let nothing = run(online(), &["vectors", "import", "org/nothing"]);
    assert!(nothing.code == Some(1) && nothing.stderr.contains("holds no tpv.safetensors"), "{}", nothing.stderr);
    let unknown = run(online(), &["vectors", "import", "org/unheard-of"]);
    assert!(unknown.code == Some(1) && unknown.stderr.contains("org/unheard-of"), "{}", unknown.stderr);
}

#[test]
fn a_plain_array_comes_from_the_hub_for_the_model_that_is_named() {
    let data: Vec<u8> = (0..192).flat_map(|k: u16| (f32::from(k % 5) * 1e-3).to_le_bytes()).collect();
    let hub = Hub::start(&[("org/array", &[("tpv_linear_weights.npy", &npy("<f4", "(192,)", &data))])]);
    let place = Workplace::new();
    let mut online = command(&place);
    hub.prepare(&mut online);
    let imported = run(online, &["vectors", "import", "org/array", "--model", "thinker"]);
    assert_eq!(imported.code, Some(0), "{}", imported.stderr);
    let shown = run(command(&place), &["vectors", "show"]);
    assert!(shown.stdout.contains("calibrated: no"), "{}", shown.stdout);
}

/// The thinker with another norm's first weight: another model, of which nobody has a vector.
fn stranger(place: &Workplace) {
    place.thinker("stranger");
    let mut weights = tpv_thinker::WEIGHTS.to_vec();
    let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&weights[8..8 + header]).unwrap();
    let norm = tensors["model.norm.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    weights[8 + header + norm] ^= 1;
    place.write("stranger/model.safetensors", weights);
}

#[test]
fn effort_levels_are_written_into_a_vector_of_the_library() {
    let place = Workplace::new();
    place.write("given/tpv.safetensors", tpv_thinker::VECTOR);
    let imported = run(command(&place), &["vectors", "import", "given", "--name", "mine"]);
    assert_eq!(imported.code, Some(0), "{}", imported.stderr);
    let sweep = |vector: &str| {
        let line = "sweep --model thinker --dataset thinker --problem_start_idx 200 --problem_end_idx 202 --max_new_tokens 600 \
                    --generations_per_problem 1 --policy constant:15 --write_efforts --output_dir out --tpv";
        run(command(&place), &line.split_whitespace().chain([vector]).collect::<Vec<_>>())
    };
    let unknown = sweep("yours");
    assert!(unknown.code == Some(1) && unknown.stderr.contains("no vector named yours"), "{}", unknown.stderr);
    assert!(!place.path("out").exists());
    let (entries, _) = VectorLibrary::new(place.path("home/vectors")).list().unwrap();
    let vector = || VectorFile::load(&entries[0].path).unwrap().vector;
    let before = vector();
    let written = sweep("mine");
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    assert_ne!(vector().info.figures[SCALE_FIGURE], before.info.figures[SCALE_FIGURE], "measured on two problems now");
    assert!(vector().theta == before.theta && place.path("out/figures.json").exists());
}

#[test]
fn a_damaged_vector_of_the_library_is_named_and_no_other_takes_its_place() {
    let place = Workplace::new();
    place.write("given/tpv.safetensors", tpv_thinker::VECTOR);
    let imported = run(command(&place), &["vectors", "import", "given"]);
    assert_eq!(imported.code, Some(0), "{}", imported.stderr);
    let (entries, _) = VectorLibrary::new(place.path("home/vectors")).list().unwrap();
    std::fs::write(&entries[0].path, &tpv_thinker::VECTOR[..1000]).unwrap();
    let asked = run(command(&place), &["run", "--max_new_tokens", "2", PROBLEM]);
    assert!(asked.code == Some(1) && asked.stderr.contains("default.safetensors"), "{}", asked.stderr);
}

#[test]
fn whoever_makes_or_uses_a_vector_of_few_ended_thoughts_is_told() {
    let place = Workplace::new();
    let generate = "generate --model thinker --dataset thinker --end_problem_index 24 --generations_per_problem 2 --max_new_tokens 240";
    place.ok(&format!("{generate} --output_dir traces"));
    place.ok("prepare --input_dir traces --output_dir dataset");
    let trained = place.ok("train --input_dir dataset --output_dir vector");
    assert!(trained.stderr.contains("were cut at the token limit"), "{}", trained.stderr);
    assert!(trained.stderr.contains("with so few, intervals that claim 90 %"), "{}", trained.stderr);
    let metrics: serde_json::Value = serde_json::from_str(&place.text("vector/metrics.json")).unwrap();
    let cut = &metrics["left_out"]["unfinished: no end of thinking within the token limit"];
    assert!(cut.as_u64().is_some_and(|cut| cut > 1 && cut < 48), "{metrics}");
    let asked = run(command(&place), &["run", "--tpv", "vector", "--max_new_tokens", "2", PROBLEM]);
    assert!(asked.stderr.contains("of long thoughts its time left is too short"), "{}", asked.stderr);
    run(command(&place), &["vectors", "import", "vector"]);
    let shown = run(command(&place), &["vectors", "show"]);
    assert!(shown.stdout.contains("of all thoughts were cut"), "{}", shown.stdout);
}

#[test]
fn two_models_of_one_name_are_told_apart_by_their_fingerprints() {
    let place = Workplace::new();
    let library = VectorLibrary::new(place.path("home/vectors"));
    let mut file = VectorFile::embedded(std::path::Path::new("bundled"), tpv_thinker::VECTOR).unwrap();
    for fingerprint in ["aa11", "bb22"] {
        file.vector.info.model.fingerprint = fingerprint.into();
        library.put("default", &file, false).unwrap();
    }
    let unclear = run(command(&place), &["vectors", "show"]);
    assert!(
        unclear.code == Some(1) && unclear.stderr.contains("(aa11)") && unclear.stderr.contains("(bb22)"),
        "{}",
        unclear.stderr
    );
    let shown = run(command(&place), &["vectors", "show", "--model", "bb"]);
    assert!(
        shown.stdout.contains("bb22") && shown.stdout.contains("on held-out problems: R2"),
        "{}{}",
        shown.stdout,
        shown.stderr
    );
    let removed = run(command(&place), &["vectors", "remove", "--model", "bb22"]);
    assert_eq!((removed.code, library.list().unwrap().0.len()), (Some(0), 1), "{}", removed.stderr);
}

#[test]
fn a_model_without_a_vector_runs_and_says_how_to_get_one() {
    let place = Workplace::new();
    stranger(&place);
    let told = run(command(&place), &["run", "--model", "stranger", "--do_sample", "False", PROBLEM]);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert!(told.stderr.contains("tpv learn stranger") && told.stderr.contains("thought for "), "{}", told.stderr);
    assert!(told.stdout.contains("\\boxed{"), "{}", told.stdout);
    let events = run(command(&place), &["run", "--json", "--model", "stranger", "--max_new_tokens", "3", PROBLEM]);
    let lines: Vec<serde_json::Value> = events.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["data"]["vector"].is_null(), "{}", lines[0]);
    let token = lines.iter().find(|line| line["type"] == "token").unwrap();
    assert_eq!(token["data"]["reading"]["verdict"], "unknown", "nothing is claimed: {token}");
    assert!(token["data"]["reading"]["progress"].is_null() && token["data"]["remaining_secs"].is_null(), "{token}");
    let pushed = run(command(&place), &["run", "--model", "stranger", "--alpha", "5", PROBLEM]);
    assert!(pushed.code == Some(1) && pushed.stderr.contains("tpv learn stranger"), "{}", pushed.stderr);
}
