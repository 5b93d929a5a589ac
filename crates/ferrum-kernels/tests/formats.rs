//! Plain dequantisation against the `gguf` Python package, bit by bit
//! (`tools/golden/formats.py` makes the data).

use ferrum_kernels::weight::dequantize_row;
use ferrum_kernels::{Format, KernelError, WeightSource};

struct Golden<'a> {
    format: Format,
    blocks: &'a [u8],
    values: Vec<u32>,
}

fn golden() -> Vec<Golden<'static>> {
    let mut rest: &'static [u8] = include_bytes!("data/formats.bin");
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at(n);
        rest = tail;
        head
    };
    let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let mut all = Vec::new();
    for _ in Format::ALL {
        let len = take(1)[0];
        let name = std::str::from_utf8(take(len.into())).unwrap();
        let format = Format::ALL.into_iter().find(|f| f.to_string() == name).unwrap();
        let (values, bytes) = (word(take(4)) as usize, word(take(4)) as usize);
        let blocks = take(bytes);
        let values = take(4 * values).chunks(4).map(word).collect();
        all.push(Golden { format, blocks, values });
    }
    assert!(rest.is_empty());
    all
}

#[test]
fn every_value_has_the_same_bits() {
    for g in golden() {
        let mut got = vec![f32::NAN; g.values.len()];
        dequantize_row(g.format, g.blocks, &mut got).unwrap();
        for (i, (got, want)) in got.iter().zip(&g.values).enumerate() {
            let value = f32::from_bits(*want);
            assert_eq!(got.to_bits(), *want, "{} value {i}: {got:e}, not {value:e}", g.format);
        }
    }
}

#[test]
fn golden_data_covers_every_format_once() {
    let formats: std::collections::HashSet<_> = golden().iter().map(|g| g.format).collect();
    assert_eq!(formats.len(), Format::ALL.len());
}

#[test]
fn a_block_does_not_depend_on_its_neighbours() {
    for g in golden() {
        let (len, bytes) = (g.format.block_len(), g.format.block_bytes());
        for (block, want) in g.blocks.chunks(bytes).zip(g.values.chunks(len)) {
            let mut got = vec![f32::NAN; len];
            dequantize_row(g.format, block, &mut got).unwrap();
            assert!(got.iter().zip(want).all(|(g, w)| g.to_bits() == *w), "{}", g.format);
        }
    }
}

#[test]
fn lengths_that_do_not_fit_are_errors() {
    for format in Format::ALL {
        let (len, bytes) = (format.block_len(), format.block_bytes());
        let src = vec![0; 4 * bytes];
        for (src_len, dst_len) in [
            (bytes, 2 * len),
            (2 * bytes, len),
            (bytes - 1, len),
            (bytes + 1, len),
            (0, len),
            (bytes, 0),
        ] {
            let e = dequantize_row(format, &src[..src_len], &mut vec![0.0; dst_len]).unwrap_err();
            assert!(matches!(e, KernelError::WeightSize { .. }), "{format}: {e}");
        }
        if len > 1 {
            let e = dequantize_row(format, &src[..bytes], &mut vec![0.0; len - 1]).unwrap_err();
            assert!(matches!(e, KernelError::Shape { .. }), "{format}: {e}");
        }
        assert!(dequantize_row(format, &[], &mut []).is_ok());
    }
}

#[test]
fn a_source_holds_its_bytes_against_its_shape() {
    for format in Format::ALL {
        let (len, bytes) = (format.block_len(), format.block_bytes());
        let data: Vec<u8> = (0..6 * bytes).map(|i| i as u8).collect();
        let w = WeightSource::new(format, 3, 2 * len, &data).unwrap();
        for row in 0..3 {
            assert_eq!(w.row(row), &data[row * 2 * bytes..][..2 * bytes]);
        }
        assert!(WeightSource::new(format, 3, len, &data).is_err());
        assert!(WeightSource::new(format, 2, 2 * len, &data).is_err());
        assert!(WeightSource::new(format, usize::MAX, 4 * len, &data).is_err());
        assert!(WeightSource::new(format, 1, usize::MAX / len * len, &data).is_err());
    }
}
