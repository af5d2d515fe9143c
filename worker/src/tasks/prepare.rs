//! `worker prepare`: a subject of NSD to a folder of prepared data.

pub use braindive::nsd::prepare::Settings;

use braindive::folder::Manifest;
use braindive::nsd::prepare::{KIND, run};
use braindive::nsd::{NsdError, Subject};
use protocol::version::SOFTWARE;
use sha2::{Digest, Sha256};
use std::io::{IsTerminal, Write, stderr};
use std::ops::ControlFlow;
use std::path::Path;

/// Makes the folder `out`, or goes on making it; how far it is shows on a terminal.
pub fn by_hand(subject: Subject, settings: &Settings, out: &Path) -> Result<Manifest, NsdError> {
    let mut shown = None;
    let mut progress = |done: u64, total: u64| {
        let per_cent = done.saturating_mul(100) / total.max(1);
        if shown != Some(per_cent) && stderr().is_terminal() {
            // What cannot be shown is no reason to stop.
            let _ = write!(stderr(), "\rpreparing {subject}: {per_cent} %");
            shown = Some(per_cent);
        }
        ControlFlow::Continue(())
    };
    let manifest = run(subject, settings, out, &identity(subject, settings), SOFTWARE, &mut progress);
    if shown.is_some() {
        let _ = writeln!(stderr());
    }
    manifest
}

/// What decides the folder's content, for a command that no coordinator gave a key.
fn identity(subject: Subject, settings: &Settings) -> String {
    let decided = serde_json::json!([KIND, subject.to_string(), settings, SOFTWARE]);
    Sha256::digest(decided.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the error is one of what was asked for or of its files, not of this machine.
pub fn is_input(error: &NsdError) -> bool {
    !error.is_io() && !matches!(error, NsdError::Stopped)
}
