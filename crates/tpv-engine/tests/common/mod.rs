//! Golden models and comparisons that several tests share.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::PathBuf;

use serde::Deserialize;
use tpv_engine::device::{DeviceChoice, DtypeChoice};
use tpv_engine::load::{LoadOptions, Loaded, ModelSource, load_model};

/// The folders of golden models.
pub const ALL: [&str; 7] = [
    "llama",
    "llama_llama3_biased_tied",
    "llama_yarn_old_keys",
    "qwen2_window",
    "qwen2_window_off_old_keys",
    "qwen2_yarn_untruncated",
    "qwen3_tied_sharded",
];

#[derive(Deserialize)]
pub struct Golden {
    pub alpha: f32,
    pub theta: Vec<f32>,
    pub projected: Vec<f32>,
    pub prompts: Vec<Vec<u32>>,
    pub plain: Vec<Trace>,
    pub steered: Vec<Trace>,
}

/// Greedy tokens, and the states and logits of the first and the last step.
#[derive(Deserialize)]
pub struct Trace {
    pub tokens: Vec<u32>,
    pub states: Vec<Vec<f32>>,
    pub logits: Vec<Vec<f32>>,
}

impl Golden {
    pub fn read(name: &str) -> Self {
        serde_json::from_slice(&std::fs::read(folder(name).join("golden.json")).unwrap()).unwrap()
    }
}

pub fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Where the tests of the decoder compute: on the CPU, or where `TPV_TEST_DEVICE` says (`cuda`, `metal`).
pub fn device() -> DeviceChoice {
    match std::env::var("TPV_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => DeviceChoice::Cpu,
        Ok("cuda") => DeviceChoice::Cuda(0),
        Ok("metal") => DeviceChoice::Metal,
        Ok(other) => panic!("TPV_TEST_DEVICE is {other}: cpu, cuda or metal"),
    }
}

/// How to load on the CPU, also where the build could use a GPU.
pub fn on_cpu() -> LoadOptions {
    LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() }
}

/// Loads a golden model in f32 on the CPU.
pub fn load(name: &str) -> Loaded {
    load_on(DeviceChoice::Cpu, name)
}

/// Loads a golden model in f32 on a device, which must be there.
pub fn load_on(device: DeviceChoice, name: &str) -> Loaded {
    let loaded = with_options(name, &LoadOptions { dtype: Some(DtypeChoice::F32), device, ..Default::default() });
    assert_eq!(device == DeviceChoice::Cpu, loaded.engine.spec().device == "cpu", "{:?}", loaded.notices);
    loaded
}

pub fn with_options(name: &str, options: &LoadOptions) -> Loaded {
    load_model(&ModelSource::Folder(folder(name)), options).unwrap()
}

/// Largest difference in units of the largest expected value.
pub fn largest_relative_error(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let most = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, |a: f32, b| if b.is_nan() { b } else { a.max(b) })
        / most
}

pub fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("there are logits").0 as u32
}
