//! The cache of the hub's files, laid out as `huggingface_hub` lays it out, so that both share it:
//!
//! ```text
//! models--OWNER--NAME/
//!   refs/main                       the commit that a branch or tag was last seen at
//!   snapshots/COMMIT/config.json -> ../../blobs/HASH
//!   blobs/HASH                      whole files by their hash (SHA-256, or git's)
//!   blobs/HASH.incomplete           a download
//!   .ferrum/COMMIT.json             the files of the folder that we took, ours alone
//! .locks/models--OWNER--NAME/HASH.lock
//! ```
//!
//! Described at <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{HubError, Result};
use crate::hash::Digest;
use crate::progress::Progress;
use crate::reference::{is_commit, safe_relative_path};
use crate::store;

/// The largest file of our own and the longest reference that is read.
const MAX_NOTE: u64 = 4 << 20;
/// How deep files may lie in a snapshot.
const MAX_DEPTH: usize = 8;

/// The whole cache.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
}

/// The cache of one repository.
#[derive(Debug, Clone)]
pub(crate) struct RepoCache {
    /// `owner/repo`.
    pub repo: String,
    root: PathBuf,
    folder: PathBuf,
    locks: PathBuf,
}

/// Which files of a commit make the folder of its model.
#[derive(Serialize, Deserialize)]
struct Needed {
    files: Vec<String>,
}

/// Held while a blob is being made; other processes wait.
#[derive(Debug)]
pub(crate) struct BlobLock {
    _file: File,
}

impl Cache {
    pub fn new(root: PathBuf) -> Self {
        Cache { root }
    }

    /// The part of `owner/name`, which need not be there.
    pub fn repo(&self, repo: &str) -> RepoCache {
        let name = format!("models--{}", repo.replace('/', "--"));
        RepoCache {
            repo: repo.to_string(),
            root: self.root.clone(),
            folder: self.root.join(&name),
            locks: self.root.join(".locks").join(name),
        }
    }

    /// All repositories of models that are there.
    pub fn repos(&self) -> Result<Vec<RepoCache>> {
        let mut repos = Vec::new();
        for entry in store::entries(&self.root)? {
            let name = entry.file_name();
            let name = name.to_str().and_then(|n| n.strip_prefix("models--"));
            // A name without an owner is none of ours.
            let Some((owner, name)) = name.and_then(|n| n.split_once("--")) else { continue };
            if entry.path().is_dir() {
                repos.push(self.repo(&format!("{owner}/{name}")));
            }
        }
        Ok(repos)
    }
}

impl RepoCache {
    /// The commit that a revision was last seen at.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_string());
        }
        let path = self.folder.join("refs").join(safe_relative_path(revision).ok()?);
        let text = String::from_utf8(read_small(&path)?).ok()?;
        Some(text.trim().to_string()).filter(|commit| is_commit(commit))
    }

    /// Branches and tags, and commits that none of them points to, with their commits.
    pub fn revisions(&self) -> Result<Vec<(String, String)>> {
        let (refs, mut found) = (self.folder.join("refs"), Vec::new());
        for name in files_below(&refs)? {
            if let Some(commit) = self.commit(&name) {
                found.push((name, commit));
            }
        }
        for entry in store::entries(&self.folder.join("snapshots"))? {
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_commit(&name) && found.iter().all(|(_, commit)| *commit != name) {
                found.push((name.clone(), name));
            }
        }
        Ok(found)
    }

    /// The folder of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// A file of a commit, if it is there and whole.
    pub fn file(&self, commit: &str, name: &str) -> Option<PathBuf> {
        let path = self.snapshot(commit).join(safe_relative_path(name).ok()?);
        path.is_file().then_some(path)
    }

    /// The files of a commit that are there.
    pub fn names(&self, commit: &str) -> Result<Vec<String>> {
        files_below(&self.snapshot(commit))
    }

    /// All files of a commit, where `huggingface_hub` has noted them.
    pub fn tree(&self, commit: &str) -> Option<Vec<String>> {
        #[derive(Deserialize)]
        struct Tree {
            format_version: u64,
            files: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
        }
        let path = self.folder.join("trees").join(format!("{commit}.json"));
        let tree: Tree = serde_json::from_slice(&read_small(&path)?).ok()?;
        (tree.format_version == 1).then(|| tree.files.into_keys().collect())
    }

    /// The files of a commit that make the folder of its model, as noted before their download.
    pub fn needed(&self, commit: &str) -> Option<Vec<String>> {
        let needed = serde_json::from_slice::<Needed>(&read_small(&self.note(commit))?).ok()?;
        Some(needed.files)
    }

    /// Notes which files of a commit are needed.
    pub fn note_needed(&self, commit: &str, files: Vec<String>) -> Result<()> {
        let path = self.note(commit);
        let text = serde_json::to_vec(&Needed { files }).map_err(io::Error::from);
        write_whole(&path, &text.map_err(HubError::file("write", &path))?)
    }

    fn note(&self, commit: &str) -> PathBuf {
        self.folder.join(".ferrum").join(format!("{commit}.json"))
    }

    /// Makes the folders for the files of a commit, and notes what the revision means.
    pub fn prepare(&self, revision: &str, commit: &str) -> Result<()> {
        for folder in [self.snapshot(commit), self.folder.join("blobs"), self.locks.clone()] {
            fs::create_dir_all(&folder).map_err(HubError::file("create", &folder))?;
        }
        let tag = self.root.join("CACHEDIR.TAG");
        if !tag.exists() {
            // For programs that make backups; none is no harm.
            let _ = fs::write(&tag, "Signature: 8a477f597d28d172789f06886806bc55\n");
        }
        if self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(safe_relative_path(revision)?);
        write_whole(&path, commit.as_bytes())
    }

    /// The whole file with this hash.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs").join(digest.to_string())
    }

    /// The download of the file with this hash.
    pub fn part(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs").join(format!("{digest}.incomplete"))
    }

    /// Makes a blob a file of a commit.
    pub fn link(&self, commit: &str, name: &str, digest: &Digest) -> Result<PathBuf> {
        let relative = safe_relative_path(name)?;
        let depth = relative.components().count();
        let path = self.snapshot(commit).join(relative);
        if path.is_file() {
            return Ok(path);
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(HubError::file("create", folder))?;
        }
        // A link to a blob that somebody removed.
        let _ = fs::remove_file(&path);
        let mut target = PathBuf::from_iter(vec![".."; depth + 1]);
        target.push("blobs");
        target.push(digest.to_string());
        match symlink(&target, &path) {
            Ok(()) => Ok(path),
            // Another process made it.
            Err(_) if path.is_file() => Ok(path),
            // No links on this file system: the file itself, as `huggingface_hub` does it then.
            Err(_) => {
                let blob = self.blob(digest);
                fs::rename(blob, &path).map_err(HubError::file("create", &path))?;
                Ok(path)
            }
        }
    }

    /// Waits for the right to make the blob with this hash: the lock that `huggingface_hub` takes.
    pub fn lock(&self, digest: &Digest, progress: &mut dyn Progress) -> Result<BlobLock> {
        let path = self.locks.join(format!("{digest}.lock"));
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(HubError::file("write", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    progress.note("another program is downloading this file; waiting for it");
                    file.lock().map_err(HubError::file("lock", &path))?;
                }
                // No locks on this file system: what is made is verified all the same.
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(e)) => return Err(HubError::file("lock", &path)(e)),
            }
            // Another program may have removed the file that we waited for.
            if is_same(&file, &path) {
                return Ok(BlobLock { _file: file });
            }
        }
    }

    /// Removes files of a commit, or all of it, with the blobs that nothing else uses; the bytes
    /// freed.
    pub fn remove(&self, commit: &str, files: Option<&[String]>) -> Result<u64> {
        let snapshot = self.snapshot(commit);
        let mut freed = 0;
        let all = self.links(&snapshot)?;
        for (name, blob) in &all {
            if files.is_some_and(|files| !files.contains(name)) {
                continue;
            }
            let path = snapshot.join(name);
            if blob.is_none() {
                freed += fs::metadata(&path).map_or(0, |m| m.len());
            }
            fs::remove_file(&path).map_err(HubError::file("remove", &path))?;
        }
        let left = self.links(&snapshot)?;
        if left.is_empty() || files.is_none() {
            freed += self.forget(commit)?;
        }
        freed += self.remove_unused_blobs(&all)?;
        if files.is_none() {
            freed += self.remove_unfinished()?;
        }
        if store::entries(&self.folder.join("snapshots"))?.is_empty() {
            freed += remove_tree(&self.folder)?;
        }
        Ok(freed)
    }

    /// Removes what is said of a commit whose files are gone.
    fn forget(&self, commit: &str) -> Result<u64> {
        for name in files_below(&self.folder.join("refs"))? {
            if self.commit(&name).as_deref() == Some(commit) {
                let path = self.folder.join("refs").join(name);
                fs::remove_file(&path).map_err(HubError::file("remove", &path))?;
            }
        }
        for folder in [".ferrum", "trees"] {
            let path = self.folder.join(folder).join(format!("{commit}.json"));
            store::remove_if_there(&path)?;
        }
        remove_tree(&self.snapshot(commit))
    }

    /// Removes those of the blobs of `gone` that no snapshot uses any more.
    fn remove_unused_blobs(&self, gone: &[(String, Option<String>)]) -> Result<u64> {
        let mut used = Vec::new();
        for entry in store::entries(&self.folder.join("snapshots"))? {
            used.extend(self.links(&entry.path())?.into_iter().filter_map(|(_, blob)| blob));
        }
        let mut freed = 0;
        for blob in gone.iter().filter_map(|(_, blob)| blob.as_ref()) {
            let path = self.folder.join("blobs").join(blob);
            // What lies in a store that several caches share stays there.
            let bytes = fs::symlink_metadata(&path).map(|m| if m.is_file() { m.len() } else { 0 });
            if !used.contains(blob) && fs::remove_file(&path).is_ok() {
                freed += bytes.unwrap_or(0);
            }
        }
        Ok(freed)
    }

    /// The files of a snapshot, broken links included, each with the blob that it links to.
    fn links(&self, snapshot: &Path) -> Result<Vec<(String, Option<String>)>> {
        let mut found = Vec::new();
        walk(snapshot, 0, &mut |path, _| {
            let Some(name) = store::relative_name(snapshot, path) else { return };
            let blob = fs::read_link(path).ok();
            let blob = blob.and_then(|t| Some(t.file_name()?.to_str()?.to_string()));
            found.push((name, blob));
        })?;
        Ok(found)
    }

    /// Bytes of downloads that are not done.
    pub fn unfinished(&self) -> Result<u64> {
        Ok(self.parts()?.iter().filter_map(|path| fs::metadata(path).ok()).map(|m| m.len()).sum())
    }

    fn remove_unfinished(&self) -> Result<u64> {
        let freed = self.unfinished()?;
        for path in self.parts()? {
            fs::remove_file(&path).map_err(HubError::file("remove", &path))?;
        }
        Ok(freed)
    }

    /// The downloads that are not done.
    fn parts(&self) -> Result<Vec<PathBuf>> {
        let blobs = store::entries(&self.folder.join("blobs"))?;
        let is_part = |path: &PathBuf| path.extension().is_some_and(|e| e == "incomplete");
        Ok(blobs.iter().map(fs::DirEntry::path).filter(is_part).collect())
    }

    /// Where the repository lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The names of the files below a folder that can be read, with forward slashes.
fn files_below(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    walk(folder, 0, &mut |path, whole| {
        found.extend(store::relative_name(folder, path).filter(|_| whole));
    })?;
    found.sort();
    Ok(found)
}

/// Calls `visit` with each file and link below a folder, and whether there is a file behind it.
fn walk(folder: &Path, depth: usize, visit: &mut dyn FnMut(&Path, bool)) -> Result<()> {
    for entry in store::entries(folder)? {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => walk(&path, depth + 1, visit)?,
            Ok(kind) if kind.is_file() || kind.is_symlink() => visit(&path, path.is_file()),
            _ => {}
        }
    }
    Ok(())
}

/// Removes a folder with all that is in it; the bytes of the files.
fn remove_tree(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    walk(folder, 0, &mut |path, _| bytes += fs::symlink_metadata(path).map_or(0, |m| m.len()))?;
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(HubError::file("remove", folder)(e)),
        _ => Ok(bytes),
    }
}

/// A small file, if there is one.
fn read_small(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_NOTE).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Writes a small file at once, so that no reader sees a part of it.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(HubError::file("create", folder))?;
    }
    let mut part = path.as_os_str().to_os_string();
    // Others may be writing the same.
    part.push(format!(".{}.{:?}.tmp", std::process::id(), std::thread::current().id()));
    let part = PathBuf::from(part);
    let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, path));
    written.map_err(HubError::file("write", path))
}

#[cfg(unix)]
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(windows)]
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, path)
}

/// Whether the open file is still the one at `path`.
#[cfg(unix)]
fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_same(_file: &File, _path: &Path) -> bool {
    true
}
