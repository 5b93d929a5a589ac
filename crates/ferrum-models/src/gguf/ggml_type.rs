//! Tensor type ids of ggml: which are a [`Format`], and what the others are called.
//!
//! Ids are those of `enum ggml_type` in ggml's `ggml.h`; ids of removed types keep their names so
//! that an old file is refused by name.

use ferrum_kernels::Format;

/// The format of type id `id`, where Ferrum supports it.
pub(super) fn format(id: u32) -> Option<Format> {
    Format::ALL.into_iter().find(|f| type_id(*f) == Some(id))
}

/// The type id of `format`, where GGUF has it.
pub(super) fn type_id(format: Format) -> Option<u32> {
    Some(match format {
        Format::F32 => 0,
        Format::F16 => 1,
        Format::Q4_0 => 2,
        Format::Q4_1 => 3,
        Format::Q5_0 => 6,
        Format::Q5_1 => 7,
        Format::Q8_0 => 8,
        Format::Q2_K => 10,
        Format::Q3_K => 11,
        Format::Q4_K => 12,
        Format::Q5_K => 13,
        Format::Q6_K => 14,
        Format::IQ4_NL => 20,
        Format::IQ4_XS => 23,
        Format::BF16 => 30,
        Format::MXFP4 => 39,
        Format::Q4_Z | Format::F8_E4M3 => return None,
    })
}

/// The name of type id `id`: of any type that ggml has or had, else the number.
pub(super) fn name(id: u32) -> String {
    let name = match id {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        34 => "TQ1_0",
        35 => "TQ2_0",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        40 => "NVFP4",
        41 => "Q1_0",
        _ => {
            return match format(id) {
                Some(f) => f.to_string(),
                None => format!("{id} (unknown)"),
            };
        }
    };
    name.to_string()
}
