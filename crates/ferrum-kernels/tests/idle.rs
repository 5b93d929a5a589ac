//! A team that waits uses no processor time, which Linux tells in `/proc`. The only test of its
//! process, so that the time is the team's alone.
#![cfg(target_os = "linux")]

use std::fs;
use std::thread;
use std::time::Duration;

use ferrum_kernels::cpu::{Cpu, CpuConfig};
use ferrum_kernels::params::RmsNorm;
use ferrum_kernels::{Backend, DType, Result};

/// Hundredths of a second of processor time that this process has used.
fn ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    // Behind the name, which may have spaces, come the fields from 3 on; user and system time are
    // 14 and 15 (proc_pid_stat(5)).
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

#[test]
fn an_idle_team_uses_no_processor_time() -> Result<()> {
    let (groups, width, threads) = (4096, 64, 4);
    let cpu = Cpu::new(CpuConfig { threads, ..CpuConfig::default() })?;
    let mut stream = cpu.stream()?;
    let [mut x, weight] =
        [groups * width, width].map(|len| cpu.alloc(DType::F32, len).expect("memory"));
    // Work until the clock shows it.
    let before = ticks();
    while ticks() < before + 5 {
        let p = RmsNorm { src: None, weight: &weight, groups, width, eps: 1.0, accumulate: false };
        cpu.rms_norm(&mut stream, &mut x, &p)?;
    }
    thread::sleep(Duration::from_millis(100));
    let before = ticks();
    thread::sleep(Duration::from_secs(1));
    let idle = ticks() - before;
    assert!(idle <= 3, "{idle} hundredths of a second in one that was idle");
    Ok(())
}
