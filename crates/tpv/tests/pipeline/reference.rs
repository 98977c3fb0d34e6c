//! What users of the Python scripts have keeps working: their command lines, their folders, their weights.

use crate::workplace::{Workplace, npy, npy_vector};
use half::f16;
use serde_json::{Value, json};
use std::collections::HashMap;
use tpv_data::source::{TraceId, TraceSource};
use tpv_data::tensors::TensorFile;
use tpv_data::trace::TraceStore;

const WIDTH: usize = 192;
const TEMPLATE: &str =
    "{problem}\nPlease reason step by step, and put your final answer within \\boxed{{}}.\n<think>\n";

/// One trace as the scripts keep it: states [N, WIDTH] of the thinking, row 0 spoilt.
pub struct Thought {
    pub states: Vec<Vec<f64>>,
}

/// Token strings in byte-level form, by id.
fn token_strings() -> HashMap<u32, String> {
    let tokenizer: Value = serde_json::from_slice(tpv_thinker::TOKENIZER).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap().iter();
    let mut strings: HashMap<u32, String> =
        vocabulary.map(|(text, id)| (id.as_u64().unwrap() as u32, text.clone())).collect();
    for token in tokenizer["added_tokens"].as_array().unwrap() {
        strings.insert(token["id"].as_u64().unwrap() as u32, token["content"].as_str().unwrap().into());
    }
    strings
}

/// Writes generation 0 of every problem of a trace store as the Python scripts would have.
fn write_python_folder(place: &Workplace, traces: &str, folder: &str) -> Vec<Thought> {
    let store = TraceStore::open(&place.path(traces)).unwrap();
    let strings = token_strings();
    let config = json!({"model_name": "org/thinker", "max_new_tokens": 900, "dataset_name": "math500",
        "generations_per_problem": 1, "prompt_template": TEMPLATE, "temperature": 0.6, "do_sample": true,
        "top_p": 0.95, "seed": 42});
    place.write(&format!("{folder}/config.json"), config.to_string());
    let mut thoughts = Vec::new();
    for header in store.headers().iter().filter(|header| header.id.generation == 0) {
        let TraceId { problem, generation } = header.id;
        let record = store.record(problem).unwrap();
        let generated = store.token_ids(header.id).unwrap();
        let file = TensorFile::open(&store.problem_path(problem)).unwrap();
        let states = file.matrix("generation_0.hidden_states").unwrap();
        let mut values = Vec::new();
        states.read_rows(0, states.rows, &mut values);
        let mut rows: Vec<Vec<f32>> = values.chunks(WIDTH).map(<[f32]>::to_vec).collect();
        rows[0] = (0..WIDTH).map(|i| if i % 2 == 0 { 3.0 } else { -2.0 }).collect(); // what the scripts keep by mistake
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
        let tokens: Vec<&str> =
            record.prompt_token_ids.iter().chain(&generated).chain(&[1, 1]).map(|id| strings[id].as_str()).collect();
        let metadata = json!({"input_prompt_length_tokens": record.prompt_token_ids.len(),
            "output_generated_length_tokens": generated.len(), "batch_generation_time_seconds_for_problem": 1.0});
        let at = |name: &str| format!("{folder}/problem_{problem}/generation_{generation}/{name}");
        place.write(&at("tokens.json"), json!(tokens).to_string());
        place.write(&at("metadata.json"), metadata.to_string());
        place.write(&at("response.txt"), format!("{}{}", record.prompt, record.generations[0].text));
        let shape = format!("({}, {WIDTH})", rows.len());
        place.write(&at("token_hidden_states_output.npy"), npy("<f2", &shape, &bytes));
        rows.truncate(header.thinking_tokens);
        thoughts
            .push(Thought { states: rows.iter().map(|row| row.iter().map(|&it| f64::from(it)).collect()).collect() });
    }
    thoughts
}

/// `(H^T H + eps I)^-1 H^T y` by Gaussian elimination, over the rows from `first_row` on; row j of N has label (j + 1) / N.
pub fn ridge(thoughts: &[Thought], first_row: usize) -> Vec<f64> {
    let mut system = vec![vec![0.0; WIDTH + 1]; WIDTH];
    for thought in thoughts {
        for (j, state) in thought.states.iter().enumerate().skip(first_row) {
            let label = (j + 1) as f64 / thought.states.len() as f64;
            for (row, &a) in system.iter_mut().zip(state) {
                row.iter_mut().zip(state).for_each(|(sum, b)| *sum += a * b);
                row[WIDTH] += a * label;
            }
        }
    }
    (0..WIDTH).for_each(|i| system[i][i] += 1e-10);
    for column in 0..WIDTH {
        let pivot =
            (column..WIDTH).max_by(|&a, &b| system[a][column].abs().total_cmp(&system[b][column].abs())).unwrap();
        system.swap(column, pivot);
        let head = system[column].clone();
        for row in system.iter_mut().skip(column + 1) {
            let factor = row[column] / head[column];
            row.iter_mut().zip(&head).for_each(|(value, above)| *value -= factor * above);
        }
    }
    let mut weights = vec![0.0; WIDTH];
    for i in (0..WIDTH).rev() {
        let known: f64 = (i + 1..WIDTH).map(|j| system[i][j] * weights[j]).sum();
        weights[i] = (system[i][WIDTH] - known) / system[i][i];
    }
    weights
}

fn cosine(a: &[f64], b: &[f32]) -> f64 {
    let b: Vec<f64> = b.iter().map(|&value| f64::from(value)).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, &b) / (dot(a, a) * dot(&b, &b)).sqrt()
}

#[test]
fn a_python_made_folder_gives_the_scripts_weights_and_split() {
    let place = Workplace::new();
    place.ok(
        "generate --model thinker --dataset thinker --dtype f32 --end_problem_index 30 --generations_per_problem 1 \
         --max_new_tokens 900 --output_dir traces",
    );
    let thoughts = write_python_folder(&place, "traces", "python_made");
    assert_eq!(thoughts.len(), 30);
    place.write("python_made/problem_0/generation_1/error.txt", "CUDA out of memory\n");
    let run = place.ok("prepare --input_dir python_made --output_dir dataset --split reference");
    assert!(run.stdout.contains("left out: 1") && run.stdout.contains("CUDA out of memory"), "{}", run.stdout);
    let dataset: Value = serde_json::from_slice(&place.read("dataset/dataset.json")).unwrap();
    let mut test: Vec<&str> = dataset["test"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    test.sort_unstable();
    let expected = [0, 11, 15, 16, 27, 3].map(|problem| format!("problem_{problem}/generation_0"));
    assert_eq!(test, expected, "random.seed(42); random.shuffle(ids)");

    place.ok("train --input_dir dataset --output_dir tpv_model");
    let weights = npy_vector(&place.read("tpv_model/tpv_linear_weights.npy"));
    assert_eq!(weights.len(), WIDTH);
    let same_rows = cosine(&ridge(&thoughts, 1), &weights);
    assert!(same_rows > 0.9999, "cosine {same_rows}");
    let with_the_spoilt_row = cosine(&ridge(&thoughts, 0), &weights);
    assert!(with_the_spoilt_row < 0.9999, "the spoilt row would not have been noticed: {with_the_spoilt_row}");
}

#[test]
fn the_end_of_the_thinking_may_have_another_name_in_a_folder_of_the_scripts() {
    let place = Workplace::new();
    place.ok("generate --model thinker --dataset thinker --end_problem_index 6 --generations_per_problem 1 \
              --max_new_tokens 900 --output_dir traces");
    write_python_folder(&place, "traces", "results");
    place.ok("prepare --input_dir results --output_dir usual");
    for problem in 0..6 {
        for file in ["tokens.json", "response.txt"] {
            let path = format!("results/problem_{problem}/generation_0/{file}");
            place.write(&path, place.text(&path).replace("</think>", "[END_THINK]"));
        }
    }
    place.refused("prepare --input_dir results --output_dir none", &["results"]);
    place.ok("prepare --input_dir results --output_dir named --end_of_thinking_token [END_THINK]");
    let traces = |folder: &str| {
        let manifest: Value = serde_json::from_slice(&place.read(&format!("{folder}/dataset.json"))).unwrap();
        [manifest["train"].clone(), manifest["test"].clone(), manifest["train_rows"].clone()]
    };
    assert_eq!(traces("named"), traces("usual"));
}

#[test]
fn the_scripts_command_lines_run_with_tpv_in_place() {
    let place = Workplace::new();
    place.thinker("thinker");
    place.write("problems.jsonl", tpv_thinker::PROBLEMS_JSONL);
    let run = |line: &str| {
        let args = line.split_whitespace().map(|word| if word == "TEMPLATE" { TEMPLATE } else { word });
        let output = place.command().args(args).output().unwrap();
        assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    };
    let generate = "generate --model ./thinker --max_new_tokens 600 --dataset problems.jsonl --start_problem_index 0 \
                    --end_problem_index 6 --generations_per_problem 2 --output_dir results \
                    --prompt_template TEMPLATE --temperature 0.6 --do_sample True --top_p 0.95 --seed 42";
    run(generate);
    run("prepare --input_dir results --output_dir dataset --seed 42 --train_split_ratio 0.8 \
         --end_of_thinking_token </think>");
    let notes = run("train --input_dir dataset --output_dir tpv_model --epsilon 1e-10 --device cuda");
    assert!(notes.contains("note: --device cuda"), "{notes}");
    let intervene = "intervene --model_name_or_path ./thinker --tokenizer_name_or_path ./thinker \
                     --intervention_vector_path tpv_model/tpv_linear_weights.npy --dataset problems.jsonl \
                     --output_generations_dir responses --task_name math500 --problem_start_idx 6 \
                     --problem_end_idx 7 --alpha 100.0 --max_new_tokens 64 --device auto --torch_dtype float16";
    let notes = run(intervene);
    assert!(notes.contains("note: ") && notes.contains("f16"), "{notes}");
    let response = "responses/thinker/math500/intervention/problem_6/response_alpha_100.0.txt";
    let text = place.text(response);
    assert!(text.contains("Please reason step by step, and put your final answer within \\boxed{}.\n<think>\n"));
    assert!(place.path(&response.replace("100.0", "0.0")).is_file());

    // The same in the hyphenated spelling, and with do_sample as a bare flag.
    let hyphenated = |line: &str| {
        let words = line.split_whitespace();
        let words = words.map(|word| if word.starts_with("--") { word.replace('_', "-") } else { word.into() });
        words.collect::<Vec<String>>().join(" ")
    };
    let again = run(&hyphenated(generate).replace("--do-sample True", "--do-sample"));
    assert!(again.contains("6 of 6 problems are in results already"), "{again}");
    assert!(run(&hyphenated(intervene)).contains("2 of 2 responses are there already"));
}
