//! Which device and which arithmetic a model runs on, and what to say when the wish cannot be granted.

mod cuda;

use candle_core::Device;
use sysinfo::System;

use crate::config::DecoderConfig;
use crate::error::{EngineError, Result};
use crate::kv::PAGE_TOKENS;

/// The arithmetic of the linear layers; everything between them is f32 on CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtypeChoice {
    /// 32-bit floats: the reference.
    F32,
    /// 16-bit floats.
    F16,
    /// Brain floats.
    Bf16,
    /// 8-bit integers with one scale for 32 weights, made at load time.
    Q8_0,
}

impl DtypeChoice {
    /// The name that users see.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
        }
    }
}

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU that this build can use, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU by number.
    Cuda(usize),
    /// An Apple GPU.
    Metal,
}

/// Opens the device; where a GPU is asked for and there is none, the CPU is taken and a notice says so.
pub fn open_device(choice: DeviceChoice, notices: &mut Vec<String>) -> Device {
    let (wished, name, is_built_in) = match choice {
        DeviceChoice::Cpu => return Device::Cpu,
        DeviceChoice::Auto => return automatic_device(),
        DeviceChoice::Cuda(ordinal) => (cuda::open(ordinal), "CUDA", cfg!(feature = "cuda")),
        DeviceChoice::Metal => (Device::new_metal(0), "Metal", cfg!(feature = "metal")),
    };
    wished.unwrap_or_else(|error| {
        notices.push(if is_built_in {
            format!("no usable {name} device ({error}): running on the CPU")
        } else {
            format!("this build has no {name} support: running on the CPU")
        });
        Device::Cpu
    })
}

fn automatic_device() -> Device {
    let gpu = if cfg!(feature = "cuda") {
        cuda::open(0).ok()
    } else if cfg!(feature = "metal") {
        Device::new_metal(0).ok()
    } else {
        None
    };
    gpu.unwrap_or(Device::Cpu)
}

/// The arithmetic for a model on a device; a choice that the device computes badly is replaced and a notice says so.
pub fn choose_dtype(
    choice: Option<DtypeChoice>,
    device: &Device,
    config: &DecoderConfig,
    notices: &mut Vec<String>,
) -> Result<DtypeChoice> {
    let default = default_dtype(device, config);
    match choice {
        None => Ok(default),
        Some(DtypeChoice::Q8_0) if device.is_cpu() && !can_quantise(config) => Err(EngineError::Unsupported(format!(
            "q8_0 needs widths that are multiples of 32 (hidden_size {}, intermediate_size {}): use f32",
            config.hidden_size, config.intermediate_size
        ))),
        Some(DtypeChoice::Q8_0) if !device.is_cpu() => {
            notices.push(format!("q8_0 is computed on CPUs only: using {}", default.name()));
            Ok(default)
        }
        Some(half @ (DtypeChoice::F16 | DtypeChoice::Bf16)) if device.is_cpu() => {
            notices.push(format!("{} is slow on a CPU: using {}", half.name(), default.name()));
            Ok(default)
        }
        Some(choice) => Ok(choice),
    }
}

fn default_dtype(device: &Device, config: &DecoderConfig) -> DtypeChoice {
    if !device.is_cpu() {
        return if device.is_cuda() { DtypeChoice::Bf16 } else { DtypeChoice::F16 };
    }
    if can_quantise(config) && config.hidden_size >= 512 { DtypeChoice::Q8_0 } else { DtypeChoice::F32 }
}

/// Whether all contraction lengths are whole blocks of 32.
fn can_quantise(config: &DecoderConfig) -> bool {
    [config.hidden_size, config.intermediate_size, config.heads * config.head_dim]
        .iter()
        .all(|width| width.is_multiple_of(32))
}

/// Lets what a step tells its kernels of shapes stay on the device while the result lives, where that is possible: for steps
/// whose shapes come again.
pub(crate) fn keep_shapes(device: &Device) -> Option<impl Sized + use<>> {
    if let Device::Cuda(gpu) = device { Some(cuda::keep_shapes(gpu)) } else { None }
}

/// A device's name as users see it.
pub fn device_name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// Threads to compute with: the wish or the environment's, but never more than there are cores.
pub fn thread_count(wish: Option<usize>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let from_environment = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok().filter(|&count| count > 0);
    wish.or_else(|| from_environment("CANDLE_NUM_THREADS"))
        .or_else(|| from_environment("RAYON_NUM_THREADS"))
        .unwrap_or(cores)
        .clamp(1, cores)
}

/// Share of the free memory that keys and values may take where nobody says how much; the rest is for states, for buffers
/// and for others.
const MEMORY_SHARE: f64 = 0.8;

/// Tokens, a page at least, whose keys and values fit into four fifths of a device's free memory, where it is known.
pub fn fitting_tokens(device: &Device, bytes_per_token: usize) -> Option<usize> {
    free_bytes(device).map(|free| tokens_within(free, bytes_per_token))
}

fn tokens_within(free_bytes: u64, bytes_per_token: usize) -> usize {
    ((free_bytes as f64 * MEMORY_SHARE) as usize / bytes_per_token.max(1)).max(PAGE_TOKENS)
}

fn free_bytes(device: &Device) -> Option<u64> {
    match device {
        Device::Cuda(gpu) => cuda::free_bytes(gpu),
        // Apple's GPUs share the memory of the processor.
        _ => available_memory_bytes(),
    }
}

/// Bytes of memory that processes can still take, within the limits of the container; `None` where the system does not tell.
fn available_memory_bytes() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory();
    let in_container = system.cgroup_limits().map(|limits| limits.total_memory.saturating_sub(limits.rss));
    let available = system.available_memory().min(in_container.unwrap_or(u64::MAX));
    (available > 0).then_some(available)
}

/// Bytes of the processor's last cache, which cores share, where the system tells (Linux).
pub fn last_cache_bytes() -> Option<usize> {
    const CACHES: &str = "/sys/devices/system/cpu/cpu0/cache";
    let size = |index: usize| std::fs::read_to_string(format!("{CACHES}/index{index}/size")).ok();
    cache_bytes(&(0..).map_while(size).last()?)
}

/// The bytes of a size as Linux writes it: `32768K`.
fn cache_bytes(size: &str) -> Option<usize> {
    size.trim().strip_suffix('K')?.parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_caches_are_read() {
        assert_eq!([cache_bytes("32768K\n"), cache_bytes("480K")], [Some(32 << 20), Some(480 << 10)]);
        assert_eq!(["", "K", "12 apples", "99999999999999999999K"].map(cache_bytes), [None; 4]);
    }

    #[test]
    fn keys_and_values_leave_a_fifth_of_the_free_memory() {
        assert_eq!([tokens_within(1 << 30, 1 << 10), tokens_within(1000, 1 << 10)], [838_860, PAGE_TOKENS]);
    }

    #[test]
    fn free_memory_is_known_and_less_than_there_is() {
        if let (true, Some(free)) = (cfg!(target_os = "linux"), available_memory_bytes()) {
            let total = std::fs::read_to_string("/proc/meminfo").unwrap();
            let total: u64 = total.split_whitespace().nth(1).unwrap().parse().unwrap();
            assert!(free > 1 << 20 && free < total * 1024, "{free} of {total} KiB");
        }
    }

    fn config(hidden_size: usize) -> DecoderConfig {
        let text = format!(
            r#"{{"model_type":"llama","hidden_size":{hidden_size},"intermediate_size":64,"num_hidden_layers":1,
            "num_attention_heads":1,"vocab_size":8}}"#
        );
        DecoderConfig::from_json(text.as_bytes()).unwrap()
    }

    fn chosen(choice: Option<DtypeChoice>, hidden_size: usize) -> (Result<DtypeChoice>, usize) {
        let mut notices = Vec::new();
        (choose_dtype(choice, &Device::Cpu, &config(hidden_size), &mut notices), notices.len())
    }

    #[test]
    fn small_models_are_f32_and_large_ones_quantised() {
        assert!(matches!(chosen(None, 192), (Ok(DtypeChoice::F32), 0)));
        assert!(matches!(chosen(None, 1536), (Ok(DtypeChoice::Q8_0), 0)));
        assert!(matches!(chosen(None, 1540), (Ok(DtypeChoice::F32), 0)));
    }

    #[test]
    fn a_choice_is_respected_where_it_can_be_computed() {
        assert!(matches!(chosen(Some(DtypeChoice::F32), 1536), (Ok(DtypeChoice::F32), 0)));
        assert!(matches!(chosen(Some(DtypeChoice::Q8_0), 192), (Ok(DtypeChoice::Q8_0), 0)));
        assert!(matches!(chosen(Some(DtypeChoice::Bf16), 1536), (Ok(DtypeChoice::Q8_0), 1)));
        assert!(matches!(chosen(Some(DtypeChoice::Q8_0), 20), (Err(EngineError::Unsupported(_)), 0)));
    }

    #[test]
    fn never_more_threads_than_cores() {
        assert_eq!(thread_count(Some(1)), 1);
        assert!(thread_count(Some(100_000)) <= std::thread::available_parallelism().unwrap().get());
    }
}
