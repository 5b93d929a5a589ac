//! Fuzzes the safetensors reader: any bytes are read or refused, and what is read lies in the file.
#![no_main]

use std::hint::black_box;

use ferrum_models::safetensors::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| match parse(file) {
    Ok(header) => {
        let mut end = None;
        for tensor in &header.tensors {
            let elements: usize = tensor.shape.iter().product();
            assert_eq!(tensor.range.len(), elements * tensor.dtype.size());
            assert!(end.is_none_or(|end| end == tensor.range.start));
            end = Some(tensor.range.end);
            black_box(&file[tensor.range.clone()]);
        }
        assert!(end.is_none_or(|end| end == file.len()));
    }
    Err(error) => assert!(!error.to_string().contains('\n')),
});
