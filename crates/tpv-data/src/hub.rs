//! The Hugging Face hub: files of models and data sets, from the shared cache or by download.
//!
//! The cache is the one that the Python libraries use (`models--<org>--<name>/{refs,blobs,snapshots}`), so nothing is
//! downloaded twice. It is asked first: a revision that it holds is used without a question to the hub. Downloads go to
//! `<blob>.incomplete`, are resumed after an interruption, compared in length and, where the hub states one, in SHA-256,
//! and only then renamed into the cache.
//!
//! The client is our own small one on `ureq`: the `hf-hub` crate 0.5 compares neither length nor hash of what it
//! downloaded, takes a whole answer to a resumed request for the missing rest, gives the status alone where the hub
//! explains itself (gated repositories), and reads only some of the variables that [`environment`] resolves.

pub mod cache;
pub mod client;
pub mod environment;

use crate::error::{DataError, Result};
use cache::RepoCache;
use client::Client;
use environment::HubEnvironment;
use std::path::PathBuf;

/// The two kinds of repositories that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoKind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

/// A repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    /// Which kind.
    pub kind: RepoKind,
    /// Its id, `organisation/name` or `name`.
    pub id: String,
    /// A branch, tag or commit.
    pub revision: String,
}

impl Repo {
    /// A model, at `main` unless a revision is given.
    pub fn model(id: &str, revision: Option<&str>) -> Self {
        Self { kind: RepoKind::Model, id: id.into(), revision: revision.unwrap_or("main").into() }
    }

    /// A data set at `main`.
    pub fn dataset(id: &str) -> Self {
        Self { kind: RepoKind::Dataset, id: id.into(), revision: "main".into() }
    }
}

/// Is told how downloads go.
pub trait DownloadProgress {
    /// A file of `total_bytes` begins, of which `present_bytes` are there from an earlier attempt.
    fn start(&mut self, file: &str, total_bytes: u64, present_bytes: u64);
    /// That many bytes more have come.
    fn advance(&mut self, bytes: u64);
    /// The file is complete.
    fn finish(&mut self);
    /// Files that a model may do without could not be asked for, in a sentence.
    fn missed(&mut self, what: &str);
}

/// Picks from the names of a repository's files those that are needed, or says what is missing among them.
pub type ChooseFiles<'a> = dyn Fn(&[String]) -> Result<Vec<String>, String> + 'a;

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl DownloadProgress for Silent {
    fn start(&mut self, _: &str, _: u64, _: u64) {}
    fn advance(&mut self, _: u64) {}
    fn finish(&mut self) {}
    fn missed(&mut self, _: &str) {}
}

/// The hub as the environment describes it.
#[derive(Debug)]
pub struct Hub {
    environment: HubEnvironment,
    client: Client,
}

/// Files of one repository at one commit, in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit.
    pub commit: String,
    /// The folder that holds the files under their names.
    pub folder: PathBuf,
}

impl Hub {
    /// The hub that the environment describes.
    pub fn new(environment: HubEnvironment) -> Self {
        let client = Client::new(&environment);
        Self { environment, client }
    }

    /// The environment.
    pub fn environment(&self) -> &HubEnvironment {
        &self.environment
    }

    /// Gives the files of a repository that `choose` picks from the names there are.
    ///
    /// `complete` says whether a snapshot in the cache already has what is needed. `choose` says which of the
    /// repository's files are needed, or what is missing among them. The revision's entry in the cache is written last,
    /// so an interrupted download is never taken for a whole one.
    pub fn snapshot(
        &self,
        repo: &Repo,
        complete: &dyn Fn(&Snapshot) -> bool,
        choose: &ChooseFiles<'_>,
        progress: &mut dyn DownloadProgress,
    ) -> Result<Snapshot> {
        let cache = RepoCache::new(&self.environment.cache, repo);
        if let Some(snapshot) = cache.snapshot(&repo.revision).filter(complete) {
            return Ok(snapshot);
        }
        if self.environment.offline {
            return Err(self.not_cached(repo));
        }
        let info = self.client.repo_info(repo)?;
        let names = choose(&info.files).map_err(|what| {
            DataError::missing(format!("{} at {}: {what}", repo.id, repo.revision), "name another repository")
        })?;
        for name in &names {
            self.client.download(repo, &cache, &info.commit, name, progress)?;
        }
        cache.write_ref(&repo.revision, &info.commit)?;
        Ok(Snapshot { folder: cache.snapshot_folder(&info.commit), commit: info.commit })
    }

    /// Fetches those of some files that a snapshot lacks and its commit has; what the commit lacks is remembered, so that it
    /// is asked for once. Caches that other programs filled can be without them; offline, what there is has to do.
    pub fn complete(
        &self,
        repo: &Repo,
        snapshot: &Snapshot,
        names: &[&str],
        progress: &mut dyn DownloadProgress,
    ) -> Result<()> {
        let cache = RepoCache::new(&self.environment.cache, repo);
        let is_unknown = |name: &&str| !snapshot.folder.join(name).is_file() && !cache.lacks(&snapshot.commit, name);
        let unknown: Vec<&str> = names.iter().copied().filter(is_unknown).collect();
        if unknown.is_empty() || self.environment.offline {
            return Ok(());
        }
        let at = Repo { revision: snapshot.commit.clone(), ..repo.clone() };
        let info = self.client.repo_info(&at)?;
        for name in unknown {
            if info.files.iter().any(|file| file == name) {
                self.client.download(&at, &cache, &snapshot.commit, name, progress)?;
            } else {
                cache.mark_lacking(&snapshot.commit, name)?;
            }
        }
        Ok(())
    }

    fn not_cached(&self, repo: &Repo) -> DataError {
        let kind = match repo.kind {
            RepoKind::Model => "model",
            RepoKind::Dataset => "data set",
        };
        DataError::missing(
            format!(
                "the {kind} {} ({}) is not in the cache {} and HF_HUB_OFFLINE is set",
                repo.id,
                repo.revision,
                self.environment.cache.display()
            ),
            "unset HF_HUB_OFFLINE to download it, or give the path of a local copy",
        )
    }
}
