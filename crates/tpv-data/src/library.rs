//! The vector library: a folder of vectors, found again by the model they belong to.
//!
//! ```text
//! <library>/<fingerprint of the model>/<name>.safetensors
//! ```
//!
//! The folder is `$TPV_HOME/vectors`, else `tpv/vectors` in the user's data folder: `$XDG_DATA_HOME`, on macOS
//! `~/Library/Application Support`, on Windows `%APPDATA%`, else `~/.local/share`.

use crate::error::{DataError, Result};
use crate::source::LeftOut;
use crate::vector::{VectorFile, check_model};
use std::path::{Path, PathBuf};
use tpv_core::vector::{ModelIdentity, VectorInfo};

/// The name under which a vector is put and found when none is given.
pub const DEFAULT_NAME: &str = "default";

const EXTENSION: &str = "safetensors";

/// A folder of vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VectorLibrary {
    folder: PathBuf,
}

/// A vector of the library.
#[derive(Debug, Clone, PartialEq)]
pub struct LibraryEntry {
    /// Its name, unique for its model.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Where it comes from, its model first of all.
    pub info: VectorInfo,
}

impl VectorLibrary {
    /// The library in a folder, which need not be there yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The library of the user, by the variables of this process.
    pub fn of_user() -> Self {
        Self::resolve(|name| std::env::var(name).ok())
    }

    /// The library of the user, by variables that `lookup` gives.
    pub fn resolve(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || set("HOME").or_else(|| set("USERPROFILE")).or_else(std::env::home_dir).unwrap_or_default();
        let data = || match std::env::consts::OS {
            "macos" => home().join("Library/Application Support"),
            "windows" => set("APPDATA").unwrap_or_else(|| home().join("AppData/Roaming")),
            _ => home().join(".local/share"),
        };
        let own = set("TPV_HOME").unwrap_or_else(|| set("XDG_DATA_HOME").unwrap_or_else(data).join("tpv"));
        Self::new(own.join("vectors"))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All vectors, ordered by model and name, and the files that are none.
    pub fn list(&self) -> Result<(Vec<LibraryEntry>, Vec<LeftOut>)> {
        let (mut entries, mut left_out) = (Vec::new(), Vec::new());
        for folder in sorted_entries(&self.folder)?.iter().filter(|path| path.is_dir()) {
            for path in sorted_entries(folder)?.into_iter().filter(|path| is_vector_file(path)) {
                match read_entry(&path) {
                    Ok(entry) => entries.push(entry),
                    Err(error) => left_out.push(LeftOut { trace: path.display().to_string(), reason: error.reason() }),
                }
            }
        }
        Ok((entries, left_out))
    }

    /// Whether there is a file for a model, readable or not.
    pub fn has_any(&self, model: &ModelIdentity) -> Result<bool> {
        if !is_plain_name(&model.fingerprint) {
            return Ok(false);
        }
        Ok(sorted_entries(&self.model_folder(model)?)?.iter().any(|path| is_vector_file(path)))
    }

    /// The vector of a model: the one of that name, else `default`, else the only one.
    pub fn find(&self, model: &ModelIdentity, name: Option<&str>) -> Result<LibraryEntry> {
        let folder = self.model_folder(model)?;
        let path = self.vector_path(model, name.unwrap_or(DEFAULT_NAME))?;
        if path.is_file() {
            return read_entry(&path);
        }
        let others: Vec<PathBuf> = sorted_entries(&folder)?.into_iter().filter(|path| is_vector_file(path)).collect();
        match (name, others.as_slice()) {
            (None, [only]) => read_entry(only),
            (None, [_, _, ..]) => Err(DataError::missing(
                format!(
                    "{}: there are several vectors of {} and none is named {DEFAULT_NAME}",
                    folder.display(),
                    model.name
                ),
                format!("name one of {} (--tpv)", names(&others)),
            )),
            _ => Err(self.not_found(model, name)),
        }
    }

    /// Adds a vector, or replaces the one of that name if that is wanted.
    pub fn put(&self, name: &str, vector: &VectorFile, replace: bool) -> Result<LibraryEntry> {
        let path = self.vector_path(&vector.vector.info.model, name)?;
        if path.exists() && !replace {
            let what = format!("{}: there is a vector of that name", path.display());
            return Err(DataError::argument(what, "choose another name, or replace it with --replace"));
        }
        vector.save(&path)?;
        read_entry(&path)
    }

    /// Adds a vector file of any kind. A file that does not say which model it belongs to takes the one given.
    pub fn import(&self, path: &Path, name: &str, model: &ModelIdentity, replace: bool) -> Result<LibraryEntry> {
        let mut file = VectorFile::load(path)?;
        check_model(path, &file.vector, model)?;
        if file.vector.info.model.fingerprint.is_empty() {
            file.vector.info.model = model.clone();
        }
        self.put(name, &file, replace)
    }

    /// Removes a vector.
    pub fn remove(&self, model: &ModelIdentity, name: &str) -> Result<()> {
        let path = self.vector_path(model, name)?;
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(self.not_found(model, Some(name))),
            Err(error) => Err(DataError::io(&path, "remove the vector", error)),
        }
    }

    fn vector_path(&self, model: &ModelIdentity, name: &str) -> Result<PathBuf> {
        check_name(name)?;
        Ok(self.model_folder(model)?.join(format!("{name}.{EXTENSION}")))
    }

    fn model_folder(&self, model: &ModelIdentity) -> Result<PathBuf> {
        if !is_plain_name(&model.fingerprint) {
            return Err(DataError::argument(
                format!("the vector library needs the model's fingerprint, and {:?} has none", model.name),
                "load the model that the vector belongs to",
            ));
        }
        Ok(self.folder.join(&model.fingerprint))
    }

    fn not_found(&self, model: &ModelIdentity, name: Option<&str>) -> DataError {
        let named = name.map(|name| format!(" named {name}")).unwrap_or_default();
        let is_alike =
            |entry: &LibraryEntry| entry.info.model.name == model.name && name.is_none_or(|name| entry.name == name);
        let of_other_weights = self.list().is_ok_and(|(entries, _)| entries.iter().any(is_alike));
        DataError::missing(
            format!("{}: the library has no vector{named} of {}", self.folder.display(), model.name),
            if of_other_weights {
                "it has one for other weights of that name, or of a version that told models apart by less: make it again with `tpv learn`"
            } else {
                "make one with `tpv learn`, or name a vector's file"
            },
        )
    }
}

/// The paths in a folder, in order; none if the folder is not there.
fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| DataError::io(folder, "list the folder", error);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

fn is_vector_file(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    path.extension().is_some_and(|extension| extension == EXTENSION) && !hidden && path.is_file()
}

/// Refuses a name that no vector can have.
pub fn check_name(name: &str) -> Result<()> {
    if is_plain_name(name) {
        return Ok(());
    }
    Err(DataError::argument(
        format!("\"{name}\" cannot name a vector"),
        "use letters, digits, dots, hyphens and underscores, with a letter or digit first, and no file's ending",
    ))
}

/// Names that look like files, or are the folder that `tpv train` writes, would be taken for these.
fn is_plain_name(name: &str) -> bool {
    let is_file = [".npy", ".safetensors"].iter().any(|ending| name.ends_with(ending)) || name == "tpv_model";
    !is_file
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| stem(path)).collect::<Vec<_>>().join(", ")
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into()
}

fn read_entry(path: &Path) -> Result<LibraryEntry> {
    let info = VectorFile::load(path)?.vector.info;
    Ok(LibraryEntry { name: stem(path), path: path.into(), info })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npy;
    use tpv_core::vector::{LinearHead, ProgressVector};

    fn model(name: &str) -> ModelIdentity {
        let fingerprint = format!("{name}0123");
        ModelIdentity { name: name.into(), hidden_size: 2, fingerprint, ..ModelIdentity::default() }
    }

    fn vector(of: &str) -> VectorFile {
        let theta = vec![1.0, 2.0];
        let progress = LinearHead { weights: theta.clone(), intercept: 0.0 };
        let info = VectorInfo { model: model(of), ..VectorInfo::default() };
        VectorFile { vector: ProgressVector { theta, progress, info, ..ProgressVector::default() } }
    }

    #[test]
    fn the_folder_follows_the_variables() {
        let folder = |variables: &[(&str, &str)]| {
            let lookup =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
            VectorLibrary::resolve(lookup).folder
        };
        assert_eq!(folder(&[("TPV_HOME", "/t"), ("XDG_DATA_HOME", "/x")]), Path::new("/t/vectors"));
        assert_eq!(folder(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]), Path::new("/x/tpv/vectors"));
        assert!(folder(&[("HOME", "/h")]).starts_with("/h"));
    }

    #[test]
    fn vectors_are_found_by_their_model() {
        let folder = tempfile::tempdir().unwrap();
        let library = VectorLibrary::new(folder.path().join("vectors"));
        assert_eq!(library.list().unwrap(), (vec![], vec![]));
        assert!(library.find(&model("a"), None).unwrap_err().to_string().contains("no vector of a; make one with"));
        let put = library.put("maths", &vector("a"), false).unwrap();
        library.put("default", &vector("b"), false).unwrap();
        assert_eq!(library.find(&model("a"), None).unwrap(), put);
        assert_eq!(library.find(&model("a"), Some("maths")).unwrap(), put);
        let changed = ModelIdentity { fingerprint: "0f".repeat(32), ..model("a") };
        let text = library.find(&changed, Some("maths")).unwrap_err().to_string();
        assert!(text.contains("it has one for other weights of that name"), "{text}");
        assert!(library.find(&model("a"), Some("chess")).unwrap_err().to_string().contains("named chess"));
        library.put("chess", &vector("a"), false).unwrap();
        let text = library.find(&model("a"), None).unwrap_err().to_string();
        assert!(text.contains("several vectors") && text.contains("name one of chess, maths"), "{text}");
        library.put("default", &vector("a"), false).unwrap();
        assert_eq!(library.find(&model("a"), None).unwrap().name, "default");
        assert_eq!(library.list().unwrap().0.len(), 4);
    }

    #[test]
    fn nothing_is_replaced_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let library = VectorLibrary::new(folder.path());
        library.put("x", &vector("a"), false).unwrap();
        assert!(library.put("x", &vector("a"), false).unwrap_err().to_string().contains("--replace"));
        library.put("x", &vector("a"), true).unwrap();
        library.remove(&model("a"), "x").unwrap();
        assert!(library.remove(&model("a"), "x").unwrap_err().to_string().contains("no vector named x of a"));
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        let library = VectorLibrary::new("nowhere");
        for name in ["../x", "", ".hidden", "a/b", "a b"] {
            assert!(library.put(name, &vector("a"), false).unwrap_err().to_string().contains("cannot name a vector"));
        }
        let mut nameless = vector("a");
        nameless.vector.info.model.fingerprint = "../..".into();
        assert!(library.put("x", &nameless, false).unwrap_err().to_string().contains("fingerprint"));
    }

    #[test]
    fn plain_vectors_are_imported_for_the_model_at_hand() {
        let folder = tempfile::tempdir().unwrap();
        let library = VectorLibrary::new(folder.path().join("vectors"));
        let path = folder.path().join("tpv_linear_weights.npy");
        npy::write_vector(&path, &[3.0, 4.0]).unwrap();
        let entry = library.import(&path, "paper", &model("a"), false).unwrap();
        assert_eq!(entry.info.model, model("a"));
        assert_eq!(VectorFile::load(&entry.path).unwrap().vector.theta, [3.0, 4.0]);
        let wide = ModelIdentity { hidden_size: 3, ..model("a") };
        assert!(library.import(&path, "wide", &wide, false).unwrap_err().to_string().contains("width 2"));
        let of_b = library.put("default", &vector("b"), false).unwrap();
        let text = library.import(&of_b.path, "x", &model("a"), false).unwrap_err().to_string();
        assert!(text.contains("the vector belongs to b"), "{text}");
    }

    #[test]
    fn damaged_files_are_listed_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let library = VectorLibrary::new(folder.path());
        let entry = library.put("x", &vector("a"), false).unwrap();
        std::fs::write(&entry.path, "damaged").unwrap();
        let (entries, left_out) = library.list().unwrap();
        assert!(entries.is_empty() && left_out[0].reason.contains("not a complete safetensors file"));
    }
}
