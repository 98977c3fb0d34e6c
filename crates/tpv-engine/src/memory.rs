//! Memory for what every step reads from end to end: weights, keys and values.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use memmap2::MmapMut;

use crate::error::{EngineError, Result};

/// Numbers that are zero at first, in huge pages where the system has them: with pages of 4 KiB the processor spends a tenth
/// of a step on finding them. They take up memory as they are written.
pub struct Memory<T> {
    map: MmapMut,
    numbers: PhantomData<T>,
}

impl<T: Pod> Memory<T> {
    /// Room for so many numbers.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn zeroed(count: usize) -> Result<Self> {
        let bytes = count * size_of::<T>();
        let refused = |error| EngineError::Request(format!("{bytes} bytes of memory could not be had ({error})"));
        let map = MmapMut::map_anon(bytes).map_err(refused)?;
        // A system without huge pages refuses; its ordinary ones are merely slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map, numbers: PhantomData })
    }
}

impl<T: Pod> Deref for Memory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.map)
    }
}

impl<T: Pod> DerefMut for Memory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.map)
    }
}

impl<T> fmt::Debug for Memory<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.map.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_zero_at_first_and_keeps_what_is_written() {
        for count in [0, 1, 1000, 3 << 20] {
            let mut memory = Memory::<f32>::zeroed(count).unwrap();
            assert!(memory.len() == count && memory.iter().all(|&number| number == 0.0));
            memory.fill(1.5);
            assert!(memory.iter().all(|&number| number == 1.5));
        }
    }
}
