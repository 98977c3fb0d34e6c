//! Everything that is written loads in Python.
//!
//! Needs a Python with `numpy` and `safetensors` (`pip install numpy safetensors`), `python3` or the one that
//! `TPV_TEST_PYTHON` names; without it the test says so and passes.

use crate::workplace::Workplace;
use std::process::Command;

const SCRIPT: &str = "
import json, numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file
weights = np.load('vector/tpv_linear_weights.npy')
vector = load_file('vector/tpv.safetensors')
assert weights.dtype == np.float32 and weights.shape == (192,) and np.isfinite(weights).all()
assert (weights == vector['theta']).all()
about = json.loads(safe_open('vector/tpv.safetensors', 'np').metadata()['tpv_vector'])
assert about['format'] == 'tpv-vector' and about['info']['model']['hidden_size'] == 192
dataset = json.load(open('dataset/dataset.json'))
split = {side: [0.0, 0] for side in ('train', 'test')}
H, y = [], []
for trace in dataset['train'] + dataset['test']:
    problem, generation = trace.split('/')
    path = f'traces/{problem}.safetensors'
    tensors = load_file(path)
    record = json.loads(safe_open(path, 'np').metadata()['tpv_trace'])
    g = int(generation.split('_')[1])
    states, tokens = tensors[f'generation_{g}.hidden_states'], tensors[f'generation_{g}.token_ids']
    about = record['generations'][g]
    assert states.dtype == np.float16 and states.shape == (len(tokens), 192)
    assert tokens[about['thinking_tokens'] - 1] == 3
    n = about['thinking_tokens']
    H.append(states[:n].astype(np.float64)); y.append(np.arange(1, n + 1) / n)
H, y = np.concatenate(H), np.concatenate(y)
theta = np.linalg.solve(H.T @ H + 1e-10 * np.eye(192), H.T @ y)
print(float(theta @ weights / np.linalg.norm(theta) / np.linalg.norm(weights)))
metrics = json.load(open('vector/metrics.json'))
assert metrics['refit_traces'] == len(dataset['train']) + len(dataset['test'])
";

#[test]
fn what_is_written_loads_in_python_and_numpy_finds_the_same_weights() {
    let python = std::env::var("TPV_TEST_PYTHON").unwrap_or("python3".into());
    let ready = Command::new(&python).args(["-c", "import numpy, safetensors.numpy"]).output();
    if !ready.is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped: {python} with numpy and safetensors is not there");
    }
    let place = Workplace::new();
    place.ok("generate --model thinker --dataset thinker --end_problem_index 8 --generations_per_problem 1 \
         --max_new_tokens 900 --output_dir traces");
    place.ok("prepare --input_dir traces --output_dir dataset");
    place.ok("train --input_dir dataset --output_dir vector");
    let output = Command::new(&python).args(["-c", SCRIPT]).current_dir(place.path(".")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let cosine: f64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(cosine > 0.99999, "cosine with numpy.linalg.solve: {cosine}");
}
