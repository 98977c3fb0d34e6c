//! Files between this crate and Python: NumPy and safetensors load what is written here, and the other way round.
//!
//! Needs a Python with `numpy` and `safetensors` (`pip install numpy safetensors`), `python3` or the one that
//! `TPV_TEST_PYTHON` names; without it the tests say so and pass.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::path::Path;
use std::process::Command;
use tpv_core::event::FinishReason;
use tpv_core::phase::ThinkingMarkers;
use tpv_core::vector::{LinearHead, ModelIdentity, ProgressVector, VectorInfo};
use tpv_data::run::{RunConfig, StatesDtype};
use tpv_data::states::States;
use tpv_data::trace::{Generation, GenerationRecord, ProblemTraces, TraceStore};
use tpv_data::traces::open_traces;
use tpv_data::vector::{VECTOR_FILE, VectorFile, WEIGHTS_FILE};

/// Runs a script in `folder` and returns what it prints; `None`, with a message, where Python cannot.
fn python(folder: &Path, script: &str) -> Option<String> {
    let program = std::env::var("TPV_TEST_PYTHON").unwrap_or("python3".into());
    let ready = Command::new(&program).args(["-c", "import numpy, safetensors.numpy"]).output();
    if !ready.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {program} with numpy and safetensors is not there");
        return None;
    }
    let output = Command::new(&program).args(["-c", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().trim().to_string())
}

#[test]
fn python_loads_the_vector() {
    let folder = tempfile::tempdir().unwrap();
    let theta = vec![0.1, -2.5, 1e-30];
    let vector = ProgressVector {
        progress: LinearHead { weights: theta.clone(), intercept: 0.25 },
        theta,
        info: VectorInfo {
            model: ModelIdentity { hidden_size: 3, vocab_size: 2, ..ModelIdentity::default() },
            ..VectorInfo::default()
        },
        ..ProgressVector::default()
    };
    VectorFile { vector }.save_folder(folder.path()).unwrap();
    let script = format!(
        "import json, numpy as np\n\
         from safetensors import safe_open\n\
         from safetensors.numpy import load_file\n\
         w = np.load('{WEIGHTS_FILE}')\n\
         t = load_file('{VECTOR_FILE}')\n\
         assert (w == t['theta']).all() and w.dtype == np.float32 and w.shape == (3,)\n\
         assert (w == np.array([0.1, -2.5, 1e-30], dtype='f4')).all()\n\
         about = json.loads(safe_open('{VECTOR_FILE}', 'np').metadata()['tpv_vector'])\n\
         print(sorted(t), about['format'], about['progress_intercept'])"
    );
    if let Some(printed) = python(folder.path(), &script) {
        assert_eq!(printed, "['progress_weights', 'theta'] tpv-vector 0.25");
    }
}

#[test]
fn numpy_vectors_load_here() {
    let folder = tempfile::tempdir().unwrap();
    let script = "import numpy as np\n\
         v = np.array([0.5, -1, 3])\n\
         np.save('double.npy', v)\n\
         np.save('half.npy', v.astype('f2')[None])\n\
         np.save('fortran.npy', np.asfortranarray(np.ones((2, 2), 'f4')))\n\
         np.save('pickled.npy', np.array([{}, None], dtype=object), allow_pickle=True)";
    if python(folder.path(), script).is_some() {
        for name in ["double.npy", "half.npy"] {
            assert_eq!(VectorFile::load(&folder.path().join(name)).unwrap().vector.theta, [0.5, -1.0, 3.0], "{name}");
        }
        for (name, expected) in [("fortran.npy", "Fortran order"), ("pickled.npy", "type \"|O\"")] {
            let text = VectorFile::load(&folder.path().join(name)).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
    }
}

#[test]
fn python_loads_the_traces() {
    let folder = tempfile::tempdir().unwrap();
    let model = ModelIdentity { name: "tiny".into(), hidden_size: 2, ..ModelIdentity::default() };
    let mut store = TraceStore::create(folder.path(), &RunConfig { model, ..RunConfig::default() }).unwrap();
    let record = GenerationRecord {
        text: "\u{e4}</think>".into(),
        finish_reason: FinishReason::Stop,
        first_state: 0,
        thinking_start: 0,
        thinking_tokens: 2,
        thinking_ended: true,
        answer: None,
        correct: None,
    };
    let states = States::in_memory(StatesDtype::F16, &[0.5, -1.0, 65504.0, 2.0]);
    let traces = ProblemTraces {
        problem: 12,
        problem_text: "?".into(),
        gold: Some("2".into()),
        prompt: "?".into(),
        prompt_token_ids: vec![1],
        generations: vec![Generation { record, token_ids: vec![7, 8], states }],
    };
    store.write(&traces).unwrap();
    let script = "import json, numpy as np\n\
         from safetensors import safe_open\n\
         from safetensors.numpy import load_file\n\
         t = load_file('problem_12.safetensors')\n\
         h = t['generation_0.hidden_states']\n\
         assert h.dtype == np.float16 and h.tolist() == [[0.5, -1.0], [65504.0, 2.0]]\n\
         assert t['generation_0.token_ids'].dtype == np.uint32\n\
         about = json.loads(safe_open('problem_12.safetensors', 'np').metadata()['tpv_trace'])\n\
         print(t['generation_0.token_ids'].tolist(), about['generations'][0]['text'] == '\\u00e4</think>', about['gold'])";
    if let Some(printed) = python(folder.path(), script) {
        assert_eq!(printed, "[7, 8] True 2");
    }
}

#[test]
fn folders_of_the_python_scripts_load_here() {
    let folder = tempfile::tempdir().unwrap();
    let script = "import json, os, numpy as np\n\
         json.dump({'model_name': 'org/tiny', 'dataset_name': 'gsm8k', 'temperature': 0.6}, open('config.json', 'w'))\n\
         for p in (0, 10):\n\
         \x20   d = f'problem_{p}/generation_0'\n\
         \x20   os.makedirs(d)\n\
         \x20   open(f'problem_{p}/original_problem.txt', 'w').write('?')\n\
         \x20   tokens = ['\\u2581', '<think>', '\\u010a', 'a', '\\u0120b', '</think>', '\\u0120c', '<\\uff5cend\\uff5c>', '<pad>']\n\
         \x20   json.dump(tokens, open(f'{d}/tokens.json', 'w'))\n\
         \x20   json.dump({'input_prompt_length_tokens': 3, 'output_generated_length_tokens': 5}, open(f'{d}/metadata.json', 'w'))\n\
         \x20   np.save(f'{d}/token_hidden_states_output.npy', np.arange(20).reshape(5, 4).astype('f2'))";
    if python(folder.path(), script).is_none() {
        return;
    }
    let source = open_traces(folder.path(), &ThinkingMarkers::default()).unwrap();
    assert!(source.left_out().is_empty(), "{:?}", source.left_out());
    assert_eq!(source.model().unwrap().hidden_size, 4);
    let header = &source.headers()[1];
    assert_eq!((header.id.problem, header.thinking_tokens, header.thinking_ended), (10, 3, true));
    let mut rows = Vec::new();
    let mut sink = |block: tpv_data::source::StateBlock<'_>| {
        rows.extend(block.iter().map(|(position, state)| (position, state.to_vec())));
        Ok(())
    };
    source.read_thinking(header.id, &mut sink).unwrap();
    assert_eq!(rows, [(2, vec![4.0, 5.0, 6.0, 7.0]), (3, vec![8.0, 9.0, 10.0, 11.0])]);
}
