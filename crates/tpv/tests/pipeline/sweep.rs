//! `tpv sweep` and `tpv report`: what is there is not made again, unless it is damaged or of another vector.

use crate::workplace::{Workplace, npy};
use std::fs;
use std::path::Path;
use tpv_core::policy::SCALE_FIGURE;
use tpv_data::vector::VectorFile;

const SWEEP: &str = "sweep --model thinker --dataset thinker --problem_start_idx 200 --problem_end_idx 203 --max_new_tokens 900 \
     --generations_per_problem 2 --budgets 60,120 --policy constant:15 --policy deadline:tokens={budget} --policy budget:{budget} \
     --tpv vector.safetensors --output_dir out";

fn place() -> Workplace {
    let place = Workplace::new();
    let vector = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../thinker/vector/tpv.safetensors");
    place.write("vector.safetensors", fs::read(vector).unwrap());
    place
}

/// The lines of the samples, sorted, without the time that they took.
fn samples(place: &Workplace) -> Vec<String> {
    let without_time = |line: &str| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["thinking_secs"] = 0.into();
        value.to_string()
    };
    let mut lines: Vec<String> = place.text("out/results.jsonl").lines().map(without_time).collect();
    lines.sort();
    lines
}

#[test]
fn damaged_lines_are_made_again_and_that_is_said() {
    let place = place();
    place.ok(SWEEP);
    let whole = samples(&place);
    assert_eq!(whole.len(), 6 * 6, "3 problems, 2 samples, 6 arms");
    assert!(place.ok(SWEEP).stderr.contains("36 of 36 samples are there already"));
    let text = place.text("out/results.jsonl");
    let (first, rest) = text.split_once('\n').unwrap();
    place.write("out/results.jsonl", format!("{}\n{rest}", &first[..first.len() / 2]));
    let again = place.ok(SWEEP).stderr;
    assert!(again.contains("1 line cannot be read (line 1)"), "{again}");
    let kept = place.text("out/results.jsonl");
    place.write("out/results.jsonl", kept.split_once('\n').unwrap().1);
    assert_eq!(samples(&place), whole, "the sample comes back as it was");
    let report = place.ok("report out").stdout;
    assert!(report.contains("report.html"), "{report}");
    let page = place.text("out/report.html");
    assert!(page.contains("prefers-color-scheme:dark"));
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!outside.contains("http") && !outside.contains("<script"), "the page needs no network");
    for name in ["frontier", "caps", "landings", "overclocked", "lengths"] {
        for ending in ["svg", "csv", "json"] {
            assert!(!place.read(&format!("out/report/{name}.{ending}")).is_empty());
        }
    }
    for name in ["figures.json", "figures.csv", "areas.csv", "landings.csv"] {
        assert!(!place.read(&format!("out/{name}")).is_empty());
    }
}

#[test]
fn results_of_a_recalibrated_vector_do_not_stand_for_the_new_one() {
    let place = place();
    place.ok(SWEEP);
    let path = place.path("vector.safetensors");
    let mut file = VectorFile::load(&path).unwrap();
    let margin = &mut file.vector.calibration.as_mut().unwrap()["margins"]["high"][0];
    *margin = (margin.as_f64().unwrap() + 0.5).into();
    file.save(&path).unwrap();
    let again = place.ok(SWEEP).stderr;
    assert!(!again.contains("are there already"), "{again}");
    assert_eq!(samples(&place).len(), 2 * 36, "the old lines are kept beside the new ones");
    file.vector.efforts.insert("low".into(), 3.0);
    file.save(&path).unwrap();
    assert!(
        place.ok(SWEEP).stderr.contains("36 of 36 samples are there already"),
        "levels do not change these policies"
    );
}

#[test]
fn a_malformed_policy_is_told_what_is_wrong_and_which_policies_there_are() {
    let place = place();
    for command in [
        "sweep --model thinker --dataset thinker --tpv vector.safetensors --policy deadline:soon --output_dir out",
        "run --policy deadline:soon hello",
        "intervene --model thinker --dataset thinker --intervention_vector_path vector.safetensors --policy deadline:soon",
    ] {
        let run = place.run(command);
        assert!(run.code != Some(0) && run.stderr.contains("not of the form key=value"), "{command}\n{}", run.stderr);
        assert!(run.stderr.contains("the policies are none; constant:20"), "{command}\n{}", run.stderr);
    }
    assert!(!place.path("out").exists());
}

#[test]
fn a_cap_that_is_the_token_limit_is_no_row_of_its_own_on_the_page() {
    let place = place();
    place.ok(
        "sweep --model thinker --dataset thinker --problem_end_idx 1 --generations_per_problem 1 --max_new_tokens 64 \
         --budgets 32,64 --policy constant:15 --tpv vector.safetensors --output_dir out",
    );
    place.ok("report out");
    let page = place.text("out/report.html");
    let table = page.split_once("All policies, on the same problems and seeds").unwrap().1;
    let rows = table.split("<tr>").filter(|row| row.contains(">constant:15<"));
    let caps: Vec<bool> = rows.map(|row| row.contains(">32<")).collect();
    assert_eq!(caps, [true, false], "at 32 and without a cap: {table}");
}

#[test]
fn training_finds_the_effort_levels_on_as_many_problems_as_there_are() {
    let place = place();
    let generate = "generate --model thinker --dataset thinker --end_problem_index 12 --generations_per_problem 1 --max_new_tokens 300 --fit";
    place.ok(&format!("{generate} --output_dir traces"));
    place.ok("prepare --input_dir traces --output_dir dataset");
    place.refused("train dataset --output_dir refused --effort_dataset there_is_none.jsonl", &["there_is_none.jsonl"]);
    assert!(!place.path("refused").exists(), "a wrong name is told before the fit");
    let problem = |start| {
        format!(
            "{{\"problem\": \"Ben has {start} pens. Day 1: buys 2. How many pens does Ben have now?\", \"answer\": \"{}\"}}\n",
            start + 2
        )
    };
    place.write("two.jsonl", problem(4) + &problem(7));
    let wrong = "train dataset --output_dir refused --effort_dataset";
    place.write("open.jsonl", "{\"problem\": \"Ben has 3 pens. How many pens does Ben have now?\"}\n");
    place.refused(&format!("{wrong} open.jsonl"), &["open.jsonl: problem 0 has no field answer", "right answer"]);
    place.refused(&format!("{wrong} two.jsonl --effort_problems 0"), &["--effort_problems must be at least 1"]);
    place.refused(
        &format!("{wrong} two.jsonl --model ./gone"),
        &["--model says where it is", "./gone: there is no such"],
    );
    assert!(!place.path("refused").exists(), "what is wrong is told before the fit");
    for (input, output) in [("dataset", "of_states"), ("traces", "of_sums")] {
        place.ok(&format!("train {input} --output_dir {output} --effort_dataset two.jsonl"));
        let file = VectorFile::load(&place.path(output).join("tpv.safetensors")).unwrap();
        let levels: Vec<(&str, f32)> =
            file.vector.efforts.iter().map(|(name, &alpha)| (name.as_str(), alpha)).collect();
        assert_eq!(levels, [("high", 0.0), ("low", 0.0), ("medium", 0.0)], "two problems show nothing");
    }
    for (folder, table) in [
        ("of_states", "Progress of held-out problems, with 95 % intervals"),
        ("of_sums", "each fifth by a fit on the others"),
    ] {
        place.ok(&format!("report {folder}"));
        let page = place.text(&format!("{folder}/report.html"));
        assert!(page.contains("A vector of thinker, fitted on ") && page.contains(table), "{page}");
        assert!(page.contains("position only"), "the baseline is beside it");
    }
    place.ok("train traces --output_dir of_states");
    for gone in ["test_readings.jsonl", "report.html", "report"] {
        assert!(!place.path(&format!("of_states/{gone}")).exists(), "{gone} is of the earlier fit");
    }
}

#[test]
fn effort_levels_are_found_on_problems_that_the_fit_has_not_seen() {
    let place = place();
    let problem = |start: usize| {
        format!(
            "{{\"problem\": \"Ben has {start} pens. Day 1: buys 2. How many pens does Ben have now?\", \"answer\": \"{}\"}}\n",
            start + 2
        )
    };
    place.write("eight.jsonl", (3..11).map(problem).collect::<String>());
    let generate = "generate --model thinker --dataset eight.jsonl --generations_per_problem 2 --max_new_tokens 300 --fit --keep_states none";
    place.ok(&format!("{generate} --end_problem_index 6 --chat_template --output_dir traces"));
    let run = place.ok("train traces --output_dir vector --effort_dataset eight.jsonl");
    assert!(run.stderr.contains("fitted on 6 problems of eight.jsonl"), "{}", run.stderr);
    assert!(run.stderr.contains("2 others, from 6 to 7"), "{}", run.stderr);
    let lines = place.text("vector/efforts/results.jsonl");
    let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let mut problems: Vec<u64> = lines.lines().map(|line| value(line)["problem"].as_u64().unwrap()).collect();
    problems.sort_unstable();
    problems.dedup();
    assert_eq!(problems, [6, 7]);
    assert!(lines.contains("chat template"), "the traces' prompt is used and recorded");
    place.write("copy.jsonl", place.read("eight.jsonl"));
    let run = place.ok("train traces --output_dir other --effort_dataset copy.jsonl");
    assert!(run.stderr.contains("fitted on 6 problems of copy.jsonl"), "known by their words: {}", run.stderr);
    place.ok(&format!("{generate} --end_problem_index 8 --chat_template --output_dir traces"));
    place.refused(
        "train traces --output_dir none_left --effort_dataset eight.jsonl",
        &["fitted on all its 8 problems", "--effort_dataset"],
    );
    assert!(!place.path("none_left").exists());
}

#[test]
fn the_scale_of_alpha_survives_a_repetition() {
    let place = place();
    let sweep = "sweep --model thinker --dataset thinker --problem_start_idx 200 --problem_end_idx 202 --max_new_tokens 600 \
                 --generations_per_problem 1 --policy constant:15 --tpv vector.safetensors --output_dir out";
    let path = place.path("vector.safetensors");
    let scale = || VectorFile::load(&path).unwrap().vector.info.figures.get(SCALE_FIGURE).cloned();
    let forget = || {
        let mut file = VectorFile::load(&path).unwrap();
        file.vector.info.figures.remove(SCALE_FIGURE);
        file.save(&path).unwrap();
    };
    forget();
    place.ok(sweep);
    assert_eq!(scale(), None);
    let lengths = || {
        place.ok("report out");
        place.text("out/report/lengths.csv")
    };
    let before = lengths();
    let write = format!("{sweep} --write_efforts");
    let run = place.ok(&write);
    assert!(
        run.stderr.contains("2 of 4 samples are there already"),
        "the unmeasured ones are made again: {}",
        run.stderr
    );
    let measured = scale();
    assert!(measured.is_some());
    assert_eq!(lengths(), before, "the report counts no sample twice");
    forget();
    assert!(place.ok(&write).stderr.contains("4 of 4 samples are there already"));
    assert_eq!(scale(), measured, "the samples' lines hold what it needs");
}

#[test]
fn levels_are_refused_where_they_cannot_be_written_or_shown() {
    let place = place();
    let line = "sweep --model thinker --dataset thinker --problem_end_idx 2 --write_efforts --output_dir out --tpv";
    let theta = VectorFile::load(&place.path("vector.safetensors")).unwrap().vector.theta;
    let bytes: Vec<u8> = theta.iter().flat_map(|value| value.to_le_bytes()).collect();
    let npy = npy("<f4", &format!("({},)", theta.len()), &bytes);
    place.write("x.npy", &npy);
    place.write("plain/tpv_linear_weights.npy", &npy);
    place.refused(&format!("{line} x.npy"), &["x.npy: effort levels can only be written into a .safetensors vector"]);
    place.refused(&format!("{line} plain"), &["plain/tpv.safetensors: effort levels can only be written"]);
    let default = line.trim_end_matches(" --tpv").replace("--model thinker", "--model nowhere");
    place.refused(&default, &["tpv_model: effort levels can only be written"]);
    assert!(!place.path("out").exists() && !place.path("plain/tpv.safetensors").exists());
    place.write("open.jsonl", "{\"problem\": \"Ben has 3 pens.\", \"solution\": \"3\"}\n");
    let open = "sweep --model thinker --dataset open.jsonl --write_efforts --tpv vector.safetensors --output_dir out";
    place.refused(open, &["data set open.jsonl: problem 0 has no field answer"]);
    assert!(!place.path("out").exists());
}
