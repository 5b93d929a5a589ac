//! GGUF on disk: opening, split models, giving pages back, and the writer's own refusals.

use std::fs;
use std::path::{Path, PathBuf};

use ferrum_kernels::Format;
use ferrum_models::gguf::{
    Gguf, GgufError, GgufWriter, ParseError, Value, WriteError, read_header,
};

/// An empty folder of its own for each test.
fn folder(test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gguf_files").join(test);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// A file of `f32` vectors with the metadata `meta`.
fn write(path: &Path, meta: &[(&str, Value)], tensors: &[(&str, &[f32])]) {
    let mut writer = GgufWriter::new();
    for (key, value) in meta {
        writer.set(key, value.clone()).unwrap();
    }
    for (name, values) in tensors {
        writer.tensor(name, Format::F32, &[values.len()]).unwrap();
    }
    let mut out = writer.start(fs::File::create(path).unwrap()).unwrap();
    for (name, values) in tensors {
        out.write(name, &floats(values)).unwrap();
    }
    out.finish().unwrap();
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn split_meta(no: u16, count: u16, tensors: i32) -> Vec<(&'static str, Value)> {
    vec![
        ("split.no", no.into()),
        ("split.count", count.into()),
        ("split.tensors.count", tensors.into()),
    ]
}

/// A good split model of three parts and four tensors; the paths of its parts.
fn three_parts(folder: &Path) -> Vec<PathBuf> {
    let tensors: [&[(&str, &[f32])]; 3] =
        [&[("a", &[1.0, 2.0])], &[("b", &[3.0; 9]), ("c", &[4.0])], &[("d", &[5.0])]];
    (0..3u16)
        .map(|no| {
            let path = folder.join(format!("m-{:05}-of-00003.gguf", no + 1));
            let mut meta = split_meta(no, 3, 4);
            if no == 0 {
                meta.push(("general.name", "first".into()));
            }
            write(&path, &meta, tensors[usize::from(no)]);
            path
        })
        .collect()
}

#[test]
fn one_file() {
    let path = folder("one_file").join("m.gguf");
    write(&path, &[("general.name", "x".into())], &[("a", &[1.0, 2.0]), ("b", &[3.0; 100])]);
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.file_bytes(), fs::metadata(&path).unwrap().len());
    assert_eq!(gguf.metadata().need_str("general.name").unwrap(), "x");
    assert_eq!(gguf.tensors().len(), 2);
    let a = gguf.require("a").unwrap();
    assert_eq!((a.cols(), a.rows(), a.elements(), a.bytes), (2, 1, 2, 8));
    assert_eq!(gguf.data(a), floats(&[1.0, 2.0]));
    assert!(gguf.tensor("c").is_none());
    let missing = gguf.require("c").unwrap_err().to_string();
    assert_eq!(missing, "the model has no tensor \"c\"");
}

#[test]
fn released_pages_can_be_read_again() {
    let path = folder("release").join("m.gguf");
    let values: Vec<f32> = (0..100_000).map(|i| i as f32).collect();
    write(&path, &[], &[("a", &[1.0; 3]), ("b", &values), ("c", &[2.0; 3])]);
    let gguf = Gguf::open(&path).unwrap();
    for _ in 0..2 {
        for (name, want) in [("a", &[1.0; 3][..]), ("b", &values), ("c", &[2.0; 3])] {
            let tensor = gguf.require(name).unwrap();
            assert_eq!(gguf.data(tensor), floats(want));
            gguf.release(tensor, 0..4 * values.len());
            assert_eq!(gguf.data(tensor), floats(want));
        }
    }
}

#[test]
fn errors_name_the_path() {
    let folder = folder("errors");
    let absent = folder.join("absent.gguf");
    assert!(matches!(Gguf::open(&absent), Err(GgufError::Io { path, .. }) if path == absent));
    assert!(matches!(Gguf::open(&folder), Err(GgufError::NotAFile { path }) if path == folder));
    for (name, bytes) in [("empty", &b""[..]), ("text", b"hello, world"), ("short", b"GGUF\x03")] {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        let message = Gguf::open(&path).unwrap_err().to_string();
        assert!(message.starts_with(&path.display().to_string()), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn unsupported_types_can_still_be_listed() {
    let path = folder("unsupported").join("m.gguf");
    write(&path, &[], &[("a", &[1.0; 8])]);
    let mut bytes = fs::read(&path).unwrap();
    // The type id follows magic, version, two counts, the name, and one dimension.
    let at = 4 + 4 + 8 + 8 + (8 + 1) + 4 + 8;
    bytes[at..at + 4].copy_from_slice(&16u32.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let refused = Gguf::open(&path).unwrap_err();
    assert!(matches!(refused, GgufError::Parse { reason: ParseError::TensorType { .. }, .. }));
    let header = read_header(&path).unwrap();
    assert_eq!(header.tensors[0].type_name(), "IQ2_XXS");
    assert_eq!(header.tensors[0].elements(), 8);
}

#[test]
fn split_models_open_from_any_part() {
    let paths = three_parts(&folder("split"));
    let bytes: u64 = paths.iter().map(|p| fs::metadata(p).unwrap().len()).sum();
    for path in &paths {
        let gguf = Gguf::open(path).unwrap();
        let names: Vec<&str> = gguf.tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        assert_eq!(gguf.file_bytes(), bytes);
        assert_eq!(gguf.metadata().need_str("general.name").unwrap(), "first");
        assert_eq!(gguf.data(gguf.require("b").unwrap()), floats(&[3.0; 9]));
        assert_eq!(gguf.data(gguf.require("d").unwrap()), floats(&[5.0]));
    }
}

#[test]
fn split_parts_must_be_there() {
    let paths = three_parts(&folder("missing"));
    fs::remove_file(&paths[1]).unwrap();
    let missing = Gguf::open(&paths[0]).unwrap_err();
    assert!(
        matches!(&missing, GgufError::SplitMissing { path, no: 1, count: 3 } if *path == paths[1])
    );
    assert!(missing.to_string().contains("m-00002-of-00003.gguf"), "{missing}");
}

#[test]
fn split_names_must_fit() {
    let folder = folder("names");
    let paths = three_parts(&folder);
    for name in ["m.gguf", "m-00002-of-00003.gguf.gguf", "m-00001-of-00004.gguf", "m-1-of-3.gguf"] {
        let renamed = folder.join(name);
        fs::copy(&paths[0], &renamed).unwrap();
        let error = Gguf::open(&renamed).unwrap_err();
        assert!(matches!(error, GgufError::SplitName { .. }), "{name}: {error}");
        fs::remove_file(&renamed).unwrap();
    }
}

#[test]
fn split_parts_must_agree() {
    let paths = three_parts(&folder("agree"));
    let good = fs::read(&paths[1]).unwrap();
    for (meta, key) in [
        (vec![], "split.count"),
        (split_meta(1, 4, 4), "split.count"),
        (split_meta(2, 3, 4), "split.no"),
        (split_meta(7, 3, 4), "split.no"),
        (split_meta(1, 3, 5), "split.tensors.count"),
    ] {
        write(&paths[1], &meta, &[("b", &[0.0]), ("c", &[0.0])]);
        match Gguf::open(&paths[0]) {
            Err(GgufError::SplitMismatch { path, key: found, .. }) => {
                assert_eq!((path, found), (paths[1].clone(), key));
            }
            other => panic!("{other:?}"),
        }
    }
    // The same keys, but another number of tensors.
    write(&paths[1], &split_meta(1, 3, 4), &[("b", &[0.0])]);
    let few = Gguf::open(&paths[0]).unwrap_err();
    assert!(matches!(few, GgufError::SplitTensors { found: 3, expected: 4, .. }), "{few}");
    // A number beyond the count, in the very part that is opened.
    write(&paths[1], &split_meta(3, 3, 4), &[]);
    let beyond = Gguf::open(&paths[1]).unwrap_err();
    assert!(matches!(beyond, GgufError::SplitMismatch { key: "split.no", .. }), "{beyond}");
    // A tensor that an earlier part has.
    write(&paths[1], &split_meta(1, 3, 4), &[("b", &[0.0]), ("a", &[0.0])]);
    match Gguf::open(&paths[2]) {
        Err(GgufError::SplitDuplicate { name, first, second }) => {
            assert_eq!((name.as_str(), first, second), ("a", paths[0].clone(), paths[1].clone()));
        }
        other => panic!("{other:?}"),
    }
    fs::write(&paths[1], good).unwrap();
    assert!(Gguf::open(&paths[0]).is_ok());
}

#[test]
fn split_keys_must_be_there() {
    let path = folder("keys").join("m-00001-of-00002.gguf");
    write(&path, &[("split.count", 2u16.into())], &[]);
    let error = Gguf::open(&path).unwrap_err();
    assert!(matches!(error, GgufError::MissingKey { key } if key == "split.no"));
    write(&path, &[("split.count", "2".into())], &[]);
    assert!(matches!(Gguf::open(&path), Err(GgufError::WrongType { .. })));
    // A count of one is a model of one file, whatever it is called.
    write(&path, &[("split.count", 1u16.into())], &[]);
    assert!(Gguf::open(&path).is_ok());
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let mut w = GgufWriter::new();
    w.set("k", 1u32).unwrap();
    assert!(matches!(w.set("k", 2u32), Err(WriteError::DuplicateKey { .. })));
    assert!(matches!(w.set("general.alignment", 64u32), Err(WriteError::Alignment)));
    for (key, name) in [(0, 0), (65_536, 65)] {
        assert!(matches!(w.set(&"k".repeat(key), 0u32), Err(WriteError::Name { .. })));
        let named = w.tensor(&"t".repeat(name), Format::F32, &[1]);
        assert!(matches!(named, Err(WriteError::Name { .. })));
    }
    w.tensor("t", Format::F32, &[3]).unwrap();
    assert!(matches!(w.tensor("t", Format::F32, &[3]), Err(WriteError::DuplicateTensor { .. })));
    for (format, dims) in [
        (Format::F32, &[][..]),
        (Format::F32, &[0]),
        (Format::F32, &[4, 0]),
        (Format::F32, &[1, 1, 1, 1, 1]),
        (Format::Q4_0, &[31]),
        (Format::Q4_K, &[128]),
        (Format::F32, &[usize::MAX / 4, 8]),
    ] {
        let bad = w.tensor("bad", format, dims);
        assert!(matches!(bad, Err(WriteError::Dimensions { .. })), "{format} {dims:?}");
    }
}

#[test]
fn the_writer_holds_to_its_declarations() {
    let start = || {
        let mut w = GgufWriter::new();
        w.tensor("a", Format::F32, &[2]).unwrap();
        w.tensor("b", Format::F16, &[1]).unwrap();
        w.start(Vec::new()).unwrap()
    };
    let mut out = start();
    assert!(matches!(out.write("b", &[0; 2]), Err(WriteError::Order { .. })));
    assert!(matches!(out.write("a", &[0; 9]), Err(WriteError::TooLong { left: 8, .. })));
    out.write("a", &[0; 3]).unwrap();
    assert!(matches!(out.write("a", &[0; 6]), Err(WriteError::TooLong { left: 5, .. })));
    out.write("a", &[0; 5]).unwrap();
    assert!(matches!(out.write("a", &[0; 1]), Err(WriteError::Order { .. })));
    out.write("b", &[0; 2]).unwrap();
    assert!(matches!(out.write("b", &[0; 1]), Err(WriteError::Order { .. })));
    assert_eq!(out.finish().unwrap().len() % 32, 0);

    let mut out = start();
    out.write("a", &[0; 3]).unwrap();
    assert!(matches!(out.finish(), Err(WriteError::Incomplete { left: 5, .. })));
}
