//! NumPy `.npy` files: (d,) and (n, d) floating-point arrays in C order, read through a memory map.
//!
//! Only what the reference writes and what vectors need: little-endian f16, f32, f64. Everything else, pickled
//! objects above all, is refused by name.

use crate::atomic::write_file;
use crate::error::{DataError, Result};
use crate::floats::{FloatType, write_elements};
use crate::tensors::{Matrix, map_file};
use memmap2::Mmap;
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"\x93NUMPY";
const ALIGNMENT: usize = 64;

/// An open `.npy` file of one or two dimensions.
#[derive(Debug)]
pub struct NpyFile {
    path: PathBuf,
    map: Mmap,
    data_start: usize,
    kind: FloatType,
    shape: Vec<usize>,
}

impl NpyFile {
    /// Opens a file and checks that its header is sound and the file complete.
    pub fn open(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        let (data_start, header) = split_header(&map).map_err(|what| damaged(path, what))?;
        let (kind, shape) = parse_header(header).map_err(|what| damaged(path, what))?;
        let file = Self { path: path.into(), map, data_start, kind, shape };
        file.check_length()?;
        Ok(file)
    }

    /// The array's shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The type of its elements.
    pub fn kind(&self) -> FloatType {
        self.kind
    }

    /// The array as a matrix; a one-dimensional array is one row.
    pub fn matrix(&self) -> Result<Matrix<'_>> {
        let (rows, columns) = match *self.shape.as_slice() {
            [columns] => (1, columns),
            [rows, columns] => (rows, columns),
            ref shape => return Err(damaged(&self.path, format!("shape {shape:?}, expected (d,) or (n, d)"))),
        };
        Matrix::over(self.kind, rows, columns, &self.map[self.data_start..]).ok_or_else(|| self.wrong_length())
    }

    /// The values of a one-dimensional array, or of a matrix with a single row, as finite f32.
    pub fn vector_f32(&self) -> Result<Vec<f32>> {
        let matrix = self.matrix()?;
        if matrix.rows != 1 {
            return Err(damaged(&self.path, format!("shape {:?}, expected a vector (d,)", self.shape)));
        }
        let mut values = Vec::with_capacity(matrix.columns);
        matrix.read_rows(0, 1, &mut values);
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(damaged(&self.path, format!("value {at} is {}, not a finite number", values[at]))),
            None => Ok(values),
        }
    }

    fn check_length(&self) -> Result<()> {
        let count = self.shape.iter().try_fold(self.kind.size(), |n, &dimension| n.checked_mul(dimension));
        (count == Some(self.map.len() - self.data_start)).then_some(()).ok_or_else(|| self.wrong_length())
    }

    fn wrong_length(&self) -> DataError {
        let found = self.map.len() - self.data_start;
        damaged(&self.path, format!("{found} bytes of data do not fit its shape {:?} of {:?}", self.shape, self.kind))
    }
}

/// Writes a vector (d,) of f32, all or nothing.
pub fn write_vector(path: &Path, values: &[f32]) -> Result<()> {
    let header = header_bytes(&format!("({},)", values.len()));
    write_file(path, |writer| {
        writer.write_all(&header)?;
        write_elements(writer, values, f32::to_le_bytes)
    })
}

/// Writes a matrix (rows, columns) of f32, all or nothing.
pub fn write_matrix(path: &Path, columns: usize, values: &[f32]) -> Result<()> {
    let rows = values.len().checked_div(columns).unwrap_or(0);
    assert_eq!(rows * columns, values.len(), "a matrix has whole rows");
    let header = header_bytes(&format!("({rows}, {columns})"));
    write_file(path, |writer| {
        writer.write_all(&header)?;
        write_elements(writer, values, f32::to_le_bytes)
    })
}

fn header_bytes(shape: &str) -> Vec<u8> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    let start = MAGIC.len() + 4;
    let padded = (start + text.len() + 1).next_multiple_of(ALIGNMENT) - start;
    text.extend(std::iter::repeat_n(' ', padded - text.len() - 1));
    text.push('\n');
    [MAGIC, &[1, 0], &(padded as u16).to_le_bytes(), text.as_bytes()].concat()
}

/// Where the data starts, and the header's text.
fn split_header(bytes: &[u8]) -> Result<(usize, &str), String> {
    if !bytes.starts_with(MAGIC) {
        return Err("not a .npy file".into());
    }
    let number = |at: std::ops::Range<usize>| {
        bytes.get(at).map(|raw| raw.iter().rev().fold(0usize, |n, &b| n << 8 | b as usize))
    };
    let (start, length) = match bytes.get(MAGIC.len()) {
        Some(1) => (10, number(8..10)),
        Some(2 | 3) => (12, number(8..12)),
        other => return Err(format!("unknown .npy version {other:?}")),
    };
    let end = length.and_then(|length| length.checked_add(start)).ok_or("its header is cut off")?;
    let header = bytes.get(start..end).ok_or("its header is cut off")?;
    Ok((end, std::str::from_utf8(header).map_err(|_| "its header is not text")?))
}

fn parse_header(header: &str) -> Result<(FloatType, Vec<usize>), String> {
    let kind = match value_of(header, "descr")?.trim_matches(['\'', '"']) {
        "<f2" => FloatType::F16,
        "<f4" => FloatType::F32,
        "<f8" => FloatType::F64,
        other => return Err(format!("type {other:?}, expected <f2, <f4 or <f8")),
    };
    if value_of(header, "fortran_order")? != "False" {
        return Err("stored in Fortran order, expected C order".into());
    }
    let shape = value_of(header, "shape")?.trim_start_matches('(').trim_end_matches(')');
    let dimensions = shape.split(',').map(str::trim).filter(|text| !text.is_empty());
    let shape: Result<Vec<usize>, _> = dimensions.map(str::parse).collect();
    match shape {
        Ok(shape) if matches!(shape.len(), 1 | 2) => Ok((kind, shape)),
        _ => Err(format!("shape {}, expected (d,) or (n, d)", value_of(header, "shape")?)),
    }
}

/// The text of a value in the header's Python dictionary, which has no nested values but the shape.
fn value_of<'a>(header: &'a str, key: &str) -> Result<&'a str, String> {
    let missing = || format!("its header has no {key:?}");
    let at = header.find(&format!("'{key}'")).ok_or_else(missing)?;
    let rest = header[at + key.len() + 2..].trim_start().strip_prefix(':').ok_or_else(missing)?.trim_start();
    let end = if rest.starts_with('(') { rest.find(')').map(|close| close + 1) } else { rest.find([',', '}']) };
    Ok(rest[..end.ok_or_else(missing)?].trim())
}

fn damaged(path: &Path, what: impl Into<String>) -> DataError {
    DataError::damaged(path, what, "save it again with numpy.save as a float array")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::hostile_copies;
    use std::fs;

    fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let length = match version {
            1 => (header.len() as u16).to_le_bytes().to_vec(),
            _ => (header.len() as u32).to_le_bytes().to_vec(),
        };
        [MAGIC, &[version, 0], &length, header.as_bytes(), data].concat()
    }

    fn open(bytes: &[u8]) -> Result<NpyFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        fs::write(&path, bytes).unwrap();
        NpyFile::open(&path)
    }

    #[test]
    fn writes_the_bytes_that_numpy_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.npy");
        write_vector(&path, &[1.0, 2.0]).unwrap();
        // numpy.save(path, numpy.array([1, 2], dtype="<f4")), NumPy 2
        let header = format!("{:<117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }");
        let expected =
            [b"\x93NUMPY\x01\x00\x76\x00", header.as_bytes(), &1f32.to_le_bytes(), &2f32.to_le_bytes()].concat();
        assert_eq!(fs::read(&path).unwrap().len(), expected.len());
        assert_eq!(fs::read(&path).unwrap(), expected);
    }

    #[test]
    fn reads_its_own_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.npy");
        write_matrix(&path, 3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let file = NpyFile::open(&path).unwrap();
        assert_eq!(file.shape(), [2, 3]);
        let mut rows = Vec::new();
        file.matrix().unwrap().read_rows(1, 2, &mut rows);
        assert_eq!(rows, [4.0, 5.0, 6.0]);
        assert!(file.vector_f32().unwrap_err().to_string().contains("expected a vector"));
    }

    #[test]
    fn reads_half_double_and_version_two() {
        let half = npy(1, "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2), }", &[0x00, 0x3c, 0x00, 0xc0]);
        assert_eq!(open(&half).unwrap().vector_f32().unwrap(), [1.0, -2.0]);
        let double =
            npy(2, "{\"shape\": 0, 'shape': (1,), 'fortran_order': False, 'descr': '<f8'}", &0.5f64.to_le_bytes());
        assert_eq!(open(&double).unwrap().vector_f32().unwrap(), [0.5]);
    }

    #[test]
    fn other_kinds_are_refused_by_name() {
        for (header, data, expected) in [
            ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", &b"\x80\x04"[..], "\"|O\""),
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", &[0; 4], "\">f4\""),
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }", &[0; 4], "Fortran"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", &[0; 4], "shape ()"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1), }", &[0; 4], "shape (1, 1, 1)"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", &[0; 4], "4 bytes of data"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551615, 9), }", &[0; 4], "do not fit"),
            ("{'descr': '<f4', 'fortran_order': False}", &[0; 4], "no \"shape\""),
            ("{'descr", &[], "no \"descr\""),
        ] {
            let text = open(&npy(1, header, data)).unwrap_err().to_string();
            assert!(text.contains(expected), "{header}: {text}");
        }
    }

    #[test]
    fn values_that_are_not_numbers_are_refused() {
        let bytes = npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", &f32::NAN.to_le_bytes());
        assert!(open(&bytes).unwrap().vector_f32().unwrap_err().to_string().contains("value 0 is NaN"));
    }

    #[test]
    fn hostile_files_are_refused() {
        let good = npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (64,), }", &[0; 256]);
        for (name, bytes) in hostile_copies(&good) {
            assert!(open(&bytes).is_err(), "{name}");
        }
        assert!(open(&npy(2, "", b"")[..10]).is_err());
    }
}
