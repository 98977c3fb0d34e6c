//! What can go wrong with files, folders, data sets and the hub: which path, what is wrong, what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// The error of this crate. Every message is one sentence with the path, what is wrong and the next step.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}; {}", io_advice(.source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb phrase: "read the file".
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No room is left for a file; nothing of it was left behind.
    #[error(
        "{path}: no space is left on the disk; nothing of it was left half-written, so free some space and run the same command again"
    )]
    DiskFull {
        /// The file that was being written.
        path: PathBuf,
    },
    /// Something that the user named is not there.
    #[error("{what}; {next_step}")]
    Missing {
        /// What is missing, with its path or name.
        what: String,
        /// What to do about it.
        next_step: String,
    },
    /// A file is truncated, of another kind, or holds values that cannot be right.
    #[error("{path}: {what}; {next_step}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, expected and found.
        what: String,
        /// What to do about it.
        next_step: String,
    },
    /// A file is sound but belongs to something else: another model, another run.
    #[error("{path}: {what}; {next_step}")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What differs, with both values.
        what: String,
        /// What to do about it.
        next_step: String,
    },
    /// A value that the user gave cannot be used.
    #[error("{what}; {next_step}")]
    Argument {
        /// The value and what is wrong with it.
        what: String,
        /// What to give instead.
        next_step: String,
    },
    /// The hub could not be reached or refused.
    #[error("{url}: {what}; {next_step}")]
    Hub {
        /// The address that was asked.
        url: String,
        /// What came back.
        what: String,
        /// What to do about it.
        next_step: String,
    },
}

/// Shorthand for results of this crate.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

impl DataError {
    /// An error of the operating system; a full disk gets its own message.
    pub fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path: path.into() },
            _ => Self::Io { path: path.into(), action, source },
        }
    }

    /// Something that is not there.
    pub fn missing(what: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::Missing { what: what.into(), next_step: next_step.into() }
    }

    /// A file that cannot be right.
    pub fn damaged(path: &Path, what: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), what: what.into(), next_step: next_step.into() }
    }

    /// A file that belongs to something else.
    pub fn mismatch(path: &Path, what: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::Mismatch { path: path.into(), what: what.into(), next_step: next_step.into() }
    }

    /// A value that cannot be used.
    pub fn argument(what: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self::Argument { what: what.into(), next_step: next_step.into() }
    }

    /// The message without the path, for lists that name the path beside it.
    pub fn reason(&self) -> String {
        match self {
            Self::Io { action, source, .. } => format!("cannot {action}: {source}"),
            Self::DiskFull { .. } => "no space is left on the disk".into(),
            Self::Missing { what, .. }
            | Self::Damaged { what, .. }
            | Self::Mismatch { what, .. }
            | Self::Argument { what, .. }
            | Self::Hub { what, .. } => what.clone(),
        }
    }
}

fn io_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "check the permissions or choose another folder",
        io::ErrorKind::NotADirectory => "name a folder instead",
        io::ErrorKind::IsADirectory => "name a file instead",
        io::ErrorKind::AlreadyExists => "something that is no folder is in its place; name another one",
        _ => "check the disk and try again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_has_its_own_message() {
        let error = DataError::io(Path::new("out/x"), "write", io::ErrorKind::StorageFull.into());
        assert!(matches!(error, DataError::DiskFull { .. }));
        assert!(error.to_string().contains("out/x: no space is left"));
    }

    #[test]
    fn messages_name_the_path_and_the_next_step() {
        let error = DataError::io(Path::new("a/b"), "read the file", io::ErrorKind::NotFound.into());
        let text = error.to_string();
        assert!(text.starts_with("a/b: cannot read the file: ") && text.ends_with("; check the path"), "{text}");
    }
}
