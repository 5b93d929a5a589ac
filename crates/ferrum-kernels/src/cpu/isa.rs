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
    /// The same with the 8-bit dot products of AVX-512 VNNI, and 512-bit registers for many tokens.
    Avx512Vnni,
}

impl Isa {
    /// Every instruction set known, from the slowest to the fastest.
    pub const ALL: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512Vnni];

    /// The fastest that this processor has.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// Those that this processor has, from the slowest to the fastest.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Avx2 => detect::avx2(),
            Isa::Avx512Vnni => detect::avx2() && detect::avx512_vnni(),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512Vnni => "avx512vnni",
        })
    }
}

/// A name that is no instruction set of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown instruction set `{0}`; known are portable, avx2 and avx512vnni")]
pub struct UnknownIsa(String);

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        let known = Isa::ALL.into_iter().find(|isa| isa.to_string() == name);
        known.ok_or_else(|| UnknownIsa(name.to_owned()))
    }
}

#[cfg(target_arch = "x86_64")]
mod detect {
    pub(super) fn avx2() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    }

    pub(super) fn avx512_vnni() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod detect {
    pub(super) fn avx2() -> bool {
        false
    }

    pub(super) fn avx512_vnni() -> bool {
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
    fn the_best_is_available() {
        assert!(Isa::available().contains(&Isa::Portable));
        assert_eq!(Isa::available().last(), Some(&Isa::best()));
    }
}
