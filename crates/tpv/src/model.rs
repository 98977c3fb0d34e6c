//! From the name of a model or a data set to the thing itself.

use crate::args::{DatasetArgs, Dtype, RunArgs, StyleArgs};
use crate::console::Console;
use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use std::borrow::Cow;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use tpv_core::vector::ModelIdentity;
use tpv_data::files;
use tpv_data::hub::environment::HubEnvironment;
use tpv_data::hub::{DownloadProgress, Hub};
use tpv_data::model_files::{ModelForm, resolve_model, resolve_text};
use tpv_data::problems::{DatasetSpec, Fields, ProblemSet};
use tpv_engine::device::{DeviceChoice, DtypeChoice, thread_count};
use tpv_engine::load::{LoadOptions, ModelSource};
use tpv_engine::model::{LimitWishes, PromptStyle, TextFiles, TextModel};
use tpv_engine::template::{ChatOptions, PromptTemplate};

/// What to know of several samples without chance.
pub const SAME_GENERATIONS: &str = "at temperature 0 all generations of a problem are the same, and count as many";

/// The name of the bundled toy model and of its problems.
pub const THINKER: &str = "thinker";

/// Loads a model by its name: `thinker`, a folder, a `.gguf` file, or a repository of the hub.
pub fn open_model(name: &str, args: &RunArgs, console: &Console) -> Result<TextModel> {
    if let Some(threads) = args.threads {
        // Tokens are chosen on the process's own pool, which is set once, by the first model.
        drop(rayon::ThreadPoolBuilder::new().num_threads(thread_count(Some(threads))).build_global());
    }
    let (source, text, revision) = locate(name, args, console)?;
    let draft_tokens = args.draft_tokens.or((!args.collects_traces).then_some(0));
    let wishes = LimitWishes { max_batch: args.max_batch, draft_tokens, share_drafts: args.collects_traces };
    let model = TextModel::load(name, revision, &source, &text, &load_options(args)?, wishes)
        .with_context(|| format!("model {name} cannot be used"))?;
    model.notices.iter().for_each(|notice| console.notice(notice));
    Ok(model)
}

/// How a model is run whose tokens come at a pace: one after the other, so none is guessed ahead.
pub fn paced(run: &RunArgs, is_paced: bool, console: &Console) -> RunArgs {
    if !is_paced {
        return run.clone();
    }
    if run.draft_tokens.is_some_and(|tokens| tokens > 0) {
        console
            .notice("--draft_tokens is left aside: at a pace tokens come one after the other (--pace 0 lets them go)");
    }
    RunArgs { draft_tokens: Some(0), ..run.clone() }
}

/// Where no model is run: no more threads than cores, whatever the environment says. More of them take memory and gain
/// nothing.
pub fn compute_on_cores() {
    drop(rayon::ThreadPoolBuilder::new().num_threads(thread_count(None)).build_global());
}

/// The wishes about device and arithmetic.
pub fn load_options(args: &RunArgs) -> Result<LoadOptions> {
    let dtype = choose_arithmetic(args.dtype);
    let device = parse_device(&args.device)?;
    Ok(LoadOptions { dtype, device, threads: args.threads, kv_tokens: None, kv_bytes: args.kv_memory })
}

/// The arithmetic that a flag names; `None`: what suits the device and the model.
pub fn choose_arithmetic(flag: Dtype) -> Option<DtypeChoice> {
    match flag {
        Dtype::Auto => None,
        Dtype::F32 => Some(DtypeChoice::F32),
        Dtype::F16 => Some(DtypeChoice::F16),
        Dtype::Bf16 => Some(DtypeChoice::Bf16),
        Dtype::Q8_0 => Some(DtypeChoice::Q8_0),
    }
}

fn parse_device(text: &str) -> Result<DeviceChoice> {
    Ok(match text {
        "auto" => DeviceChoice::Auto,
        "cpu" => DeviceChoice::Cpu,
        "cuda" => DeviceChoice::Cuda(0),
        "metal" | "mps" => DeviceChoice::Metal,
        other => match other.strip_prefix("cuda:").and_then(|number| number.parse().ok()) {
            Some(number) => DeviceChoice::Cuda(number),
            None => bail!("unknown device \"{other}\"; use auto, cpu, cuda, cuda:1 or metal"),
        },
    })
}

/// Where a model's weights are.
pub fn open_source(name: &str, args: &RunArgs, console: &Console) -> Result<ModelSource> {
    Ok(locate_weights(name, args, console)?.0)
}

/// The weights and the text of a model, each from where the flags say, and the hub's commit of the weights.
pub fn locate(name: &str, args: &RunArgs, console: &Console) -> Result<(ModelSource, TextFiles, Option<String>)> {
    let (source, revision) = locate_weights(name, args, console)?;
    let text = match (args.tokenizer_name_or_path.as_deref().filter(|tokenizer| *tokenizer != name), &source) {
        (Some(tokenizer), source) => {
            let text = locate_text(tokenizer, console).context("--tokenizer_name_or_path")?;
            // What ends an answer is the model's to say, where it says so.
            let own = |name: &str| match source {
                ModelSource::Folder(folder) => read_optional(folder, name),
                _ => Ok(None),
            };
            TextFiles {
                generation_config: own(GENERATION_CONFIG)?.map(Cow::Owned).or(text.generation_config),
                config: own(CONFIG)?.map(Cow::Owned).or(text.config),
                ..text
            }
        }
        (None, ModelSource::Folder(folder)) => read_text_files(folder)?,
        (None, ModelSource::Gguf(file)) => read_text_files(file.parent().unwrap_or(Path::new("")))
            .context("a .gguf file needs its tokenizer beside it, or named with --tokenizer_name_or_path")?,
        (None, ModelSource::Embedded { .. }) => thinker_text(),
    };
    Ok((source, text, revision))
}

fn locate_weights(name: &str, args: &RunArgs, console: &Console) -> Result<(ModelSource, Option<String>)> {
    if name == THINKER {
        let source = ModelSource::Embedded { config: tpv_thinker::CONFIG, weights: tpv_thinker::WEIGHTS };
        return Ok((source, None));
    }
    let hub = Hub::new(HubEnvironment::from_process());
    let files = resolve_model(name, args.revision.as_deref(), &hub, &mut DownloadBars::new(console))?;
    let source = match files.form {
        ModelForm::Folder(folder) => ModelSource::Folder(folder),
        ModelForm::Gguf(file) => ModelSource::Gguf(file),
    };
    Ok((source, files.revision))
}

/// The text of a model whose weights are not wanted. `--revision` is the model's own, so the hub's `main` is taken.
fn locate_text(name: &str, console: &Console) -> Result<TextFiles> {
    if name == THINKER {
        return Ok(thinker_text());
    }
    let hub = Hub::new(HubEnvironment::from_process());
    read_text_files(&resolve_text(name, &hub, &mut DownloadBars::new(console))?)
}

fn thinker_text() -> TextFiles {
    TextFiles {
        tokenizer: tpv_thinker::TOKENIZER.into(),
        tokenizer_config: Some(tpv_thinker::TOKENIZER_CONFIG.into()),
        generation_config: Some(tpv_thinker::GENERATION_CONFIG.into()),
        config: Some(tpv_thinker::CONFIG.into()),
        special_tokens_map: None,
        added_tokens: None,
        chat_template: None,
    }
}

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";

/// The bytes of a file that need not be there.
fn read_optional(folder: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let path = folder.join(name);
    files::read_optional(&path).with_context(|| format!("{}: cannot be read", path.display()))
}

fn read_text_files(folder: &Path) -> Result<TextFiles> {
    let required = |name: &str| {
        let path = folder.join(name);
        files::read(&path)
            .with_context(|| format!("{}: cannot be read; the model's folder must hold it", path.display()))
    };
    let optional = |name: &str| read_optional(folder, name);
    let chat_template = optional("chat_template.jinja")?.map(String::from_utf8).transpose();
    Ok(TextFiles {
        tokenizer: required("tokenizer.json")?.into(),
        tokenizer_config: optional("tokenizer_config.json")?.map(Cow::Owned),
        generation_config: optional(GENERATION_CONFIG)?.map(Cow::Owned),
        config: optional(CONFIG)?.map(Cow::Owned),
        special_tokens_map: optional("special_tokens_map.json")?.map(Cow::Owned),
        added_tokens: optional("added_tokens.json")?.map(Cow::Owned),
        chat_template: chat_template
            .with_context(|| format!("{}: not UTF-8", folder.join("chat_template.jinja").display()))?,
    })
}

/// Loads a data set by its name: `thinker`, `math500`, `gsm8k`, or a file.
pub fn open_dataset(args: &DatasetArgs, console: &Console) -> Result<ProblemSet> {
    let fields = Fields { problem: args.problem_field.clone(), answer: args.answer_field.clone() };
    if args.dataset == THINKER {
        return Ok(ProblemSet::from_jsonl_bytes(THINKER, tpv_thinker::PROBLEMS_JSONL.as_bytes(), &fields)?);
    }
    let hub = Hub::new(HubEnvironment::from_process());
    let spec = DatasetSpec::parse(&args.dataset)?;
    Ok(ProblemSet::load(&spec, &fields, &hub, &mut DownloadBars::new(console))?)
}

/// Shows downloads as progress bars.
pub struct DownloadBars<'a> {
    console: &'a Console,
    bar: ProgressBar,
}

impl<'a> DownloadBars<'a> {
    /// Bars on the console.
    pub fn new(console: &'a Console) -> Self {
        Self { console, bar: ProgressBar::hidden() }
    }
}

impl DownloadProgress for DownloadBars<'_> {
    fn start(&mut self, file: &str, total_bytes: u64, present_bytes: u64) {
        self.bar = self.console.download_bar(total_bytes, file);
        self.bar.inc(present_bytes);
    }

    fn advance(&mut self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }

    fn missed(&mut self, what: &str) {
        self.console.notice(what);
    }
}

/// How problems become prompts.
pub fn prompt_style(args: &StyleArgs) -> Result<PromptStyle> {
    Ok(match args.template() {
        Some(template) => PromptStyle::Template(PromptTemplate::new(template)?),
        None => PromptStyle::Chat(ChatOptions::default()),
    })
}

/// Lets all prompts of a style show one time, whenever a run goes on: this one, or else the present. The time, where the
/// checkpoint's chat template may print it; seconds since 1970.
pub fn pin_clock(style: &mut PromptStyle, unix_secs: Option<u64>) -> Option<u64> {
    let PromptStyle::Chat(options) = style else { return None };
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|now| now.as_secs());
    options.now_unix_secs = unix_secs.or_else(now);
    options.now_unix_secs
}

/// What to try when a sample failed in this arithmetic.
pub fn advice_on_failure(dtype: &str) -> &'static str {
    match dtype {
        "f32" => "no arithmetic here has a wider range than f32, so look at the checkpoint's weights and config.json",
        _ => "try --dtype f32",
    }
}

/// A model whatever it is called: its fingerprint says which it is.
pub fn nameless(model: &ModelIdentity) -> ModelIdentity {
    ModelIdentity { name: String::new(), revision: None, ..model.clone() }
}

/// What tells the prompts of a style from others: the template's text, or the hash of the checkpoint's own.
pub fn prompt_identity(args: &StyleArgs, model: &TextModel) -> String {
    let of_chat = || format!("chat template {}", model.prompts.chat_template_sha256().unwrap_or_default());
    args.template().map_or_else(of_chat, str::to_owned)
}
