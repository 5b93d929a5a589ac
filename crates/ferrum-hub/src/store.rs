//! Our own store: `models/<owner>/<repo>/<file>`, whole files only under their final names. It has the
//! models of the catalogue, and GGUF files of the hub that earlier versions downloaded.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::catalogue::{self, Entry};
use crate::error::{HubError, Result};
use crate::progress::Progress;
use crate::reference::{is_gguf_name, safe_relative_path};

/// How deep model files may lie below the store's folder.
const MAX_DEPTH: usize = 8;
/// The folder of lock files and of `pip`'s reports.
const SCRATCH: &str = ".tmp";

/// The folder of the model files.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
}

/// A model in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// A name by which it can be run: its alias, or `owner/repo/file.gguf`.
    pub name: String,
    /// Its file, or its folder.
    pub path: PathBuf,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Whether it is an unfinished download.
    pub partial: bool,
}

/// Held while a file is being made; other processes wait.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Store {
    pub(crate) fn new(root: PathBuf) -> Self {
        Store { root }
    }

    /// Where a file of a repository belongs.
    pub(crate) fn file(&self, repo: &str, file: &str) -> Result<PathBuf> {
        Ok(self.root.join(safe_relative_path(repo)?).join(safe_relative_path(file)?))
    }

    /// The folder of a repository.
    pub(crate) fn folder(&self, repo: &str) -> Result<PathBuf> {
        Ok(self.root.join(safe_relative_path(repo)?))
    }

    /// The names of a repository's model files in the store.
    pub(crate) fn files_of(&self, repo: &str) -> Result<Vec<String>> {
        let folder = self.root.join(safe_relative_path(repo)?);
        let mut files = Vec::new();
        walk(&folder, 0, &mut |path, _| files.extend(relative_name(&folder, path)))?;
        files.retain(|f| is_gguf_name(f));
        files.sort();
        Ok(files)
    }

    /// A folder for scratch files, created.
    pub(crate) fn scratch(&self) -> Result<PathBuf> {
        let folder = self.root.join(SCRATCH);
        fs::create_dir_all(&folder).map_err(HubError::file("create", &folder))?;
        Ok(folder)
    }

    /// Waits for the right to make `file`. Lock files stay: removing one would let two processes
    /// hold "the" lock of two different files.
    pub(crate) fn lock(&self, file: &Path, progress: &mut dyn Progress) -> Result<Lock> {
        let relative = relative_name(&self.root, file).unwrap_or_else(|| "other".into());
        let path = self.scratch()?.join(format!("{}.lock", relative.replace('/', "--")));
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(HubError::file("write", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.note("another process is downloading this model; waiting for it");
                lock.lock().map_err(HubError::file("lock", &path))?;
            }
            Err(TryLockError::Error(e)) => return Err(HubError::file("lock", &path)(e)),
        }
        Ok(Lock { _file: lock })
    }

    /// All models, whole ones and unfinished ones, by name.
    pub(crate) fn installed(&self) -> Result<Vec<Installed>> {
        let mut found = Vec::new();
        walk(&self.root, 0, &mut |path, bytes| {
            let Some(relative) = relative_name(&self.root, path) else { return };
            let (name, partial) = match relative.split_once(".gguf.") {
                Some((stem, rest)) if rest.ends_with("json") || stem.is_empty() => return,
                Some((stem, _)) => (format!("{stem}.gguf"), true),
                None if is_gguf_name(&relative) => (relative, false),
                None => return,
            };
            let name = alias_of(&name).map_or(name, str::to_string);
            found.push(Installed { name, path: path.to_path_buf(), bytes, partial });
        })?;
        found.sort_by(|a, b| (&a.name, a.partial, &a.path).cmp(&(&b.name, b.partial, &b.path)));
        Ok(found)
    }

    /// Removes a repository's file with everything that a download of it left; the bytes freed.
    pub(crate) fn remove(&self, repo: &str, file: &str) -> Result<u64> {
        let path = self.file(repo, file)?;
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(0) };
        let name = name.to_string_lossy().into_owned();
        let mut freed = 0;
        for entry in entries(folder)? {
            let other = entry.file_name().to_string_lossy().into_owned();
            let belongs = other == name
                || other.strip_prefix(&name).is_some_and(|rest| rest.starts_with('.'));
            if belongs && entry.file_type().is_ok_and(|t| t.is_file()) {
                freed += entry.metadata().map_or(0, |m| m.len());
                fs::remove_file(entry.path()).map_err(HubError::file("remove", entry.path()))?;
            }
        }
        // Folders that are empty now go too; one that is not empty refuses, which is right.
        for parent in path.ancestors().skip(1).take_while(|p| *p != self.root) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
        Ok(freed)
    }
}

/// Gives a complete file its final name, and makes sure that this outlasts a power cut.
pub(crate) fn publish(part: &Path, path: &Path) -> Result<()> {
    fs::rename(part, path).map_err(HubError::file("create", path))?;
    sync_folder_of(path)
}

#[cfg(unix)]
fn sync_folder_of(path: &Path) -> Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    File::open(folder).and_then(|f| f.sync_all()).map_err(HubError::file("write", folder))
}

#[cfg(not(unix))]
fn sync_folder_of(_path: &Path) -> Result<()> {
    Ok(())
}

/// The catalogue's name for `owner/repo/file`.
fn alias_of(name: &str) -> Option<&'static str> {
    let is_it = |e: &&Entry| name.strip_prefix(e.repo) == Some(&format!("/{}", e.file));
    catalogue::ENTRIES.iter().find(is_it).map(Entry::name)
}

/// `path` below `root` with forward slashes.
pub(crate) fn relative_name(root: &Path, path: &Path) -> Option<String> {
    let parts = path.strip_prefix(root).ok()?.components();
    let parts: Option<Vec<_>> = parts.map(|c| c.as_os_str().to_str()).collect();
    Some(parts?.join("/"))
}

/// Calls `visit` with each file below `folder` and its size; hidden folders are left out.
fn walk(folder: &Path, depth: usize, visit: &mut dyn FnMut(&Path, u64)) -> Result<()> {
    for entry in entries(folder)? {
        let Ok(kind) = entry.file_type() else { continue };
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if kind.is_dir() && !hidden && depth < MAX_DEPTH {
            walk(&entry.path(), depth + 1, visit)?;
        } else if kind.is_file() || (kind.is_symlink() && entry.path().is_file()) {
            visit(&entry.path(), fs::metadata(entry.path()).map_or(0, |m| m.len()));
        }
    }
    Ok(())
}

/// What a folder holds; nothing where there is no folder.
pub(crate) fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(list) => list.collect::<io::Result<_>>().map_err(HubError::file("read", folder)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(HubError::file("read", folder)(e)),
    }
}

/// Whether the file is there with its full size. It was verified before it got its name.
pub(crate) fn is_whole(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == size)
}

/// Removes a file, if there is one.
pub(crate) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(HubError::file("remove", path)(e)),
        _ => Ok(()),
    }
}
