//! Unit tests of the GGUF reader: one hand-made file for each refusal.
//!
//! The bytes come from [`File`] below, not from the writer, so that an error common to reader and
//! writer cannot hide.

use super::*;
use ferrum_kernels::Format;

/// A GGUF file in the making: entries and tensors as raw bytes, counts that can be falsified.
#[derive(Clone)]
struct File {
    version: u32,
    entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    entry_count: Option<u64>,
    tensor_count: Option<u64>,
    data: usize,
}

fn file() -> File {
    File {
        version: 3,
        entries: vec![],
        tensors: vec![],
        entry_count: None,
        tensor_count: None,
        data: 0,
    }
}

impl File {
    fn entry(mut self, key: &[u8], type_id: u32, value: &[u8]) -> Self {
        self.entries.push([&string(key), &type_id.to_le_bytes()[..], value].concat());
        self
    }

    fn tensor(mut self, name: &[u8], dims: &[u64], type_id: u32, offset: u64) -> Self {
        let mut t = [&string(name), &(dims.len() as u32).to_le_bytes()[..]].concat();
        dims.iter().for_each(|d| t.extend(d.to_le_bytes()));
        t.extend(type_id.to_le_bytes());
        t.extend(offset.to_le_bytes());
        self.tensors.push(t);
        self
    }

    /// Zero bytes after the header.
    fn data(mut self, bytes: usize) -> Self {
        self.data = bytes;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        out.extend(self.entries.concat());
        out.extend(self.tensors.concat());
        out.resize(out.len().next_multiple_of(32) + self.data, 0);
        out
    }

    fn parse(&self) -> Result<Header, ParseError> {
        parse(&self.bytes())
    }

    fn parse_error(&self) -> ParseError {
        let error = self.parse().expect_err("the file is malformed");
        assert!(!error.to_string().contains('\n'), "one line: {error}");
        error
    }

    fn layout(&self) -> Result<Vec<TensorInfo>, ParseError> {
        let bytes = self.bytes();
        parse(&bytes)?.layout(bytes.len())
    }
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

/// The value bytes of an array: element type, count, elements.
fn array(element: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&element.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

#[test]
fn every_scalar_type() {
    let header = file()
        .entry(b"u8", 0, &[200])
        .entry(b"i8", 1, &[200])
        .entry(b"u16", 2, &[1, 2])
        .entry(b"i16", 3, &[0xff, 0xff])
        .entry(b"u32", 4, &[1, 2, 3, 4])
        .entry(b"i32", 5, &[0xfe, 0xff, 0xff, 0xff])
        .entry(b"f32", 6, &1.5f32.to_le_bytes())
        .entry(b"bool", 7, &[1])
        .entry(b"string", 8, &string("é\n".as_bytes()))
        .entry(b"u64", 10, &[1, 0, 0, 0, 0, 0, 0, 0x80])
        .entry(b"i64", 11, &[0xff; 8])
        .entry(b"f64", 12, &(-2.5f64).to_le_bytes())
        .parse()
        .unwrap();
    let expected = [
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-56)),
        ("u16", Value::U16(513)),
        ("i16", Value::I16(-1)),
        ("u32", Value::U32(0x0403_0201)),
        ("i32", Value::I32(-2)),
        ("f32", Value::F32(1.5)),
        ("bool", Value::Bool(true)),
        ("string", Value::String("é\n".into())),
        ("u64", Value::U64((1 << 63) + 1)),
        ("i64", Value::I64(-1)),
        ("f64", Value::F64(-2.5)),
    ];
    assert_eq!(header.metadata.len(), expected.len());
    for ((key, value), (name, want)) in header.metadata.iter().zip(&expected) {
        assert_eq!((key, value), (*name, want));
        assert_eq!(header.metadata.get(name), Some(want));
    }
}

#[test]
fn every_array_type() {
    let ones = [1u8; 16];
    let header = file()
        .entry(b"u8", 9, &array(0, 2, &ones[..2]))
        .entry(b"i8", 9, &array(1, 2, &ones[..2]))
        .entry(b"u16", 9, &array(2, 2, &ones[..4]))
        .entry(b"i16", 9, &array(3, 2, &ones[..4]))
        .entry(b"u32", 9, &array(4, 2, &ones[..8]))
        .entry(b"i32", 9, &array(5, 2, &ones[..8]))
        .entry(b"f32", 9, &array(6, 1, &2.0f32.to_le_bytes()))
        .entry(b"bool", 9, &array(7, 2, &[1, 0]))
        .entry(b"string", 9, &array(8, 2, &[string(b""), string(b"ab")].concat()))
        .entry(b"u64", 9, &array(10, 2, &ones))
        .entry(b"i64", 9, &array(11, 2, &ones))
        .entry(b"f64", 9, &array(12, 1, &3.0f64.to_le_bytes()))
        .entry(b"none", 9, &array(12, 0, &[]))
        .parse()
        .unwrap();
    let expected = [
        Array::U8(vec![1; 2]),
        Array::I8(vec![1; 2]),
        Array::U16(vec![0x0101; 2]),
        Array::I16(vec![0x0101; 2]),
        Array::U32(vec![0x0101_0101; 2]),
        Array::I32(vec![0x0101_0101; 2]),
        Array::F32(vec![2.0]),
        Array::Bool(vec![true, false]),
        Array::String(["", "ab"].into_iter().collect()),
        Array::U64(vec![0x0101_0101_0101_0101; 2]),
        Array::I64(vec![0x0101_0101_0101_0101; 2]),
        Array::F64(vec![3.0]),
        Array::F64(vec![]),
    ];
    let found: Vec<&Value> = header.metadata.iter().map(|(_, v)| v).collect();
    assert_eq!(
        found,
        expected.into_iter().map(Value::Array).collect::<Vec<_>>().iter().collect::<Vec<_>>()
    );
}

#[test]
fn magic_and_version() {
    assert_eq!(parse(b""), Err(ParseError::Magic));
    assert_eq!(parse(b"GGU"), Err(ParseError::Magic));
    assert_eq!(parse(b"ggml\x03\0\0\0"), Err(ParseError::Magic));
    assert!(matches!(parse(b"GGUF\x03\0\0"), Err(ParseError::Truncated { need: 4, left: 3, .. })));
    for version in [2, 3] {
        assert_eq!(File { version, ..file() }.parse().unwrap().version, version);
    }
    for version in [0, 1, 4, u32::MAX] {
        assert_eq!(File { version, ..file() }.parse_error(), ParseError::Version(version));
    }
    for version in [1u32, 2, 3] {
        let swapped = version.swap_bytes();
        assert_eq!(File { version: swapped, ..file() }.parse_error(), ParseError::BigEndian);
    }
}

#[test]
fn counts_beyond_the_file() {
    let few = file().entry(b"k", 0, &[1]);
    for count in [2, 100, MAX_ENTRIES] {
        let bad = File { entry_count: Some(count), ..few.clone() }.parse_error();
        assert!(matches!(bad, ParseError::Count { .. } | ParseError::NameLength { .. }), "{bad}");
    }
    for count in [MAX_ENTRIES + 1, u64::MAX] {
        let bad = File { entry_count: Some(count), ..few.clone() }.parse_error();
        assert_eq!(bad, ParseError::TooMany { what: "metadata entries", count });
        let bad = File { tensor_count: Some(count), ..few.clone() }.parse_error();
        assert_eq!(bad, ParseError::TooMany { what: "tensors", count });
    }
    let bad = File { tensor_count: Some(1000), ..few }.parse_error();
    assert!(matches!(bad, ParseError::Count { what: "tensors", count: 1000, .. }), "{bad}");
}

#[test]
fn array_lengths_beyond_the_file() {
    for element in (0..=12).filter(|e| *e != 9) {
        for count in [1 << 20, 1 << 40, u64::MAX / 8 + 2, u64::MAX] {
            let bad = file().entry(b"a", 9, &array(element, count, &[0; 64])).parse_error();
            assert!(matches!(bad, ParseError::Count { count: c, .. } if c == count), "{bad}");
        }
    }
}

#[test]
fn string_lengths_beyond_the_file() {
    for len in [1u64 << 20, 1 << 62, u64::MAX] {
        let bad = file().entry(b"s", 8, &len.to_le_bytes()).parse_error();
        assert!(matches!(bad, ParseError::Truncated { need, .. } if need == len), "{bad}");
    }
}

#[test]
fn names() {
    let bad = file().entry(b"", 0, &[1]).parse_error();
    assert!(matches!(bad, ParseError::NameLength { what: "metadata key", len: 0, .. }), "{bad}");
    let bad = file().entry(&[b'k'; 65536], 0, &[1]).parse_error();
    assert!(matches!(bad, ParseError::NameLength { len: 65536, .. }), "{bad}");
    assert!(file().entry(&[b'k'; 65535], 0, &[1]).parse().is_ok());
    for (len, ok) in [(0, false), (1, true), (64, true), (65, false)] {
        let parsed = file().tensor(&vec![b't'; len], &[4], 0, 0).parse();
        match parsed {
            Ok(_) => assert!(ok),
            Err(e) => assert!(!ok && matches!(e, ParseError::NameLength { .. }), "{e}"),
        }
    }
}

#[test]
fn invalid_utf8() {
    let utf8 =
        |what| move |e: &ParseError| matches!(e, ParseError::Utf8 { what: w, .. } if *w == what);
    assert!(utf8("metadata key")(&file().entry(b"\xff", 0, &[1]).parse_error()));
    assert!(utf8("tensor name")(&file().tensor(b"a\x80", &[4], 0, 0).parse_error()));
    assert!(utf8("a metadata string")(&file().entry(b"k", 8, &string(b"\xc3")).parse_error()));
    let strings = array(8, 1, &string(b"\xed\xa0\x80"));
    assert!(utf8("an array string")(&file().entry(b"k", 9, &strings).parse_error()));
}

#[test]
fn value_types() {
    for id in [13, 255, u32::MAX] {
        let want = ParseError::ValueType { key: "k".into(), id };
        assert_eq!(file().entry(b"k", id, &[0; 16]).parse_error(), want);
        assert_eq!(file().entry(b"k", 9, &array(id, 1, &[0; 16])).parse_error(), want);
    }
    let nested = array(9, 1, &array(0, 1, &[1]));
    let want = ParseError::RecursiveArray { key: "k".into() };
    assert_eq!(file().entry(b"k", 9, &nested).parse_error(), want);
    let want = ParseError::Bool { key: "k".into(), byte: 2 };
    assert_eq!(file().entry(b"k", 7, &[2]).parse_error(), want);
    assert_eq!(file().entry(b"k", 9, &array(7, 3, &[0, 1, 2])).parse_error(), want);
}

#[test]
fn duplicates() {
    let bad = file().entry(b"k", 0, &[1]).entry(b"l", 0, &[1]).entry(b"k", 7, &[1]).parse_error();
    assert_eq!(bad, ParseError::DuplicateKey { key: "k".into() });
    let bad = file().tensor(b"t", &[4], 0, 0).tensor(b"t", &[4], 0, 32).parse_error();
    assert_eq!(bad, ParseError::DuplicateTensor { name: "t".into() });
}

#[test]
fn alignment_is_a_power_of_two() {
    let with = |a: u32| file().entry(b"general.alignment", 4, &a.to_le_bytes());
    for good in [1, 2, 32, 4096, 1 << 31] {
        let header = with(good).parse().unwrap();
        assert_eq!(header.alignment, u64::from(good));
        assert_eq!(header.data_start % u64::from(good), 0);
    }
    for bad in [0, 3, 24, 33, u32::MAX] {
        let want = ParseError::Alignment { found: bad.to_string() };
        assert_eq!(with(bad).parse_error(), want);
    }
    let bad = file().entry(b"general.alignment", 8, &string(b"32")).parse_error();
    assert_eq!(bad, ParseError::Alignment { found: "string".into() });
}

#[test]
fn dimensions() {
    for count in [0usize, 5, 6] {
        let bad = file().tensor(b"t", &vec![1; count], 0, 0).parse_error();
        assert_eq!(bad, ParseError::DimensionCount { name: "t".into(), count: count as u32 });
    }
    for axis in 0..4 {
        let mut dims = [4u64; 4];
        dims[axis] = 0;
        let bad = file().tensor(b"t", &dims, 0, 0).parse_error();
        assert_eq!(bad, ParseError::ZeroDimension { name: "t".into(), axis });
    }
    let bad = file().tensor(b"t", &[1 << 32, 1 << 32], 0, 0).parse_error();
    assert!(matches!(bad, ParseError::Overflow { .. }), "{bad}");
    // The values fit 64 bits, their bytes do not.
    let bad = file().tensor(b"t", &[1 << 32, 1 << 31], 0, 0).layout().unwrap_err();
    assert!(matches!(bad, ParseError::Overflow { .. }), "{bad}");
}

#[test]
fn tensor_types_are_refused_by_name() {
    let message = |id| file().tensor(b"blk.0.ffn_up.weight", &[256], id, 0).layout().unwrap_err();
    assert_eq!(
        message(16).to_string(),
        "tensor \"blk.0.ffn_up.weight\" has type IQ2_XXS, which Ferrum does not support"
    );
    assert!(message(777).to_string().contains("type 777 (unknown)"));
    // The parse layer still shows them.
    let header = file().tensor(b"t", &[256], 29, 0).parse().unwrap();
    assert_eq!(header.tensors[0].type_name(), "IQ1_M");
    assert_eq!(header.tensors[0].format(), None);
}

#[test]
fn every_format_has_one_id() {
    for format in Format::ALL {
        // Ferrum's own have none.
        let Some(id) = ggml_type::type_id(format) else { continue };
        assert_eq!(ggml_type::format(id), Some(format));
        assert_eq!(ggml_type::name(id), format.to_string());
        let cols = 2 * format.block_len() as u64;
        let tensors = file().tensor(b"t", &[cols, 3], id, 0).data(4096).layout().unwrap();
        assert_eq!(tensors[0].format, format);
        assert_eq!(tensors[0].bytes, 6 * format.block_bytes());
        assert_eq!((tensors[0].cols() as u64, tensors[0].rows()), (cols, 3));
    }
}

#[test]
fn whole_blocks_only() {
    for format in Format::ALL.into_iter().filter(|f| f.block_len() > 1) {
        let Some(id) = ggml_type::type_id(format) else { continue };
        for cols in [1, format.block_len() / 2, format.block_len() * 3 - 1] {
            let bad = file().tensor(b"t", &[cols as u64, 2], id, 0).data(4096).layout();
            assert!(matches!(bad, Err(ParseError::Block { cols: c, .. }) if c == cols), "{bad:?}");
        }
    }
}

#[test]
fn tensors_lie_inside_the_file_apart() {
    let two = |second, data| {
        file().tensor(b"a", &[8], 0, 0).tensor(b"b", &[8], 0, second).data(data).layout()
    };
    let good = two(32, 64).unwrap();
    assert_eq!(good[0].range().end, good[1].range().start);
    assert!(matches!(two(32, 63), Err(ParseError::Beyond { bytes: 32, .. })));
    assert!(matches!(two(64, 64), Err(ParseError::Beyond { .. })));
    assert!(matches!(two(u64::MAX - 31, 64), Err(ParseError::Beyond { .. })));
    assert!(matches!(two(33, 128), Err(ParseError::Unaligned { offset: 33, alignment: 32, .. })));
    assert!(matches!(two(0, 128), Err(ParseError::Overlap { .. })));
    // An overlap of a single byte, which only a smaller alignment allows.
    let unaligned = |second| {
        file()
            .entry(b"general.alignment", 4, &1u32.to_le_bytes())
            .tensor(b"a", &[1], 0, 0)
            .tensor(b"b", &[1], 0, second)
            .data(64)
            .layout()
    };
    assert!(matches!(unaligned(3), Err(ParseError::Overlap { .. })));
    assert!(unaligned(4).is_ok());
    // Out of order is allowed, overlap is found there too.
    let three = |first, third| {
        file().tensor(b"a", &[16], 0, first).tensor(b"b", &[8], 0, 0).tensor(b"c", &[8], 0, third)
    };
    assert!(three(64, 32).data(128).layout().is_ok());
    let bad = three(64, 96).data(256).layout().unwrap_err();
    assert_eq!(bad, ParseError::Overlap { first: "a".into(), second: "c".into() });
}

#[test]
fn every_truncation_is_an_error() {
    let whole = file()
        .entry(b"a", 9, &array(8, 2, &[string(b"xy"), string(b"z")].concat()))
        .entry(b"b", 12, &[0; 8])
        .tensor(b"t", &[32, 2], 2, 0)
        .tensor(b"u", &[8], 0, 64)
        .data(96);
    let bytes = whole.bytes();
    assert!(whole.layout().is_ok());
    for len in 0..bytes.len() {
        let result = parse(&bytes[..len]).and_then(|h| h.layout(len));
        assert!(result.is_err(), "{len} of {} bytes were accepted", bytes.len());
    }
}

#[test]
fn a_header_has_a_largest_size() {
    // One string that is longer than a header may be; the zero pages cost nothing.
    let mut bytes = file().entry(b"k", 8, &(1u64 << 28).to_le_bytes()).bytes();
    bytes.resize((1 << 28) + 4096, 0);
    assert!(matches!(parse(&bytes), Err(ParseError::HeaderTooLong { .. })));
    let mut bytes = file().entry(b"k", 9, &array(0, 1 << 28, &[])).bytes();
    bytes.resize((1 << 28) + 4096, 0);
    assert!(matches!(parse(&bytes), Err(ParseError::HeaderTooLong { .. })));
}

#[test]
fn names_are_escaped_in_messages() {
    let key = "a\u{1b}[2J\nb";
    let bad = file().entry(key.as_bytes(), 7, &[9]).parse_error();
    assert_eq!(bad.to_string(), r#"metadata "a\u{1b}[2J\nb" has a bool of value 9"#);
}

fn typed() -> Metadata {
    file()
        .entry(b"u8", 0, &[7])
        .entry(b"negative", 5, &(-1i32).to_le_bytes())
        .entry(b"large", 10, &(1u64 << 32).to_le_bytes())
        .entry(b"f32", 6, &0.5f32.to_le_bytes())
        .entry(b"f64", 12, &0.25f64.to_le_bytes())
        .entry(b"bool", 7, &[0])
        .entry(b"text", 8, &string(b"hi"))
        .entry(b"strings", 9, &array(8, 1, &string(b"x")))
        .entry(b"i16s", 9, &array(3, 2, &[1, 0, 2, 0]))
        .entry(b"i32s", 9, &array(5, 1, &[0xff; 4]))
        .entry(b"f32s", 9, &array(6, 1, &1.0f32.to_le_bytes()))
        .entry(b"bools", 9, &array(7, 1, &[1]))
        .parse()
        .unwrap()
        .metadata
}

#[test]
fn typed_getters() {
    let m = typed();
    assert_eq!(m.u32("u8").unwrap(), Some(7));
    assert_eq!(m.u64("large").unwrap(), Some(1 << 32));
    assert_eq!(m.f32("f32").unwrap(), Some(0.5));
    assert_eq!(m.f32("f64").unwrap(), Some(0.25));
    assert_eq!(m.bool("bool").unwrap(), Some(false));
    assert_eq!(m.str("text").unwrap(), Some("hi"));
    assert_eq!(m.str_array("strings").unwrap(), Some(&["x"].into_iter().collect()));
    assert_eq!(m.u32_array("i16s").unwrap(), Some(vec![1, 2]));
    assert_eq!(m.i32_array("i32s").unwrap(), Some(&[-1][..]));
    assert_eq!(m.f32_array("f32s").unwrap(), Some(&[1.0][..]));
    assert_eq!(m.bool_array("bools").unwrap(), Some(&[true][..]));
    assert_eq!(m.u32("absent").unwrap(), None);
    assert_eq!(m.u32_array("absent").unwrap(), None);
}

#[test]
fn getters_name_key_and_type() {
    let m = typed();
    let error = |e: GgufError| e.to_string();
    assert_eq!(error(m.u32("text").unwrap_err()), r#"metadata "text" is string, expected u32"#);
    assert_eq!(
        error(m.u32("i32s").unwrap_err()),
        r#"metadata "i32s" is array of i32, expected u32"#
    );
    assert_eq!(
        error(m.u32("negative").unwrap_err()),
        r#"metadata "negative" is -1, which does not fit u32"#
    );
    assert!(matches!(m.u32("large"), Err(GgufError::OutOfRange { .. })));
    assert!(matches!(m.u32_array("i32s"), Err(GgufError::OutOfRange { .. })));
    for result in [
        m.f32("u8").err(),
        m.bool("u8").err(),
        m.str("u8").err(),
        m.str_array("i32s").err(),
        m.f32_array("i32s").err(),
        m.i32_array("f32s").err(),
        m.u32_array("f32s").err(),
        m.u32_array("u8").err(),
        m.bool_array("i32s").err(),
    ] {
        assert!(matches!(result, Some(GgufError::WrongType { .. })), "{result:?}");
    }
    for result in [
        m.need_u32("absent").err(),
        m.need_f32("absent").err(),
        m.need_bool("absent").err(),
        m.need_str("absent").err(),
        m.need_str_array("absent").err(),
        m.need_f32_array("absent").err(),
        m.need_i32_array("absent").err(),
    ] {
        let result = result.expect("an absent key");
        assert_eq!(result.to_string(), r#"the model has no metadata "absent""#);
    }
}
