//! Whether this process may use the tiles of AMX.

use std::arch::x86_64::__cpuid_count;

/// Whether the processor has tiles and their products of bfloat16, and the system lets this process use
/// them: Linux has to be asked, because they make every thread's state 8 KiB larger.
pub(super) fn is_available() -> bool {
    /// Bits of EDX of leaf 7 (Intel's Software Developer's Manual, volume 2, CPUID).
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    let features = __cpuid_count(7, 0).edx;
    features & BF16 != 0 && features & TILE != 0 && ask()
}

/// Asks for the tiles' state (the kernel's documentation, "Using XSTATE features in user space
/// applications"); to ask again changes nothing.
#[cfg(target_os = "linux")]
fn ask() -> bool {
    const REQUEST_PERMISSION: libc::c_ulong = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    // SAFETY: a system call that touches no memory of this process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0 }
}

/// Nobody knows how here.
#[cfg(not(target_os = "linux"))]
fn ask() -> bool {
    false
}
