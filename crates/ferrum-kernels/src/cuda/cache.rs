//! Compiled kernels on disk. A file is an image and, behind it, its hash: what is damaged or cut off
//! never comes to the driver, which believes what it is given.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::compile::{self, Architecture, Source};
use crate::Result;

/// What the names of all files of one source and architecture begin with.
fn stem(source: Source, architecture: Architecture) -> String {
    format!("{}-{:016x}-{architecture}-", source.stem(), source.fingerprint())
}

/// Where the compiled source is kept: the text, the architecture and NVRTC's version decide.
fn path(folder: &Path, source: Source, architecture: Architecture) -> Result<PathBuf> {
    let (major, minor) = compile::version()?;
    Ok(folder.join(format!("{}nvrtc_{major}.{minor}", stem(source, architecture))))
}

/// The compiled source, as this NVRTC or (where there is none) any other has made it.
pub(super) fn kept(folder: &Path, source: Source, architecture: Architecture) -> Option<Vec<u8>> {
    if let Ok(path) = path(folder, source, architecture) {
        return whole(fs::read(path).ok()?);
    }
    let start = stem(source, architecture);
    let mut files = fs::read_dir(folder).ok()?.filter_map(io::Result::ok);
    let file = files.find(|file| file.file_name().to_string_lossy().starts_with(&start))?;
    whole(fs::read(file.path()).ok()?)
}

/// The image of a file, if it is what was written.
fn whole(mut file: Vec<u8>) -> Option<Vec<u8>> {
    let (image, hash) = file.split_last_chunk::<8>()?;
    let right = !image.is_empty() && u64::from_le_bytes(*hash) == hash_of(image);
    let len = image.len();
    file.truncate(len);
    right.then_some(file)
}

fn hash_of(image: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(image);
    hasher.finish()
}

/// Writes a compiled source to the cache in `folder`; of several that do so at once, one stays.
pub fn keep(
    folder: &Path,
    source: Source,
    architecture: Architecture,
    image: &[u8],
) -> io::Result<()> {
    let path = path(folder, source, architecture).map_err(io::Error::other)?;
    fs::create_dir_all(folder)?;
    let unique = format!("{}-{:?}", std::process::id(), std::thread::current().id());
    let temporary = folder.join(format!(".{}.{unique}", source.stem()));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(image)?;
        file.write_all(&hash_of(image).to_le_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_no_image() {
        let file = [b"image".as_slice(), &hash_of(b"image").to_le_bytes()].concat();
        assert_eq!(whole(file.clone()), Some(b"image".to_vec()));
        for len in 0..file.len() {
            assert_eq!(whole(file[..len].to_vec()), None, "{len} bytes");
        }
        for byte in 0..file.len() {
            let mut damaged = file.clone();
            damaged[byte] ^= 1;
            assert_eq!(whole(damaged), None, "byte {byte}");
        }
        assert_eq!(whole(hash_of(b"").to_le_bytes().to_vec()), None, "nothing");
    }
}
