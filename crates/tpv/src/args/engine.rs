//! How a model is run.

use clap::{Args, ValueEnum};

/// How a model is run.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case", next_help_heading = "Model")]
pub struct RunArgs {
    /// The tokenizer's folder or hub name, if it is not the model's.
    #[arg(long)]
    pub tokenizer_name_or_path: Option<String>,
    /// The hub's branch, tag or commit.
    #[arg(long)]
    pub revision: Option<String>,
    /// Where to run: auto, cpu, cuda, cuda:1, metal.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// The arithmetic; auto takes q8_0 on CPUs where the shapes allow, f32 for small models, the checkpoint's own on GPUs.
    #[arg(long, alias = "torch_dtype", value_enum, ignore_case = true, default_value = "auto")]
    pub dtype: Dtype,
    /// CPU threads; all cores by default.
    #[arg(long, value_parser = super::positive)]
    pub threads: Option<usize>,
    /// Most samples in flight at once; by default 32, and three to six for each thread (at least 6), by the cache's size, where
    /// a model is so small that it stays in the processor's cache (`serve`: 32 always). What a sample says does not depend on it
    /// (in f32).
    #[arg(long, value_parser = super::positive)]
    pub max_batch: Option<usize>,
    /// Most tokens guessed ahead for a sample in one step, from what was written before; 0 guesses none. What a sample says
    /// does not depend on it (in f32 and q8_0 on CPUs), only how long it takes. By default `generate` guesses, on CPUs in f32
    /// and q8_0: up to 7 where a step has room for more rows, 2 for a model in the processor's cache. Others guess only when
    /// asked: the speed then varies with the text, and the seconds left are less certain.
    #[arg(long)]
    pub draft_tokens: Option<usize>,
    /// Memory for keys and values, e.g. 8GiB or 500MB: a sample enters when there is room for its prompt and 512 tokens; where many
    /// become longer the youngest wait.
    /// By default four fifths of what is free on the device once the model is loaded.
    #[arg(long, value_parser = parse_bytes)]
    pub kv_memory: Option<u64>,
    /// Whether it is about traces alone, and not about time: then tokens are guessed without being asked for, from what any
    /// sample wrote.
    #[arg(skip)]
    pub collects_traces: bool,
}

impl Default for RunArgs {
    /// What the flags are without being given.
    fn default() -> Self {
        Self {
            tokenizer_name_or_path: None,
            revision: None,
            device: "auto".into(),
            dtype: Dtype::Auto,
            threads: None,
            max_batch: None,
            draft_tokens: None,
            kv_memory: None,
            collects_traces: false,
        }
    }
}

/// Arithmetic by the names of torch and of GGUF.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dtype {
    /// What suits the device and the model.
    Auto,
    /// 32-bit floats: the reference.
    #[value(alias = "float32")]
    F32,
    /// 16-bit floats.
    #[value(alias = "float16")]
    F16,
    /// Brain floats.
    #[value(alias = "bfloat16")]
    Bf16,
    /// 8-bit integers with one scale for 32 weights.
    #[value(name = "q8_0")]
    Q8_0,
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 =
        digits.trim().parse().map_err(|_| "say a number with a unit, such as 8GiB or 500MB".to_owned())?;
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1048576.0,
        "gib" => 1073741824.0,
        unit => return Err(format!("unknown unit {unit}; use MB, GB, MiB or GiB")),
    };
    if number.is_finite() && number > 0.0 { Ok((number * unit) as u64) } else { Err("it must be above zero".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_bytes("8GiB"), Ok(8 << 30));
        assert_eq!(parse_bytes("1.5MB"), Ok(1_500_000));
        assert!(parse_bytes("many").is_err() && parse_bytes("-1GB").is_err() && parse_bytes("3 parsecs").is_err());
    }
}
