//! Downloads on standard error: a bar on a terminal, plain lines elsewhere.

use std::time::Duration;

use ferrum_hub::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::text;
use crate::config::Config;

/// The bar's line: what, bar, bytes, speed, time left.
const TEMPLATE: &str =
    "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";

/// The way to show downloads that suits the streams and flags.
pub fn new(config: &Config) -> Box<dyn Progress> {
    match (config.quiet, config.terminal.stderr) {
        (true, _) => Box::new(ferrum_hub::Quiet),
        (false, true) => Box::new(Bar { bar: None }),
        (false, false) => Box::new(Lines { total: 0, next: 0 }),
    }
}

/// A bar that is redrawn in place.
struct Bar {
    bar: Option<ProgressBar>,
}

impl Progress for Bar {
    fn note(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    fn begin(&mut self, what: &str, total: u64, have: u64) {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_string());
        bar.set_position(have);
        bar.reset_eta(); // what is here already says nothing about the speed
        bar.enable_steady_tick(Duration::from_millis(250));
        self.bar = Some(bar);
    }

    fn file(&mut self, name: &str, index: usize, count: usize) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{name} ({index}/{count})"));
        }
    }

    fn at(&mut self, have: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(have);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// A line at the start and at each tenth, for logs.
struct Lines {
    total: u64,
    next: u64,
}

impl Progress for Lines {
    fn note(&mut self, line: &str) {
        eprintln!("{line}");
    }

    fn begin(&mut self, what: &str, total: u64, have: u64) {
        let already =
            if have > 0 { format!(", {} already here", text::bytes(have)) } else { String::new() };
        eprintln!("{what}: {}{already}", text::bytes(total));
        self.total = total;
        self.next = have + total.div_ceil(10);
    }

    fn file(&mut self, name: &str, index: usize, count: usize) {
        eprintln!("  {index}/{count} {name}");
    }

    fn at(&mut self, have: u64) {
        if have >= self.next && have < self.total {
            eprintln!("  {} of {}", text::bytes(have), text::bytes(self.total));
            self.next = have + self.total.div_ceil(10);
        }
    }

    fn end(&mut self) {}
}
