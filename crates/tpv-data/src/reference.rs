//! Folders made by the paper's public Python scripts, read as traces.
//!
//! ```text
//! <folder>/config.json                                    model_name, dataset_name, ...
//! <folder>/problem_<idx>/original_problem.txt             the problem's words
//! <folder>/problem_<idx>/generation_<g>/tokens.json       token strings: prompt, generated, padding
//! <folder>/problem_<idx>/generation_<g>/metadata.json     input_prompt_length_tokens, output_generated_length_tokens
//! <folder>/problem_<idx>/generation_<g>/token_hidden_states_output.npy    (generated, d)
//! ```
//!
//! Row j (from 0) of the array is the state that predicts generated token j + 1 and has the label (j + 1) / N. Row 0
//! is not what it should be there (the state at the first position of the prompt instead of the last), so it is left
//! away and the labels begin with 2 / N. As in the scripts, the thinking begins with the first generated token.
//!
//! A generation with an `error.txt`, or with files that contradict each other, is left out and listed.

use crate::error::{DataError, Result};
use crate::files;
use crate::npy::NpyFile;
use crate::source::{
    BlockSink, LeftOut, TraceHeader, TraceId, TraceSource, misnamed_entries, numbered_entries, read_blocks,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use tpv_core::phase::{PhaseTracker, ThinkingMarkers};
use tpv_core::vector::ModelIdentity;

const PROBLEM: &str = "original_problem.txt";
const STATES: &str = "token_hidden_states_output.npy";
/// The first row that holds what it should.
const FIRST_SOUND_ROW: usize = 1;

/// A folder made by the Python scripts.
#[derive(Debug)]
pub struct ReferenceFolder {
    folder: PathBuf,
    model: Option<ModelIdentity>,
    dataset: Option<String>,
    headers: Vec<TraceHeader>,
    left_out: Vec<LeftOut>,
}

#[derive(Deserialize, Default)]
struct Config {
    model_name: Option<String>,
    dataset_name: Option<String>,
}

#[derive(Deserialize)]
struct GenerationMetadata {
    input_prompt_length_tokens: usize,
    output_generated_length_tokens: usize,
}

impl ReferenceFolder {
    /// Whether a folder looks like one of the Python scripts.
    pub fn is_one(folder: &Path) -> Result<bool> {
        if !folder.is_dir() {
            return Ok(false);
        }
        let problems = numbered_entries(folder, "problem_", "")?;
        Ok(problems.iter().any(|(_, path)| path.is_dir()))
    }

    /// Opens a folder; `markers.end` is the text that ends the thinking.
    pub fn open(folder: &Path, markers: &ThinkingMarkers) -> Result<Self> {
        let path = folder.join("config.json");
        let config: Config = if path.is_file() { read_json(&path)? } else { Config::default() };
        let mut it = Self {
            folder: folder.into(),
            model: None,
            dataset: config.dataset_name,
            headers: Vec::new(),
            left_out: Vec::new(),
        };
        let mut width = None;
        it.leave_out_misnamed(folder, "problem_")?;
        for (problem, problem_folder) in numbered_entries(folder, "problem_", "")? {
            if !problem_folder.is_dir() {
                it.leave_out(&problem_folder, "it is no folder");
                continue;
            }
            it.leave_out_misnamed(&problem_folder, "generation_")?;
            for (generation, path) in numbered_entries(&problem_folder, "generation_", "")? {
                it.add(TraceId { problem, generation }, &path, markers, &mut width);
            }
        }
        let name = config.model_name.unwrap_or_default();
        it.model = width.map(|hidden_size| ModelIdentity { name, hidden_size, ..ModelIdentity::default() });
        Ok(it)
    }

    fn leave_out(&mut self, path: &Path, reason: &str) {
        let name = path.strip_prefix(&self.folder).unwrap_or(path).display().to_string();
        self.left_out.push(LeftOut { trace: name, reason: reason.into() });
    }

    /// Folders such as `problem_002`, which the scripts do not write.
    fn leave_out_misnamed(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        let misnamed = misnamed_entries(folder, prefix)?;
        misnamed
            .iter()
            .for_each(|path| self.leave_out(path, "its name does not end in a number as the scripts write it"));
        Ok(())
    }

    fn add(&mut self, id: TraceId, path: &Path, markers: &ThinkingMarkers, width: &mut Option<usize>) {
        match read_header(id, path, markers, width) {
            Ok(header) => self.headers.push(header),
            Err(reason) => self.left_out.push(LeftOut { trace: id.to_string(), reason }),
        }
    }
}

impl TraceSource for ReferenceFolder {
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn model(&self) -> Option<&ModelIdentity> {
        self.model.as_ref()
    }

    fn dataset(&self) -> Option<&str> {
        self.dataset.as_deref()
    }

    fn problem_text(&self, problem: usize) -> Result<Option<String>> {
        let path = self.folder.join(format!("problem_{problem}")).join(PROBLEM);
        match files::read(&path) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DataError::io(&path, "read the problem", error)),
        }
    }

    fn headers(&self) -> &[TraceHeader] {
        &self.headers
    }

    fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    fn read_thinking(&self, id: TraceId, sink: &mut BlockSink<'_>) -> Result<()> {
        let header = self.header(id)?;
        let path = self.folder.join(id.to_string()).join(STATES);
        let file = NpyFile::open(&path)?;
        let matrix = file.matrix()?;
        let rows = FIRST_SOUND_ROW..FIRST_SOUND_ROW + header.thinking_rows;
        if rows.end > matrix.rows {
            return Err(DataError::damaged(
                &path,
                "the file has changed since it was opened",
                "prepare the folder again",
            ));
        }
        read_blocks(&path, &matrix, rows, header.first_position, sink)
    }
}

fn read_header(
    id: TraceId,
    folder: &Path,
    markers: &ThinkingMarkers,
    width: &mut Option<usize>,
) -> Result<TraceHeader, String> {
    refuse_failed(folder)?;
    let of_file = |name: &'static str| move |error: DataError| format!("{name}: {}", error.reason());
    let metadata: GenerationMetadata = read_json(&folder.join("metadata.json")).map_err(of_file("metadata.json"))?;
    let tokens: Vec<Option<String>> = read_json(&folder.join("tokens.json")).map_err(of_file("tokens.json"))?;
    let file = NpyFile::open(&folder.join(STATES)).map_err(of_file(STATES))?;
    let states = file.matrix().map_err(of_file(STATES))?;
    let generated = generated_tokens(&metadata, &tokens)?;
    let (thinking_tokens, thinking_ended) = thinking_length(generated, markers);
    if states.rows < thinking_tokens {
        return Err(format!("{STATES} has {} rows for {thinking_tokens} thinking tokens", states.rows));
    }
    if *width.get_or_insert(states.columns) != states.columns {
        let expected = width.unwrap_or_default();
        return Err(format!("{STATES} has width {}, the traces before it have {expected}", states.columns));
    }
    Ok(TraceHeader {
        id,
        finish_reason: None,
        generated_tokens: generated.len(),
        thinking_tokens,
        thinking_ended,
        first_position: FIRST_SOUND_ROW + 1,
        thinking_rows: thinking_tokens.saturating_sub(FIRST_SOUND_ROW),
        answer: None,
        correct: None,
    })
}

fn refuse_failed(folder: &Path) -> Result<(), String> {
    match files::read_to_string(&folder.join("error.txt")) {
        Ok(text) => {
            let first = text.lines().next().unwrap_or_default();
            Err(format!("it failed (error.txt: \"{first}\"); if it was repeated with success, remove error.txt"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("error.txt cannot be read: {error}")),
    }
}

fn generated_tokens<'a>(
    metadata: &GenerationMetadata,
    tokens: &'a [Option<String>],
) -> Result<&'a [Option<String>], String> {
    let start = metadata.input_prompt_length_tokens;
    let end = start.checked_add(metadata.output_generated_length_tokens);
    end.and_then(|end| tokens.get(start..end)).ok_or_else(|| {
        format!(
            "metadata.json says {start} prompt and {} generated tokens, tokens.json has {} in all",
            metadata.output_generated_length_tokens,
            tokens.len()
        )
    })
}

/// The number of thinking tokens, `</think>` included, and whether it came.
fn thinking_length(generated: &[Option<String>], markers: &ThinkingMarkers) -> (usize, bool) {
    let mut tracker = PhaseTracker::after_prompt(markers, &markers.start);
    for token in generated {
        tracker.push(&token_bytes(token.as_deref().unwrap_or_default()));
        if tracker.thinking_ended() {
            break;
        }
    }
    (tracker.thinking_tokens(), tracker.thinking_ended())
}

/// The bytes that a token string stands for: byte-level vocabularies write each byte as one printable character.
/// Characters outside of that alphabet, as in special tokens, stand for themselves.
fn token_bytes(token: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(token.len());
    for character in token.chars() {
        match byte_of(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// Printable bytes of Latin-1 are written as themselves; the n-th of the others as U+0100 + n.
fn byte_of(character: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(character) {
        code @ 0..=0xFF => u8::try_from(code).ok().filter(|&byte| printable(byte)),
        code @ 0x100.. => (0..=255u8).filter(|&byte| !printable(byte)).nth((code - 0x100) as usize),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = files::read(path).map_err(|source| DataError::io(path, "read the file", source))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| DataError::damaged(path, format!("damaged JSON ({error})"), "generate it again or remove it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npy::write_matrix;
    use crate::tensors::hostile_copies;
    use serde_json::json;
    use std::fs;

    const WIDTH: usize = 2;

    /// Writes a generation after a prompt of two tokens; row j of the states is `[j, -j]`.
    fn write(root: &Path, id: &str, generated: &[&str]) -> PathBuf {
        let folder = root.join(id);
        fs::create_dir_all(&folder).unwrap();
        let tokens: Vec<&str> = ["Why", "<think>"].iter().chain(generated).chain(&["<pad>"]).copied().collect();
        fs::write(folder.join("tokens.json"), json!(tokens).to_string()).unwrap();
        let metadata = json!({"input_prompt_length_tokens": 2, "output_generated_length_tokens": generated.len(),
            "batch_generation_time_seconds_for_problem": 1.5});
        fs::write(folder.join("metadata.json"), metadata.to_string()).unwrap();
        let states: Vec<f32> = (0..generated.len()).flat_map(|j| [j as f32, -(j as f32)]).collect();
        write_matrix(&folder.join(STATES), WIDTH, &states).unwrap();
        folder
    }

    fn open(root: &Path) -> ReferenceFolder {
        assert!(ReferenceFolder::is_one(root).unwrap());
        ReferenceFolder::open(root, &ThinkingMarkers::default()).unwrap()
    }

    fn rows(source: &dyn TraceSource, id: TraceId) -> Result<Vec<(usize, Vec<f32>)>> {
        let mut rows = Vec::new();
        source.read_thinking(id, &mut |block| {
            rows.extend(block.iter().map(|(position, state)| (position, state.to_vec())));
            Ok(())
        })?;
        Ok(rows)
    }

    #[test]
    fn labels_begin_with_two_because_the_first_row_is_wrong() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("config.json"), r#"{"model_name": "org/tiny", "dataset_name": "math500"}"#).unwrap();
        write(root.path(), "problem_3/generation_1", &["Hm", ".", "\u{120}so", "</think>", "42"]);
        let source = open(root.path());
        let id = TraceId { problem: 3, generation: 1 };
        let header = source.header(id).unwrap();
        assert_eq!((header.thinking_tokens, header.generated_tokens, header.thinking_ended), (4, 5, true));
        assert_eq!(rows(&source, id).unwrap(), [(2, vec![1.0, -1.0]), (3, vec![2.0, -2.0]), (4, vec![3.0, -3.0])]);
        let model = source.model().unwrap();
        assert_eq!((model.name.as_str(), model.hidden_size), ("org/tiny", 2));
        assert_eq!(source.dataset(), Some("math500"));
    }

    #[test]
    fn the_end_of_the_thinking_may_be_several_tokens() {
        let root = tempfile::tempdir().unwrap();
        for (generation, tokens, expected) in [
            (0, vec!["a", "</", "think", ">\u{10a}", "b"], (4, true)),
            (1, vec!["a\u{120}</think>\u{10a}\u{10a}", "b"], (1, true)),
            (2, vec!["a", "</", "thinks", ">"], (4, false)),
            (3, vec![], (0, false)),
        ] {
            write(root.path(), &format!("problem_0/generation_{generation}"), &tokens);
            let header = open(root.path()).header(TraceId { problem: 0, generation }).unwrap().clone();
            assert_eq!((header.thinking_tokens, header.thinking_ended), expected, "{tokens:?}");
        }
    }

    #[test]
    fn every_byte_has_its_character() {
        // The alphabet of byte-level vocabularies: space is U+0120, newline U+010A, 0xAD U+0143, 'A' itself.
        assert_eq!(token_bytes("\u{120}A\u{10a}\u{143}\u{e9}"), [b' ', b'A', b'\n', 0xAD, 0xE9]);
        assert_eq!(token_bytes("<\u{ff5c}end\u{2581}x>"), "<\u{ff5c}end\u{2581}x>".as_bytes());
        let mut bytes: Vec<u8> = (0..0x144).filter_map(char::from_u32).filter_map(byte_of).collect();
        bytes.sort();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn what_failed_or_contradicts_itself_is_left_out_with_the_reason() {
        let root = tempfile::tempdir().unwrap();
        let good = ["x", "</think>"];
        write(root.path(), "problem_0/generation_0", &good);
        let failed = write(root.path(), "problem_0/generation_1", &good);
        fs::write(failed.join("error.txt"), "CUDA out of memory\ntrace").unwrap();
        let short = write(root.path(), "problem_0/generation_2", &good);
        write_matrix(&short.join(STATES), WIDTH, &[0.0; 2]).unwrap();
        let wide = write(root.path(), "problem_0/generation_3", &good);
        write_matrix(&wide.join(STATES), 3, &[0.0; 6]).unwrap();
        let long = write(root.path(), "problem_0/generation_4", &good);
        let metadata = r#"{"input_prompt_length_tokens": 4, "output_generated_length_tokens": 2}"#;
        fs::write(long.join("metadata.json"), metadata).unwrap();
        let empty = root.path().join("problem_0/generation_5");
        fs::create_dir(empty).unwrap();
        let source = open(root.path());
        assert_eq!(source.headers().len(), 1);
        let reasons: Vec<&str> = source.left_out().iter().map(|it| it.reason.as_str()).collect();
        for (reason, expected) in reasons.iter().zip([
            "it failed (error.txt: \"CUDA out of memory\")",
            "has 1 rows for 2 thinking tokens",
            "has width 3, the traces before it have 2",
            "metadata.json says 4 prompt and 2 generated tokens, tokens.json has 5 in all",
            "metadata.json: cannot read the file",
        ]) {
            assert!(reason.contains(expected), "{reason}");
        }
        assert_eq!(reasons.len(), 5);
        assert_eq!(source.left_out()[0].trace, "problem_0/generation_1");
    }

    #[test]
    fn damaged_files_are_left_out_and_never_a_panic() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "problem_0/generation_0", &["x", "</think>"]);
        for name in ["tokens.json", "metadata.json", STATES] {
            let path = root.path().join("problem_0/generation_0").join(name);
            let good = fs::read(&path).unwrap();
            for (what, bytes) in hostile_copies(&good) {
                fs::write(&path, bytes).unwrap();
                let source = open(root.path());
                assert!(source.headers().is_empty() && source.left_out()[0].reason.contains(name), "{name}: {what}");
            }
            fs::write(&path, good).unwrap();
        }
        assert_eq!(open(root.path()).headers().len(), 1);
    }

    #[test]
    fn states_that_are_not_numbers_are_an_error_that_names_the_file() {
        let root = tempfile::tempdir().unwrap();
        let folder = write(root.path(), "problem_0/generation_0", &["x", "y", "</think>"]);
        write_matrix(&folder.join(STATES), WIDTH, &[f32::NAN, 0.0, 1.0, 1.0, 1.0, f32::NAN]).unwrap();
        let text = rows(&open(root.path()), TraceId { problem: 0, generation: 0 }).unwrap_err().to_string();
        assert!(text.contains("token_hidden_states_output.npy: the state in row 2 holds NaN"), "{text}");
    }
}
