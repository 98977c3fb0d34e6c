//! The one way in which files are written: what is there is complete.
//!
//! A file is written beside its target under a temporary name, synced, renamed over the target, and the folder is
//! synced. Whoever is killed in between leaves the old target as it was and a hidden temporary file, which the next
//! write of the same target removes; that of a writer at work is locked, so nobody removes it. There are four
//! exceptions: [`append_line`], for logs in which a torn last line does no harm; downloads, which grow beside their target so
//! that they can be resumed, and are renamed when complete; the links of the hub's cache, which has the layout of the Python
//! libraries ([`crate::hub::cache`]); and the temporary files without a name of [`crate::states`].

use crate::error::{DataError, Result};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::NamedTempFile;

const BUFFER_BYTES: usize = 1 << 20;

/// Writes a file through `write`, all or nothing; folders on the way are made.
pub fn write_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    put(path, write, |temporary| temporary.persist(path).map(drop).map_err(|error| error.error))
}

/// Writes a value as [`write_json`] does unless the file is there: whoever comes second leaves the first one's as it is.
pub fn write_json_once<T: serde::Serialize + ?Sized>(path: &Path, value: &T) -> Result<()> {
    let place = |temporary: NamedTempFile| match temporary.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
        _ => Ok(()),
    };
    put(path, |writer| as_json(writer, value), place)
}

/// Writes bytes as a file, all or nothing.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_file(path, |writer| writer.write_all(bytes))
}

/// Writes a value as indented JSON with a final newline, all or nothing.
pub fn write_json<T: serde::Serialize + ?Sized>(path: &Path, value: &T) -> Result<()> {
    write_file(path, |writer| as_json(writer, value))
}

/// Appends one line to a log. If a kill tore the last line, the new one still starts on its own line.
pub fn append_line(path: &Path, line: &str) -> Result<()> {
    create_folder(parent_of(path))?;
    append(path, line).map_err(|source| DataError::io(path, "append to the file", source))
}

/// Gives a finished download its final name: syncs it, renames it and syncs the folder.
pub(crate) fn rename_into_place(file: &File, temporary: &Path, path: &Path) -> Result<()> {
    let renamed =
        file.sync_all().and_then(|()| fs::rename(temporary, path)).and_then(|()| sync_folder(parent_of(path)));
    renamed.map_err(|source| DataError::io(path, "write the file", source))
}

/// Removes a file, if it is there.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(DataError::io(path, "remove the file", source)),
        _ => Ok(()),
    }
}

/// Removes a folder, if it is there and holds nothing.
pub fn remove_folder_if_empty(folder: &Path) {
    let _ = fs::remove_dir(folder);
}

/// A file's name, claimed by this process: who replaces a file again and again holds one meanwhile, so that two do not
/// replace each other's. It is a locked hidden file beside it, which goes with the claim, at the latest with the process.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    _file: File,
}

impl Claim {
    /// Claims the name of a file; `None` while another process holds it. Where files cannot be locked all are granted.
    pub fn of(path: &Path) -> Result<Option<Self>> {
        let name = path.file_name().ok_or_else(|| no_file_name(path))?.to_string_lossy();
        let claim = path.with_file_name(format!(".{name}.claim"));
        create_folder(parent_of(path))?;
        loop {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&claim);
            let file = file.map_err(|source| DataError::io(&claim, "write the file", source))?;
            if let Err(TryLockError::WouldBlock) = file.try_lock() {
                return Ok(None);
            }
            // Its last holder may have removed it before it was locked, and another made it anew.
            if is_at(&file, &claim) {
                return Ok(Some(Self { path: claim, _file: file }));
            }
        }
    }
}

/// Whether an open file is the one that is found at a path now.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let place = |it: io::Result<fs::Metadata>| it.ok().map(|it| (it.dev(), it.ino()));
        place(file.metadata()) == place(fs::metadata(path))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes a folder and those above it.
pub fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| DataError::io(folder, "create the folder", source))
}

/// Makes sure that a folder can be made, before much is done for what goes into it; leaves none that was not there.
pub fn check_folder(folder: &Path) -> Result<()> {
    let new: Vec<&Path> = folder.ancestors().take_while(|it| !it.as_os_str().is_empty() && !it.exists()).collect();
    create_folder(folder)?;
    new.into_iter().for_each(remove_folder_if_empty);
    Ok(())
}

fn no_file_name(path: &Path) -> DataError {
    DataError::argument(format!("{}: not the name of a file", path.display()), "give a path that ends in a file name")
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn as_json<T: serde::Serialize + ?Sized>(writer: &mut dyn Write, value: &T) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *writer, value)?;
    writer.write_all(b"\n")
}

/// Writes a temporary file beside `path`, which `place` gives its name.
fn put(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    place: impl FnOnce(NamedTempFile) -> io::Result<()>,
) -> Result<()> {
    let folder = parent_of(path);
    create_folder(folder)?;
    let file_name = path.file_name().ok_or_else(|| no_file_name(path))?.to_string_lossy();
    let prefix = format!(".{file_name}.");
    remove_leftovers(folder, &prefix);
    let complete = || -> io::Result<()> {
        let temporary = temporary_in(folder, &prefix)?;
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, temporary.as_file());
        write(&mut writer)?;
        writer.flush()?;
        drop(writer);
        temporary.as_file().sync_all()?;
        place(temporary)?;
        sync_folder(folder)
    };
    complete().map_err(|source| DataError::io(path, "write the file", source))
}

fn temporary_in(folder: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(".tmp");
    #[cfg(unix)]
    {
        // The umask applies, as to any new file; without this the file would be readable by its owner alone.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    loop {
        let temporary = builder.tempfile_in(folder)?;
        // Where files cannot be locked, the file's age protects it.
        let _ = temporary.as_file().lock();
        // Another writer may have taken it for a leftover before it was locked.
        if temporary.path().exists() {
            return Ok(temporary);
        }
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    // Some network file systems cannot sync a folder; the rename itself has succeeded.
    match File::open(folder)?.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Where files cannot be locked, a temporary file that nobody has written to for so long was left by a killed writer.
const LEFTOVER_AGE: Duration = Duration::from_secs(600);

/// Removes what killed writers of the same target left. Failing to is harmless.
fn remove_leftovers(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(prefix) && name.ends_with(".tmp") {
            remove_leftover(&entry.path());
        }
    }
}

/// Removes a temporary file unless its writer is at work.
fn remove_leftover(path: &Path) {
    let Ok(file) = OpenOptions::new().write(true).open(path) else { return };
    let age = || file.metadata().ok()?.modified().ok()?.elapsed().ok();
    let is_left = match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => age().is_some_and(|age| age >= LEFTOVER_AGE),
    };
    if is_left {
        let _ = fs::remove_file(path);
    }
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let mut text = String::with_capacity(line.len() + 2);
    if !ends_with_newline(&mut file)? {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
    let before = file.metadata()?.len();
    // A line of which only a part found room would be one that is damaged.
    file.write_all(text.as_bytes()).inspect_err(|_| drop(file.set_len(before)))
}

fn ends_with_newline(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0u8];
    file.read_exact(&mut last)?;
    Ok(last[0] == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_checked_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        check_folder(&folder.path().join("a/b/c")).unwrap();
        assert!(!folder.path().join("a").exists());
        fs::create_dir(folder.path().join("there")).unwrap();
        check_folder(&folder.path().join("there")).unwrap();
        assert!(folder.path().join("there").exists());
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(check_folder(&folder.path().join("file/b")).is_err());
    }

    #[test]
    fn a_file_that_was_replaced_is_no_claim() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("claim");
        let file = File::create(&path).unwrap();
        assert!(is_at(&file, &path));
        fs::remove_file(&path).unwrap();
        assert!(!is_at(&file, &path));
        let other = File::create(&path).unwrap();
        assert!(is_at(&other, &path));
        assert_eq!(is_at(&file, &path), cfg!(not(unix)));
    }

    #[test]
    fn a_name_is_claimed_once_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sums");
        let claim = Claim::of(&path).unwrap();
        assert!(claim.is_some() && Claim::of(&path).unwrap().is_none());
        assert!(Claim::of(&folder.path().join("others")).unwrap().is_some());
        drop(claim);
        assert!(names(folder.path()).is_empty());
        assert!(Claim::of(&path).unwrap().is_some());
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn writes_into_folders_that_are_not_there_yet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/c.txt");
        write_bytes(&path, b"one").unwrap();
        write_bytes(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(path.parent().unwrap()), ["c.txt"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write_bytes(&path, b"old").unwrap();
        let error = write_file(&path, |w| {
            w.write_all(&[1; 100])?;
            Err(io::ErrorKind::Other.into())
        });
        assert!(error.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["x"]);
    }

    /// Passes what it gets on to a device that is always full.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let error = write_file(&path, |_| OpenOptions::new().write(true).open("/dev/full")?.write_all(&[0; 4096]));
        assert!(matches!(error, Err(DataError::DiskFull { path: ref p }) if *p == path), "{error:?}");
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn leftovers_of_killed_writers_go_with_the_next_write_of_that_file_only() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".x.abc.tmp"), "half").unwrap();
        fs::write(folder.path().join(".y.abc.tmp"), "another writer's").unwrap();
        write_bytes(&folder.path().join("x"), b"whole").unwrap();
        assert_eq!(names(folder.path()), [".y.abc.tmp", "x"]);
    }

    #[test]
    fn a_writer_at_work_is_left_alone_by_another_of_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write_file(&path, |writer| {
            writer.write_all(b"slow")?;
            write_bytes(&path, b"quick").unwrap();
            Ok(())
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"slow", "the last to finish wins");
        assert_eq!(names(folder.path()), ["x"]);
    }

    #[test]
    fn what_is_written_once_stays_as_the_first_wrote_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/x.json");
        write_json_once(&path, &1).unwrap();
        write_json_once(&path, &2).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert_eq!(names(path.parent().unwrap()), ["x.json"]);
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_what_the_umask_lets_them() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write_bytes(&ours, b"").unwrap();
        fs::write(&plain, b"").unwrap();
        assert_eq!(fs::metadata(ours).unwrap().permissions().mode(), fs::metadata(plain).unwrap().permissions().mode());
    }

    #[test]
    fn a_torn_last_line_does_not_swallow_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        append_line(&path, "1").unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"to").unwrap();
        append_line(&path, "2").unwrap();
        append_line(&path, "3").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n{\"to\n2\n3\n");
    }

    #[test]
    fn a_path_without_a_file_name_is_refused() {
        assert!(matches!(write_bytes(Path::new("/"), b""), Err(DataError::Argument { .. })));
    }
}
