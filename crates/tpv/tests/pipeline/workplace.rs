//! A folder of its own for a test, and the program run in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of its own, without a hub and without a cache.
pub struct Workplace {
    folder: tempfile::TempDir,
}

/// What the program left behind.
#[derive(Debug)]
pub struct Run {
    /// Exit code; none after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the program writes UTF-8");
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Workplace {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    /// The program, to be run in this folder.
    pub fn command(&self) -> Command {
        self.prepared(Command::new(env!("CARGO_BIN_EXE_tpv")))
    }

    /// A shell in this folder that finds the program in `$TPV`.
    pub fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        self.prepared(command)
    }

    fn prepared(&self, mut command: Command) -> Command {
        command.current_dir(self.folder.path()).env("HF_HOME", self.path("hf")).env("HF_HUB_OFFLINE", "1");
        command.env("TPV", env!("CARGO_BIN_EXE_tpv")).env_remove("HF_HUB_CACHE").env_remove("HF_ENDPOINT");
        command
    }

    /// Runs the program with the words of a line.
    pub fn run(&self, line: &str) -> Run {
        self.command().args(line.split_whitespace()).output().unwrap().into()
    }

    /// Runs the program and insists on success.
    pub fn ok(&self, line: &str) -> Run {
        let run = self.run(line);
        assert_eq!(run.code, Some(0), "tpv {line}\n{}{}", run.stdout, run.stderr);
        run
    }

    /// Runs the program and insists on exit code 1 and one sentence that holds all of `parts`.
    pub fn refused(&self, line: &str, parts: &[&str]) {
        let run = self.run(line);
        assert_eq!(run.code, Some(1), "tpv {line}\n{}{}", run.stdout, run.stderr);
        check_sentence(&run, line, parts);
    }

    /// The thinker's checkpoint as a folder.
    pub fn thinker(&self, name: &str) -> PathBuf {
        for (file, content) in THINKER_FILES {
            self.write(&format!("{name}/{file}"), content);
        }
        self.path(name)
    }

    /// The bytes of a run's files that must not depend on how the run went, by name.
    pub fn run_files(&self, folder: &str) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for name in names(&self.path(folder)).into_iter().filter(|name| name != "timings.jsonl") {
            let content = self.read(&format!("{folder}/{name}"));
            files.insert(name, content);
        }
        files
    }
}

pub const THINKER_FILES: [(&str, &[u8]); 5] = [
    ("config.json", tpv_thinker::CONFIG),
    ("generation_config.json", tpv_thinker::GENERATION_CONFIG),
    ("tokenizer.json", tpv_thinker::TOKENIZER),
    ("tokenizer_config.json", tpv_thinker::TOKENIZER_CONFIG),
    ("model.safetensors", tpv_thinker::WEIGHTS),
];

/// Insists on one error, in one line, that holds all of `parts`.
pub fn check_sentence(run: &Run, line: &str, parts: &[&str]) {
    let errors: Vec<&str> = run.stderr.lines().filter(|text| !text.starts_with("note: ")).collect();
    assert_eq!(errors.len(), 1, "tpv {line}\n{}", run.stderr);
    assert!(errors[0].starts_with("error: ") && !run.stderr.contains("panicked"), "tpv {line}\n{}", run.stderr);
    for part in parts {
        assert!(errors[0].contains(part), "tpv {line}\nexpected: {part}\n{}", run.stderr);
    }
}

/// The names in a folder, hidden ones too; nothing if it is not there.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The 32-bit floats of a NumPy vector, read without this project's own reader.
pub fn npy_vector(bytes: &[u8]) -> Vec<f32> {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..start]).unwrap();
    assert!(header.contains("'descr': '<f4'") && header.contains("'fortran_order': False"), "{header}");
    bytes[start..].chunks_exact(4).map(|it| f32::from_le_bytes(it.try_into().unwrap())).collect()
}

/// An array as numpy.save writes it.
pub fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
}
