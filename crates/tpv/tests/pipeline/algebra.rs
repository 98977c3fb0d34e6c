//! What must be equal by algebra is equal: no vector and alpha 0, the push on states and the push on logits, a trace
//! alone and in company.

use crate::workplace::{Workplace, npy};
use tpv_data::trace::TraceStore;
use tpv_engine::device::{DeviceChoice, DtypeChoice};
use tpv_engine::engine::{Engine, StepInput, StepOutput};
use tpv_engine::load::{LoadOptions, ModelSource, load_model};

const WIDTH: usize = 192;

/// A direction of mixed signs.
fn theta() -> Vec<f32> {
    (0..WIDTH).map(|i| ((i * 37 % 101) as f32 - 50.0) * 2e-4).collect()
}

fn write_theta(place: &Workplace) {
    let values: Vec<u8> = theta().iter().flat_map(|value| value.to_le_bytes()).collect();
    place.write("theta.npy", npy("<f4", "(192,)", &values));
}

/// Prompt and text of generation 0 of a problem.
fn recorded(place: &Workplace, folder: &str, problem: usize) -> String {
    let record = TraceStore::open(&place.path(folder)).unwrap().record(problem).unwrap();
    format!("{}{}", record.prompt, record.generations[0].text)
}

/// The texts of all generations of a problem.
fn said(place: &Workplace, folder: &str, problem: usize) -> Vec<String> {
    let record = TraceStore::open(&place.path(folder)).unwrap().record(problem).unwrap();
    record.generations.into_iter().map(|generation| generation.text).collect()
}

#[test]
fn alpha_zero_is_no_vector() {
    let place = Workplace::new();
    write_theta(&place);
    let model = "--model thinker --dataset thinker --dtype f32 --max_new_tokens 120 --generations_per_problem 1";
    for (name, temperature) in [("greedy", "0"), ("sampled", "0.6")] {
        place.ok(&format!(
            "generate {model} --end_problem_index 3 --temperature {temperature} --output_dir {name}_traces"
        ));
        place.ok(&format!(
            "intervene {model} --intervention_vector_path theta.npy --problem_start_idx 0 --problem_end_idx 3 \
             --temperature {temperature} --alpha 0,40 --task_name t --output_generations_dir {name}"
        ));
        let response = |problem, alpha| {
            place.text(&format!("{name}/thinker/t/intervention/problem_{problem}/response_alpha_{alpha}.txt"))
        };
        for problem in 0..3 {
            assert_eq!(response(problem, "0.0"), recorded(&place, &format!("{name}_traces"), problem));
        }
        assert!((0..3).any(|problem| response(problem, "40.0") != response(problem, "0.0")), "alpha 40 does nothing");
    }
}

#[test]
fn a_trace_is_the_same_alone_in_a_batch_and_after_a_resume() {
    let place = Workplace::new();
    let line = "generate --model thinker --dataset thinker --dtype f32 --max_new_tokens 100 \
                --generations_per_problem 2 --states_dtype f32 --output_dir";
    place.ok(&format!("{line} alone --end_problem_index 4 --max_batch 1 --draft_tokens 0"));
    place.ok(&format!("{line} batch --end_problem_index 4 --max_batch 8 --draft_tokens 7"));
    place.ok(&format!("{line} resumed --start_problem_index 2 --end_problem_index 4 --max_batch 3"));
    place.ok(&format!("{line} resumed --end_problem_index 4 --max_batch 5"));
    let alone = place.run_files("alone");
    assert_eq!(alone.len(), 5);
    assert!(place.run_files("batch") == alone, "a batch of 8 differs from one after the other");
    assert!(place.run_files("resumed") == alone, "a resumed run differs");
}

#[test]
fn guessing_changes_no_trace_in_q8_0_either() {
    let place = Workplace::new();
    let line = "generate --model thinker --dataset thinker --dtype q8_0 --max_new_tokens 100 --end_problem_index 3 \
                --generations_per_problem 2 --states_dtype f32 --output_dir";
    place.ok(&format!("{line} plain --draft_tokens 0"));
    let guessed = place.ok(&format!("{line} guessed --draft_tokens 5"));
    assert!(guessed.stdout.contains("tokens guessed ahead were right"), "{}", guessed.stdout);
    assert!(place.run_files("guessed") == place.run_files("plain"), "drafts change what is written");
}

/// What is said on a GPU, by samples that share a prompt, that wait for memory, that enter and leave, and by pushed ones.
#[test]
fn a_gpu_says_what_the_cpu_says() {
    let Some(device) = std::env::var("TPV_TEST_DEVICE").ok().filter(|device| device != "cpu") else {
        return eprintln!("skipped: TPV_TEST_DEVICE names no GPU");
    };
    let place = Workplace::new();
    write_theta(&place);
    let model = "--model thinker --dataset thinker --dtype f32 --temperature 0.6 --max_new_tokens 60 --max_batch 5";
    for device in ["cpu", &device] {
        let run = place.ok(&format!(
            "generate {model} --device {device} --end_problem_index 4 --generations_per_problem 2 --kv_memory 1MB \
             --output_dir {device}_traces"
        ));
        assert!(!run.stderr.contains("running on the CPU"), "{}", run.stderr);
        place.ok(&format!(
            "intervene {model} --device {device} --intervention_vector_path theta.npy --problem_start_idx 0 \
             --problem_end_idx 2 --alpha 0,40 --task_name t --output_generations_dir {device}"
        ));
    }
    for problem in 0..4 {
        assert_eq!(said(&place, &format!("{device}_traces"), problem), said(&place, "cpu_traces", problem));
    }
    for (problem, alpha) in [(0, 0), (0, 40), (1, 0), (1, 40)] {
        let response = |device: &str| {
            place.text(&format!("{device}/thinker/t/intervention/problem_{problem}/response_alpha_{alpha}.0.txt"))
        };
        assert_eq!(response(&device), response("cpu"), "problem {problem}, alpha {alpha}");
    }
}

fn engine() -> Box<dyn Engine> {
    let source = ModelSource::Embedded { config: tpv_thinker::CONFIG, weights: tpv_thinker::WEIGHTS };
    let options = LoadOptions {
        dtype: Some(DtypeChoice::F32),
        device: DeviceChoice::Cpu,
        threads: Some(1),
        ..LoadOptions::default()
    };
    load_model(&source, &options).unwrap().engine
}

fn argmax(values: &[f32]) -> u32 {
    let best = (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap();
    best as u32
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn pushing_the_state_is_a_constant_bias_on_the_logits() {
    let mut engine = engine();
    let theta = theta();
    let shift = engine.project(&theta).unwrap();
    for alpha in [0.0, 15.0, -30.0, 100.0] {
        let sequence = engine.open().unwrap();
        let mut tokens = vec![5, 77, 130, 9, 2];
        let mut output = StepOutput::default();
        let mut changed = 0;
        for _ in 0..40 {
            let input = StepInput { sequence, tokens: &tokens, outputs: 1 };
            engine.step(&[input], &mut output).unwrap();
            let pushed: Vec<f32> =
                output.hidden_post_norm.iter().zip(&theta).map(|(state, theta)| state + alpha * theta).collect();
            let hook = engine.project(&pushed).unwrap();
            let bias: Vec<f32> = output.logits.iter().zip(&shift).map(|(logit, shift)| logit + alpha * shift).collect();
            let scale = bias.iter().fold(1f32, |scale, logit| scale.max(logit.abs()));
            assert!(largest_difference(&hook, &bias) <= 1e-5 * scale, "alpha {alpha}");
            assert_eq!(argmax(&hook), argmax(&bias), "alpha {alpha}");
            changed += usize::from(argmax(&bias) != argmax(&output.logits));
            tokens = vec![argmax(&bias)];
        }
        assert!(alpha != 0.0 || changed == 0, "alpha 0 changes a token");
        assert!(alpha != 100.0 || changed > 0, "so strong a push changes some token");
        engine.close(sequence);
    }
}
