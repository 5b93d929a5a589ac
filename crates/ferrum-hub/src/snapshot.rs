//! Models of a hub repository: found in the cache, or downloaded into it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, RepoCache};
use crate::config::HubConfig;
use crate::error::{HubError, Result};
use crate::folder_files::{self, INDEX, SINGLE, Weights};
use crate::gguf_files;
use crate::http::Client;
use crate::hub_api::{self, MAIN, RemoteFile, Repository};
use crate::progress::{Progress, Together};
use crate::reference::{ModelRef, Selector, is_gguf_name};
use crate::store::{self, Installed};
use crate::transfer::{self, Want};

/// A model of a repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// `owner/repo`.
    pub repo: &'a str,
    /// Branch, tag or commit.
    pub revision: Option<&'a str>,
    /// Which files.
    pub selector: &'a Selector,
}

impl<'a> Wanted<'a> {
    /// What a reference means, if it is to a repository.
    pub fn of(reference: &'a ModelRef) -> Option<Self> {
        let ModelRef::Hub { repo, revision, selector } = reference else { return None };
        Some(Wanted { repo, revision: revision.as_deref(), selector })
    }

    fn revision(&self) -> &str {
        self.revision.unwrap_or(MAIN)
    }
}

/// What the cache has of a model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// All of it; the file, or the folder.
    Whole(PathBuf),
    /// What there must be; of what there may be beside it the cache does not know whether it is.
    Enough(PathBuf),
    /// Some of it; what is missing.
    Part(Vec<String>),
    /// Nothing.
    Nothing,
}

/// Looks for a model in the cache. Does not use the network.
pub(crate) fn find(cache: &Cache, wanted: &Wanted<'_>) -> Result<Found> {
    let repo = cache.repo(wanted.repo);
    let Some(commit) = repo.commit(wanted.revision()) else { return Ok(Found::Nothing) };
    find_at(&repo, &commit, wanted.selector)
}

/// Looks for a model among the files of a commit.
pub(crate) fn find_at(repo: &RepoCache, commit: &str, selector: &Selector) -> Result<Found> {
    let here = repo.names(commit)?;
    let here: Vec<&str> = here.iter().map(String::as_str).collect();
    let tree = repo.tree(commit);
    let all: Vec<&str> = match &tree {
        Some(names) => names.iter().map(String::as_str).collect(),
        None => here.clone(),
    };
    let noted = repo.needed(commit);
    let is_folder = noted.is_some() || folder_files::weights(&all).is_some();
    if *selector == Selector::Default && is_folder {
        return Ok(find_folder(repo, commit, &here, noted, tree.is_some().then_some(&all)));
    }
    let parts = match gguf_files::select(&repo.repo, &all, selector) {
        Ok(parts) => parts,
        Err(HubError::NotInRepository { .. }) => return Ok(Found::Nothing),
        Err(other) => return Err(other),
    };
    let missing: Vec<String> =
        parts.iter().filter(|part| !here.contains(&part.as_str())).cloned().collect();
    match (parts.first().and_then(|first| repo.file(commit, first)), missing.is_empty()) {
        (Some(first), true) => Ok(Found::Whole(first)),
        _ if missing.len() == parts.len() => Ok(Found::Nothing),
        _ => Ok(Found::Part(missing)),
    }
}

fn find_folder(
    repo: &RepoCache,
    commit: &str,
    here: &[&str],
    noted: Option<Vec<String>>,
    tree: Option<&Vec<&str>>,
) -> Found {
    let known = noted.is_some() || tree.is_some();
    let mut needed = match (noted, tree) {
        (Some(needed), _) => needed,
        (None, tree) => {
            let names = tree.map_or(here, Vec::as_slice);
            match folder_files::beside(&repo.repo, names) {
                Ok(beside) => beside,
                Err(_) => vec!["config.json".to_string(), "tokenizer.json".to_string()],
            }
        }
    };
    let index = repo.file(commit, INDEX).and_then(|path| fs::read(path).ok());
    match (folder_files::weights(tree.map_or(here, Vec::as_slice)), index) {
        (Some(Weights::Sharded), Some(index)) => {
            needed.push(INDEX.to_string());
            needed.extend(folder_files::shards(&index).unwrap_or_default());
        }
        (Some(Weights::Sharded), None) => needed.push(INDEX.to_string()),
        (Some(Weights::Single), _) => needed.push(SINGLE.to_string()),
        // Then they are noted.
        (None, _) => {}
    }
    needed.sort();
    needed.dedup();
    needed.retain(|name| !here.contains(&name.as_str()));
    match (needed.is_empty(), known) {
        (true, true) => Found::Whole(repo.snapshot(commit)),
        (true, false) => Found::Enough(repo.snapshot(commit)),
        (false, _) if here.is_empty() => Found::Nothing,
        (false, _) => Found::Part(needed),
    }
}

/// The models in the cache: folders with weights, GGUF files, and downloads that are not done.
pub(crate) fn installed(cache: &Cache) -> Result<Vec<Installed>> {
    let mut found = Vec::new();
    for repo in cache.repos()? {
        let (before, unfinished) = (found.len(), repo.unfinished()?);
        for (revision, commit) in repo.revisions()? {
            let at = if revision == MAIN { String::new() } else { format!("@{revision}") };
            let names = repo.names(&commit)?;
            let bytes = |names: &[String]| -> u64 {
                let size = |name: &String| fs::metadata(repo.file(&commit, name)?).ok();
                names.iter().filter_map(size).map(|m| m.len()).sum()
            };
            let is_model = names.iter().any(|name| name == "config.json");
            let state = find_at(&repo, &commit, &Selector::Default)?;
            let path = repo.snapshot(&commit);
            match state {
                Found::Whole(_) | Found::Enough(_) if is_model && !has_gguf_only(&names) => {
                    let (name, bytes) = (format!("{}{at}", repo.repo), bytes(&names));
                    found.push(Installed { name, path, bytes, partial: false });
                }
                Found::Part(_) if repo.needed(&commit).is_some() => {
                    let (name, bytes) = (format!("{}{at}", repo.repo), bytes(&names) + unfinished);
                    found.push(Installed { name, path, bytes, partial: true });
                }
                _ => {}
            }
            for file in names.iter().filter(|name| is_gguf_name(name)) {
                let (name, bytes) =
                    (format!("{}/{file}{at}", repo.repo), bytes(std::slice::from_ref(file)));
                let path = repo.snapshot(&commit).join(file);
                found.push(Installed { name, path, bytes, partial: false });
            }
        }
        if found.len() == before && unfinished > 0 {
            let (name, path) = (repo.repo.clone(), repo.folder().to_path_buf());
            found.push(Installed { name, path, bytes: unfinished, partial: true });
        }
    }
    Ok(found)
}

/// Whether these are GGUF files and what goes with them, but no folder of a model.
fn has_gguf_only(names: &[String]) -> bool {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    folder_files::weights(&names).is_none()
}

/// Removes a model from the cache; the bytes freed.
pub(crate) fn remove(cache: &Cache, wanted: &Wanted<'_>) -> Result<u64> {
    let repo = cache.repo(wanted.repo);
    let Some(commit) = repo.commit(wanted.revision()) else { return Ok(0) };
    let names = repo.names(&commit)?;
    let here: Vec<&str> = names.iter().map(String::as_str).collect();
    let is_folder = repo.needed(&commit).is_some() || folder_files::weights(&here).is_some();
    // With nothing there but a download that was broken off, that is what is meant.
    if *wanted.selector == Selector::Default && (is_folder || here.is_empty()) {
        return repo.remove(&commit, None);
    }
    match gguf_files::select(wanted.repo, &here, wanted.selector) {
        Ok(files) => repo.remove(&commit, Some(&files)),
        Err(HubError::NotInRepository { .. }) => Ok(0),
        Err(other) => Err(other),
    }
}

/// What a download works with.
pub(crate) struct Download<'a> {
    pub client: &'a Client,
    pub config: &'a HubConfig,
    pub cache: &'a Cache,
}

impl Download<'_> {
    /// Brings what the hub has at the revision into the cache, as far as it is not there; gives the
    /// file (of a split model the first part), or the folder.
    pub fn pull(&self, wanted: &Wanted<'_>, progress: &mut dyn Progress) -> Result<PathBuf> {
        let host = crate::http::host(&self.config.hub_endpoint);
        progress.note(&format!("{}: asking {host}", wanted.repo));
        let remote = hub_api::list(self.client, self.config, wanted.repo, wanted.revision())?;
        let repo = self.cache.repo(wanted.repo);
        let names = remote.names();
        let file = |name: &str| remote.file(self.client, self.config, name);
        let weights = folder_files::weights(&names);
        if let (Selector::Default, Some(weights)) = (wanted.selector, weights) {
            let mut chosen = folder_files::beside(wanted.repo, &names)?;
            match weights {
                Weights::Single => chosen.push(SINGLE.into()),
                Weights::Sharded => {
                    repo.prepare(wanted.revision(), &remote.commit)?;
                    chosen.push(INDEX.into());
                    chosen.extend(self.shards(&repo, &remote, &file(INDEX)?, progress)?);
                }
            }
            let files = chosen.iter().map(|n| file(n)).collect::<Result<Vec<_>>>()?;
            repo.prepare(wanted.revision(), &remote.commit)?;
            repo.note_needed(&remote.commit, chosen)?;
            self.files(&repo, &remote.commit, &files, progress)?;
            return Ok(repo.snapshot(&remote.commit));
        }
        let parts = match gguf_files::select(wanted.repo, &names, wanted.selector) {
            Err(_) if !names.iter().any(|name| is_gguf_name(name)) => {
                return Err(folder_files::no_weights(wanted.repo, &names));
            }
            parts => parts?,
        };
        let files = parts.iter().map(|n| file(n)).collect::<Result<Vec<_>>>()?;
        repo.prepare(wanted.revision(), &remote.commit)?;
        self.files(&repo, &remote.commit, &files, progress)?;
        let first = parts.first().and_then(|first| repo.file(&remote.commit, first));
        first.ok_or_else(|| folder_files::no_weights(wanted.repo, &names))
    }

    /// The files that the index names; the index is downloaded first, since it says what there is.
    fn shards(
        &self,
        repo: &RepoCache,
        remote: &Repository,
        index: &RemoteFile,
        progress: &mut dyn Progress,
    ) -> Result<Vec<String>> {
        let bad = |why: String| HubError::Answer { host: remote.repo.clone(), why };
        if index.size > folder_files::MAX_INDEX {
            return Err(bad(format!("{INDEX} has {} bytes", index.size)));
        }
        let path = self.file(repo, &remote.commit, index, progress)?;
        let bytes = fs::read(&path).map_err(HubError::file("read", &path))?;
        folder_files::shards(&bytes).map_err(bad)
    }

    /// Downloads files that are not there yet, with one progress over all of them.
    fn files(
        &self,
        repo: &RepoCache,
        commit: &str,
        files: &[RemoteFile],
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let total: u64 = files.iter().map(|f| f.size).fold(0, u64::saturating_add);
        let have: u64 = files.iter().map(|file| bytes_here(repo, file)).sum();
        check_space(&repo.repo, repo.folder(), total.saturating_sub(have))?;
        if have < total {
            progress.begin(&repo.repo, total, have);
        }
        let mut all = Together { inner: progress, done: 0 };
        let mut result = Ok(());
        for (index, file) in files.iter().enumerate() {
            if !repo.blob(&file.digest).is_file() {
                all.inner.file(&file.path, index + 1, files.len());
            }
            if let Err(error) = self.file(repo, commit, file, &mut all) {
                result = Err(error);
                break;
            }
            all.done = all.done.saturating_add(file.size);
        }
        if have < total {
            progress.end();
        }
        result
    }

    /// Makes a file of a commit, downloading its blob if that is not there.
    fn file(
        &self,
        repo: &RepoCache,
        commit: &str,
        file: &RemoteFile,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf> {
        let there = repo.file(commit, &file.path);
        if let Some(path) = there.filter(|path| store::is_whole(path, file.size)) {
            return Ok(path);
        }
        let _lock = repo.lock(&file.digest, progress)?;
        let blob = repo.blob(&file.digest);
        if !store::is_whole(&blob, file.size) {
            let want = Want {
                label: &file.path,
                url: &hub_api::file_url(self.config, &repo.repo, commit, &file.path),
                headers: &hub_api::headers(self.config),
                size: file.size,
                digest: file.digest,
                named_by_hash: true,
            };
            let part = repo.part(&file.digest);
            transfer::download(self.client, &self.config.network, &want, &part, progress)?;
            store::publish(&part, &blob)?;
        }
        repo.link(commit, &file.path, &file.digest)
    }
}

/// Bytes of a file that need not be downloaded.
fn bytes_here(repo: &RepoCache, file: &RemoteFile) -> u64 {
    if store::is_whole(&repo.blob(&file.digest), file.size) {
        return file.size;
    }
    fs::metadata(repo.part(&file.digest)).map_or(0, |m| m.len().min(file.size))
}

/// Whether `needed` bytes fit on the disk of `folder`. What cannot be found out is no error.
fn check_space(what: &str, folder: &Path, needed: u64) -> Result<()> {
    match fs4::available_space(folder) {
        Ok(free) if free < needed => Err(HubError::NoSpace {
            what: what.to_string(),
            needed,
            free,
            folder: folder.to_path_buf(),
        }),
        _ => Ok(()),
    }
}
