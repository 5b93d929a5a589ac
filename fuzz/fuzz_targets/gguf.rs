//! Fuzzes the GGUF reader: any bytes are parsed, laid out, and asked for everything they hold.
#![no_main]

use std::hint::black_box;

use ferrum_models::gguf::{GgufError, Metadata, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let header = match parse(file) {
        Ok(header) => header,
        Err(error) => {
            assert!(!error.to_string().contains('\n'));
            return;
        }
    };
    ask(&header.metadata);
    for tensor in &header.tensors {
        black_box((tensor.format(), tensor.type_name(), tensor.elements()));
    }
    let Ok(tensors) = header.layout(file.len()) else { return };
    for tensor in &tensors {
        let data = &file[tensor.range()];
        assert_eq!(data.len(), tensor.bytes);
        assert_eq!(tensor.rows() * tensor.cols(), tensor.elements());
        black_box((data.first(), data.last()));
    }
});

/// Calls every getter with every key.
fn ask(metadata: &Metadata) {
    for (key, value) in metadata.iter() {
        assert_eq!(metadata.get(key).map(|v| v.value_type()), Some(value.value_type()));
        one_line(metadata.u32(key));
        one_line(metadata.u64(key));
        one_line(metadata.f32(key));
        one_line(metadata.bool(key));
        one_line(metadata.str(key));
        one_line(metadata.str_array(key));
        one_line(metadata.f32_array(key));
        one_line(metadata.i32_array(key));
        one_line(metadata.u32_array(key));
        one_line(metadata.bool_array(key));
    }
}

/// An error of a getter is one line, whatever the key.
fn one_line<T>(got: Result<Option<T>, GgufError>) {
    match black_box(got) {
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
}
