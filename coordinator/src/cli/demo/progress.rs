//! How far the demo is: a bar on a terminal, a line every tenth of the way elsewhere.

use crate::queue::view::Counts;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// Shows counts as they change.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    tenths: u64,
}

impl Progress {
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{bar:36} {pos}/{len} images  {elapsed}, {eta} left  {msg}")
            {
                bar.set_style(style.progress_chars("━╸ "));
            }
            bar
        });
        Self { bar, tenths: 0 }
    }

    pub fn show(&mut self, counts: &Counts) {
        let (done, total) = (counts.done, counts.total());
        let failed = if counts.failed > 0 { format!("{} failed", counts.failed) } else { String::new() };
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(failed);
            }
            None => {
                let tenths = (done * 10).checked_div(total).unwrap_or(0);
                if tenths > self.tenths {
                    self.tenths = tenths;
                    println!("{done} of {total} images {failed}");
                }
            }
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
