//! The header of a GGUF file, read for one question: which tensor has a type that the tensor library does not know.
//!
//! A header is `GGUF`, a version, two counts, the metadata as (key, type, value), and for each tensor its name, its
//! dimensions, its type and its offset; all numbers little-endian. Lengths are not trusted: a read that fails ends the walk.

use std::io::{Read, Seek, SeekFrom};

/// A tensor type of GGML that the tensor library cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnknownType {
    /// The tensor.
    pub tensor: String,
    /// GGML's number of the type.
    pub id: u32,
}

impl std::fmt::Display for UnknownType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tensor, id } = self;
        let name = NAMES.iter().find(|(known, _)| known == id).map_or(String::new(), |(_, name)| format!(" ({name})"));
        write!(
            f,
            "tensor `{tensor}` has the type {id}{name}, which is not read; use a file in Q4_K_M, Q6_K, Q8_0 or F16"
        )
    }
}

/// Types that files have and the tensor library lacks.
const NAMES: [(u32, &str); 19] = [
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

/// The first tensor whose type the tensor library does not know; `None` also where the header cannot be followed.
pub(crate) fn unknown_type(file: &mut (impl Read + Seek)) -> Option<UnknownType> {
    file.seek(SeekFrom::Start(0)).ok()?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic).ok()?;
    if &magic != b"GGUF" {
        return None;
    }
    let mut header = Header { is_first_version: u32::from_le_bytes(read(file)?) == 1, file };
    let (tensors, entries) = (header.length()?, header.length()?);
    for _ in 0..entries {
        header.text()?;
        let kind = header.number()?;
        header.skip_value(kind)?;
    }
    for _ in 0..tensors {
        let tensor = header.text()?;
        for _ in 0..header.number()? {
            header.length()?;
        }
        let id = header.number()?;
        if !matches!(id, 0..=3 | 6..=15 | 30) {
            return Some(UnknownType { tensor, id });
        }
        read::<8>(header.file)?;
    }
    None
}

fn read<const BYTES: usize>(file: &mut impl Read) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

struct Header<'a, F> {
    /// Version 1 has lengths of four bytes, later ones of eight.
    is_first_version: bool,
    file: &'a mut F,
}

impl<F: Read + Seek> Header<'_, F> {
    fn number(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(read(self.file)?))
    }

    fn length(&mut self) -> Option<u64> {
        if self.is_first_version { self.number().map(u64::from) } else { Some(u64::from_le_bytes(read(self.file)?)) }
    }

    fn text(&mut self) -> Option<String> {
        const LONGEST: u64 = 1 << 16;
        let length = self.length().filter(|length| *length <= LONGEST)?;
        let mut bytes = vec![0; length as usize];
        self.file.read_exact(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned())
    }

    fn skip(&mut self, bytes: u64) -> Option<()> {
        self.file.seek_relative(i64::try_from(bytes).ok()?).ok()
    }

    fn skip_value(&mut self, kind: u32) -> Option<()> {
        const TEXT: u32 = 8;
        const LIST: u32 = 9;
        match kind {
            TEXT => {
                let length = self.length()?;
                self.skip(length)
            }
            LIST => {
                let (kind, count) = (self.number()?, self.length()?);
                match kind {
                    TEXT => (0..count).try_for_each(|_| self.skip_value(TEXT)),
                    _ => self.skip(count.checked_mul(width(kind)?)?),
                }
            }
            _ => self.skip(width(kind)?),
        }
    }
}

/// Bytes of a number or a truth value.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn header(tensors: &[(&str, u32)]) -> Vec<u8> {
        let number = |number: u32| number.to_le_bytes().to_vec();
        let length = |length: u64| length.to_le_bytes().to_vec();
        let mut parts = vec![b"GGUF".to_vec(), number(3), length(tensors.len() as u64), length(3)];
        parts.extend([text("a"), number(8), text("words")]);
        parts.extend([text("b"), number(9), number(8), length(2), text("x"), text("yz")]);
        parts.extend([text("c"), number(9), number(5), length(3), vec![7; 12]]);
        for (name, id) in tensors {
            parts.extend([text(name), number(2), length(32), length(4), number(*id), length(0)]);
        }
        parts.concat()
    }

    #[test]
    fn the_tensor_and_its_type_are_named() {
        let found = |bytes: Vec<u8>| unknown_type(&mut Cursor::new(bytes));
        let whole = header(&[("w", 0), ("blk.0.attn_q.weight", 23), ("v", 20)]);
        let unknown = found(whole.clone()).unwrap();
        assert_eq!(unknown, UnknownType { tensor: "blk.0.attn_q.weight".into(), id: 23 });
        assert!(unknown.to_string().starts_with("tensor `blk.0.attn_q.weight` has the type 23 (IQ4_XS), which"));
        assert_eq!(found(header(&[("w", 0), ("v", 30)])), None);
        for end in 0..whole.len() - 60 {
            found(whole[..end].to_vec());
        }
        let mut endless = header(&[]);
        endless[8] = 255;
        assert_eq!(found(endless), None);
    }
}
