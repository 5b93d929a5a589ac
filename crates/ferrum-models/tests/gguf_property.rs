//! Property tests of GGUF: what the writer writes the reader reads back, and no mutation or
//! truncation of a file makes the reader panic.

use ferrum_kernels::Format;
use ferrum_models::gguf::{Array, GgufWriter, Header, ParseError, TensorInfo, Value, parse};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// A file's contents: metadata by key, and tensors with their bytes.
#[derive(Debug, Clone)]
struct Contents {
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, Format, Vec<usize>, Vec<u8>)>,
}

/// Text of one script or another, without the empty string where `least` is 1.
fn text(least: usize) -> impl Strategy<Value = String> {
    vec(prop_oneof![any::<char>(), prop::char::range('a', 'z')], least..8)
        .prop_map(|chars| chars.into_iter().collect())
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f32>().prop_map(Value::F32),
        any::<f64>().prop_map(Value::F64),
        any::<bool>().prop_map(Value::Bool),
        text(0).prop_map(Value::String),
    ]
}

fn array() -> impl Strategy<Value = Array> {
    prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(Array::U8),
        vec(any::<i8>(), 0..9).prop_map(Array::I8),
        vec(any::<u16>(), 0..9).prop_map(Array::U16),
        vec(any::<i16>(), 0..9).prop_map(Array::I16),
        vec(any::<u32>(), 0..9).prop_map(Array::U32),
        vec(any::<i32>(), 0..9).prop_map(Array::I32),
        vec(any::<u64>(), 0..9).prop_map(Array::U64),
        vec(any::<i64>(), 0..9).prop_map(Array::I64),
        vec(any::<f32>(), 0..9).prop_map(Array::F32),
        vec(any::<f64>(), 0..9).prop_map(Array::F64),
        vec(any::<bool>(), 0..9).prop_map(Array::Bool),
        vec(text(0), 0..9).prop_map(|texts| Array::String(texts.into_iter().collect())),
    ]
}

/// A format, dimensions that fit it, and as many bytes as it takes.
fn tensor() -> impl Strategy<Value = (Format, Vec<usize>, Vec<u8>)> {
    let of_gguf: Vec<Format> = Format::ALL.into_iter().filter(|f| *f != Format::Q4_Z).collect();
    (prop::sample::select(of_gguf), 1..4usize, vec(1..4usize, 0..4), any::<u8>()).prop_map(
        |(format, blocks, outer, fill)| {
            let rows: usize = outer.iter().product();
            let bytes = rows * blocks * format.block_bytes();
            let data = (0..bytes).map(|i| fill.wrapping_add(i as u8)).collect();
            let dims = [vec![blocks * format.block_len()], outer].concat();
            (format, dims, data)
        },
    )
}

fn contents() -> impl Strategy<Value = Contents> {
    let value = prop_oneof![scalar(), array().prop_map(Value::Array)];
    let metadata = btree_map(text(1), value, 0..8);
    let tensors = btree_map(text(1), tensor(), 0..6);
    (metadata, tensors).prop_map(|(metadata, tensors)| Contents {
        metadata: metadata.into_iter().filter(|(k, _)| k != "general.alignment").collect(),
        tensors: tensors.into_iter().map(|(n, (f, d, b))| (n, f, d, b)).collect(),
    })
}

fn file_of(contents: &Contents) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    for (key, value) in &contents.metadata {
        writer.set(key, value.clone()).unwrap();
    }
    for (name, format, dims, _) in &contents.tensors {
        writer.tensor(name, *format, dims).unwrap();
    }
    let mut out = writer.start(Vec::new()).unwrap();
    for (name, _, _, bytes) in &contents.tensors {
        // In two pieces, as a stream would come.
        let (head, tail) = bytes.split_at(bytes.len() / 3);
        out.write(name, head).unwrap();
        out.write(name, tail).unwrap();
    }
    out.finish().unwrap()
}

/// Reads a whole file as `Gguf::open` does.
fn read(file: &[u8]) -> Result<(Header, Vec<TensorInfo>), ParseError> {
    let header = parse(file)?;
    let tensors = header.layout(file.len())?;
    Ok((header, tensors))
}

/// Memory that a header holds on the heap, from below.
fn heap_bytes(header: &Header) -> usize {
    let value = |value: &Value| match value {
        Value::String(s) => s.capacity(),
        Value::Array(Array::String(a)) => a.heap_bytes(),
        Value::Array(a) => 8 * a.len(),
        _ => 0,
    };
    let metadata: usize = header
        .metadata
        .iter()
        .map(|(k, v)| 2 * k.len() + size_of::<(String, Value)>() + value(v))
        .sum();
    let tensors = header.tensors.iter().map(|t| t.name.capacity() + 8 * t.dims.capacity());
    metadata + tensors.sum::<usize>() + header.tensors.capacity() * 64
}

/// Whatever the bytes are: no panic, and on success tensors inside the file and modest memory.
fn survives(file: &[u8]) {
    if let Ok(header) = parse(file) {
        assert!(heap_bytes(&header) <= 16 * file.len() + 1024);
        if let Ok(tensors) = header.layout(file.len()) {
            for tensor in tensors {
                assert_eq!(file[tensor.range()].len(), tensor.bytes);
                assert_eq!(tensor.rows() * tensor.cols(), tensor.elements());
            }
        }
    }
}

/// Compares floats by their bits: a NaN equals itself.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::F32(a), Value::F32(b)) => a.to_bits() == b.to_bits(),
        (Value::F64(a), Value::F64(b)) => a.to_bits() == b.to_bits(),
        (Value::Array(Array::F32(a)), Value::Array(Array::F32(b))) => {
            a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits()))
        }
        (Value::Array(Array::F64(a)), Value::Array(Array::F64(b))) => {
            a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits()))
        }
        (a, b) => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(contents in contents()) {
        let file = file_of(&contents);
        let (header, tensors) = read(&file).unwrap();
        prop_assert_eq!(header.version, 3);
        prop_assert_eq!(header.metadata.len(), contents.metadata.len());
        for ((key, value), (want_key, want)) in header.metadata.iter().zip(&contents.metadata) {
            prop_assert_eq!(key, want_key);
            prop_assert!(same(value, want), "{:?} is not {:?}", value, want);
        }
        prop_assert_eq!(tensors.len(), contents.tensors.len());
        for (tensor, (name, format, dims, bytes)) in tensors.iter().zip(&contents.tensors) {
            prop_assert_eq!(&tensor.name, name);
            prop_assert_eq!(tensor.format, *format);
            prop_assert_eq!(&tensor.dims, dims);
            prop_assert_eq!(&file[tensor.range()], &bytes[..]);
        }
    }

    #[test]
    fn truncations_never_pass(contents in contents(), cut in any::<prop::sample::Index>()) {
        let file = file_of(&contents);
        let short = &file[..cut.index(file.len())];
        survives(short);
        // Padding at the very end may go; every byte of a tensor may not.
        let needed = read(&file).unwrap().1.last().map_or(0, |last| last.range().end);
        prop_assert!(short.len() >= needed || read(short).is_err());
    }

    #[test]
    fn mutations_never_panic(
        contents in contents(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..9),
    ) {
        let mut file = file_of(&contents);
        for (at, byte) in flips {
            let at = at.index(file.len());
            file[at] = byte;
        }
        survives(&file);
    }

    #[test]
    fn large_numbers_anywhere_never_panic(
        contents in contents(),
        at in any::<prop::sample::Index>(),
        shift in 0u32..64,
        less in 0u64..3,
    ) {
        let mut file = file_of(&contents);
        let at = at.index(file.len() - 7);
        let number = (u64::MAX >> shift).wrapping_sub(less);
        file[at..at + 8].copy_from_slice(&number.to_le_bytes());
        survives(&file);
    }

    #[test]
    fn splices_never_panic(a in contents(), b in contents(), i in any::<prop::sample::Index>(), j in any::<prop::sample::Index>()) {
        let (a, b) = (file_of(&a), file_of(&b));
        let spliced = [&a[..i.index(a.len())], &b[j.index(b.len())..]].concat();
        survives(&spliced);
    }

    #[test]
    fn noise_never_panics(noise in vec(any::<u8>(), 0..256)) {
        survives(&noise);
        survives(&[b"GGUF\x03\0\0\0", &noise[..]].concat());
    }
}
