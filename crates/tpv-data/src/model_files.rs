//! Where a model's files are: a local folder, a local `.gguf` file, or the hub.

use crate::error::{DataError, Result};
use crate::files;
use crate::hub::cache::is_relative;
use crate::hub::{DownloadProgress, Hub, Repo, Snapshot};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const OPTIONAL: [&str; 5] = [
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];

/// A model's files on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// The hub's commit, where it is known.
    pub revision: Option<String>,
    /// The files.
    pub form: ModelForm,
}

/// The two forms in which models come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelForm {
    /// A folder with `config.json`, `tokenizer.json` and safetensors.
    Folder(PathBuf),
    /// One GGUF file.
    Gguf(PathBuf),
}

impl ModelFiles {
    /// The folder or file.
    pub fn path(&self) -> &Path {
        match &self.form {
            ModelForm::Folder(path) | ModelForm::Gguf(path) => path,
        }
    }

    /// The safetensors files of a folder, one or the shards of the index in order of their names.
    pub fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
        let single = folder.join(SINGLE);
        if single.is_file() {
            return Ok(vec![single]);
        }
        let index = folder.join(INDEX);
        if !index.is_file() {
            let what = format!("{}: the folder has no {SINGLE} and no {INDEX}", folder.display());
            return Err(DataError::missing(what, "give a checkpoint in safetensors form"));
        }
        let shards: Vec<PathBuf> = read_index(&index)?.iter().map(|name| folder.join(name)).collect();
        match shards.iter().find(|path| !path.is_file()) {
            Some(path) => Err(DataError::missing(
                format!("{}: the shard is missing though {INDEX} names it", path.display()),
                "download the model again",
            )),
            None => Ok(shards),
        }
    }
}

/// Finds a model: a local folder or `.gguf` file, else a hub id (`org/name`, or `org/name/file.gguf`), from the cache or
/// by download.
pub fn resolve_model(
    name_or_path: &str,
    revision: Option<&str>,
    hub: &Hub,
    progress: &mut dyn DownloadProgress,
) -> Result<ModelFiles> {
    let path = Path::new(name_or_path);
    if path.is_dir() {
        return local_folder(path);
    }
    if path.is_file() {
        return local_file(path);
    }
    match HubName::parse(name_or_path) {
        Some(HubName { id, file: None }) => from_hub(&id, revision, hub, progress),
        Some(HubName { id, file: Some(file) }) => gguf_from_hub(&id, &file, revision, hub, progress),
        None => Err(DataError::missing(
            format!("{name_or_path}: there is no such folder or .gguf file"),
            "check the path, or give a hub id such as deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        )),
    }
}

/// Finds the folder with the text files of a model: `tokenizer.json` and what else of them there is. No weights are
/// fetched. A local folder, or what lies beside a local file; else a hub id at `main`.
pub fn resolve_text(name_or_path: &str, hub: &Hub, progress: &mut dyn DownloadProgress) -> Result<PathBuf> {
    let path = Path::new(name_or_path);
    if path.is_file() {
        return Ok(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).into());
    }
    if path.is_dir() {
        return Ok(path.into());
    }
    let Some(HubName { id, file: None }) = HubName::parse(name_or_path) else {
        return Err(DataError::missing(
            format!("{name_or_path}: there is no such folder"),
            "name the folder that holds tokenizer.json, or a hub id such as deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        ));
    };
    let complete = |snapshot: &Snapshot| snapshot.folder.join(TOKENIZER).is_file();
    let repo = Repo::model(&id, None);
    let snapshot = hub.snapshot(&repo, &complete, &choose_text_files, progress)?;
    ask_for_optional(&repo, &snapshot, hub, progress);
    Ok(snapshot.folder)
}

/// Fetches what a cache that another program filled may be without. Where that fails, what there is has to do, and is told.
fn ask_for_optional(repo: &Repo, snapshot: &Snapshot, hub: &Hub, progress: &mut dyn DownloadProgress) {
    if let Err(error) = hub.complete(repo, snapshot, &OPTIONAL, progress) {
        let (there, lacking): (Vec<_>, Vec<_>) = OPTIONAL.iter().partition(|name| snapshot.folder.join(name).is_file());
        let have = if there.is_empty() { "none of its optional files".to_owned() } else { names(&there) };
        progress.missed(&format!(
            "{}: using {have}; whether it has {} could not be asked ({error}), and without them prompts and ends may differ",
            repo.id,
            names(&lacking)
        ));
    }
}

fn names(files: &[&&str]) -> String {
    files.iter().map(|file| **file).collect::<Vec<_>>().join(", ")
}

struct HubName {
    id: String,
    file: Option<String>,
}

impl HubName {
    fn parse(text: &str) -> Option<Self> {
        let word = |part: &str| {
            let first = part.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
            first && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| word(part)) {
            return None;
        }
        match parts.as_slice() {
            [name] if !name.ends_with(".gguf") => Some(Self { id: text.into(), file: None }),
            [_, name] if !name.ends_with(".gguf") => Some(Self { id: text.into(), file: None }),
            [organisation, name, rest @ ..] if rest.last().is_some_and(|file| file.ends_with(".gguf")) => {
                Some(Self { id: format!("{organisation}/{name}"), file: Some(rest.join("/")) })
            }
            _ => None,
        }
    }
}

fn local_folder(folder: &Path) -> Result<ModelFiles> {
    for name in [CONFIG, TOKENIZER] {
        if !folder.join(name).is_file() {
            let what = format!("{}: the folder has no {name}", folder.display());
            return Err(DataError::missing(what, "give the folder of a complete checkpoint"));
        }
    }
    ModelFiles::weight_files(folder)?;
    Ok(ModelFiles { revision: None, form: ModelForm::Folder(folder.into()) })
}

fn local_file(path: &Path) -> Result<ModelFiles> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
        return Ok(ModelFiles { revision: None, form: ModelForm::Gguf(path.into()) });
    }
    let what = format!("{}: the file is not a .gguf file", path.display());
    Err(DataError::argument(what, "give a .gguf file, or the folder of a checkpoint"))
}

fn from_hub(id: &str, revision: Option<&str>, hub: &Hub, progress: &mut dyn DownloadProgress) -> Result<ModelFiles> {
    let repo = Repo::model(id, revision);
    let has_index = |snapshot: &Snapshot| complete_but_shards(&snapshot.folder);
    let snapshot = hub.snapshot(&repo, &has_index, &choose_files, progress)?;
    ask_for_optional(&repo, &snapshot, hub, progress);
    let snapshot = match missing_shards(&snapshot.folder)? {
        shards if shards.is_empty() => snapshot,
        shards => fetch_shards(id, &snapshot, shards, hub, progress)?,
    };
    Ok(ModelFiles { revision: Some(snapshot.commit), form: ModelForm::Folder(snapshot.folder) })
}

fn gguf_from_hub(
    id: &str,
    file: &str,
    revision: Option<&str>,
    hub: &Hub,
    progress: &mut dyn DownloadProgress,
) -> Result<ModelFiles> {
    let choose = |files: &[String]| match files.iter().any(|name| name == file) {
        true => Ok(vec![file.to_string()]),
        false => Err(format!("it has no file {file}")),
    };
    let complete = |snapshot: &Snapshot| snapshot.folder.join(file).is_file();
    let snapshot = hub.snapshot(&Repo::model(id, revision), &complete, &choose, progress)?;
    let form = ModelForm::Gguf(snapshot.folder.join(file));
    Ok(ModelFiles { revision: Some(snapshot.commit), form })
}

fn complete_but_shards(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    has(CONFIG) && has(TOKENIZER) && (has(SINGLE) || has(INDEX))
}

/// What a model needs of a repository's files; the shards come later, when the index is there to name them.
fn choose_files(files: &[String]) -> Result<Vec<String>, String> {
    let has = |name: &str| files.iter().any(|file| file == name);
    for name in [CONFIG, TOKENIZER] {
        if !has(name) {
            return Err(format!("it has no {name}"));
        }
    }
    let weights = [SINGLE, INDEX].into_iter().find(|name| has(name)).ok_or("it has no weights in safetensors form")?;
    let optional = OPTIONAL.into_iter().filter(|name| has(name));
    Ok([CONFIG, TOKENIZER].into_iter().chain(optional).chain([weights]).map(str::to_string).collect())
}

fn choose_text_files(files: &[String]) -> Result<Vec<String>, String> {
    let has = |name: &str| files.iter().any(|file| file == name);
    if !has(TOKENIZER) {
        return Err(format!("it has no {TOKENIZER}"));
    }
    let optional = [CONFIG].into_iter().chain(OPTIONAL).filter(|name| has(name));
    Ok([TOKENIZER].into_iter().chain(optional).map(str::to_string).collect())
}

fn missing_shards(folder: &Path) -> Result<Vec<String>> {
    if folder.join(SINGLE).is_file() {
        return Ok(Vec::new());
    }
    let shards = read_index(&folder.join(INDEX))?;
    Ok(shards.into_iter().filter(|name| !folder.join(name).is_file()).collect())
}

fn fetch_shards(
    id: &str,
    snapshot: &Snapshot,
    shards: Vec<String>,
    hub: &Hub,
    progress: &mut dyn DownloadProgress,
) -> Result<Snapshot> {
    let repo = Repo::model(id, Some(&snapshot.commit));
    let choose = |_: &[String]| Ok(shards.clone());
    hub.snapshot(&repo, &|_| false, &choose, progress)
}

/// The names of the shards, each once, in order.
fn read_index(path: &Path) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let damaged = |what: String| DataError::damaged(path, what, "download the model again");
    let bytes = files::read(path).map_err(|source| DataError::io(path, "read the file", source))?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| damaged(format!("not an index ({error})")))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if names.is_empty() {
        return Err(damaged("it names no shards".into()));
    }
    match names.iter().find(|name| !is_relative(name)) {
        Some(name) => Err(damaged(format!("the shard name {name:?} leads out of the folder"))),
        None => Ok(names.into_iter().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Silent;
    use crate::hub::environment::HubEnvironment;
    use std::fs;

    fn offline(cache: &Path) -> Hub {
        let (cache, endpoint) = (cache.into(), "http://127.0.0.1:9".into());
        Hub::new(HubEnvironment { cache, token: None, endpoint, offline: true })
    }

    fn resolve(name: &str) -> Result<ModelFiles> {
        resolve_model(name, None, &offline(Path::new("no-cache")), &mut Silent)
    }

    #[test]
    fn a_local_folder_must_be_a_whole_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny");
        fs::create_dir(&path).unwrap();
        let name = path.to_str().unwrap();
        assert!(resolve(name).unwrap_err().to_string().contains("the folder has no config.json"));
        fs::write(path.join(CONFIG), "{}").unwrap();
        assert!(resolve(name).unwrap_err().to_string().contains("no tokenizer.json"));
        fs::write(path.join(TOKENIZER), "{}").unwrap();
        assert!(resolve(name).unwrap_err().to_string().contains("no model.safetensors"));
        fs::write(path.join(INDEX), r#"{"weight_map": {"a": "2.safetensors", "b": "1.safetensors"}}"#).unwrap();
        assert!(resolve(name).unwrap_err().to_string().contains("1.safetensors: the shard is missing"));
        for shard in ["1.safetensors", "2.safetensors"] {
            fs::write(path.join(shard), "").unwrap();
        }
        assert_eq!(resolve(name).unwrap().path(), path);
        assert_eq!(ModelFiles::weight_files(&path).unwrap()[0], path.join("1.safetensors"));
    }

    #[test]
    fn a_damaged_index_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(INDEX);
        for (text, expected) in [
            ("{", "not an index"),
            ("{\"weight_map\": {}}", "names no shards"),
            ("{\"weight_map\": {\"a\": \"../../x\"}}", "leads out of the folder"),
        ] {
            fs::write(&path, text).unwrap();
            let message = ModelFiles::weight_files(folder.path()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn paths_that_are_not_there_are_not_taken_for_hub_ids() {
        for name in ["./nowhere", "/no/where", "a/b/c", "x.gguf", "../x", "a//b", ""] {
            let text = resolve(name).unwrap_err().to_string();
            assert!(text.contains("there is no such folder"), "{name}: {text}");
        }
    }

    #[test]
    fn gguf_files_are_accepted_and_other_files_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        fs::write(&path, "").unwrap();
        assert_eq!(resolve(path.to_str().unwrap()).unwrap().form, ModelForm::Gguf(path));
        let path = folder.path().join("m.bin");
        fs::write(&path, "").unwrap();
        assert!(resolve(path.to_str().unwrap()).unwrap_err().to_string().contains("not a .gguf file"));
    }

    #[test]
    fn offline_and_not_cached_says_what_to_do() {
        let text = resolve("org/name").unwrap_err().to_string();
        assert_eq!(
            text,
            "the model org/name (main) is not in the cache no-cache and HF_HUB_OFFLINE is set; \
             unset HF_HUB_OFFLINE to download it, or give the path of a local copy"
        );
    }
}
