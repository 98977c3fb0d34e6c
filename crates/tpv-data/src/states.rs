//! Final hidden states on their way into a file: the newest in memory, the rest in a temporary file.
//!
//! A thought can be long: 32,768 states of width 5,120 are 335 MB in f16, and many are in flight at once. So the states of a
//! problem's samples go into one log, in the order in which they come: the end of it is a small buffer in memory, the rest a
//! temporary file in the run's folder, from which the file of the problem is put together in the end. A sample remembers
//! the places of its states in the log. The temporary file has no name (where the system can do that), so that nothing of
//! it is left however the program ends. It is opened when the buffer is full for the first time: short thoughts need none.
//! The next problem takes over the longest file of those that are complete, because to write over memory that the system
//! holds already takes a small part of the time that new memory takes.

use crate::error::{DataError, Result};
use crate::floats::FloatType;
use crate::run::StatesDtype;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The buffer of a log is written when it has come to so many bytes; portions of a file are as long when it is read.
const BUFFER_BYTES: usize = 32 << 10;
/// Least share of a portion that must be of use; where there is less, states are read one by one.
const LEAST_USE: usize = 8;

/// The temporary files of a run.
#[derive(Debug)]
pub struct Spill {
    folder: PathBuf,
    /// Files of logs that are gone, and how long they are.
    free: Mutex<Vec<(u64, File)>>,
}

impl Spill {
    /// Temporary files in `folder`, none of them opened yet.
    pub fn new(folder: &Path) -> Arc<Self> {
        Arc::new(Self { folder: folder.into(), free: Mutex::default() })
    }

    /// A log of states `[d]` with d = `width`.
    pub fn log(self: &Arc<Self>, dtype: StatesDtype, width: usize) -> Arc<StateLog> {
        self.log_with_buffer(dtype, width, BUFFER_BYTES)
    }

    fn log_with_buffer(self: &Arc<Self>, dtype: StatesDtype, width: usize, buffer_bytes: usize) -> Arc<StateLog> {
        let state_bytes = (width * dtype.float_type().size()).max(1);
        let buffer_bytes = (buffer_bytes / state_bytes).max(1) * state_bytes;
        Arc::new(StateLog { spill: Arc::clone(self), dtype, state_bytes, buffer_bytes, end: Mutex::default() })
    }

    /// The longest file that is free, or a new one; and its length.
    fn open(&self) -> io::Result<(u64, File)> {
        let free = &mut *unpoisoned(&self.free);
        match (0..free.len()).max_by_key(|&place| free[place].0) {
            Some(longest) => Ok(free.swap_remove(longest)),
            None => Ok((0, tempfile::tempfile_in(&self.folder)?)),
        }
    }

    fn refused(&self, source: io::Error) -> DataError {
        DataError::io(&self.folder, "keep states in a temporary file of this folder", source)
    }
}

/// Whoever panics while one of these is locked leaves nothing that the next use relies on.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The states of the samples of one problem, in the order in which they came.
#[derive(Debug)]
pub struct StateLog {
    spill: Arc<Spill>,
    dtype: StatesDtype,
    state_bytes: usize,
    buffer_bytes: usize,
    end: Mutex<LogEnd>,
}

/// Where a log grows.
#[derive(Debug, Default)]
struct LogEnd {
    /// The temporary file, and how long it was when it was taken.
    file: Option<(u64, File)>,
    bytes_in_file: u64,
    /// What comes after those.
    buffer: Vec<u8>,
}

impl StateLog {
    /// Takes the states of one of the samples.
    pub fn writer(self: &Arc<Self>) -> StatesWriter {
        StatesWriter { log: Arc::clone(self), places: Vec::new() }
    }

    /// Bytes of memory that the buffer takes.
    pub fn bytes_in_memory(&self) -> usize {
        unpoisoned(&self.end).buffer.capacity()
    }

    /// Bytes in the temporary file.
    pub fn bytes_in_file(&self) -> u64 {
        unpoisoned(&self.end).bytes_in_file
    }

    /// Appends a state, `[d]`; its place.
    fn push(&self, state: &[f32]) -> io::Result<u32> {
        let end = &mut *unpoisoned(&self.end);
        if end.buffer.capacity() == 0 {
            end.buffer.reserve_exact(self.buffer_bytes);
        }
        let before = end.bytes_in_file + end.buffer.len() as u64;
        let place = u32::try_from(before / self.state_bytes as u64).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.dtype.float_type().encode_f32(state, &mut end.buffer);
        if end.buffer.len() >= self.buffer_bytes {
            end.flush(&self.spill)?;
        }
        Ok(place)
    }

    /// Writes the states at these places, which ascend, a small piece at a time.
    fn copy(&self, places: &[u32], writer: &mut dyn Write) -> io::Result<()> {
        let end = &mut *unpoisoned(&self.end);
        let size = self.state_bytes;
        let in_file = places.partition_point(|&place| u64::from(place) * (size as u64) < end.bytes_in_file);
        let (mut left, in_buffer) = places.split_at(in_file);
        let mut piece = Vec::new();
        while let [first, ..] = left {
            let most = (self.buffer_bytes / size) as u32;
            let near = left.partition_point(|place| place - first < most);
            // States that lie far apart are read one by one.
            let near = if near * LEAST_USE < (left[near - 1] - first) as usize { 1 } else { near };
            piece.resize(((left[near - 1] - first) as usize + 1) * size, 0);
            let (_, file) = end.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
            file.seek(SeekFrom::Start(u64::from(*first) * size as u64))?;
            file.read_exact(&mut piece)?;
            for place in &left[..near] {
                let start = (place - first) as usize * size;
                writer.write_all(&piece[start..start + size])?;
            }
            left = &left[near..];
        }
        for &place in in_buffer {
            let start = (u64::from(place) * size as u64 - end.bytes_in_file) as usize;
            writer.write_all(&end.buffer[start..start + size])?;
        }
        Ok(())
    }
}

impl LogEnd {
    /// Moves the buffer into the file.
    fn flush(&mut self, spill: &Spill) -> io::Result<()> {
        let (_, file) = match &mut self.file {
            Some(file) => file,
            none => none.insert(spill.open()?),
        };
        file.seek(SeekFrom::Start(self.bytes_in_file))?;
        file.write_all(&self.buffer)?;
        self.bytes_in_file += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Drop for StateLog {
    fn drop(&mut self) {
        let end = &mut *unpoisoned(&self.end);
        let file = end.file.take().map(|(length, file)| (length.max(end.bytes_in_file), file));
        unpoisoned(&self.spill.free).extend(file);
    }
}

/// Takes the states of one sample as they come. In memory are four bytes for each, and the log's buffer.
#[derive(Debug)]
pub struct StatesWriter {
    log: Arc<StateLog>,
    places: Vec<u32>,
}

impl StatesWriter {
    /// Takes the next state, `[d]`. After an error the states are not whole.
    pub fn push(&mut self, state: &[f32]) -> Result<()> {
        let place = self.log.push(state).map_err(|source| self.log.spill.refused(source))?;
        self.places.push(place);
        Ok(())
    }

    /// Whether no state has come.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of memory that are held beside the log's buffer.
    pub fn bytes_in_memory(&self) -> usize {
        self.places.capacity() * size_of::<u32>()
    }

    /// The states so far; the next one is the first of another sample.
    pub fn take(&mut self) -> States {
        let mut places = std::mem::take(&mut self.places);
        places.shrink_to_fit();
        States { dtype: self.log.dtype, values: Values::InLog { log: Arc::clone(&self.log), places } }
    }
}

/// All states of a finished sample, `[S, d]`, row-major, f16 or f32.
#[derive(Debug, Clone)]
pub struct States {
    dtype: StatesDtype,
    values: Values,
}

#[derive(Debug, Clone)]
enum Values {
    /// Little-endian.
    InMemory(Vec<u8>),
    InLog {
        log: Arc<StateLog>,
        places: Vec<u32>,
    },
}

impl States {
    /// No states, of that precision.
    pub fn none(dtype: StatesDtype) -> Self {
        Self::in_memory(dtype, &[])
    }

    /// States that are kept in memory, from their values, row-major.
    pub fn in_memory(dtype: StatesDtype, values: &[f32]) -> Self {
        let mut bytes = Vec::new();
        dtype.float_type().encode_f32(values, &mut bytes);
        Self { dtype, values: Values::InMemory(bytes) }
    }

    /// The precision in which they are kept.
    pub fn float_type(&self) -> FloatType {
        self.dtype.float_type()
    }

    /// Number of values, S d.
    pub fn len(&self) -> usize {
        let bytes = match &self.values {
            Values::InMemory(bytes) => bytes.len(),
            Values::InLog { log, places } => places.len() * log.state_bytes,
        };
        bytes / self.float_type().size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that are held beside the buffer of a log.
    pub fn bytes_in_memory(&self) -> usize {
        match &self.values {
            Values::InMemory(bytes) => bytes.capacity(),
            Values::InLog { places, .. } => places.capacity() * size_of::<u32>(),
        }
    }

    /// Writes all values, little-endian, a small piece at a time.
    pub(crate) fn write(&self, writer: &mut dyn Write) -> io::Result<()> {
        match &self.values {
            Values::InMemory(bytes) => writer.write_all(bytes),
            Values::InLog { log, places } => log.copy(places, writer),
        }
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
    fn samples_in_one_log_come_back_as_they_came() {
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::new(folder.path());
        for dtype in [StatesDtype::F16, StatesDtype::F32] {
            // From buffers of one state to one that holds everything; states next to each other and far apart.
            for buffer_bytes in [1, 24, 500, 1 << 20] {
                let log = spill.log_with_buffer(dtype, WIDTH, buffer_bytes);
                let rows = [0, 1, 7, 300, 1100];
                let mut writers = rows.map(|_| log.writer());
                for row in 0..1100 {
                    for sample in (0..rows.len()).filter(|&sample| row < rows[sample]) {
                        writers[sample].push(&state(sample, row)).unwrap();
                    }
                    if row == 400 {
                        let early = writers[3].take();
                        assert_eq!(written(&early), expected(dtype, 3, 300), "what is read may be followed by more");
                        if let Values::InLog { places, .. } = early.values {
                            writers[3].places = places;
                        }
                    }
                }
                assert_eq!(writers.each_ref().map(StatesWriter::is_empty), rows.map(|rows| rows == 0));
                for (sample, mut writer) in writers.into_iter().enumerate() {
                    let states = writer.take();
                    assert_eq!(written(&states), expected(dtype, sample, rows[sample]), "{dtype:?} {buffer_bytes}");
                }
                let all = rows.iter().sum::<usize>() * WIDTH * dtype.float_type().size();
                let buffered = unpoisoned(&log.end).buffer.len();
                assert_eq!(log.bytes_in_file() as usize + buffered, all);
                assert_eq!(log.bytes_in_file() == 0, buffer_bytes == 1 << 20);
            }
        }
        assert_eq!(unpoisoned(&spill.free).len(), 1, "one log after the other used the same file");
    }

    #[test]
    fn the_longest_file_that_is_free_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::new(folder.path());
        let logs = [2, 5, 3].map(|rows| {
            let log = spill.log_with_buffer(StatesDtype::F32, WIDTH, 1);
            let mut writer = log.writer();
            (0..rows).for_each(|row| writer.push(&state(0, row)).unwrap());
            log
        });
        drop(logs);
        let lengths = [(); 4].map(|()| spill.open().unwrap().0);
        assert_eq!(lengths, [5, 3, 2, 0].map(|rows| rows * 12));
    }

    #[test]
    fn samples_that_are_few_states_of_a_log_are_read_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let log = Spill::new(folder.path()).log_with_buffer(StatesDtype::F32, WIDTH, 1200);
        let mut writers: Vec<StatesWriter> = (0..40).map(|_| log.writer()).collect();
        for row in 0..90 {
            (0..40).for_each(|sample| writers[sample].push(&state(sample, row)).unwrap());
        }
        for (sample, mut writer) in writers.into_iter().enumerate() {
            assert_eq!(written(&writer.take()), expected(StatesDtype::F32, sample, 90));
        }
    }

    #[test]
    fn memory_hardly_grows_with_the_thought() {
        let folder = tempfile::tempdir().unwrap();
        for width in [192, 5120, 40_000] {
            let log = Spill::new(folder.path()).log(StatesDtype::F16, width);
            let mut writer = log.writer();
            assert_eq!(log.bytes_in_memory() + writer.bytes_in_memory(), 0, "a problem that waits holds nothing");
            let most = (32 << 10).max(2 * width);
            for row in 0..1500 {
                writer.push(&vec![row as f32; width]).unwrap();
                assert!(log.bytes_in_memory() <= most, "{}", log.bytes_in_memory());
            }
            let states = writer.take();
            assert_eq!(states.len(), 1500 * width);
            assert_eq!(states.bytes_in_memory(), 1500 * 4);
            assert!(log.bytes_in_file() as usize + most >= 1500 * width * 2);
        }
    }

    #[test]
    fn a_short_thought_needs_no_file_and_a_file_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let log = Spill::new(&folder.path().join("gone")).log(StatesDtype::F16, WIDTH);
        let mut writer = log.writer();
        (0..600).for_each(|row| writer.push(&state(0, row)).unwrap());
        let states = writer.take();
        assert_eq!((written(&states), log.bytes_in_file()), (expected(StatesDtype::F16, 0, 600), 0));

        let log = Spill::new(folder.path()).log_with_buffer(StatesDtype::F16, WIDTH, 1);
        log.writer().push(&state(0, 0)).unwrap();
        assert!(log.bytes_in_file() > 0);
        if cfg!(unix) {
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_folder_that_is_gone_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let log = Spill::new(&folder.path().join("gone")).log(StatesDtype::F32, 8192);
        let text = log.writer().push(&[0.5; 8192]).unwrap_err().to_string();
        assert!(text.contains("gone: cannot keep states in a temporary file of this folder"), "{text}");
        assert!(text.ends_with("check the path"), "{text}");
    }
}
