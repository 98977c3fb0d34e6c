//! The variables that say where the hub and its cache are, resolved as the Python libraries resolve them.
//!
//! | Variable | Meaning | Default |
//! |---|---|---|
//! | `HF_HOME` | folder of everything below | `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface` |
//! | `HF_HUB_CACHE` | the cache | `$HF_HOME/hub` |
//! | `HF_TOKEN` | access token | the content of `HF_TOKEN_PATH` |
//! | `HF_TOKEN_PATH` | file of the access token | `$HF_HOME/token` |
//! | `HF_ENDPOINT` | address of the hub or a mirror | `https://huggingface.co` |
//! | `HF_HUB_OFFLINE` | `1`, `on`, `yes` or `true`: never ask the hub | off |
//!
//! An empty variable counts as one that is not set. `~` at the start of a path is the home folder.

use crate::files;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where the hub is asked when nothing else is said.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The resolved variables.
#[derive(Clone, PartialEq, Eq)]
pub struct HubEnvironment {
    /// Folder of the cache.
    pub cache: PathBuf,
    /// Access token.
    pub token: Option<String>,
    /// Address of the hub, without a slash at the end.
    pub endpoint: String,
    /// Never ask the hub.
    pub offline: bool,
}

impl HubEnvironment {
    /// Resolves the variables of this process.
    pub fn from_process() -> Self {
        Self::resolve(|name| std::env::var(name).ok())
    }

    /// Resolves variables that `lookup` gives.
    pub fn resolve(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let home = set("HOME").or_else(|| set("USERPROFILE")).map(PathBuf::from);
        let home = home.or_else(std::env::home_dir).unwrap_or_default();
        let path = |name: &str| set(name).map(|value| expand_home(&value, &home));
        let hf_home = path("HF_HOME")
            .unwrap_or_else(|| path("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache")).join("huggingface"));
        let token_path = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        Self {
            cache: path("HF_HUB_CACHE").unwrap_or_else(|| hf_home.join("hub")),
            token: set("HF_TOKEN").map(|token| token.trim().to_string()).or_else(|| read_token(&token_path)),
            endpoint: set("HF_ENDPOINT").unwrap_or(DEFAULT_ENDPOINT.into()).trim().trim_end_matches('/').into(),
            offline: set("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
        }
    }
}

impl fmt::Debug for HubEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubEnvironment")
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "(secret)"))
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
            .finish()
    }
}

fn expand_home(value: &str, home: &Path) -> PathBuf {
    match value.strip_prefix('~') {
        Some("") => home.into(),
        Some(rest) if rest.starts_with(['/', '\\']) => home.join(&rest[1..]),
        _ => value.into(),
    }
}

fn read_token(path: &Path) -> Option<String> {
    let text = files::read_to_string(path).ok()?;
    Some(text.trim().to_string()).filter(|token| !token.is_empty())
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|word| value.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variables: &[(&str, &str)]) -> HubEnvironment {
        HubEnvironment::resolve(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn the_defaults_lie_in_the_home_folder() {
        let environment = resolve(&[("HOME", "/nowhere")]);
        assert_eq!(environment.cache, Path::new("/nowhere/.cache/huggingface/hub"));
        assert_eq!(environment.endpoint, DEFAULT_ENDPOINT);
        assert!(environment.token.is_none() && !environment.offline);
    }

    #[test]
    fn the_narrower_variable_wins() {
        let home = ("HOME", "/nowhere");
        let cache = |more: &[(&str, &str)]| resolve(&[&[home], more].concat()).cache;
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/xdg")]), Path::new("/xdg/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/xdg"), ("HF_HOME", "/hf")]), Path::new("/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "~/c")]), Path::new("/nowhere/c"));
        assert_eq!(cache(&[("HF_HOME", "")]), Path::new("/nowhere/.cache/huggingface/hub"));
    }

    #[test]
    fn tokens_come_from_the_variable_or_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(resolve(&[("HF_HOME", home)]).token, None);
        std::fs::write(folder.path().join("token"), "from-file\n").unwrap();
        assert_eq!(resolve(&[("HF_HOME", home)]).token.as_deref(), Some("from-file"));
        assert_eq!(resolve(&[("HF_HOME", home), ("HF_TOKEN", " direct ")]).token.as_deref(), Some("direct"));
        let other = folder.path().join("other");
        std::fs::write(&other, "other").unwrap();
        let environment = resolve(&[("HF_HOME", home), ("HF_TOKEN_PATH", other.to_str().unwrap())]);
        assert_eq!(environment.token.as_deref(), Some("other"));
        assert!(!format!("{environment:?}").contains("other\""));
    }

    #[test]
    fn offline_and_endpoint_are_read() {
        for (value, offline) in [("1", true), ("ON", true), ("True", true), ("0", false), ("no", false), ("", false)] {
            assert_eq!(resolve(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
        assert_eq!(resolve(&[("HF_ENDPOINT", "http://mirror:80/")]).endpoint, "http://mirror:80");
    }
}
