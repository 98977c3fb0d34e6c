//! Files of JSON lines that a run goes on from: what can be read of them, and which lines cannot.

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use std::path::Path;
use tpv_data::files;

/// What a file of lines holds.
pub struct JsonLines<T> {
    /// The values, in order.
    pub values: Vec<T>,
    /// Numbers of the lines that hold no such value, from 1.
    pub damaged: Vec<usize>,
}

/// Reads the lines of a file; one that is not there has none. A line that was cut off by a crash counts as damaged.
pub fn read_json_lines<T: DeserializeOwned>(path: &Path) -> Result<JsonLines<T>> {
    let mut lines = JsonLines { values: Vec::new(), damaged: Vec::new() };
    let read = files::read_optional(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let Some(bytes) = read else { return Ok(lines) };
    for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(value) => lines.values.push(value),
            Err(_) => lines.damaged.push(number),
        }
    }
    Ok(lines)
}

impl<T> JsonLines<T> {
    /// One sentence about the damaged lines, none where all is well; `consequence` says what becomes of them.
    pub fn remark(&self, path: &Path, consequence: &str) -> Option<String> {
        let numbers: Vec<String> = self.damaged.iter().take(5).map(usize::to_string).collect();
        let further = if self.damaged.len() > numbers.len() { ", .." } else { "" };
        let lines = if self.damaged.len() == 1 { "line" } else { "lines" };
        (!self.damaged.is_empty()).then(|| {
            format!(
                "{}: {} {lines} cannot be read ({lines} {}{further}); {consequence}",
                path.display(),
                self.damaged.len(),
                numbers.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_lines_are_counted_and_the_others_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers.jsonl");
        assert!(read_json_lines::<u32>(&path).unwrap().values.is_empty());
        std::fs::write(&path, b"1\n\n2\n{\"torn\n\xff\xfe\n3").unwrap();
        let lines = read_json_lines::<u32>(&path).unwrap();
        assert_eq!((lines.values.as_slice(), lines.damaged.as_slice()), (&[1, 2, 3][..], &[4, 5][..]));
        let remark = lines.remark(&path, "left out").unwrap();
        assert!(remark.ends_with("2 lines cannot be read (lines 4, 5); left out"), "{remark}");
    }
}
