//! The cache folder of one repository: `refs/<revision>`, `blobs/<etag>`, `snapshots/<commit>/<file>`.

use super::{Repo, RepoKind, Snapshot};
use crate::atomic;
use crate::error::{DataError, Result};
use crate::files;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The cache folder of one repository.
#[derive(Debug, Clone)]
pub struct RepoCache {
    folder: PathBuf,
}

impl RepoCache {
    /// The folder of `repo` in the cache; it need not be there.
    pub fn new(cache: &Path, repo: &Repo) -> Self {
        let kind = match repo.kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        Self { folder: cache.join(format!("{kind}--{}", repo.id.replace('/', "--"))) }
    }

    /// The snapshot of a revision, if the cache knows its commit and has the folder.
    pub fn snapshot(&self, revision: &str) -> Option<Snapshot> {
        let commit = if is_commit(revision) { revision.into() } else { self.read_ref(revision)? };
        let folder = self.snapshot_folder(&commit);
        folder.is_dir().then_some(Snapshot { commit, folder })
    }

    /// The folder of a commit's files.
    pub fn snapshot_folder(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The place of a file's content.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Remembers the commit that a branch or tag names.
    pub fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || !is_relative(revision) {
            return Ok(());
        }
        atomic::write_bytes(&self.folder.join("refs").join(revision), commit.as_bytes())
    }

    /// Gives a blob its name in the snapshot of a commit.
    pub fn link(&self, commit: &str, file: &str, blob: &Path) -> Result<PathBuf> {
        let path = self.snapshot_folder(commit).join(file);
        atomic::create_folder(path.parent().unwrap_or(&self.folder))?;
        if path.exists() {
            return Ok(path);
        }
        // Others may be linking the same file now: what is there, such as a link to a blob that is gone, is replaced whole.
        let linked = place_over(blob, &path, Path::new(file).components().count());
        linked.map_err(|source| DataError::io(&path, "link the downloaded file", source))?;
        Ok(path)
    }

    /// Whether a commit is known to lack a file; the Python library leaves such marks too.
    pub fn lacks(&self, commit: &str, file: &str) -> bool {
        self.folder.join(".no_exist").join(commit).join(file).exists()
    }

    /// Remembers that a commit lacks a file.
    pub fn mark_lacking(&self, commit: &str, file: &str) -> Result<()> {
        atomic::write_bytes(&self.folder.join(".no_exist").join(commit).join(file), b"")
    }

    fn read_ref(&self, revision: &str) -> Option<String> {
        if !is_relative(revision) {
            return None;
        }
        let text = files::read_to_string(&self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_string()).filter(|commit| is_commit(commit))
    }
}

/// Whether a revision is a full commit hash.
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a name from outside stays within the folder that it is joined to.
pub fn is_relative(name: &str) -> bool {
    let components = Path::new(name).components();
    !name.is_empty() && !name.contains('\\') && components.into_iter().all(|part| matches!(part, Component::Normal(_)))
}

/// As [`place`], over whatever `path` is.
#[cfg(unix)]
fn place_over(blob: &Path, path: &Path, depth: usize) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.link", std::process::id()));
    let _ = fs::remove_file(&temporary); // of a process with this number that was killed
    place(blob, &temporary, depth)?;
    fs::rename(&temporary, path)
}

/// Whoever comes second finds the blob gone and the file there.
#[cfg(not(unix))]
fn place_over(blob: &Path, path: &Path, depth: usize) -> std::io::Result<()> {
    place(blob, path, depth).or_else(|error| if path.exists() { Ok(()) } else { Err(error) })
}

/// Links `path`, which lies `depth` names below its commit's folder, to the blob.
#[cfg(unix)]
fn place(blob: &Path, path: &Path, depth: usize) -> std::io::Result<()> {
    let mut target = PathBuf::new();
    target.extend(std::iter::repeat_n("..", depth + 1));
    target.extend([Path::new("blobs"), Path::new(blob.file_name().unwrap_or_default())]);
    std::os::unix::fs::symlink(target, path)
}

/// Where links need privileges, the blob itself becomes the file, as the Python library does it.
#[cfg(not(unix))]
fn place(blob: &Path, path: &Path, _: usize) -> std::io::Result<()> {
    fs::rename(blob, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_recognised() {
        for good in ["config.json", "main/train.parquet", "a..b"] {
            assert!(is_relative(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a\\..\\x", "./x"] {
            assert!(!is_relative(bad), "{bad}");
        }
    }

    #[test]
    fn a_revision_is_found_by_name_and_by_commit() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), &Repo::model("org/name", None));
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(cache.snapshot("main"), None);
        cache.write_ref("main", commit).unwrap();
        cache.write_ref("feature/x", commit).unwrap();
        assert_eq!(cache.snapshot("main"), None);
        let blob = cache.blob("etag");
        atomic::write_bytes(&blob, b"content").unwrap();
        let linked = cache.link(commit, "sub/file.txt", &blob).unwrap();
        assert_eq!(fs::read(&linked).unwrap(), b"content");
        for revision in ["main", "feature/x", commit] {
            assert_eq!(cache.snapshot(revision).unwrap().commit, commit);
        }
        assert!(folder.path().join("models--org--name/refs/feature/x").is_file());
        assert_eq!(cache.snapshot("../refs/main"), None);
        let other = cache.blob("other");
        atomic::write_bytes(&other, b"other").unwrap();
        assert_eq!(fs::read(cache.link(commit, "sub/file.txt", &other).unwrap()).unwrap(), b"content", "first come");
        fs::remove_file(&blob).unwrap();
        assert_eq!(
            fs::read(cache.link(commit, "sub/file.txt", &other).unwrap()).unwrap(),
            b"other",
            "the blob was gone"
        );
    }
}
