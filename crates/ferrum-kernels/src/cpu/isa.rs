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
        self.missing().is_empty()
    }

    /// The processor features that it needs and that this processor lacks.
    pub fn missing(self) -> Vec<&'static str> {
        let features = detect::FEATURES.iter().filter(|f| self.needs().contains(&f.0));
        let lacking = features.filter(|(_, has)| !has());
        lacking.map(|&(name, _)| name).collect()
    }

    /// The processor features that it needs.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Isa::Portable => &[],
            Isa::Avx2 => &["avx2", "fma", "f16c"],
            Isa::Avx512Vnni => {
                &["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni"]
            }
        }
    }

    /// What it is, in a few words.
    pub fn description(self) -> &'static str {
        match self {
            Isa::Portable => "plain Rust",
            Isa::Avx2 => "AVX2, FMA and F16C",
            Isa::Avx512Vnni => {
                "AVX-512 with 8-bit dot products (VNNI), 512-bit registers for many tokens"
            }
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

/// A processor feature by name, and whether this processor has it.
type Feature = (&'static str, fn() -> bool);

#[cfg(target_arch = "x86_64")]
mod detect {
    use super::Feature;

    /// All that an instruction set needs.
    pub(super) const FEATURES: &[Feature] = &[
        ("avx2", || is_x86_feature_detected!("avx2")),
        ("fma", || is_x86_feature_detected!("fma")),
        ("f16c", || is_x86_feature_detected!("f16c")),
        ("avx512f", || is_x86_feature_detected!("avx512f")),
        ("avx512bw", || is_x86_feature_detected!("avx512bw")),
        ("avx512vl", || is_x86_feature_detected!("avx512vl")),
        ("avx512vnni", || is_x86_feature_detected!("avx512vnni")),
    ];
}

#[cfg(not(target_arch = "x86_64"))]
mod detect {
    use super::Feature;

    /// All that an instruction set needs.
    pub(super) const FEATURES: &[Feature] = &[
        ("avx2", || false),
        ("fma", || false),
        ("f16c", || false),
        ("avx512vl", || false),
        ("avx512f", || false),
        ("avx512bw", || false),
        ("avx512vnni", || false),
    ];
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
    fn what_is_missing_is_a_feature_that_can_be_looked_for() {
        for isa in Isa::ALL {
            for need in isa.needs() {
                assert!(detect::FEATURES.iter().any(|(name, _)| name == need), "{isa}: {need}");
            }
            assert!(isa.missing().iter().all(|name| isa.needs().contains(name)), "{isa}");
        }
        assert!(Isa::Portable.missing().is_empty());
    }

    #[test]
    fn the_best_is_available() {
        assert!(Isa::available().contains(&Isa::Portable));
        assert_eq!(Isa::available().last(), Some(&Isa::best()));
    }
}
