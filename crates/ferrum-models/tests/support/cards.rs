//! The NVIDIA cards that tests run on: emulated ones, or those of the machine for
//! `cargo xtask gpu-check`.

use anyhow::Result;

/// Whether it is the machine's.
pub fn are_real() -> bool {
    std::env::var("FERRUM_TEST_CUDA").is_ok_and(|which| which == "card")
}

/// One of each schedule; or the first real one.
pub fn cards() -> Result<Vec<usize>> {
    if are_real() {
        return Ok(vec![0]);
    }
    ferrum_cuda_emulator::load()?;
    Ok(ferrum_cuda_emulator::ONE_OF_EACH_SCHEDULE.into())
}
