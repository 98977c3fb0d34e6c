//! Safetensors files: named arrays with a JSON text beside them, written in order and read through a memory map.
//!
//! Files are deterministic: the same content gives the same bytes. Each carries one metadata entry, a JSON document
//! that states its `format` and `version`. Arrays stream to the disk without a second copy in memory, and nothing is
//! read before it is asked for.

use crate::atomic::write_file;
use crate::error::{DataError, Result};
use crate::files;
use crate::floats::{FloatType, elements, write_elements};
use crate::states::States;
use half::f16;
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The values of an array to be written.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// Half precision.
    F16(&'a [f16]),
    /// Single precision.
    F32(&'a [f32]),
    /// Double precision.
    F64(&'a [f64]),
    /// Unsigned 32-bit integers.
    U32(&'a [u32]),
    /// States, of which most may lie in a temporary file.
    States(&'a States),
}

impl Values<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F16(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::States(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn dtype(&self) -> (&'static str, usize) {
        match self {
            Self::F16(_) => of_floats(FloatType::F16),
            Self::F32(_) => of_floats(FloatType::F32),
            Self::F64(_) => of_floats(FloatType::F64),
            Self::U32(_) => ("U32", 4),
            Self::States(v) => of_floats(v.float_type()),
        }
    }

    fn write(&self, writer: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::F16(v) => write_elements(writer, v, f16::to_le_bytes),
            Self::F32(v) => write_elements(writer, v, f32::to_le_bytes),
            Self::F64(v) => write_elements(writer, v, f64::to_le_bytes),
            Self::U32(v) => write_elements(writer, v, u32::to_le_bytes),
            Self::States(v) => v.write(writer),
        }
    }
}

fn of_floats(kind: FloatType) -> (&'static str, usize) {
    let name = match kind {
        FloatType::F16 => "F16",
        FloatType::F32 => "F32",
        FloatType::F64 => "F64",
    };
    (name, kind.size())
}

/// A named array to be written, row-major.
#[derive(Debug, Clone)]
pub struct NamedArray<'a> {
    /// Its name, unique in the file.
    pub name: String,
    /// Its shape; the product is the number of values.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Values<'a>,
}

impl<'a> NamedArray<'a> {
    /// A one-dimensional array.
    pub fn vector(name: impl Into<String>, values: Values<'a>) -> Self {
        Self { name: name.into(), shape: vec![values.len()], values }
    }

    /// A matrix of `rows` rows.
    pub fn matrix(name: impl Into<String>, rows: usize, columns: usize, values: Values<'a>) -> Self {
        assert_eq!(rows * columns, values.len(), "the shape of a matrix matches its values");
        Self { name: name.into(), shape: vec![rows, columns], values }
    }
}

/// Writes a safetensors file, all or nothing: `about`, as JSON, becomes the metadata entry `key`.
pub fn write_tensors<T: Serialize>(path: &Path, key: &str, about: &T, arrays: &[NamedArray<'_>]) -> Result<()> {
    let mut arrays: Vec<&NamedArray<'_>> = arrays.iter().collect();
    // Wider elements first keeps every array aligned to its element size.
    arrays.sort_by(|a, b| b.values.dtype().1.cmp(&a.values.dtype().1).then_with(|| a.name.cmp(&b.name)));
    write_file(path, |writer| {
        let header = header_bytes(key, about, &arrays)?;
        writer.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.write_all(&header)?;
        arrays.iter().try_for_each(|array| array.values.write(writer))
    })
}

fn header_bytes<T: Serialize>(key: &str, about: &T, arrays: &[&NamedArray<'_>]) -> io::Result<Vec<u8>> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({ key: serde_json::to_string(about)? }));
    let mut offset = 0;
    for array in arrays {
        let (dtype, size) = array.values.dtype();
        let end = offset + array.values.len() * size;
        header
            .insert(array.name.clone(), json!({ "dtype": dtype, "shape": array.shape, "data_offsets": [offset, end] }));
        offset = end;
    }
    let mut bytes = serde_json::to_vec(&Value::Object(header))?;
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    Ok(bytes)
}

/// The bytes of a file on the disk, or inside the program.
#[derive(Debug)]
enum Content {
    Map(Mmap),
    Embedded(&'static [u8]),
}

impl Content {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}

/// An open safetensors file; its arrays are read from the disk when they are asked for.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    content: Content,
    data_start: usize,
    metadata: Metadata,
}

impl TensorFile {
    /// Opens a file and checks that its header is sound and the file complete.
    pub fn open(path: &Path) -> Result<Self> {
        Self::check(path, Content::Map(map_file(path)?))
    }

    /// Takes the bytes of a file that is part of the program; `path` names it in messages.
    pub fn embedded(path: &Path, bytes: &'static [u8]) -> Result<Self> {
        Self::check(path, Content::Embedded(bytes))
    }

    fn check(path: &Path, content: Content) -> Result<Self> {
        let (header_len, metadata) =
            SafeTensors::read_metadata(content.bytes()).map_err(|error| not_safetensors(path, &error.to_string()))?;
        Ok(Self { path: path.into(), content, data_start: header_len + 8, metadata })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The JSON document in the metadata entry `key`; `kind` names the wanted kind of file in the error message.
    pub fn about<T: DeserializeOwned>(&self, key: &str, kind: &str) -> Result<T> {
        let text = self.metadata.metadata().as_ref().and_then(|entries| entries.get(key));
        let text = text.ok_or_else(|| self.damaged(format!("not a {kind}: it has no \"{key}\" metadata entry")))?;
        serde_json::from_str(text).map_err(|error| self.damaged(format!("its \"{key}\" metadata is damaged: {error}")))
    }

    /// Whether there is an array of that name.
    pub fn has(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// The shape of an array.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.info(name)?.shape)
    }

    /// A one-dimensional array of finite numbers as f32; `len` is checked where it is known.
    pub fn vector_f32(&self, name: &str, len: Option<usize>) -> Result<Vec<f32>> {
        let (kind, bytes) = self.float_vector(name, len)?;
        let mut out = Vec::with_capacity(bytes.len() / kind.size());
        kind.decode_f32(bytes, &mut out);
        match out.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(self.damaged(format!("{name}[{at}] is {}, not a finite number", out[at]))),
            None => Ok(out),
        }
    }

    /// A one-dimensional array of finite numbers as f64.
    pub fn vector_f64(&self, name: &str, len: Option<usize>) -> Result<Vec<f64>> {
        let (kind, bytes) = self.float_vector(name, len)?;
        let out = kind.decode_f64(bytes);
        match out.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(self.damaged(format!("{name}[{at}] is {}, not a finite number", out[at]))),
            None => Ok(out),
        }
    }

    /// A one-dimensional array of unsigned integers.
    pub fn vector_u32(&self, name: &str) -> Result<Vec<u32>> {
        let info = self.info(name)?;
        match (info.dtype, info.shape.as_slice()) {
            (Dtype::U32, [_]) => Ok(elements(self.bytes(info)).map(u32::from_le_bytes).collect()),
            (dtype, shape) => Err(self.damaged(format!("{name} is {dtype:?} {shape:?}, expected U32 [n]"))),
        }
    }

    /// A matrix of floating-point numbers, not yet read.
    pub fn matrix(&self, name: &str) -> Result<Matrix<'_>> {
        let info = self.info(name)?;
        let kind = self.float_type(name, info)?;
        match *info.shape.as_slice() {
            [rows, columns] => Ok(Matrix { kind, rows, columns, bytes: self.bytes(info) }),
            ref shape => Err(self.damaged(format!("{name} has shape {shape:?}, expected two dimensions"))),
        }
    }

    /// An error that names this file.
    pub fn damaged(&self, what: impl Into<String>) -> DataError {
        DataError::damaged(&self.path, what, "make the file again or remove it")
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.metadata.info(name).ok_or_else(|| self.damaged(format!("it has no array \"{name}\"")))
    }

    fn bytes(&self, info: &TensorInfo) -> &[u8] {
        // In bounds: `read_metadata` compared the offsets with the length of the map.
        &self.content.bytes()[self.data_start + info.data_offsets.0..self.data_start + info.data_offsets.1]
    }

    fn float_type(&self, name: &str, info: &TensorInfo) -> Result<FloatType> {
        match info.dtype {
            Dtype::F16 => Ok(FloatType::F16),
            Dtype::F32 => Ok(FloatType::F32),
            Dtype::F64 => Ok(FloatType::F64),
            other => Err(self.damaged(format!("{name} has type {other:?}, expected F16, F32 or F64"))),
        }
    }

    fn float_vector(&self, name: &str, len: Option<usize>) -> Result<(FloatType, &[u8])> {
        let info = self.info(name)?;
        let kind = self.float_type(name, info)?;
        match (info.shape.as_slice(), len) {
            (&[found], Some(expected)) if found != expected => {
                Err(self.damaged(format!("{name} has {found} values, expected {expected}")))
            }
            ([_], _) => Ok((kind, self.bytes(info))),
            (shape, _) => Err(self.damaged(format!("{name} has shape {shape:?}, expected one dimension"))),
        }
    }
}

/// A matrix in a file that is mapped into memory, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// The type of its elements.
    pub kind: FloatType,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// A matrix over raw bytes; `None` unless they are exactly `rows * columns` elements.
    pub fn over(kind: FloatType, rows: usize, columns: usize, bytes: &'a [u8]) -> Option<Self> {
        let expected = rows.checked_mul(columns)?.checked_mul(kind.size())?;
        (bytes.len() == expected).then_some(Self { kind, rows, columns, bytes })
    }

    /// Replaces `out` with the rows `start..end` as f32. The range must lie within the matrix.
    pub fn read_rows(&self, start: usize, end: usize, out: &mut Vec<f32>) {
        let row_bytes = self.columns * self.kind.size();
        out.clear();
        self.kind.decode_f32(&self.bytes[start * row_bytes..end * row_bytes], out);
    }
}

/// Maps a file into memory.
pub fn map_file(path: &Path) -> Result<Mmap> {
    let file = files::open(path).map_err(|source| DataError::io(path, "open the file", source))?;
    // SAFETY: the map is read-only, and every file of ours is replaced by a rename, never changed in place, so the
    // mapped bytes stay as they are for as long as the map lives. Files of others, checkpoints and arrays of the Python
    // scripts, must not be cut short meanwhile: the system would stop the process.
    #[expect(unsafe_code, reason = "a memory map cannot be made otherwise")]
    let map = unsafe { Mmap::map(&file) };
    map.map_err(|source| DataError::io(path, "map the file into memory", source))
}

fn not_safetensors(path: &Path, problem: &str) -> DataError {
    DataError::damaged(path, format!("not a complete safetensors file ({problem})"), "make the file again or remove it")
}

/// A hostile copy of a good file for tests: what it is called and its bytes.
#[cfg(test)]
pub(crate) fn hostile_copies(good: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut copies = vec![
        ("empty".to_string(), vec![]),
        ("huge header length".into(), [&u64::MAX.to_le_bytes()[..], &good[8..]].concat()),
        ("header length past the end".into(), [&(good.len() as u64).to_le_bytes()[..], &good[8..]].concat()),
        ("one byte short".into(), good[..good.len() - 1].to_vec()),
        ("one byte more".into(), [good, b"x"].concat()),
    ];
    for cut in [1, 7, 8, 9, good.len() / 3, good.len() / 2] {
        copies.push((format!("cut at {cut}"), good[..cut].to_vec()));
    }
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for size in [8, 64, 4096] {
        let noise = (0..size).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
        copies.push((format!("{size} random bytes"), noise.collect()));
    }
    copies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(path: &Path) {
        let halves = [1.0, -2.5, 0.25, 4.0, 5.0, 6.0].map(f16::from_f32);
        let arrays = [
            NamedArray::vector("ids", Values::U32(&[3, 1, 2])),
            NamedArray::matrix("states", 3, 2, Values::F16(&halves)),
            NamedArray::vector("sums", Values::F64(&[0.1, 0.2])),
        ];
        write_tensors(path, "about", &json!({"b": 1, "a": "\u{1F914} \"quoted\""}), &arrays).unwrap();
    }

    #[test]
    fn the_safetensors_crate_reads_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        sample(&path);
        let bytes = std::fs::read(&path).unwrap();
        let parsed = SafeTensors::deserialize(&bytes).unwrap();
        let states = parsed.tensor("states").unwrap();
        assert_eq!((states.dtype(), states.shape()), (Dtype::F16, &[3, 2][..]));
        assert_eq!(states.data()[2..4], f16::from_f32(-2.5).to_le_bytes());
        assert_eq!(parsed.tensor("sums").unwrap().data()[..8], 0.1f64.to_le_bytes());
        assert_eq!(parsed.tensor("ids").unwrap().data()[4..8], 1u32.to_le_bytes());
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        sample(&a);
        sample(&b);
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }

    #[test]
    fn reads_its_own_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        sample(&path);
        let file = TensorFile::open(&path).unwrap();
        let about: Value = file.about("about", "sample").unwrap();
        assert_eq!(about["a"], "\u{1F914} \"quoted\"");
        assert_eq!(file.vector_u32("ids").unwrap(), [3, 1, 2]);
        assert_eq!(file.vector_f64("sums", Some(2)).unwrap(), [0.1, 0.2]);
        let mut rows = Vec::new();
        file.matrix("states").unwrap().read_rows(1, 3, &mut rows);
        assert_eq!(rows, [0.25, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn wrong_kinds_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        sample(&path);
        let file = TensorFile::open(&path).unwrap();
        for (result, expected) in [
            (file.vector_u32("states").map(drop), "states is F16 [3, 2], expected U32 [n]"),
            (file.vector_f32("ids", None).map(drop), "ids has type U32"),
            (file.vector_f32("states", None).map(drop), "states has shape [3, 2]"),
            (file.vector_f64("sums", Some(3)).map(drop), "sums has 2 values, expected 3"),
            (file.matrix("sums").map(drop), "sums has shape [2]"),
            (file.matrix("nothing").map(drop), "no array \"nothing\""),
            (file.about::<Value>("other", "vector").map(drop), "not a vector"),
        ] {
            let text = result.unwrap_err().to_string();
            assert!(text.contains(expected) && text.contains("x.safetensors"), "{text}");
        }
    }

    #[test]
    fn hostile_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let good = folder.path().join("good");
        sample(&good);
        for (name, bytes) in hostile_copies(&std::fs::read(&good).unwrap()) {
            let path = folder.path().join("bad");
            std::fs::write(&path, bytes).unwrap();
            let text = TensorFile::open(&path).expect_err(&name).to_string();
            assert!(text.contains("bad"), "{name}: {text}");
        }
        assert!(TensorFile::open(folder.path()).unwrap_err().to_string().contains("cannot"));
    }
}
