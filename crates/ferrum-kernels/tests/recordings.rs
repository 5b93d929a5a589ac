//! Recorded operations on an emulated card: they give what they give when they run, with what the
//! arrays hold at the time; and a recording refuses what it cannot hold.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use ferrum_kernels::cuda::{Cuda, CudaConfig};
use ferrum_kernels::draw::{Adjustment, Draw, DrawBatch, DrawSizes, RowDraw};
use ferrum_kernels::params::{GatherRows, Linear, LinearOutput, RmsNorm, Sample};
use ferrum_kernels::{Backend, DType, Format, Result, WeightSource};

type Stream = <Cuda as Backend>::Stream;
type Buffer = <Cuda as Backend>::Buffer;
type Recording = <Cuda as Backend>::Recording;

const WIDTH: usize = 48;
const ROWS: usize = 3;

struct Setting {
    card: Cuda,
    stream: Stream,
    /// `[5, WIDTH]`
    src: Buffer,
    /// `[ROWS]`
    rows: Buffer,
    /// `[ROWS, WIDTH]`
    dst: Buffer,
    /// `[WIDTH]`
    weight: Buffer,
}

impl Setting {
    fn new() -> Result<Setting> {
        // `cargo xtask gpu-check` has a real one.
        if !std::env::var("FERRUM_TEST_CUDA").is_ok_and(|which| which == "card") {
            ferrum_cuda_emulator::load().expect("an emulated driver");
        }
        let card = Cuda::new(&CudaConfig::default())?;
        let mut stream = card.stream()?;
        let src: Vec<f32> = (0..5 * WIDTH).map(|i| (i % 17) as f32 - 7.5).collect();
        let mut setting = Setting {
            src: card.alloc(DType::F32, src.len())?,
            rows: card.alloc(DType::I32, ROWS)?,
            dst: card.alloc(DType::F32, ROWS * WIDTH)?,
            weight: card.alloc(DType::F32, WIDTH)?,
            stream: card.stream()?,
            card,
        };
        setting.card.upload_f32(&mut stream, &src, &mut setting.src)?;
        setting.card.upload_f32(&mut stream, &[0.5; WIDTH], &mut setting.weight)?;
        let mut back = vec![0.0; src.len()];
        setting.card.download_f32(&mut stream, &setting.src, &mut back)?;
        assert_eq!(back, src);
        Ok(setting)
    }

    fn choose(&mut self, rows: [i32; ROWS]) -> Result<()> {
        self.card.upload_i32(&mut self.stream, &rows, &mut self.rows)
    }

    /// Picks rows and normalises them.
    fn run(&mut self) -> Result<()> {
        let (src, rows) = (&self.src, &self.rows);
        let p = GatherRows { src, rows, count: ROWS, width: WIDTH };
        self.card.gather_rows(&mut self.stream, &mut self.dst, &p)?;
        let (weight, groups, width) = (&self.weight, ROWS, WIDTH);
        let p = RmsNorm { src: None, weight, groups, width, eps: 1e-5, accumulate: false };
        self.card.rms_norm(&mut self.stream, &mut self.dst, &p)
    }

    /// The same, recorded.
    fn record(&mut self) -> Result<Recording> {
        assert!(self.card.begin_recording(&mut self.stream)?);
        self.run()?;
        self.card.end_recording(&mut self.stream)
    }

    fn result(&mut self) -> Result<Vec<f32>> {
        let mut result = vec![0.0; ROWS * WIDTH];
        self.card.download_f32(&mut self.stream, &self.dst, &mut result)?;
        Ok(result)
    }
}

#[test]
fn a_replay_is_a_run_with_what_the_arrays_hold() -> Result<()> {
    let mut s = Setting::new()?;
    s.choose([0, 1, 2])?;
    s.run()?;
    let first = s.result()?;
    s.choose([4, 0, 3])?;
    s.run()?;
    let second = s.result()?;
    assert_ne!(first, second);

    let recording = s.record()?;
    s.choose([0, 1, 2])?;
    // Nothing has run while it was recorded.
    assert_eq!(s.result()?, second);
    for (rows, expected) in [([0, 1, 2], &first), ([4, 0, 3], &second), ([0, 1, 2], &first)] {
        s.choose(rows)?;
        s.card.replay(&mut s.stream, &recording)?;
        assert_eq!(&s.result()?, expected);
    }
    Ok(())
}

#[test]
fn a_recording_keeps_the_memory_that_it_mentions() -> Result<()> {
    let mut s = Setting::new()?;
    s.choose([0, 1, 2])?;
    s.run()?;
    let recording = s.record()?;
    // The emulator fails where a replay meets memory that was freed.
    s.weight = s.card.alloc(DType::F32, WIDTH)?;
    s.card.replay(&mut s.stream, &recording)?;
    assert!(s.result()?.iter().any(|&v| v != 0.0), "by the old weight");
    Ok(())
}

#[test]
fn what_cannot_be_recorded_is_refused() -> Result<()> {
    let mut s = Setting::new()?;
    s.choose([0, 1, 2])?;
    s.run()?;
    assert!(s.card.begin_recording(&mut s.stream)?);
    assert!(s.card.begin_recording(&mut s.stream).is_err(), "one at a time");
    assert!(s.choose([1, 2, 3]).is_err(), "a copy to the card");
    assert!(s.result().is_err(), "a copy from the card, which waits");
    s.run()?;
    s.card.end_recording(&mut s.stream)?;
    assert!(s.card.end_recording(&mut s.stream).is_err(), "it has ended");

    assert!(s.card.begin_recording(&mut s.stream)?);
    assert!(s.card.alloc(DType::F32, 5).is_err(), "memory");
    assert!(s.card.end_recording(&mut s.stream).is_err(), "it was broken off");
    // And the stream works again.
    s.choose([0, 1, 2])?;
    s.run()?;
    s.result()?;
    Ok(())
}

#[test]
fn a_recording_runs_on_its_own_stream() -> Result<()> {
    let mut s = Setting::new()?;
    s.choose([0, 1, 2])?;
    s.run()?;
    let recording = s.record()?;
    let mut other = s.card.stream()?;
    assert!(s.card.replay(&mut other, &recording).is_err());
    Ok(())
}

#[test]
fn marks_tell_the_time_of_what_is_between_them() -> Result<()> {
    let mut setting = Setting::new()?;
    setting.choose([4, 0, 2])?;
    let first = setting.card.mark(&mut setting.stream)?;
    setting.run()?;
    let second = setting.card.mark(&mut setting.stream)?;
    let third = setting.card.mark(&mut setting.stream)?;
    // In another order than they were queued: each waits for what it needs.
    let nothing = setting.card.elapsed(&second, &third)?;
    let work = setting.card.elapsed(&first, &second)?;
    assert!(work > nothing, "{work:?} with work, {nothing:?} without");

    let mut other = setting.card.stream()?;
    let elsewhere = setting.card.mark(&mut other)?;
    let error = setting.card.elapsed(&first, &elsewhere).unwrap_err().to_string();
    assert!(error.contains("two streams"), "{error}");
    assert!(setting.card.elapsed(&third, &first).is_err(), "backwards");

    assert!(setting.card.begin_recording(&mut setting.stream)?);
    assert!(setting.card.mark(&mut setting.stream).is_err(), "in a recording");
    setting.card.end_recording(&mut setting.stream)?;
    Ok(())
}

#[test]
fn tokens_are_drawn_in_a_replay_with_other_draws() -> Result<()> {
    let Setting { card, mut stream, src, .. } = Setting::new()?;
    let (rows, vocab) = (5, WIDTH);
    let mut draws = DrawBatch::new(&card, DrawSizes { rows, masks: 1, adjusted: 8, vocab })?;
    let mut tokens = card.alloc(DType::I32, rows)?;
    let last = Draw { temperature: 5.0, uniform: 0.99, ..Draw::GREEDY };
    let masked = RowDraw { mask: Some(&[1 << 7]), ..RowDraw::default() };
    let raised = [Adjustment::bias(11, 100.0), Adjustment::bias(40, 99.0)];
    let adjusted = RowDraw { adjust: &raised, ..RowDraw::default() };
    let first = [Some(masked), Some(adjusted), None, None, None];
    let drawn = RowDraw { draw: last, ..RowDraw::default() };
    let other = RowDraw { adjust: &raised[1..], ..RowDraw::default() };
    let second = [Some(drawn), None, Some(other), Some(drawn), Some(drawn)];
    let sample = |stream: &mut Stream, draws: &DrawBatch<Buffer>, tokens: &mut Buffer| {
        let p = Sample { logits: &src, draws, rows, vocab, scale: 1.0, softcap: None };
        card.sample(stream, tokens, &p)
    };
    let read = |stream: &mut Stream, tokens: &Buffer| -> Result<Vec<i32>> {
        let mut result = vec![0; rows];
        card.download_i32(stream, tokens, &mut result)?;
        Ok(result)
    };
    let mut expected = Vec::new();
    for asked in [first, second] {
        draws.upload(&card, &mut stream, &asked)?;
        sample(&mut stream, &draws, &mut tokens)?;
        expected.push(read(&mut stream, &tokens)?);
    }
    assert_eq!(expected[0][..2], [7, 11]);
    assert_eq!(expected[1][2], 40);
    assert_ne!(expected[1][1], 11, "no logit of this row is adjusted any more");
    assert_ne!(expected[0], expected[1]);
    assert!(card.begin_recording(&mut stream)?);
    sample(&mut stream, &draws, &mut tokens)?;
    let recording = card.end_recording(&mut stream)?;
    for n in [0, 1, 0] {
        draws.upload(&card, &mut stream, &[first, second][n])?;
        card.replay(&mut stream, &recording)?;
        assert_eq!(read(&mut stream, &tokens)?, expected[n]);
    }
    Ok(())
}

/// A product by cuBLASLt, with its workspace and what its input is rounded to.
#[test]
fn products_of_a_library_are_recorded() -> Result<()> {
    const TOKENS: usize = 70;
    const COLS: usize = 40;
    let Setting { card, mut stream, .. } = Setting::new()?;
    let data: Vec<u8> = (0..24 * COLS).flat_map(|i| [0, 0x38 + (i % 7) as u8]).collect();
    for format in [Format::F16, Format::BF16] {
        let source = WeightSource::new(format, 24, COLS, &data)?.rounded();
        let weight = card.pack(&mut stream, &source)?;
        let mut input = card.alloc(DType::F32, TOKENS * COLS)?;
        let mut dst = card.alloc(DType::F32, TOKENS * 24)?;
        let run = |stream: &mut Stream, input: &Buffer, dst: &mut Buffer| {
            let output = LinearOutput { weight: &weight, bias: None, dst, accumulate: false };
            card.linear(stream, Linear { input, rows: TOKENS, outputs: &mut [output] })
        };
        run(&mut stream, &input, &mut dst)?;
        assert!(card.begin_recording(&mut stream)?);
        run(&mut stream, &input, &mut dst)?;
        let recording = card.end_recording(&mut stream)?;
        // Values that F16 holds, and others that need another factor of the product.
        for scale in [1.0, 1e5] {
            let x: Vec<f32> = (0..TOKENS * COLS).map(|i| scale * (i % 11) as f32).collect();
            card.upload_f32(&mut stream, &x, &mut input)?;
            card.replay(&mut stream, &recording)?;
            let (mut replayed, mut anew) = ([0.0; TOKENS * 24], [0.0; TOKENS * 24]);
            card.download_f32(&mut stream, &dst, &mut replayed)?;
            run(&mut stream, &input, &mut dst)?;
            card.download_f32(&mut stream, &dst, &mut anew)?;
            assert_eq!(replayed, anew, "{format} {scale}");
            assert!(anew.iter().any(|&v| v > scale), "{format} {scale}");
        }
        // What both types round to one: the library's inputs are rounded, those of our kernels are not.
        let mut results = [[0.0; TOKENS * 24]; 2];
        for (x, result) in [1.0, 1.0 + 1.0 / 4096.0].into_iter().zip(&mut results) {
            card.upload_f32(&mut stream, &[x; TOKENS * COLS], &mut input)?;
            card.replay(&mut stream, &recording)?;
            card.download_f32(&mut stream, &dst, result)?;
        }
        assert_eq!(results[0], results[1], "{format}");
    }
    Ok(())
}
