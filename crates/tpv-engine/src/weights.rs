//! Named tensors of a checkpoint in safetensors form: one file, shards with an index, or bytes in the program.
//!
//! Files are mapped, not read: a tensor is converted when it is asked for, some rows at a time, each portion mapped for as
//! long as its conversion takes. So loading never holds a model twice, not even in pages of its file. Headers are checked
//! when a file is opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::{Mmap, MmapOptions};
use safetensors::{Dtype, SafeTensors};

use crate::error::{EngineError, Result};

/// Where a tensor's bytes are.
#[derive(Debug, Clone)]
enum Bytes {
    /// In a file, mapped when they are read.
    File(Arc<File>),
    Mapped(Arc<Mmap>),
    /// Part of the program.
    Embedded(&'static [u8]),
}

/// Matrix entries in the file's own number format.
#[derive(Debug, Clone)]
pub(crate) struct StoredTensor {
    bytes: Bytes,
    range: Range<usize>,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Named in messages.
    path: Arc<Path>,
}

impl StoredTensor {
    /// Converts `out.len()` entries from entry `start` on.
    pub fn copy(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let width = entry_bytes(self.dtype);
        let first = self.range.start + start * width;
        let range = first..(first + out.len() * width).min(self.range.end);
        match &self.bytes {
            Bytes::File(file) => self.convert(&self.map(file, range)?, out),
            Bytes::Mapped(map) => self.convert(&map[range], out),
            Bytes::Embedded(bytes) => self.convert(&bytes[range], out),
        }
        Ok(())
    }

    /// The same tensor, mapped for good, for entries that are read again and again.
    pub fn mapped(&self) -> Result<Self> {
        let Bytes::File(file) = &self.bytes else { return Ok(self.clone()) };
        let map = self.map(file, self.range.clone())?;
        Ok(Self { bytes: Bytes::Mapped(Arc::new(map)), range: 0..self.range.len(), ..self.clone() })
    }

    fn map(&self, file: &File, range: Range<usize>) -> Result<Mmap> {
        map_range(file, range).map_err(|error| file_error(&self.path, format!("cannot be read ({error})")))
    }

    fn convert(&self, bytes: &[u8], out: &mut [f32]) {
        match self.dtype {
            Dtype::F32 => convert(bytes, out, f32::from_le_bytes),
            Dtype::F16 => convert(bytes, out, |raw| f16::from_le_bytes(raw).to_f32()),
            Dtype::BF16 => convert(bytes, out, |raw| bf16::from_le_bytes(raw).to_f32()),
            other => unreachable!("{other:?} is refused when a tensor is asked for"),
        }
    }
}

fn convert<const WIDTH: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; WIDTH]) -> f32) {
    let (entries, _) = bytes.as_chunks::<WIDTH>();
    for (out, &entry) in out.iter_mut().zip(entries) {
        *out = decode(entry);
    }
}

fn entry_bytes(dtype: Dtype) -> usize {
    if dtype == Dtype::F32 { 4 } else { 2 }
}

/// All tensors of a checkpoint by name.
#[derive(Debug)]
pub(crate) struct TensorFiles {
    tensors: BTreeMap<String, StoredTensor>,
    /// Named in messages.
    origin: PathBuf,
}

impl TensorFiles {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub fn open_folder(folder: &Path) -> Result<Self> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        let mut files = Self { tensors: BTreeMap::new(), origin: folder.to_owned() };
        if single.is_file() {
            let (file, content) = map_file(&single)?;
            files.add(&single, &content, &Bytes::File(file), |_| true)?;
        } else if index.is_file() {
            let shards = shards(&index)?;
            let names: BTreeSet<&String> = shards.values().collect();
            for name in names {
                let path = folder.join(name);
                let (file, content) = map_file(&path)?;
                // A tensor that lies in several files is the one in the file that the index names for it.
                let is_here = |tensor: &str| shards.get(tensor).is_none_or(|shard| shard == name);
                files.add(&path, &content, &Bytes::File(file), is_here)?;
            }
        } else {
            let problem = "holds neither model.safetensors nor model.safetensors.index.json";
            return Err(file_error(folder, problem));
        }
        Ok(files)
    }

    /// Takes a safetensors file that is part of the program.
    pub fn embedded(bytes: &'static [u8]) -> Result<Self> {
        let origin = PathBuf::from("(embedded model)");
        let mut files = Self { tensors: BTreeMap::new(), origin: origin.clone() };
        files.add(&origin, bytes, &Bytes::Embedded(bytes), |_| true)?;
        Ok(files)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensor of this name, checked to have this shape and a type that is read. What nobody asks for, such as the masks
    /// that older programs saved with the weights, may have any type.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<&StoredTensor> {
        let tensor = self.tensors.get(name).ok_or_else(|| file_error(&self.origin, format!("no tensor `{name}`")))?;
        if tensor.shape != shape {
            let problem = format!("tensor `{name}` is {:?}, config.json means {shape:?}", tensor.shape);
            return Err(file_error(&self.origin, problem));
        }
        if !matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let problem = format!("tensor `{name}` has type {:?}; F32, F16 and BF16 are read", tensor.dtype);
            return Err(file_error(&tensor.path, problem));
        }
        Ok(tensor)
    }

    /// Notes the tensors of a file with this content that are wanted from it.
    fn add(&mut self, path: &Path, content: &[u8], bytes: &Bytes, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
        let damaged =
            |error| file_error(path, format!("not a whole safetensors file ({error}); copy or download it again"));
        let shared: Arc<Path> = path.into();
        let start = content.as_ptr() as usize;
        let tensors = SafeTensors::deserialize(content).map_err(damaged)?.tensors();
        for (name, view) in tensors.into_iter().filter(|(name, _)| is_wanted(name)) {
            let first = view.data().as_ptr() as usize - start;
            let tensor = StoredTensor {
                bytes: bytes.clone(),
                range: first..first + view.data().len(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                path: Arc::clone(&shared),
            };
            self.tensors.insert(name, tensor);
        }
        Ok(())
    }
}

/// An error about a file.
pub(crate) fn file_error(path: &Path, problem: impl Into<String>) -> EngineError {
    EngineError::File { path: path.to_owned(), problem: problem.into() }
}

/// Reads a small file whole.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| file_error(path, format!("cannot be read ({error})")))
}

/// A file and its whole content, of which only the header is looked at.
fn map_file(path: &Path) -> Result<(Arc<File>, Mmap)> {
    let cannot = |error| file_error(path, format!("cannot be read ({error})"));
    let file = File::open(path).map_err(cannot)?;
    let length = file.metadata().map_err(cannot)?.len();
    if length == 0 {
        return Err(file_error(path, "is empty"));
    }
    let map = map_range(&file, 0..length as usize).map_err(cannot)?;
    Ok((Arc::new(file), map))
}

fn map_range(file: &File, range: Range<usize>) -> std::io::Result<Mmap> {
    let mut options = MmapOptions::new();
    options.offset(range.start as u64).len(range.len());
    #[expect(unsafe_code, reason = "mapping a file needs it")]
    // SAFETY: the map is read-only; checkpoints are not changed while they are in use.
    unsafe {
        options.map(file)
    }
}

/// The file of each tensor that an index lists.
fn shards(index: &Path) -> Result<BTreeMap<String, String>> {
    let foreign = || file_error(index, "is not an index of shards (no `weight_map` of file names)");
    let json: serde_json::Value = serde_json::from_slice(&read_file(index)?).map_err(|_| foreign())?;
    let map = json.get("weight_map").and_then(serde_json::Value::as_object).ok_or_else(foreign)?;
    let of = |(tensor, file): (&String, &serde_json::Value)| Some((tensor.clone(), file.as_str()?.to_owned()));
    map.iter().map(|entry| of(entry).ok_or_else(foreign)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    fn write(path: &Path, name: &str, dtype: Dtype, bytes: &[u8], shape: Vec<usize>) {
        let view = TensorView::new(dtype, shape, bytes).unwrap();
        std::fs::write(path, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
    }

    #[test]
    fn all_number_formats_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let values = [1.5f32, -2.0, 0.25, 8.0];
        let bf: Vec<u8> = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
        let half: Vec<u8> = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        let full: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        for (dtype, bytes) in [(Dtype::BF16, bf), (Dtype::F16, half), (Dtype::F32, full)] {
            write(&path, "w", dtype, &bytes, vec![2, 2]);
            let files = TensorFiles::open_folder(folder.path()).unwrap();
            let mut row = [0.0; 2];
            files.get("w", &[2, 2]).unwrap().copy(2, &mut row).unwrap();
            assert_eq!(row, values[2..]);
        }
    }

    #[test]
    fn a_tensor_in_two_shards_is_the_one_that_the_index_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, value) in [("1.safetensors", 1f32), ("2.safetensors", 2.0)] {
            write(&at(name), "w", Dtype::F32, &value.to_le_bytes(), vec![1]);
        }
        for (name, expected) in [("1.safetensors", 1f32), ("2.safetensors", 2.0)] {
            let other = if expected == 1.0 { "2.safetensors" } else { "1.safetensors" };
            let index = format!(r#"{{"weight_map": {{"w": "{name}", "v": "{other}"}}}}"#);
            std::fs::write(at("model.safetensors.index.json"), index).unwrap();
            let mut value = [0.0];
            TensorFiles::open_folder(folder.path()).unwrap().get("w", &[1]).unwrap().copy(0, &mut value).unwrap();
            assert_eq!(value, [expected]);
        }
    }

    #[test]
    fn damaged_files_are_refused_with_their_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let refused = || TensorFiles::open_folder(folder.path()).unwrap_err().to_string();
        assert!(refused().contains("holds neither"));
        for content in [&b""[..], b"<html>", &[255; 64], &[8, 0, 0, 0, 0, 0, 0, 0]] {
            std::fs::write(&path, content).unwrap();
            assert!(refused().contains("model.safetensors"), "{}", refused());
        }
        write(&path, "w", Dtype::F32, &[0; 16], vec![4]);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        assert!(refused().contains("not a whole safetensors file"));
    }

    #[test]
    fn other_types_are_refused_only_where_they_are_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let (floats, whole) = ([0; 16], [0; 16]);
        let views = [
            ("w", Dtype::F32, vec![4], &floats),
            ("mask", Dtype::BOOL, vec![16], &whole),
            ("ids", Dtype::I64, vec![2], &whole),
        ];
        let views = views.map(|(name, dtype, shape, bytes)| (name, TensorView::new(dtype, shape, bytes).unwrap()));
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        let files = TensorFiles::open_folder(folder.path()).unwrap();
        files.get("w", &[4]).unwrap();
        let error = files.get("ids", &[2]).unwrap_err().to_string();
        assert!(error.contains("model.safetensors") && error.contains("`ids` has type I64"), "{error}");
    }

    #[test]
    fn a_wrong_shape_is_named() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("model.safetensors"), "w", Dtype::F32, &[0; 16], vec![4]);
        let files = TensorFiles::open_folder(folder.path()).unwrap();
        assert!(files.get("w", &[2, 2]).unwrap_err().to_string().contains("[2, 2]"));
        assert!(files.get("v", &[4]).unwrap_err().to_string().contains("no tensor `v`"));
    }
}
