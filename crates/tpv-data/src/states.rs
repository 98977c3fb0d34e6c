//! Final hidden states on their way into a file: a small buffer of them in memory, the rest in a temporary file.
//!
//! A thought can be long: 32,768 states of width 5,120 are 335 MB in f16, and many are in flight at once. So whatever
//! a sample's buffer cannot hold goes at once to a temporary file in the run's folder, from which the file of the problem
//! is put together in the end. The temporary file has no name (where the system can do that), so that nothing of it is
//! left however the program ends. The samples of a problem share one, which is opened when the first buffer is full:
//! no more files are open than problems are, and short thoughts need none.
//!
//! In the shared file each sample has extents to itself, long enough that their list stays short. What of an extent
//! is not written yet is a hole, which takes no room on the disk.

use crate::error::{DataError, Result};
use crate::floats::FloatType;
use crate::run::StatesDtype;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A buffer holds as many whole states as fit into so many bytes, but at least one.
const BUFFER_BYTES: usize = 8192;
/// Buffers that lie one after the other in the file.
const BUFFERS_OF_AN_EXTENT: usize = 256;

/// The temporary file that the samples of one problem share. It goes when the last of their states do.
#[derive(Debug)]
pub struct Spill {
    folder: PathBuf,
    buffer_bytes: usize,
    file: Mutex<Option<SpillFile>>,
}

#[derive(Debug)]
struct SpillFile {
    file: File,
    /// Bytes that are given away as extents.
    reserved: u64,
}

impl Spill {
    /// A temporary file in `folder`, not yet opened.
    pub fn new(folder: &Path) -> Arc<Self> {
        Self::with_buffers(folder, BUFFER_BYTES)
    }

    fn with_buffers(folder: &Path, buffer_bytes: usize) -> Arc<Self> {
        Arc::new(Self { folder: folder.into(), buffer_bytes, file: Mutex::new(None) })
    }

    /// Takes the states, `[d]` each with d = `width`, of one of the samples.
    pub fn writer(self: &Arc<Self>, dtype: StatesDtype, width: usize) -> StatesWriter {
        let state_bytes = (width * dtype.float_type().size()).max(1);
        let buffer_bytes = (self.buffer_bytes / state_bytes).max(1) * state_bytes;
        StatesWriter { states: States::none(dtype), buffer_bytes, spill: Arc::clone(self) }
    }

    fn locked(&self) -> MutexGuard<'_, Option<SpillFile>> {
        // Whoever panics while it is locked leaves nothing that the next use relies on: each seeks first.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> bool {
        self.locked().is_some()
    }

    /// Gives away the next `bytes` of the file; returns where they begin.
    fn reserve(&self, bytes: u64) -> io::Result<u64> {
        let mut file = self.locked();
        let file = match &mut *file {
            Some(file) => file,
            none => none.insert(SpillFile { file: tempfile::tempfile_in(&self.folder)?, reserved: 0 }),
        };
        let start = file.reserved;
        file.reserved += bytes;
        Ok(start)
    }

    fn write(&self, start: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.locked();
        let file = &mut file.as_mut().ok_or(io::ErrorKind::NotFound)?.file;
        file.seek(SeekFrom::Start(start))?;
        file.write_all(bytes)
    }

    /// Copies `bytes` from `start` on to `writer`, through a small buffer.
    fn copy(&self, start: u64, bytes: u64, writer: &mut dyn Write) -> io::Result<()> {
        let mut file = self.locked();
        let file = &mut file.as_mut().ok_or(io::ErrorKind::NotFound)?.file;
        file.seek(SeekFrom::Start(start))?;
        match io::copy(&mut file.take(bytes), writer)? {
            copied if copied == bytes => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn refused(&self, source: io::Error) -> DataError {
        DataError::io(&self.folder, "keep states in a temporary file of this folder", source)
    }
}

/// Takes the states of one sample as they come. In memory are one buffer of them, once there are any, and eight bytes for
/// every 256 buffers.
#[derive(Debug)]
pub struct StatesWriter {
    states: States,
    buffer_bytes: usize,
    spill: Arc<Spill>,
}

impl StatesWriter {
    /// Takes the next state, `[d]`. After an error the states are not whole.
    pub fn push(&mut self, state: &[f32]) -> Result<()> {
        let buffer = &mut self.states.rest;
        if buffer.capacity() == 0 {
            buffer.reserve_exact(self.buffer_bytes);
        }
        self.states.dtype.float_type().encode_f32(state, buffer);
        if buffer.len() >= self.buffer_bytes { self.write_buffer() } else { Ok(()) }
    }

    /// Whether no state has come.
    pub fn is_empty(&self) -> bool {
        self.states.spilled_bytes() == 0 && self.states.rest.is_empty()
    }

    /// Bytes of memory that are held.
    pub fn bytes_in_memory(&self) -> usize {
        self.states.bytes_in_memory()
    }

    /// Bytes in the temporary file.
    pub fn spilled_bytes(&self) -> u64 {
        self.states.spilled_bytes()
    }

    /// Ends the sample. What is left in the buffer follows the rest into the file if the problem has one.
    pub fn finish(mut self) -> Result<States> {
        if self.spill.is_open() && !self.states.rest.is_empty() {
            self.write_buffer()?;
        }
        self.states.rest.shrink_to_fit();
        Ok(self.states)
    }

    fn write_buffer(&mut self) -> Result<()> {
        let Self { states: States { spilled, rest, .. }, buffer_bytes, spill } = self;
        let spilled = spilled.get_or_insert_with(|| Spilled {
            spill: Arc::clone(spill),
            extents: Vec::new(),
            extent_bytes: (*buffer_bytes * BUFFERS_OF_AN_EXTENT) as u64,
            bytes: 0,
        });
        spilled.append(rest).map_err(|source| spill.refused(source))?;
        rest.clear();
        Ok(())
    }
}

/// All states of a finished sample, `[S, d]`, row-major, f16 or f32.
#[derive(Debug, Clone)]
pub struct States {
    dtype: StatesDtype,
    /// What is in the temporary file, if anything is.
    spilled: Option<Spilled>,
    /// The values after those, little-endian.
    rest: Vec<u8>,
}

/// The part of a sample's states that is in the temporary file.
#[derive(Debug, Clone)]
struct Spilled {
    spill: Arc<Spill>,
    /// Where the extents begin, in order; all but the last are full.
    extents: Vec<u64>,
    extent_bytes: u64,
    bytes: u64,
}

impl States {
    /// No states, of that precision.
    pub fn none(dtype: StatesDtype) -> Self {
        Self { dtype, spilled: None, rest: Vec::new() }
    }

    /// States that are kept in memory, from their values, row-major.
    pub fn in_memory(dtype: StatesDtype, values: &[f32]) -> Self {
        let mut states = Self::none(dtype);
        dtype.float_type().encode_f32(values, &mut states.rest);
        states
    }

    /// The precision in which they are kept.
    pub fn float_type(&self) -> FloatType {
        self.dtype.float_type()
    }

    /// Number of values, S d.
    pub fn len(&self) -> usize {
        (self.spilled_bytes() as usize + self.rest.len()) / self.float_type().size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that are held.
    pub fn bytes_in_memory(&self) -> usize {
        let extents = self.spilled.as_ref().map_or(0, |it| it.extents.capacity());
        self.rest.capacity() + extents * size_of::<u64>()
    }

    /// Bytes in the temporary file.
    pub fn spilled_bytes(&self) -> u64 {
        self.spilled.as_ref().map_or(0, |it| it.bytes)
    }

    /// Writes all values, little-endian, a small piece at a time.
    pub(crate) fn write(&self, writer: &mut dyn Write) -> io::Result<()> {
        if let Some(spilled) = &self.spilled {
            spilled.copy(writer)?;
        }
        writer.write_all(&self.rest)
    }
}

impl Spilled {
    /// Appends a buffer; all but the last are equally long, so that none crosses the end of an extent.
    fn append(&mut self, buffer: &[u8]) -> io::Result<()> {
        let offset = self.bytes % self.extent_bytes;
        if offset == 0 {
            self.extents.push(self.spill.reserve(self.extent_bytes)?);
        }
        if let Some(start) = self.extents.last() {
            self.spill.write(start + offset, buffer)?;
        }
        self.bytes += buffer.len() as u64;
        Ok(())
    }

    fn copy(&self, writer: &mut dyn Write) -> io::Result<()> {
        let mut left = self.bytes;
        for &start in &self.extents {
            let bytes = left.min(self.extent_bytes);
            self.spill.copy(start, bytes, writer)?;
            left -= bytes;
        }
        Ok(())
    }
}

impl StatesDtype {
    /// The type of the values.
    pub fn float_type(self) -> FloatType {
        match self {
            Self::F16 => FloatType::F16,
            Self::F32 => FloatType::F32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    const WIDTH: usize = 3;

    fn state(sample: usize, row: usize) -> [f32; WIDTH] {
        [0.1, 0.2, 0.3].map(|x| x * (row + 1) as f32 - 100.0 * sample as f32)
    }

    /// What the values are as bytes, by the definition of each type.
    fn expected(dtype: StatesDtype, sample: usize, rows: usize) -> Vec<u8> {
        let values = (0..rows).flat_map(|row| state(sample, row));
        match dtype {
            StatesDtype::F16 => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
            StatesDtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
        }
    }

    fn written(states: &States) -> Vec<u8> {
        let mut bytes = Vec::new();
        states.write(&mut bytes).unwrap();
        assert_eq!(bytes.len(), states.len() * states.float_type().size());
        bytes
    }

    /// Samples that grow in turn, of which each is longer than the one before, come back whole.
    #[test]
    fn samples_in_one_file_come_back_as_they_came() {
        let folder = tempfile::tempdir().unwrap();
        for dtype in [StatesDtype::F16, StatesDtype::F32] {
            // From buffers of one state, with many extents, to one that holds everything.
            for buffer_bytes in [1, 24, 50, 1 << 20] {
                let spill = Spill::with_buffers(folder.path(), buffer_bytes);
                let rows = [0, 1, 7, 300, 1100];
                let mut writers = rows.map(|_| spill.writer(dtype, WIDTH));
                for row in 0..1100 {
                    for sample in (0..rows.len()).filter(|&sample| row < rows[sample]) {
                        writers[sample].push(&state(sample, row)).unwrap();
                    }
                }
                assert_eq!(writers.each_ref().map(StatesWriter::is_empty), rows.map(|rows| rows == 0));
                for (sample, writer) in writers.into_iter().enumerate() {
                    let states = writer.finish().unwrap();
                    assert_eq!(written(&states), expected(dtype, sample, rows[sample]), "{dtype:?} {buffer_bytes}");
                    let all = (rows[sample] * WIDTH * dtype.float_type().size()) as u64;
                    assert_eq!(states.spilled_bytes(), if buffer_bytes < 100 { all } else { 0 });
                }
            }
        }
    }

    #[test]
    fn memory_does_not_grow_with_the_thought() {
        let folder = tempfile::tempdir().unwrap();
        for (width, most) in [(192, 8192), (5120, 10240)] {
            let spill = Spill::new(folder.path());
            let mut writer = spill.writer(StatesDtype::F16, width);
            assert_eq!(writer.bytes_in_memory(), 0, "a sample that waits holds nothing");
            for row in 0..5000 {
                writer.push(&vec![row as f32; width]).unwrap();
                let extents = writer.spilled_bytes().div_ceil(1 << 20) as usize;
                assert!(writer.bytes_in_memory() <= most + 8 * (2 * extents + 4), "{}", writer.bytes_in_memory());
            }
            let states = writer.finish().unwrap();
            assert_eq!(
                states.spilled_bytes() as usize,
                5000 * width * 2,
                "nothing of a finished sample stays in memory"
            );
            assert!(states.bytes_in_memory() <= 1024, "{}", states.bytes_in_memory());
        }
    }

    #[test]
    fn a_short_thought_needs_no_file_and_a_file_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let gone = Spill::new(&folder.path().join("gone"));
        let mut writer = gone.writer(StatesDtype::F16, WIDTH);
        (0..600).for_each(|row| writer.push(&state(0, row)).unwrap());
        let states = writer.finish().unwrap();
        assert_eq!((states.bytes_in_memory(), states.spilled_bytes()), (600 * WIDTH * 2, 0));

        let spill = Spill::with_buffers(folder.path(), 1);
        let mut writer = spill.writer(StatesDtype::F16, WIDTH);
        writer.push(&state(0, 0)).unwrap();
        assert!(writer.spilled_bytes() > 0);
        if cfg!(unix) {
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_folder_that_is_gone_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::new(&folder.path().join("gone"));
        let mut writer = spill.writer(StatesDtype::F32, 2048);
        let text = writer.push(&[0.5; 2048]).unwrap_err().to_string();
        assert!(text.contains("gone: cannot keep states in a temporary file of this folder"), "{text}");
        assert!(text.ends_with("check the path"), "{text}");
    }
}
