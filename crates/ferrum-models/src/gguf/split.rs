//! Names and metadata of models that are split over several files.
//!
//! The convention is that of llama.cpp's `gguf-split`: `name-00001-of-00003.gguf` and so on; in
//! each part `split.no` (from 0), `split.count`, and `split.tensors.count` (over all parts).

use std::path::{Path, PathBuf};

use super::error::GgufError;
use super::metadata::Metadata;

/// What the metadata of a part says about the split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SplitInfo {
    /// Number of this part, from 0.
    pub no: u32,
    /// Number of parts, at least 2.
    pub count: u32,
    /// Tensors in all parts.
    pub tensors: u32,
}

impl SplitInfo {
    /// The split that `metadata` describes; `None` for a model of one file.
    pub fn of(metadata: &Metadata) -> Result<Option<Self>, GgufError> {
        let count = metadata.u32("split.count")?.unwrap_or(1);
        if count <= 1 {
            return Ok(None);
        }
        let no = metadata.need_u32("split.no")?;
        let tensors = metadata.need_u32("split.tensors.count")?;
        Ok(Some(SplitInfo { no, count, tensors }))
    }

    /// The paths of all parts, in order, from the path of this one.
    pub fn paths(&self, path: &Path) -> Result<Vec<PathBuf>, GgufError> {
        let (no, count) = (self.no, self.count);
        let suffix = |no: u32| format!("-{:05}-of-{count:05}.gguf", u64::from(no) + 1);
        let misnamed = || GgufError::SplitName { path: path.to_path_buf(), no, count };
        if no >= count {
            return Err(GgufError::SplitMismatch {
                path: path.to_path_buf(),
                key: "split.no",
                found: no.to_string(),
                expected: u64::from(count) - 1,
            });
        }
        let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(misnamed)?;
        let prefix = name.strip_suffix(&suffix(no)).ok_or_else(misnamed)?;
        Ok((0..count).map(|no| path.with_file_name(format!("{prefix}{}", suffix(no)))).collect())
    }

    /// Checks that part number `no`, at `path`, belongs to this split.
    pub fn check_part(
        &self,
        path: &Path,
        no: u32,
        part: Option<SplitInfo>,
    ) -> Result<(), GgufError> {
        let mismatch = |key, found: String, expected: u32| GgufError::SplitMismatch {
            path: path.to_path_buf(),
            key,
            found,
            expected: u64::from(expected),
        };
        let Some(part) = part else {
            return Err(mismatch("split.count", "absent".to_string(), self.count));
        };
        for (key, found, expected) in [
            ("split.count", part.count, self.count),
            ("split.no", part.no, no),
            ("split.tensors.count", part.tensors, self.tensors),
        ] {
            if found != expected {
                return Err(mismatch(key, found.to_string(), expected));
            }
        }
        Ok(())
    }
}
