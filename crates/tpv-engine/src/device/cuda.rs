//! NVIDIA GPUs: one stream, no events, and a pool that keeps its memory.

#[cfg(feature = "cuda")]
use candle_core::cuda::cudarc::driver::{result, sys};
use candle_core::{CudaDevice, Device, Result};

/// Opens a GPU whose work all threads put into one stream.
///
/// A device of [`Device::new_cuda`] has a stream for each thread, and nothing orders what one thread loads before what
/// another computes with it. Every tensor also gets two events, which streams would wait for where there are several; with
/// one stream they would only cost four calls of the driver for each tensor.
#[cfg(feature = "cuda")]
pub(super) fn open(ordinal: usize) -> Result<Device> {
    let gpu = CudaDevice::new_with_stream(ordinal)?;
    #[expect(unsafe_code, reason = "the compiler cannot know that there is one stream")]
    // SAFETY: candle computes, copies and frees on the device's stream, and this is its only one.
    unsafe {
        gpu.disable_event_tracking();
    }
    keep_freed_memory(&gpu);
    Ok(Device::Cuda(gpu))
}

/// The error of a build without CUDA.
#[cfg(not(feature = "cuda"))]
pub(super) fn open(ordinal: usize) -> Result<Device> {
    Device::new_cuda(ordinal)
}

/// Lets the device's pool keep what tensors free. By default the pool gives all of it back to the driver whenever the host
/// waits for the device, so after every step, and the next step has it mapped anew. (CUDA driver API, stream ordered memory
/// allocator: `CU_MEMPOOL_ATTR_RELEASE_THRESHOLD`, 0 by default.)
///
/// Where the driver refuses, results are the same and slower.
#[cfg(feature = "cuda")]
fn keep_freed_memory(gpu: &CudaDevice) {
    let mut threshold = u64::MAX;
    #[expect(unsafe_code, reason = "the bindings to the driver have no safe form of this")]
    // SAFETY: the device is open, the pool is its own, and the attribute is a 64-bit number that the call only reads.
    unsafe {
        if let Ok(pool) = result::device::get_default_mem_pool(gpu.cuda_stream().context().cu_device()) {
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            let _ = result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast());
        }
    }
}

/// Gives what the pool keeps and nothing uses back to the driver.
#[cfg(feature = "cuda")]
fn give_freed_memory_back(gpu: &CudaDevice) {
    let stream = gpu.cuda_stream();
    #[expect(unsafe_code, reason = "the bindings to the driver have no safe form of this")]
    // SAFETY: the device is open, and the pool is its own.
    unsafe {
        if stream.synchronize().is_ok()
            && let Ok(pool) = result::device::get_default_mem_pool(stream.context().cu_device())
        {
            let _ = result::mem_pool::trim_to(pool, 0);
        }
    }
}

/// As long as the result lives, shapes and strides that this thread gives to kernels stay on the device and are not copied
/// there again. (candle keeps them for recording graphs; whoever asks for ever new shapes fills the device's memory, some 512
/// bytes for each.)
pub(super) fn keep_shapes(gpu: &CudaDevice) -> impl Sized + use<> {
    #[cfg(feature = "cuda")]
    return gpu.enable_cuda_graph_htod_cache();
    #[cfg(not(feature = "cuda"))]
    let _ = gpu;
}

/// Free memory of the device, where the driver tells; what an earlier model has left in the pool is free.
#[cfg(feature = "cuda")]
pub(super) fn free_bytes(gpu: &CudaDevice) -> Option<u64> {
    give_freed_memory_back(gpu);
    gpu.cuda_stream().context().mem_get_info().ok().map(|(free, _)| free as u64)
}

/// Nothing: a build without CUDA has no such device.
#[cfg(not(feature = "cuda"))]
pub(super) fn free_bytes(_: &CudaDevice) -> Option<u64> {
    None
}
