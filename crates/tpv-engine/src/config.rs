//! What a checkpoint's `config.json` says about the shape of its decoder, in both generations of that file.
//!
//! Llama, Qwen2 and Qwen3 are one decoder with switches; this module sets the switches and refuses by key what the
//! decoder does not do. Files are read elsewhere.

use serde_json::{Map, Value};

use crate::error::{EngineError, Result};
use tpv_core::sampling::MOST_TOKENS;

/// No shape has a count beyond this; a larger one is damage, and must not become an allocation.
pub(crate) const LARGEST_COUNT: usize = 1 << 24;

/// The shape of a decoder: everything but the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// The architecture's name, e.g. `LlamaForCausalLM`.
    pub architecture: String,
    /// Width of the residual stream, d.
    pub hidden_size: usize,
    /// Width of the MLP's inner layer.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; `heads` is a multiple of it.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Length of the logits, V.
    pub vocab_size: usize,
    /// The longest sequence that the positions allow, in tokens.
    pub max_positions: usize,
    /// Added to the mean square in every norm.
    pub norm_epsilon: f64,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the three projections of the MLP have biases.
    pub mlp_bias: bool,
    /// Whether queries and keys are normalised per head.
    pub qk_norm: bool,
    /// Whether `lm_head` is the embedding matrix.
    pub tied_head: bool,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// For each layer the number of latest tokens (itself included) that a token sees; `None`: all.
    pub windows: Vec<Option<usize>>,
}

/// Rotary position embedding: base, scaling, and which entries of a head form a pair.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// The base of the wavelengths.
    pub theta: f64,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
    /// Which entries of a head turn together.
    pub pairing: RopePairing,
}

/// Which two entries of a head are turned by one angle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairing {
    /// Entry i and entry i + head_dim / 2, as in Hugging Face checkpoints.
    Halves,
    /// Entry 2i and entry 2i + 1, as in GGUF files of the llama architecture.
    Neighbours,
}

/// How rotary frequencies are stretched for contexts longer than the pretrained one.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies divided by one factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Low frequencies divided, high ones kept, a ramp between (Llama 3.1).
    Llama3 {
        /// Divides the low frequencies.
        factor: f64,
        /// Wavelengths above original / this are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below original / this are high frequencies.
        high_freq_factor: f64,
        /// Context length of the pretraining, in tokens.
        original_max_positions: f64,
    },
    /// YaRN: a ramp between dimensions found from numbers of rotations, and a factor on cos and sin.
    Yarn {
        /// Divides the frequencies that are interpolated.
        factor: f64,
        /// Factor on cos and sin.
        attention_factor: f64,
        /// Rotations over the pretraining's context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is fully divided.
        beta_slow: f64,
        /// Context length of the pretraining, in tokens.
        original_max_positions: f64,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
    /// Each frequency divided by its own factor, [head_dim / 2] (GGUF's `rope_freqs`).
    Factors(Vec<f32>),
}

impl RopeScaling {
    /// Positions that the scaling is made for, where it says so: checkpoints on which YaRN is switched on by hand, as Qwen3's
    /// page has it, keep the shorter `max_position_embeddings`.
    fn positions(&self) -> usize {
        match self {
            Self::Yarn { factor, original_max_positions, .. } => {
                ((factor * original_max_positions) as usize).min(LARGEST_COUNT)
            }
            _ => 0,
        }
    }
}

/// The families whose defaults differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Qwen2,
    Qwen3,
}

impl DecoderConfig {
    /// Numbers that the keys and values of one token are.
    pub fn kv_entries_per_token(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim
    }

    /// Weights that one decode step reads: all but the embedding, which is read row by row unless it is the head.
    pub fn weights_per_step(&self) -> usize {
        let d = self.hidden_size;
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let attention = d * (queries + 2 * keys) + queries * d;
        self.layers * (attention + 3 * d * self.intermediate_size) + self.vocab_size * d
    }

    /// Reads the text of a `config.json`.
    pub fn from_json(text: &[u8]) -> Result<Self> {
        let json: Value = serde_json::from_slice(text)
            .map_err(|error| EngineError::Unsupported(format!("config.json {}", not_json(&error))))?;
        let object =
            json.as_object().ok_or_else(|| EngineError::Unsupported("config.json is not an object".to_owned()))?;
        Keys { object }.decoder()
    }

    /// Query entries that share one key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Checks what every decoder needs, whatever file it came from.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_positions),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(unsupported(key, "0"));
        }
        if self.vocab_size > MOST_TOKENS {
            return Err(unsupported("vocab_size", &format!("{} (more than {MOST_TOKENS})", self.vocab_size)));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(unsupported("num_key_value_heads", &format!("{} for {} heads", self.kv_heads, self.heads)));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(unsupported("head_dim", &format!("{} (odd)", self.head_dim)));
        }
        let entries = [2, self.layers, self.kv_heads, self.head_dim];
        let entries = entries.iter().try_fold(1usize, |product, &count| product.checked_mul(count));
        if entries.is_none_or(|entries| entries > LARGEST_COUNT) {
            let shape = format!("{} for {} layers of {} heads", self.head_dim, self.layers, self.kv_heads);
            return Err(unsupported("head_dim", &shape));
        }
        Ok(())
    }
}

/// Why a text is not JSON, as the end of a sentence. Python reads and writes `Infinity` and `NaN`, which JSON does not have.
pub(crate) fn not_json(error: &serde_json::Error) -> String {
    format!("is not JSON ({error}); `Infinity` and `NaN`, which Python writes, are not JSON either")
}

fn unsupported(key: &str, value: &str) -> EngineError {
    EngineError::Unsupported(format!("`{key}` = {value}"))
}

/// The keys of one `config.json`.
struct Keys<'a> {
    object: &'a Map<String, Value>,
}

impl Keys<'_> {
    fn decoder(&self) -> Result<DecoderConfig> {
        let (architecture, family) = self.family()?;
        self.refuse_unknown_parts()?;
        let layers = self.required("num_hidden_layers")?;
        let heads = self.required("num_attention_heads")?;
        let hidden_size = self.required("hidden_size")?;
        let bias = self.flag("attention_bias", false)?;
        let default_head_dim = if family == Family::Qwen3 { 128 } else { hidden_size / heads.max(1) };
        let head_dim = self.count("head_dim")?.unwrap_or(default_head_dim);
        let default_kv_heads = match self.object.get("num_key_value_heads") {
            None if family != Family::Llama => 32,
            _ => heads,
        };
        let max_positions = self.count("max_position_embeddings")?.unwrap_or(match family {
            Family::Llama => 2048,
            Family::Qwen2 | Family::Qwen3 => 32_768,
        });
        let rope = self.rope(max_positions)?;
        let config = DecoderConfig {
            architecture,
            hidden_size,
            intermediate_size: self.required("intermediate_size")?,
            layers,
            heads,
            kv_heads: self.count("num_key_value_heads")?.unwrap_or(default_kv_heads),
            head_dim,
            vocab_size: self.required("vocab_size")?,
            max_positions: max_positions.max(rope.scaling.positions()),
            norm_epsilon: self.number("rms_norm_eps")?.unwrap_or(1e-6),
            qkv_bias: bias || family == Family::Qwen2,
            output_bias: bias && family != Family::Qwen2,
            mlp_bias: family == Family::Llama && self.flag("mlp_bias", false)?,
            qk_norm: family == Family::Qwen3,
            tied_head: self.flag("tie_word_embeddings", false)?,
            rope,
            windows: self.windows(family, layers)?,
        };
        config.validate()?;
        Ok(config)
    }

    fn family(&self) -> Result<(String, Family)> {
        let listed = self.object.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        let model_type = self.object.get("model_type").and_then(Value::as_str);
        let (architecture, of_type, family) = match (listed, model_type) {
            (Some("LlamaForCausalLM"), _) | (None, Some("llama")) => ("LlamaForCausalLM", "llama", Family::Llama),
            (Some("Qwen2ForCausalLM"), _) | (None, Some("qwen2")) => ("Qwen2ForCausalLM", "qwen2", Family::Qwen2),
            (Some("Qwen3ForCausalLM"), _) | (None, Some("qwen3")) => ("Qwen3ForCausalLM", "qwen3", Family::Qwen3),
            (Some(other), _) => return Err(unsupported("architectures", other)),
            (None, Some(other)) => return Err(unsupported("model_type", other)),
            (None, None) => return Err(unsupported("architectures", "missing")),
        };
        match model_type.filter(|named| *named != of_type) {
            Some(other) => {
                let both = format!("{other} beside `architectures` = {architecture}; one of them is wrong");
                Err(unsupported("model_type", &both))
            }
            None => Ok((architecture.to_owned(), family)),
        }
    }

    fn refuse_unknown_parts(&self) -> Result<()> {
        if let Some(activation) = self.object.get("hidden_act").and_then(Value::as_str)
            && activation != "silu"
        {
            return Err(unsupported("hidden_act", activation));
        }
        if let Some(quantisation) = self.object.get("quantization_config").filter(|value| !value.is_null()) {
            let method = quantisation.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
            return Err(unsupported("quantization_config", method));
        }
        Ok(())
    }

    /// Both generations: `rope_parameters`, or `rope_theta` beside `rope_scaling`. Files may have both; they must agree,
    /// since programs differ in which one they read.
    fn rope(&self, max_positions: usize) -> Result<RopeConfig> {
        let group = |key: &str| self.object.get(key).and_then(Value::as_object).filter(|group| !group.is_empty());
        let empty = Map::new();
        let groups = (group("rope_parameters"), group("rope_scaling"));
        let (name, object) = match groups {
            (Some(object), _) => ("rope_parameters", object),
            (None, Some(object)) => ("rope_scaling", object),
            (None, None) => ("rope_scaling", &empty),
        };
        let keys = Keys { object };
        for part in [self, &keys] {
            if part.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
                return Err(unsupported("partial_rotary_factor", "other than 1"));
            }
        }
        if rope_kind(object).is_none() && object.values().any(Value::is_object) {
            return Err(unsupported(name, "one entry for each kind of layer"));
        }
        let theta = self.rope_theta(&[groups.0, groups.1])?;
        let original = self.number("original_max_position_embeddings")?;
        let scaling_of = |name: &str, object| {
            let kind = rope_kind(object).unwrap_or("default");
            Keys { object }.rope_scaling(name, kind, max_positions, original)
        };
        let scaling = scaling_of(name, object)?;
        if let (Some(new), Some(old)) = groups
            && scaling_of("rope_scaling", old)? != scaling
        {
            return Err(contradiction(old, new));
        }
        Ok(RopeConfig { theta, scaling, pairing: RopePairing::Halves })
    }

    /// The base, which may stand in either group or beside them.
    fn rope_theta(&self, groups: &[Option<&Map<String, Value>>]) -> Result<f64> {
        let mut bases = vec![self.number("rope_theta")?];
        for object in groups.iter().flatten() {
            bases.push(Keys { object }.number("rope_theta")?);
        }
        let mut bases = bases.into_iter().flatten();
        let theta = bases.next();
        if let (Some(theta), Some(other)) = (theta, bases.find(|other| Some(*other) != theta)) {
            return Err(unsupported("rope_theta", &format!("{theta} in one place and {other} in another; keep one")));
        }
        Ok(theta.unwrap_or(10_000.0))
    }

    /// `beside` is the original number of positions where the config has it beside the group; it comes first, as in
    /// transformers.
    fn rope_scaling(&self, name: &str, kind: &str, max_positions: usize, beside: Option<f64>) -> Result<RopeScaling> {
        let lacks = |key: &str| EngineError::Unsupported(format!("`{name}` ({kind}) lacks `{key}`"));
        let needed = |key: &str| self.number(key)?.ok_or_else(|| lacks(key));
        let original = beside.or(self.number("original_max_position_embeddings")?);
        match kind {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: needed("factor")? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: needed("factor")?,
                low_freq_factor: needed("low_freq_factor")?,
                high_freq_factor: needed("high_freq_factor")?,
                original_max_positions: original.ok_or_else(|| lacks("original_max_position_embeddings"))?,
            }),
            "yarn" => self.yarn(original.unwrap_or(max_positions as f64), max_positions),
            other => Err(unsupported(&format!("{name}.rope_type"), other)),
        }
    }

    fn yarn(&self, original_max_positions: f64, max_positions: usize) -> Result<RopeScaling> {
        let factor = self.number("factor")?.unwrap_or(max_positions as f64 / original_max_positions);
        let scale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
        let nonzero = |key: &str| Ok::<_, EngineError>(self.number(key)?.filter(|value| *value != 0.0));
        let attention_factor = match (self.number("attention_factor")?, nonzero("mscale")?, nonzero("mscale_all_dim")?)
        {
            (Some(given), _, _) => given,
            (None, Some(mscale), Some(all_dim)) => scale(mscale) / scale(all_dim),
            (None, _, _) => scale(1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            attention_factor,
            beta_fast: nonzero("beta_fast")?.unwrap_or(32.0),
            beta_slow: nonzero("beta_slow")?.unwrap_or(1.0),
            original_max_positions,
            // Transformers asks whether the value is true, and `null` is not.
            truncate: self.flag("truncate", !self.object.contains_key("truncate"))?,
        })
    }

    /// `layer_types` if given, else layers from `max_window_layers` on, and only where `use_sliding_window` is true.
    fn windows(&self, family: Family, layers: usize) -> Result<Vec<Option<usize>>> {
        if family == Family::Llama || !self.flag("use_sliding_window", false)? {
            return Ok(vec![None; layers]);
        }
        let window = match self.object.get("sliding_window") {
            Some(Value::Null) => None,
            _ => match self.count("sliding_window")?.unwrap_or(4096) {
                0 => return Err(unsupported("sliding_window", "0, so that no token would see any")),
                window => Some(window),
            },
        };
        let Some(list) = self.object.get("layer_types").and_then(Value::as_array) else {
            let full_layers = self.count("max_window_layers")?.unwrap_or(28);
            return Ok((0..layers).map(|layer| window.filter(|_| layer >= full_layers)).collect());
        };
        if list.len() != layers {
            return Err(unsupported("layer_types", &format!("{} entries for {layers} layers", list.len())));
        }
        list.iter()
            .map(|kind| match kind.as_str() {
                Some("full_attention") => Ok(None),
                Some("sliding_attention") => Ok(window),
                _ => Err(unsupported("layer_types", &kind.to_string())),
            })
            .collect()
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.count(key)?.ok_or_else(|| EngineError::Unsupported(format!("config.json lacks `{key}`")))
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().and_then(|count| usize::try_from(count).ok()) {
                Some(count) if count <= LARGEST_COUNT => Ok(Some(count)),
                _ => Err(unsupported(key, &value.to_string())),
            },
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| unsupported(key, &value.to_string())),
        }
    }

    /// `default` stands for a missing key and for `null`.
    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| unsupported(key, &format!("{value}, not true or false"))),
        }
    }
}

/// The kind of a group of rope keys.
fn rope_kind(group: &Map<String, Value>) -> Option<&str> {
    group.get("rope_type").or_else(|| group.get("type")).and_then(Value::as_str)
}

/// Names a key in which two groups that scale differently differ.
fn contradiction(old: &Map<String, Value>, new: &Map<String, Value>) -> EngineError {
    const KEYS: [&str; 10] = [
        "factor",
        "original_max_position_embeddings",
        "low_freq_factor",
        "high_freq_factor",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ];
    let kinds = [old, new].map(|group| rope_kind(group).unwrap_or("default").to_owned());
    let text = |value: &Value| value.as_f64().map_or_else(|| value.to_string(), |number| number.to_string());
    let written = |key: &str| [old, new].map(|group| group.get(key).map_or("nothing".to_owned(), text));
    let kinds = ("rope_type", kinds);
    let mut values = [kinds].into_iter().chain(KEYS.map(|key| (key, written(key))));
    let (key, [old, new]) = values.find(|(_, [old, new])| old != new).unwrap_or_default();
    let both = format!("{old} beside {new} in `rope_parameters`; put what holds into `rope_parameters` alone");
    unsupported(&format!("rope_scaling.{key}"), &both)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &str) -> Result<DecoderConfig> {
        let base = r#""hidden_size":32,"intermediate_size":64,"num_hidden_layers":3,"num_attention_heads":4,
            "num_key_value_heads":2,"vocab_size":100,"max_position_embeddings":512"#;
        DecoderConfig::from_json(format!("{{{base},{extra}}}").as_bytes())
    }

    #[test]
    fn both_generations_of_rope_keys_mean_the_same() {
        let old = parse(
            r#""architectures":["LlamaForCausalLM"],"rope_theta":5e5,"rope_scaling":{"type":"llama3","factor":8.0,
            "low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64}"#,
        );
        let new = parse(
            r#""architectures":["LlamaForCausalLM"],"rope_parameters":{"rope_theta":5e5,"rope_type":"llama3",
            "factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64}"#,
        );
        assert_eq!(old.unwrap(), new.unwrap());
    }

    #[test]
    fn groups_of_rope_keys_that_contradict_each_other_are_refused_by_key() {
        let yarn = r#""rope_type":"yarn","factor":4.0,"original_max_position_embeddings":128"#;
        let both = |new: &str, old: &str| {
            parse(&format!(r#""model_type":"qwen3","rope_parameters":{{{new}}},"rope_scaling":{{{old}}}"#))
        };
        let theta = format!(r#"{yarn},"rope_theta":1e6"#);
        let old = yarn.replace("rope_type", "type").replace("4.0", "4");
        assert_eq!(
            both(&theta, &old).unwrap(),
            parse(&format!(r#""model_type":"qwen3","rope_parameters":{{{theta}}}"#)).unwrap()
        );
        for (key, old) in [
            ("factor", yarn.replace("4.0", "8.0")),
            ("original_max_position_embeddings", yarn.replace("128", "256")),
            ("original_max_position_embeddings", r#""rope_type":"yarn","factor":4.0"#.to_owned()),
            ("beta_fast", format!(r#"{yarn},"beta_fast":16"#)),
            ("truncate", format!(r#"{yarn},"truncate":null"#)),
            ("rope_type", yarn.replace("yarn", "linear")),
            ("rope_theta", format!(r#"{yarn},"rope_theta":1e4"#)),
        ] {
            let error = both(&theta, &old).unwrap_err().to_string();
            assert!(error.contains(key), "{old}: {error}");
        }
        for group in ["rope_parameters", "rope_scaling"] {
            let twice = format!(
                r#""model_type":"llama","rope_theta":1e4,"{group}":{{"rope_type":"default","rope_theta":1e6}}"#
            );
            assert!(parse(&twice).unwrap_err().to_string().contains("`rope_theta` = 10000"));
            assert_eq!(parse(&twice.replace("1e4", "1e6")).unwrap().rope.theta, 1e6);
        }
    }

    /// `standardize_rope_params` of transformers.
    #[test]
    fn the_original_context_beside_the_group_comes_first() {
        let scaling = |group: &str, beside: &str| {
            let config = format!(r#""model_type":"llama","rope_scaling":{{"factor":8.0,{group}}}{beside}"#);
            parse(&config).map(|config| config.rope.scaling)
        };
        let beside = r#","original_max_position_embeddings":64"#;
        let llama3 = r#""rope_type":"llama3","low_freq_factor":1.0,"high_freq_factor":4.0"#;
        let within = format!(r#"{llama3},"original_max_position_embeddings":64"#);
        let expected = scaling(&within, "").unwrap();
        assert_eq!(scaling(llama3, beside).unwrap(), expected);
        assert_eq!(scaling(&within.replace("64", "512"), beside).unwrap(), expected);
        let missing = scaling(llama3, "").unwrap_err().to_string();
        assert!(missing.contains("lacks `original_max_position_embeddings`"), "{missing}");
        let yarn = scaling(r#""rope_type":"yarn","original_max_position_embeddings":512"#, beside).unwrap();
        assert!(matches!(yarn, RopeScaling::Yarn { original_max_positions: 64.0, .. }), "{yarn:?}");
    }

    #[test]
    fn null_is_what_transformers_takes_it_for() {
        let truncates = |end: &str| {
            let yarn = r#""rope_type":"yarn","factor":4.0"#;
            match parse(&format!(r#""model_type":"qwen3","rope_scaling":{{{yarn}{end}}}"#)).unwrap().rope.scaling {
                RopeScaling::Yarn { truncate, .. } => truncate,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            ["", r#","truncate":true"#, r#","truncate":null"#, r#","truncate":false"#].map(truncates),
            [true, true, false, false]
        );
        let kv_heads = |text: &str| {
            let shape = r#""hidden_size":64,"intermediate_size":64,"num_hidden_layers":1,"num_attention_heads":64,"vocab_size":9"#;
            DecoderConfig::from_json(format!("{{{shape},{text}}}").as_bytes()).unwrap().kv_heads
        };
        for (kind, absent) in [("llama", 64), ("qwen2", 32), ("qwen3", 32)] {
            let kind = format!(r#""head_dim":2,"model_type":"{kind}""#);
            assert_eq!(kv_heads(&kind), absent);
            assert_eq!(kv_heads(&format!(r#"{kind},"num_key_value_heads":null"#)), 64);
        }
        let refused = |extra: &str| parse(&format!(r#""model_type":"qwen2",{extra}"#)).unwrap_err().to_string();
        for key in ["use_sliding_window", "attention_bias", "tie_word_embeddings"] {
            for value in ["1", "\"true\""] {
                assert!(refused(&format!(r#""{key}":{value}"#)).contains(&format!("`{key}` = {value}, not true")));
            }
        }
        assert!(refused(r#""foo":Infinity"#).contains("config.json is not JSON"));
    }

    #[test]
    fn a_window_counts_only_where_it_is_switched_on() {
        let off = parse(r#""model_type":"qwen2","sliding_window":8,"use_sliding_window":false"#).unwrap();
        assert_eq!(off.windows, vec![None; 3]);
        let on = r#""model_type":"qwen2","sliding_window":8,"use_sliding_window":true,"max_window_layers":2"#;
        assert_eq!(parse(on).unwrap().windows, vec![None, None, Some(8)]);
        let listed = format!(r#"{on},"layer_types":["sliding_attention","full_attention","full_attention"]"#);
        assert_eq!(parse(&listed).unwrap().windows, vec![Some(8), None, None]);
    }

    #[test]
    fn yarn_lengthens_the_context() {
        let yarn = |max: usize| {
            let scaling = r#""rope_scaling":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":256}"#;
            parse(&format!(r#""model_type":"qwen3","max_position_embeddings":{max},{scaling}"#)).unwrap().max_positions
        };
        assert_eq!((yarn(320), yarn(1024), yarn(4096)), (1024, 1024, 4096));
        let without = r#""model_type":"qwen3","rope_scaling":{"rope_type":"yarn","factor":4.0}"#;
        assert_eq!(parse(without).unwrap().max_positions, 2048, "four times max_position_embeddings");
    }

    #[test]
    fn what_the_decoder_does_not_do_is_refused_by_key() {
        let refused = |extra: &str| parse(extra).unwrap_err().to_string();
        assert!(refused(r#""architectures":["GemmaForCausalLM"]"#).contains("GemmaForCausalLM"));
        let mistral = refused(r#""architectures":["LlamaForCausalLM"],"model_type":"mistral""#);
        assert!(mistral.contains("`model_type` = mistral beside `architectures` = LlamaForCausalLM"), "{mistral}");
        assert!(refused(r#""model_type":"llama","rope_scaling":{"type":"dynamic","factor":2}"#).contains("dynamic"));
        assert!(refused(r#""model_type":"llama","hidden_act":"gelu""#).contains("hidden_act"));
        assert!(refused(r#""model_type":"llama","partial_rotary_factor":0.5"#).contains("partial_rotary_factor"));
        assert!(refused(r#""model_type":"llama","num_key_value_heads":3"#).contains("num_key_value_heads"));
        assert!(refused(r#""model_type":"llama","num_hidden_layers":1000000000000"#).contains("num_hidden_layers"));
        assert!(refused(r#""model_type":"llama","hidden_size":10000000000000"#).contains("hidden_size"));
        let huge = r#""model_type":"llama","num_attention_heads":16777216,"num_key_value_heads":16777216"#;
        assert!(refused(&format!(r#"{huge},"head_dim":16777216"#)).contains("head_dim"));
    }
}
