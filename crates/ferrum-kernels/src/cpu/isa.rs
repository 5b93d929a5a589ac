//! Instruction sets that the kernels are written for, and which of them the processor has.

use std::fmt;
use std::str::FromStr;

/// An instruction set that the CPU kernels can be run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, on every processor.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// The same with the 8-bit dot products of AVX-VNNI; or of AVX-512 VNNI in 256-bit registers,
    /// which are the same in another encoding.
    AvxVnni,
    /// The same with the 8-bit dot products of AVX-512 VNNI, and 512-bit registers for many tokens.
    Avx512Vnni,
    /// The same with the matrix products of AMX for many tokens.
    Amx,
    /// 64-bit Arm with the 8-bit dot products of Armv8.2.
    NeonDot,
    /// The same with 8-bit matrix products for many tokens.
    NeonI8mm,
}

/// Where the tests of an instruction set have run so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tested {
    /// On a processor that has it.
    Hardware,
    /// Under emulation: right, but nobody knows how fast.
    Emulation,
    /// On none: compiled, and used only where it is asked for.
    Nowhere,
}

impl Isa {
    /// Every instruction set known, from the slowest to the fastest of each kind of processor.
    pub const ALL: [Isa; 7] = [
        Isa::Portable,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512Vnni,
        Isa::Amx,
        Isa::NeonDot,
        Isa::NeonI8mm,
    ];

    /// The fastest that this processor has and that has been tested.
    pub fn best() -> Isa {
        let tested = |isa: &Isa| isa.is_available() && isa.tested() != Tested::Nowhere;
        Isa::ALL.into_iter().rev().find(tested).unwrap_or(Isa::Portable)
    }

    /// What to take where a token's result must not depend, to the bit, on how many others are in its
    /// step: this one, or where it has matrix products that round otherwise, the one without.
    pub fn independent(self) -> Isa {
        match self {
            Isa::Amx => Isa::Avx512Vnni,
            other => other,
        }
    }

    /// Where the tests have run so far of what this processor would be given. They run everything
    /// that a machine has: whoever sees them pass on one that is not counted here changes this.
    pub fn tested(self) -> Tested {
        match self {
            Isa::Portable | Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni | Isa::Amx => {
                Tested::Hardware
            }
            // QEMU 7.2.
            Isa::NeonDot | Isa::NeonI8mm => Tested::Emulation,
        }
    }

    /// Whether dot products in 256-bit registers have the encoding of AVX-VNNI here.
    pub(super) fn vex_vnni() -> bool {
        detect::vex_vnni()
    }

    /// Those that this processor has, from the slowest to the fastest.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        self.missing().is_empty()
    }

    /// The processor features that it needs and that this processor lacks.
    pub fn missing(self) -> Vec<&'static str> {
        self.needs().iter().copied().filter(|feature| !detect::has(feature)).collect()
    }

    /// The processor features that it needs.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Isa::Portable => &[],
            Isa::Avx2 => &["avx2", "fma", "f16c"],
            Isa::AvxVnni => &["avx2", "fma", "f16c", "avxvnni"],
            Isa::Avx512Vnni => {
                &["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni"]
            }
            Isa::Amx => &[
                "avx2",
                "fma",
                "f16c",
                "avx512f",
                "avx512bw",
                "avx512vl",
                "avx512vnni",
                "avx512bf16",
                "amx-bf16",
            ],
            Isa::NeonDot => &["dotprod"],
            Isa::NeonI8mm => &["dotprod", "i8mm"],
        }
    }

    /// What it is, in a few words.
    pub fn description(self) -> &'static str {
        match self {
            Isa::Portable => "plain Rust",
            Isa::Avx2 => "AVX2, FMA and F16C",
            Isa::AvxVnni => "AVX2 with 8-bit dot products (VNNI) in 256-bit registers",
            Isa::Avx512Vnni => {
                "AVX-512 with 8-bit dot products (VNNI), 512-bit registers for many tokens"
            }
            Isa::Amx => "AVX-512 as above, and matrix products of bfloat16 (AMX) for many tokens",
            Isa::NeonDot => "NEON with 8-bit dot products",
            Isa::NeonI8mm => "NEON with 8-bit dot products, and matrix products for many tokens",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Amx => "amx",
            Isa::NeonDot => "dotprod",
            Isa::NeonI8mm => "i8mm",
        })
    }
}

/// A name that is no instruction set of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown instruction set `{0}`; known are {known}", known = known())]
pub struct UnknownIsa(String);

/// Every name, for the error.
fn known() -> String {
    Isa::ALL.map(|isa| isa.to_string()).join(", ")
}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        let known = Isa::ALL.into_iter().find(|isa| isa.to_string() == name);
        known.ok_or_else(|| UnknownIsa(name.to_owned()))
    }
}

#[cfg(target_arch = "x86_64")]
mod detect {
    /// Whether this processor has a feature.
    pub(super) fn has(feature: &str) -> bool {
        match feature {
            "avx2" => is_x86_feature_detected!("avx2"),
            "fma" => is_x86_feature_detected!("fma"),
            "f16c" => is_x86_feature_detected!("f16c"),
            // What the kernels of either encoding are compiled for.
            "avxvnni" => {
                let evex = ["avx512f", "avx512bw", "avx512vl", "avx512vnni"];
                vex_vnni() || evex.iter().all(|feature| has(feature))
            }
            "avx512f" => is_x86_feature_detected!("avx512f"),
            "avx512bw" => is_x86_feature_detected!("avx512bw"),
            "avx512vl" => is_x86_feature_detected!("avx512vl"),
            "avx512vnni" => is_x86_feature_detected!("avx512vnni"),
            "avx512bf16" => is_x86_feature_detected!("avx512bf16"),
            "amx-bf16" => super::super::amx::is_available(),
            _ => false,
        }
    }

    /// Dot products in 256-bit registers, in the encoding of AVX-VNNI.
    pub(super) fn vex_vnni() -> bool {
        is_x86_feature_detected!("avxvnni")
    }
}

#[cfg(target_arch = "aarch64")]
mod detect {
    use std::arch::is_aarch64_feature_detected;

    /// Whether this processor has a feature.
    pub(super) fn has(feature: &str) -> bool {
        match feature {
            "dotprod" => is_aarch64_feature_detected!("dotprod"),
            "i8mm" => is_aarch64_feature_detected!("i8mm"),
            _ => false,
        }
    }

    /// There is none.
    pub(super) fn vex_vnni() -> bool {
        false
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod detect {
    /// Whether this processor has a feature.
    pub(super) fn has(_feature: &str) -> bool {
        false
    }

    /// There is none.
    pub(super) fn vex_vnni() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        assert!("sse9".parse::<Isa>().is_err());
    }

    #[test]
    fn a_processor_has_instruction_sets_of_its_own_kind_alone() {
        let (x86, arm) = (cfg!(target_arch = "x86_64"), cfg!(target_arch = "aarch64"));
        for isa in Isa::available() {
            let here = match isa {
                Isa::Portable => true,
                Isa::NeonDot | Isa::NeonI8mm => arm,
                Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni | Isa::Amx => x86,
            };
            assert!(here, "{isa}");
        }
        assert!(!detect::has("sse9"));
    }

    #[test]
    fn the_best_is_available() {
        assert!(Isa::available().contains(&Isa::Portable));
        assert!(Isa::best().is_available());
        let better = Isa::available().into_iter().rev().take_while(|isa| *isa != Isa::best());
        assert!(better.into_iter().all(|isa| isa.tested() == Tested::Nowhere));
    }
}
