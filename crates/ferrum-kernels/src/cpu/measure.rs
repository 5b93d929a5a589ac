//! What this machine can do at most: memory read, `f32` arithmetic and 8-bit dot products a second,
//! with the instructions that the kernels use. The figures that speeds are held against.

use std::hint::black_box;
use std::time::Instant;

use super::aligned::AlignedVec;
use super::simd::{Kernel, LANES, Simd};
use super::team::Team;
use super::{Cpu, Isa, linear, threads};
use crate::Result;

/// What some threads can do at most, measured. A virtual machine's figures drift by a third between
/// hours, so they belong beside what was measured at the same time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Threads that did it.
    pub threads: usize,
    /// Bytes read from memory a second.
    pub read: f64,
    /// `f32` operations a second, a multiply-add counted as two.
    pub f32_ops: f64,
    /// Operations of 8-bit dot products a second, a multiply-add counted as two.
    pub int8_ops: f64,
}

/// Measurements of each figure; the best counts, as what disturbs only ever slows down.
const RUNS: usize = 12;

/// Bytes that are read where the size of the last cache is not known.
const READ_BYTES: usize = 512 << 20;

/// Bounds of the bytes that are read: enough on any machine, and not too long to wait for.
const READ_RANGE: (usize, usize) = (256 << 20, 1 << 30);

/// Bytes read by a thread at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Rounds of an arithmetic measurement: some milliseconds on any machine.
const ROUNDS: usize = 200_000;

impl Cpu {
    /// Measures for about half a second what `threads` threads can do. Takes 256 MB to 1 GB of
    /// memory meanwhile.
    pub fn limits(&self, threads: usize) -> Result<Limits> {
        let mut team = Team::new(threads)?;
        let isa = self.isa();
        Ok(Limits {
            threads,
            read: read_speed(&mut team, isa)?,
            f32_ops: best(&mut team, |team| {
                each_thread(team, &|| isa.dispatch(MultiplyAdds::<6>));
                threads * MultiplyAdds::<6>::OPS
            })
            .max(best(&mut team, |team| {
                each_thread(team, &|| isa.dispatch(MultiplyAdds::<12>));
                threads * MultiplyAdds::<12>::OPS
            })),
            int8_ops: best(&mut team, |team| {
                each_thread(team, &|| linear::dot_products(isa, ROUNDS));
                threads * linear::dot_operations(ROUNDS)
            }),
        })
    }
}

/// The most that `work`, which returns how much it did, does in a second.
fn best(team: &mut Team, mut work: impl FnMut(&mut Team) -> usize) -> f64 {
    let speeds = (0..RUNS).map(|_| {
        let start = Instant::now();
        let done = work(team);
        done as f64 / start.elapsed().as_secs_f64()
    });
    speeds.fold(0.0, f64::max)
}

/// Runs `f` once on every thread.
fn each_thread(team: &mut Team, f: &(dyn Fn() + Sync)) {
    let threads = team.threads();
    team.chunks(threads, &|_, _| f());
}

/// Bytes a second of a plain read, with or without prefetching, whichever is faster here.
fn read_speed(team: &mut Team, isa: Isa) -> Result<f64> {
    let (least, most) = READ_RANGE;
    let bytes = threads::last_level_cache().map_or(READ_BYTES, |n| n.saturating_mul(8));
    let chunk = CHUNK_BYTES / size_of::<f32>();
    let chunks = bytes.clamp(least, most).div_ceil(CHUNK_BYTES);
    let mut data = AlignedVec::<f32>::zeroed(chunks * chunk, "measuring the memory")?;
    // Pages that nobody has written are all one page of zeroes, which a cache would hold.
    data.fill(1.0);
    let data = &data[..];
    let mut run = |prefetch: bool| {
        best(team, |team| {
            team.chunks(chunks, &|_, i| {
                let data = &data[i * chunk..(i + 1) * chunk];
                black_box(isa.dispatch(Sum { data, prefetch }));
            });
            size_of_val(data)
        })
    };
    Ok(run(true).max(run(false)))
}

/// The sum of a slice, which is as good a reason as any to read it.
struct Sum<'a> {
    data: &'a [f32],
    prefetch: bool,
}

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self) -> f32 {
        /// Vectors summed apart: two cache lines.
        const PARTS: usize = 4;
        /// How far ahead of what is read memory is asked for, as in the kernels.
        const AHEAD: usize = 2048;
        let mut sums = [S::splat(0.0); PARTS];
        for line in self.data.chunks_exact(PARTS * LANES) {
            if self.prefetch {
                S::prefetch(line.as_ptr().wrapping_byte_add(AHEAD));
                S::prefetch(line.as_ptr().wrapping_byte_add(AHEAD + 64));
            }
            for (part, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add(S::load(&line[part * LANES..]));
            }
        }
        sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum()
    }
}

/// `CHAINS` independent chains of multiply-adds: many enough to hide the latency of each, few enough
/// for the registers. How many that is differs between processors.
struct MultiplyAdds<const CHAINS: usize>;

impl<const CHAINS: usize> MultiplyAdds<CHAINS> {
    /// Operations of a run.
    const OPS: usize = 2 * LANES * CHAINS * ROUNDS;
}

impl<const CHAINS: usize> Kernel for MultiplyAdds<CHAINS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (factor, term) = (S::splat(black_box(0.999)), S::splat(black_box(0.001)));
        let mut chains: [S; CHAINS] = std::array::from_fn(|i| S::splat(i as f32));
        for _ in 0..ROUNDS {
            // Each waits for its own last result, so nothing can be left out.
            for x in &mut chains {
                *x = x.mul_add(factor, term);
            }
        }
        black_box(chains.into_iter().fold(S::splat(0.0), S::add).sum());
    }
}

#[cfg(test)]
mod tests {
    use super::super::CpuConfig;
    use super::*;

    #[test]
    fn a_sum_reads_everything_once() {
        let data: Vec<f32> = (0..4096).map(|i| (i % 7) as f32).collect();
        let want: f32 = data.iter().sum();
        for isa in Isa::available() {
            for prefetch in [false, true] {
                assert_eq!(isa.dispatch(Sum { data: &data, prefetch }), want, "{isa}");
            }
        }
    }

    #[test]
    fn limits_are_of_this_world() {
        for isa in Isa::available() {
            let cpu =
                Cpu::new(CpuConfig { threads: 1, isa: Some(isa), ..CpuConfig::default() }).unwrap();
            let limits = cpu.limits(1).unwrap();
            // From the slowest of boards to a whole server.
            assert!((1e8..1e13).contains(&limits.read), "{isa}: {limits:?}");
            assert!((1e8..1e14).contains(&limits.f32_ops), "{isa}: {limits:?}");
            assert!((1e8..1e15).contains(&limits.int8_ops), "{isa}: {limits:?}");
        }
    }
}
