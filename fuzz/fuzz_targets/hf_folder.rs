//! Fuzzes folders from Hugging Face: any `config.json` beside any safetensors file.
//!
//! The input is the two files, divided by a NUL byte. What is read of the model is asked for all that a
//! loader asks; an error of it is one line.
#![no_main]

use std::hint::black_box;
use std::path::PathBuf;
use std::{env, fs, process};

use ferrum_models::hf::Folder;
use ferrum_models::{Checkpoint, LoadOptions, arch, memory_estimate};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let at = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let (config, weights) = input.split_at(at);
    let folder = folder();
    fs::write(folder.join("config.json"), config).expect("a writable folder");
    fs::write(folder.join("model.safetensors"), weights.get(1..).unwrap_or_default())
        .expect("a writable folder");
    let model = match Folder::open(&folder) {
        Ok(model) => model,
        Err(error) => {
            assert!(!error.to_string().contains('\n'));
            return;
        }
    };
    for name in model.names() {
        black_box((model.find(name), model.name_in_file(name)));
        if let Ok(bytes) = model.read(name) {
            let tensor = model.require(name).expect("one of the names");
            let row = tensor.format.row_bytes(tensor.cols()).expect("whole blocks");
            assert_eq!(bytes.len(), row * tensor.rows());
            if let Some(columns) = tensor.columns {
                let mut sorted = columns.to_vec();
                sorted.sort_unstable();
                assert!(sorted.into_iter().eq(0..tensor.cols() as u32));
            }
        }
    }
    if let Err(error) = arch::spec(&model) {
        assert!(!error.to_string().contains('\n'));
    }
    let _ = black_box(memory_estimate(&model, &LoadOptions::default()));
});

/// The folder of this process.
fn folder() -> PathBuf {
    let folder = env::temp_dir().join(format!("ferrum-fuzz-{}", process::id()));
    fs::create_dir_all(&folder).expect("a writable folder");
    folder
}
