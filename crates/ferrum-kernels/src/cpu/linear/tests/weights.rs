//! Packing loses nothing: rows of a packed weight are those of the file.

use super::{Bench, Plain};
use crate::host::HostBuffer;
use crate::params::Embed;
use crate::{Backend, Format, PackedWeight, cpu::Isa};

fn embed(bench: &mut Bench, plain: &Plain, tokens: &[i32], scale: f32) -> Vec<f32> {
    let table = &bench.pack(plain);
    let rows = tokens.len();
    let mut dst = HostBuffer::F32(vec![f32::NAN; rows * plain.cols]);
    let tokens = &HostBuffer::I32(tokens.to_vec());
    let p = Embed { table, tokens, rows, scale, accumulate: false };
    bench.cpu.embed(&mut bench.stream, &mut dst, &p).unwrap();
    super::values(dst)
}

#[test]
fn every_row_has_the_bits_of_the_plain_dequantisation() {
    for isa in Isa::available() {
        let mut bench = Bench::new(isa, 2);
        for format in Format::ALL {
            // Rows that fill the last group and not; more columns than a panel holds.
            for (rows, blocks) in [(1, 1), (8, 2), (13, 3), (3, 2304 / format.block_len())] {
                let plain = Plain::new(format, rows, blocks * format.block_len(), rows as u64);
                let tokens: Vec<i32> = (0..rows as i32).rev().collect();
                let got = embed(&mut bench, &plain, &tokens, 1.0);
                let want: Vec<f32> = (0..rows).rev().flat_map(|r| plain.row(r)).collect();
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    assert!(
                        got.to_bits() == want.to_bits() || (*got == 0.0 && *want == 0.0),
                        "{isa} {format} {rows} rows, {blocks} blocks, value {i}: {got}, not {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_embedding_scale_multiplies() {
    let plain = Plain::new(Format::Q8_0, 3, 64, 5);
    let got = embed(&mut Bench::new(Isa::Portable, 1), &plain, &[2, 2], 0.3);
    let want: Vec<f32> = plain.row(2).iter().map(|v| v * 0.3).collect();
    assert_eq!(got, [want.clone(), want].concat());
}

#[test]
fn a_token_outside_of_the_vocabulary_is_refused() {
    let mut bench = Bench::new(Isa::Portable, 1);
    let table = &bench.pack(&Plain::new(Format::Q8_0, 3, 32, 5));
    for bad in [-1, 3, i32::MAX, i32::MIN] {
        let mut dst = HostBuffer::F32(vec![0.0; 64]);
        let p = Embed {
            table,
            tokens: &HostBuffer::I32(vec![0, bad]),
            rows: 2,
            scale: 1.0,
            accumulate: false,
        };
        assert!(bench.cpu.embed(&mut bench.stream, &mut dst, &p).is_err(), "{bad}");
    }
}

#[test]
fn packed_bytes_are_those_of_the_file() {
    let mut bench = Bench::new(Isa::best(), 2);
    for format in Format::ALL {
        let cols = 3 * format.block_len();
        for rows in [1, 8, 9, 24] {
            let plain = Plain::new(format, rows, cols, 1);
            let weight = bench.pack(&plain);
            let padded = plain.data.len() / rows * rows.next_multiple_of(8);
            assert_eq!(weight.resident_bytes(), padded, "{format} {rows}");
            assert_eq!(bench.cpu.packed_bytes(format, rows, cols), padded, "{format} {rows}");
            assert_eq!((weight.rows(), weight.cols(), weight.format()), (rows, cols, format));
        }
    }
}

#[test]
fn columns_that_are_no_whole_blocks_are_refused() {
    let cpu = &Bench::new(Isa::Portable, 1).cpu;
    for format in Format::ALL {
        let need = |cols| crate::Need::Linear { format, cols };
        assert!(cpu.check(&need(format.block_len())).is_ok(), "{format}");
        assert!(cpu.check(&need(0)).is_err(), "{format}");
        if format.block_len() > 1 {
            let error = cpu.check(&need(format.block_len() + 8)).unwrap_err().to_string();
            assert!(error.contains(&format.to_string()), "{error}");
            assert_eq!(cpu.packed_bytes(format, 8, 8), usize::MAX);
        }
    }
}
