//! The driver library: whether it is there, and what its errors say.

use cudarc::driver::{result, sys};

use super::NAME;
use crate::{KernelError, Result};

/// Names the operation that a driver call belongs to.
pub(super) trait Named<T> {
    /// The value, or an error with the operation's name and the driver's words.
    fn op(self, op: &'static str) -> Result<T>;
}

impl<T> Named<T> for std::result::Result<T, result::DriverError> {
    fn op(self, op: &'static str) -> Result<T> {
        self.map_err(|error| KernelError::Device { backend: NAME, op, what: words(&error) })
    }
}

/// The driver's name of an error and its description.
fn words(error: &result::DriverError) -> String {
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned());
    format!("{} ({:?})", text.unwrap_or_default(), error.0)
}

/// Loads the driver; an error says why there is no CUDA here. To be called before anything else.
pub(super) fn load() -> Result<()> {
    // SAFETY: loads a library of the system and lets it go again.
    if !unsafe { sys::is_culib_present() } {
        let what = "the driver's library (libcuda) is not installed".into();
        return Err(KernelError::NoDevice { backend: NAME, what });
    }
    result::init().map_err(|error| KernelError::NoDevice { backend: NAME, what: words(&error) })
}

/// How many devices the driver offers.
pub(super) fn count() -> Result<usize> {
    load()?;
    let count = result::device::get_count().op("count devices")?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// The newest CUDA that the driver knows, such as `13.0`.
pub(super) fn version() -> String {
    let mut number = 0;
    // SAFETY: there to be written.
    match unsafe { sys::cuDriverGetVersion(&mut number) }.result() {
        Ok(()) => format!("{}.{}", number / 1000, number % 1000 / 10),
        Err(error) => words(&error),
    }
}
