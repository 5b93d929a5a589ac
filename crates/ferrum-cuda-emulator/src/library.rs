//! The dynamic loader, as far as it is needed.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use crate::Error;
use crate::build::{Built, CUBLASLT, DRIVER, NCCL, NVRTC};

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}
const RTLD_NOW: c_int = 2;
const RTLD_GLOBAL: c_int = 0x100;

/// `ferrum_emulator_failure(ordinal, text, bytes)`: the length of what it wrote.
type Failure = unsafe extern "C" fn(c_int, *mut c_char, usize) -> usize;
/// `ferrum_emulator_configure(device headers, folder of compiled kernels)`.
type Configure = unsafe extern "C" fn(*const c_char, *const c_char);

static FAILURE: OnceLock<Failure> = OnceLock::new();

/// `ferrum_emulator_break(ordinal)`.
type Break = unsafe extern "C" fn(c_int);

static BREAK: OnceLock<Break> = OnceLock::new();

/// Loads the libraries for the whole process: kernels resolve their symbols against the driver. NCCL
/// may be left out.
pub(crate) fn load(built: &Built, nccl: bool) -> Result<(), Error> {
    let driver = open(&built.libraries.join(DRIVER))?;
    let nvrtc = open(&built.libraries.join(NVRTC))?;
    if nccl {
        open(&built.libraries.join(NCCL))?;
    }
    open(&built.libraries.join(CUBLASLT))?;
    let configure = symbol(nvrtc, c"ferrum_emulator_configure")?;
    let failure = symbol(driver, c"ferrum_emulator_failure")?;
    let break_one = symbol(driver, c"ferrum_emulator_break")?;
    // SAFETY: the functions have these types in the sources that were just compiled.
    let (configure, failure, break_one) = unsafe {
        (
            std::mem::transmute::<*mut c_void, Configure>(configure),
            std::mem::transmute::<*mut c_void, Failure>(failure),
            std::mem::transmute::<*mut c_void, Break>(break_one),
        )
    };
    let (device, modules) = (c_path(&built.device)?, c_path(&built.modules)?);
    // SAFETY: both are strings that end in a zero byte; the function copies them.
    unsafe { configure(device.as_ptr(), modules.as_ptr()) };
    let _ = FAILURE.set(failure);
    let _ = BREAK.set(break_one);
    Ok(())
}

pub(crate) fn failure(ordinal: usize) -> Option<String> {
    let failure = FAILURE.get()?;
    let mut text = vec![0_u8; 1024];
    let ordinal = c_int::try_from(ordinal).ok()?;
    // SAFETY: the buffer has the length that is passed.
    let length = unsafe { failure(ordinal, text.as_mut_ptr().cast(), text.len()) };
    text.truncate(length);
    (length > 0).then(|| String::from_utf8_lossy(&text).into_owned())
}

pub(crate) fn break_device(ordinal: usize) {
    if let (Some(break_one), Ok(ordinal)) = (BREAK.get(), c_int::try_from(ordinal)) {
        // SAFETY: it takes any number.
        unsafe { break_one(ordinal) };
    }
}

fn open(path: &Path) -> Result<*mut c_void, Error> {
    let path = c_path(path)?;
    // SAFETY: a string that ends in a zero byte; the library's constructors only set up C++.
    let library = unsafe { dlopen(path.as_ptr(), RTLD_NOW | RTLD_GLOBAL) };
    if library.is_null() { Err(Error::Load(last_error())) } else { Ok(library) }
}

fn symbol(library: *mut c_void, name: &CStr) -> Result<*mut c_void, Error> {
    // SAFETY: a library that was opened and never closes, and a string.
    let symbol = unsafe { dlsym(library, name.as_ptr()) };
    if symbol.is_null() { Err(Error::Load(last_error())) } else { Ok(symbol) }
}

fn last_error() -> String {
    // SAFETY: the loader gives null or a string that lives until this thread's next call.
    let text = unsafe {
        let text = dlerror();
        if text.is_null() {
            return "no reason given".to_owned();
        }
        CStr::from_ptr(text)
    };
    text.to_string_lossy().into_owned()
}

fn c_path(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_bytes()).map_err(|e| Error::Load(e.to_string()))
}
