//! What a file's weights are quantised to: the names that llama.cpp gives to mixes of formats.

use std::fmt;

use ferrum_kernels::Format;

/// A mix of formats: most matrices have one, a few that matter more another (see [`super::mix`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, missing_docs, reason = "the names are those of llama.cpp")]
pub enum Quant {
    F32,
    F16,
    BF16,
    Q8_0,
    Q6_K,
    Q5_K_M,
    Q5_K_S,
    Q5_1,
    Q5_0,
    Q4_K_M,
    Q4_K_S,
    Q4_1,
    Q4_0,
    IQ4_NL,
    IQ4_XS,
    Q3_K_L,
    Q3_K_M,
    Q3_K_S,
    Q2_K,
}

impl Quant {
    /// Every mix, from the largest file to the smallest.
    pub const ALL: [Quant; 19] = [
        Quant::F32,
        Quant::F16,
        Quant::BF16,
        Quant::Q8_0,
        Quant::Q6_K,
        Quant::Q5_K_M,
        Quant::Q5_K_S,
        Quant::Q5_1,
        Quant::Q5_0,
        Quant::Q4_K_M,
        Quant::Q4_K_S,
        Quant::Q4_1,
        Quant::Q4_0,
        Quant::IQ4_NL,
        Quant::IQ4_XS,
        Quant::Q3_K_L,
        Quant::Q3_K_M,
        Quant::Q3_K_S,
        Quant::Q2_K,
    ];

    /// The mix of this name, in letters of any case. The names without an ending are the middle ones.
    pub fn by_name(name: &str) -> Option<Quant> {
        let is_it = |known: &str| known.eq_ignore_ascii_case(name);
        let named = |quant: &Quant| {
            is_it(quant.name()) || quant.name().strip_suffix("_m").is_some_and(is_it)
        };
        Quant::ALL.into_iter().find(named)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Quant::F32 => "f32",
            Quant::F16 => "f16",
            Quant::BF16 => "bf16",
            Quant::Q8_0 => "q8_0",
            Quant::Q6_K => "q6_k",
            Quant::Q5_K_M => "q5_k_m",
            Quant::Q5_K_S => "q5_k_s",
            Quant::Q5_1 => "q5_1",
            Quant::Q5_0 => "q5_0",
            Quant::Q4_K_M => "q4_k_m",
            Quant::Q4_K_S => "q4_k_s",
            Quant::Q4_1 => "q4_1",
            Quant::Q4_0 => "q4_0",
            Quant::IQ4_NL => "iq4_nl",
            Quant::IQ4_XS => "iq4_xs",
            Quant::Q3_K_L => "q3_k_l",
            Quant::Q3_K_M => "q3_k_m",
            Quant::Q3_K_S => "q3_k_s",
            Quant::Q2_K => "q2_k",
        }
    }

    /// The format of most matrices.
    pub fn format(self) -> Format {
        match self {
            Quant::F32 => Format::F32,
            Quant::F16 => Format::F16,
            Quant::BF16 => Format::BF16,
            Quant::Q8_0 => Format::Q8_0,
            Quant::Q6_K => Format::Q6_K,
            Quant::Q5_K_M | Quant::Q5_K_S => Format::Q5_K,
            Quant::Q5_1 => Format::Q5_1,
            Quant::Q5_0 => Format::Q5_0,
            Quant::Q4_K_M | Quant::Q4_K_S => Format::Q4_K,
            Quant::Q4_1 => Format::Q4_1,
            Quant::Q4_0 => Format::Q4_0,
            Quant::IQ4_NL => Format::IQ4_NL,
            Quant::IQ4_XS => Format::IQ4_XS,
            Quant::Q3_K_L | Quant::Q3_K_M | Quant::Q3_K_S => Format::Q3_K,
            Quant::Q2_K => Format::Q2_K,
        }
    }

    /// `general.file_type`: the number of llama.cpp's `enum llama_ftype` (`llama.h`).
    pub fn file_type(self) -> u32 {
        match self {
            Quant::F32 => 0,
            Quant::F16 => 1,
            Quant::Q4_0 => 2,
            Quant::Q4_1 => 3,
            Quant::Q8_0 => 7,
            Quant::Q5_0 => 8,
            Quant::Q5_1 => 9,
            Quant::Q2_K => 10,
            Quant::Q3_K_S => 11,
            Quant::Q3_K_M => 12,
            Quant::Q3_K_L => 13,
            Quant::Q4_K_S => 14,
            Quant::Q4_K_M => 15,
            Quant::Q5_K_S => 16,
            Quant::Q5_K_M => 17,
            Quant::Q6_K => 18,
            Quant::IQ4_NL => 25,
            Quant::IQ4_XS => 30,
            Quant::BF16 => 32,
        }
    }
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
