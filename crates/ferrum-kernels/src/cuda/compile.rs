//! The sources of the kernels, and NVRTC, which compiles them for an architecture.
//!
//! NVRTC is a library of its own and found at run time; it needs neither a card nor a toolkit, as
//! the kernels include nothing of NVIDIA's.

use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::str::FromStr;

use cudarc::nvrtc::{result, sys};

use super::NAME;
use crate::{Format, KernelError, KvDType, Result};

macro_rules! sources {
    (
        $($name:ident: $stem:literal),*;
        for a format: $($family:ident: $family_stem:literal),*;
        for a cache: $($cached:ident: $cached_stem:literal),* $(,)?
    ) => {
        /// A file of kernels in `cuda/`; some are compiled for each format of weights, some for each type
        /// of cache.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the names are those of the files")]
        pub enum Source { $($name,)* $($family(Format),)* $($cached(KvDType)),* }

        impl Source {
            /// Everything that there is to compile, for tests and caches.
            pub fn all() -> Vec<Source> {
                let families = [$(Source::$family as fn(Format) -> Source),*];
                let all = || Format::ALL.into_iter().chain([Format::F8_E4M3]);
                let of = |family: fn(Format) -> Source| all().map(family);
                let formats = families.into_iter().flat_map(of);
                let families = [$(Source::$cached as fn(KvDType) -> Source),*];
                let of = |family: fn(KvDType) -> Source| KvDType::ALL.map(family);
                let formats = formats.chain(families.into_iter().flat_map(of));
                [$(Source::$name),*].into_iter().chain(formats.filter(Source::fits)).collect()
            }

            /// The file's name, without `.cu`.
            pub fn stem(self) -> &'static str {
                match self {
                    $(Source::$name => $stem,)*
                    $(Source::$family(_) => $family_stem,)*
                    $(Source::$cached(_) => $cached_stem,)*
                }
            }

            /// What the file is compiled for, if for any: a macro, and what it stands for.
            fn parameter(self) -> Option<(&'static str, String)> {
                match self {
                    $(Source::$name => None,)*
                    $(Source::$family(format) => Some(("FORMAT", format.to_string())),)*
                    $(Source::$cached(kv) => Some(("KV", cache_type(kv).into())),)*
                }
            }

            /// CUDA C++.
            pub fn text(self) -> String {
                let text = match self {
                    $(Source::$name => include_str!(concat!("../../cuda/", $stem, ".cu")),)*
                    $(Source::$family(_) => {
                        include_str!(concat!("../../cuda/", $family_stem, ".cu"))
                    })*
                    $(Source::$cached(_) => {
                        include_str!(concat!("../../cuda/", $cached_stem, ".cu"))
                    })*
                };
                match self.parameter() {
                    None => text.into(),
                    Some((name, value)) => format!("#define {name} {value}\n{text}"),
                }
            }
        }
    };
}

sources! {
    AttentionLatent: "attention_latent",
    AttentionMerge: "attention_merge",
    AttentionPlain: "attention_plain",
    KvWrite: "kv_write",
    Activations: "activations",
    Experts: "experts",
    LayerNorm: "layer_norm",
    Logprobs: "logprobs",
    PackedAttention: "packed_attention",
    Pointwise: "pointwise",
    RmsNorm: "rms_norm",
    Rope: "rope",
    RouteTopk: "route_topk",
    Rows: "rows",
    Sample: "sample";
    for a format:
    GemmCodes: "gemm_codes",
    GemmHalves: "gemm_halves",
    GemvCodes: "gemv_codes",
    GemvFloats: "gemv_floats",
    PackCodes: "pack_codes",
    PackFloats: "pack_floats",
    RoundHalves: "round_halves",
    SplitHalves: "split_halves";
    for a cache:
    AttentionDecode: "attention_decode",
    AttentionPrefill: "attention_prefill",
}

/// What kernels call a type of caches: `KvType` of `attention.cuh`.
fn cache_type(kv: KvDType) -> &'static str {
    match kv {
        KvDType::F16 => "KV_F16",
        KvDType::BF16 => "KV_BF16",
        KvDType::F32 => "KV_F32",
        KvDType::Fp8E4M3 => "KV_E4M3",
        KvDType::Q8_0 => "KV_Q8_0",
    }
}

impl Source {
    /// Whether the file is meant for such weights, or such a cache.
    fn fits(&self) -> bool {
        match *self {
            Source::GemmCodes(format) | Source::GemvCodes(format) | Source::PackCodes(format) => {
                format.block_len() > 1
            }
            Source::GemvFloats(format) | Source::PackFloats(format) => format.block_len() == 1,
            Source::GemmHalves(format) | Source::RoundHalves(format) => {
                matches!(format, Format::F16 | Format::BF16 | Format::F8_E4M3)
            }
            Source::SplitHalves(format) => matches!(format, Format::F16 | Format::BF16),
            // Tensor cores take 16 bits.
            Source::AttentionDecode(kv) | Source::AttentionPrefill(kv) => kv != KvDType::F32,
            _ => true,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parameter() {
            None => f.write_str(self.stem()),
            Some((_, value)) => write!(f, "{} {value}", self.stem()),
        }
    }
}

/// What the sources include.
const HEADERS: &[(&str, &str)] = &[
    ("attention.cuh", include_str!("../../cuda/attention.cuh")),
    ("attention_mma.cuh", include_str!("../../cuda/attention_mma.cuh")),
    ("attention_rows.cuh", include_str!("../../cuda/attention_rows.cuh")),
    ("activation.cuh", include_str!("../../cuda/activation.cuh")),
    ("activations.cuh", include_str!("../../cuda/activations.cuh")),
    ("block_sum.cuh", include_str!("../../cuda/block_sum.cuh")),
    ("e4m3.cuh", include_str!("../../cuda/e4m3.cuh")),
    ("floats.cuh", include_str!("../../cuda/floats.cuh")),
    ("formats.cuh", include_str!("../../cuda/formats.cuh")),
    ("gemm.cuh", include_str!("../../cuda/gemm.cuh")),
    ("gemv.cuh", include_str!("../../cuda/gemv.cuh")),
    ("kv_tiles.cuh", include_str!("../../cuda/kv_tiles.cuh")),
    ("halves.cuh", include_str!("../../cuda/halves.cuh")),
    ("linear.cuh", include_str!("../../cuda/linear.cuh")),
    ("logits.cuh", include_str!("../../cuda/logits.cuh")),
    ("products.cuh", include_str!("../../cuda/products.cuh")),
    ("ptx.cuh", include_str!("../../cuda/ptx.cuh")),
];

/// What the compiler is told beside the architecture: to say what each kernel takes.
const OPTIONS: [&str; 2] = ["--std=c++17", "--ptxas-options=-v"];

/// An architecture's machine code, `sm_80` for example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Architecture(pub u32, pub u32);

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.0, self.1)
    }
}

impl FromStr for Architecture {
    type Err = String;

    /// `sm_80`, `sm_120`, …
    fn from_str(name: &str) -> Result<Self, String> {
        let number = name.strip_prefix("sm_").and_then(|number| number.parse::<u32>().ok());
        let number = number.filter(|number| (10..1000).contains(number));
        let number = number.ok_or_else(|| format!("no such architecture: '{name}' (sm_90)"))?;
        Ok(Architecture(number / 10, number % 10))
    }
}

/// A compiled file of kernels.
pub struct Compiled {
    /// What the driver loads, machine code or (for architectures that NVRTC does not know yet) PTX.
    pub image: Vec<u8>,
    /// What the compiler says, with the registers and the shared memory of each kernel.
    pub log: String,
}

impl Source {
    /// A number that changes with the text, or with what it includes.
    pub(super) fn fingerprint(self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.text(), HEADERS, OPTIONS).hash(&mut hasher);
        hasher.finish()
    }

    /// Compiles the file.
    pub fn compile(self, architecture: Architecture) -> Result<Compiled> {
        version()?;
        let program = Program::new(self)?;
        let known = supported(self)?;
        let number = architecture.0 * 10 + architecture.1;
        let machine_code = known.contains(&number);
        let older = known.iter().copied().filter(|&other| other < number).max();
        let target = match (machine_code, older) {
            (true, _) => format!("--gpu-architecture={architecture}"),
            (false, Some(older)) => format!("--gpu-architecture=compute_{older}"),
            (false, None) => return Err(self.error(format!("NVRTC does not know {architecture}"))),
        };
        let options = [&[target][..], &OPTIONS.map(String::from)].concat();
        // SAFETY: the program is alive.
        let compiled = unsafe { result::compile_program(program.raw, &options) };
        let log = program.log();
        if compiled.is_err() {
            return Err(self.error(format!("{}:\n{log}", options[0])));
        }
        let image = if machine_code { program.machine_code()? } else { program.ptx()? };
        Ok(Compiled { image, log })
    }

    fn error(self, what: String) -> KernelError {
        KernelError::Compile { backend: NAME, kernel: self.stem(), what }
    }
}

/// NVRTC's version, an error where it is not there.
pub fn version() -> Result<(u32, u32)> {
    // SAFETY: loads a library of the system and lets it go again.
    if !unsafe { sys::is_culib_present() } {
        let what = "NVRTC, which compiles the kernels, is not installed (libnvrtc: of the CUDA \
                    toolkit, or of the Python package nvidia-cuda-nvrtc, whose folder must be in \
                    LD_LIBRARY_PATH; no newer than the driver)";
        return Err(KernelError::NoDevice { backend: NAME, what: what.into() });
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are there to be written.
    let status = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    status.result().map_err(|error| KernelError::NoDevice {
        backend: NAME,
        what: format!("NVRTC does not work: {error:?}"),
    })?;
    Ok((major.unsigned_abs(), minor.unsigned_abs()))
}

/// Architectures that NVRTC makes machine code for: 80, 90, …
fn supported(source: Source) -> Result<Vec<u32>> {
    let mut count = 0;
    // SAFETY: there to be written.
    let status = unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) };
    status.result().map_err(|error| source.error(format!("{error:?}")))?;
    let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: as long as NVRTC has said.
    let status = unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) };
    status.result().map_err(|error| source.error(format!("{error:?}")))?;
    Ok(known.into_iter().map(i32::unsigned_abs).collect())
}

/// A program of NVRTC's.
struct Program {
    raw: sys::nvrtcProgram,
    source: Source,
}

impl Program {
    fn new(source: Source) -> Result<Program> {
        let c_string = |text: &str| CString::new(text).map_err(|e| source.error(e.to_string()));
        let (text, name) = (c_string(&source.text())?, c_string(source.stem())?);
        let names = HEADERS.iter().map(|header| c_string(header.0));
        let texts = HEADERS.iter().map(|header| c_string(header.1));
        let (names, texts) =
            (names.collect::<Result<Vec<_>>>()?, texts.collect::<Result<Vec<_>>>()?);
        let pointers = |strings: &[CString]| -> Vec<*const c_char> {
            strings.iter().map(|string| string.as_ptr()).collect()
        };
        let mut raw = std::ptr::null_mut();
        // SAFETY: strings that end with zero, and as many headers as there are names.
        let status = unsafe {
            sys::nvrtcCreateProgram(
                &mut raw,
                text.as_ptr(),
                name.as_ptr(),
                HEADERS.len() as i32,
                pointers(&texts).as_ptr(),
                pointers(&names).as_ptr(),
            )
        };
        status.result().map_err(|error| source.error(format!("{error:?}")))?;
        Ok(Program { raw, source })
    }

    fn log(&self) -> String {
        // SAFETY: the program is alive.
        match unsafe { result::get_program_log(self.raw) } {
            // SAFETY: the log ends with zero.
            Ok(log) => unsafe { CStr::from_ptr(log.as_ptr()) }.to_string_lossy().into_owned(),
            Err(error) => format!("{error:?}"),
        }
    }

    fn machine_code(&self) -> Result<Vec<u8>> {
        let error = |error: result::NvrtcError| self.source.error(format!("{error:?}"));
        let mut bytes = 0;
        // SAFETY: the program is alive and compiled.
        unsafe { sys::nvrtcGetCUBINSize(self.raw, &mut bytes) }.result().map_err(error)?;
        let mut image = vec![0u8; bytes];
        // SAFETY: as long as NVRTC has said.
        unsafe { sys::nvrtcGetCUBIN(self.raw, image.as_mut_ptr().cast()) }
            .result()
            .map_err(error)?;
        Ok(image)
    }

    /// With the zero that ends it.
    fn ptx(&self) -> Result<Vec<u8>> {
        // SAFETY: the program is alive and compiled.
        let ptx = unsafe { result::get_ptx(self.raw) };
        let ptx = ptx.map_err(|error| self.source.error(format!("{error:?}")))?;
        Ok(ptx.into_iter().map(|c| c.cast_unsigned()).collect())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created in `new`. An error has nobody to hear it.
        let _ = unsafe { result::destroy_program(self.raw) };
    }
}
