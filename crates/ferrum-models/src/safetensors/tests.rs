//! Unit tests of the safetensors reader: one hand-made file for each refusal.

use super::*;
use proptest::prelude::*;

/// A file with this header and so many bytes of data.
fn file(json: &str, data: usize) -> Vec<u8> {
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json.as_bytes());
    out.resize(out.len() + data, 0);
    out
}

fn tensor(name: &str, dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
}

fn error(json: &str, data: usize) -> ParseError {
    parse(&file(json, data)).unwrap_err()
}

/// The error of a file with one tensor.
fn error_of(tensor: &str, data: usize) -> ParseError {
    error(&format!("{{{tensor}}}"), data)
}

#[test]
fn tensors_are_read_in_the_order_of_their_bytes() {
    let json = format!(
        r#"{{"__metadata__":{{"format":"pt"}},{},{},{},{}}}  "#,
        tensor("b", "F16", "[2,3]", "[8,20]"),
        tensor("a", "F32", "[2]", "[0,8]"),
        tensor("none", "I64", "[0,7]", "[20,20]"),
        tensor("one", "BOOL", "[]", "[20,21]"),
    );
    let header = parse(&file(&json, 21)).unwrap();
    let start = 8 + json.len();
    let got: Vec<_> =
        header.tensors.iter().map(|t| (t.name.as_str(), t.range.start - start)).collect();
    assert_eq!(got, [("a", 0), ("b", 8), ("none", 20), ("one", 20)]);
    assert_eq!(header.tensors[1].shape, [2, 3]);
    assert_eq!(header.tensors[1].dtype, Dtype::F16);
    assert!(parse(&file("{}", 0)).unwrap().tensors.is_empty());
}

#[test]
fn headers_that_are_none() {
    use ParseError as E;
    assert_eq!(parse(b"1234567"), Err(E::Short { len: 7 }));
    assert_eq!(parse(&9u64.to_le_bytes()), Err(E::Truncated { len: 9, left: 0 }));
    assert_eq!(parse(&[0xff; 8]), Err(E::HeaderTooLong { len: u64::MAX }));
    assert_eq!(error(" {}", 0), E::Start);
    assert_eq!(error("", 0), E::Start);
    assert_eq!(error("[]", 0), E::Start);
    for json in [
        "{",
        "{}x",
        r#"{"a":1}"#,
        r#"{"a":null}"#,
        r#"{"a":{"dtype":"F32","shape":[1]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}}"#,
        r#"{"__metadata__":{"a":{}}}"#,
        r#"{"__metadata__":[]}"#,
        "{\"\\ud800\":1}",
    ] {
        assert!(matches!(error(json, 4), E::Json { .. }), "{json}");
    }
    // Nested deeper than a stack holds.
    let deep = format!("{{\"a\":{}", "[".repeat(1 << 20));
    assert!(matches!(error(&deep, 0), E::Json { .. }));
    let message = error("{\"\x1b[31m\n", 0).to_string();
    assert!(!message.contains(['\n', '\x1b']), "{message}");
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    use ParseError as E;
    let f32s = |shape: &str, offsets: &str| tensor("a", "F32", shape, offsets);
    assert!(matches!(error_of(&f32s("[2]", "[0,7]"), 7), E::Size { expected: 8, .. }));
    assert!(matches!(error_of(&f32s("[2]", "[8,0]"), 8), E::Size { .. }));
    assert!(matches!(error_of(&f32s("[2]", "[0,8]"), 7), E::Beyond { end: 8, len: 7, .. }));
    assert!(matches!(error_of(&f32s("[2]", "[0,18446744073709551615]"), 8), E::Beyond { .. }));
    assert!(matches!(error_of(&f32s("[2]", "[1,9]"), 9), E::NotContiguous { begin: 1, .. }));
    assert!(matches!(error_of(&f32s("[2]", "[0,8]"), 9), E::Trailing { end: 8, len: 9 }));
    for shape in [
        "[18446744073709551615]",
        "[4294967296,4294967296]",
        "[4611686018427387904]",
        "[0,4294967296,4294967296]",
    ] {
        assert!(matches!(error_of(&f32s(shape, "[0,0]"), 0), E::Overflow { .. }), "{shape}");
    }
    let rank9 = f32s("[1,1,1,1,1,1,1,1,1]", "[0,4]");
    assert!(matches!(error_of(&rank9, 4), E::Rank { rank: 9, .. }));
    let odd = tensor("a", "F4", "[1]", "[0,1]");
    assert!(matches!(error_of(&odd, 1), E::Dtype { dtype, .. } if dtype == "F4"));
    assert!(matches!(error_of(&tensor("", "U8", "[1]", "[0,1]"), 1), E::NameLength { len: 0 }));
    let long = tensor(&"x".repeat(513), "U8", "[1]", "[0,1]");
    assert!(matches!(error_of(&long, 1), E::NameLength { len: 513 }));
}

#[test]
fn gaps_overlaps_and_double_names_are_refused() {
    use ParseError as E;
    let two = |a: &str, b: &str, second: &str| {
        let (a, b) = (tensor("a", "U8", "[4]", a), tensor(second, "U8", "[4]", b));
        parse(&file(&format!("{{{a},{b}}}"), 8))
    };
    assert!(two("[0,4]", "[4,8]", "b").is_ok());
    assert!(two("[4,8]", "[0,4]", "b").is_ok());
    assert!(matches!(
        two("[0,4]", "[3,7]", "b"),
        Err(E::NotContiguous { begin: 3, before: 4, .. })
    ));
    assert!(matches!(two("[0,4]", "[0,4]", "b"), Err(E::NotContiguous { .. })));
    assert!(matches!(two("[0,4]", "[4,8]", "a"), Err(E::Duplicate { name }) if name == "a"));
    let json = r#"{"__metadata__":{},"__metadata__":{}}"#;
    assert!(matches!(error(json, 0), E::Duplicate { .. }));
}

proptest! {
    /// Any bytes are refused or read, and what is read lies inside the file.
    #[test]
    fn any_bytes_are_survived(bytes: Vec<u8>, cut: prop::sample::Index, at: prop::sample::Index, byte: u8) {
        let _ = parse(&bytes);
        let json = format!("{{{},{}}}", tensor("a", "F32", "[1,2]", "[0,8]"), tensor("b", "I8", "[3]", "[8,11]"));
        let whole = file(&json, 11);
        let _ = parse(&whole[..cut.index(whole.len())]);
        let mut changed = whole.clone();
        changed[at.index(whole.len())] = byte;
        if let Ok(header) = parse(&changed) {
            for tensor in header.tensors {
                prop_assert!(changed.get(tensor.range).is_some());
            }
        }
    }
}
