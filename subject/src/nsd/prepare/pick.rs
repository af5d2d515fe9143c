//! The one pass over the betas: each session leaves the z-scored values of the set's voxels in the draft, with a record of what they were made
//! from.

use super::{Plan, Work};
use crate::folder::FileRecord;
use crate::nsd::betas::{Pick, Session, z_score};
use crate::nsd::layout::BetasFormat;
use crate::nsd::{NsdError, TRIALS};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::iter::Enumerate;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::slice::Iter;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::UNIX_EPOCH;

/// Trials in which the two forms of the first session are compared.
const COMPARED: usize = 8;
/// Sessions that are read at a time; each has its picked voxels in memory, 140 MB of a subject's 45,000.
const AT_A_TIME: usize = 4;
/// What the name of a session's record ends in.
const RECORD: &str = "json";

/// What a session's picked voxels were made from.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    source: FileRecord,
    /// The source's time of change, nanoseconds since 1970.
    modified: u128,
    /// sha256 of the voxels that were picked.
    voxels: String,
}

/// Where a session's picked voxels lie, f32 [voxels, 750] in the machine's order of bytes; sessions are counted from 0.
pub fn path(folder: &Path, session: usize) -> PathBuf {
    folder.join(format!(".session{:02}", session + 1))
}

/// Picks what no earlier try has picked; gives every session's record, in their order. Some sessions are read at a time, so that neither
/// disk nor processors wait for each other, and one core's digest is no limit.
pub fn sessions(plan: &Plan, folder: &Path, work: &mut Work<'_>) -> Result<Vec<FileRecord>, NsdError> {
    let voxels = plan.voxels.iter().flatten().flat_map(|&index| (index as u32).to_le_bytes()).collect::<Vec<_>>();
    let (read, steps) = mpsc::channel();
    let turns = Turns {
        plan,
        folder,
        pick: Pick::new(plan.grid.shape(), &plan.voxels),
        voxels: Sha256::digest(voxels).iter().map(|byte| format!("{byte:02x}")).collect(),
        next: Mutex::new(plan.sessions.iter().enumerate()),
        stop: AtomicBool::new(false),
    };
    let ends: Vec<_> = std::thread::scope(|scope| {
        let pickers = vec![read; AT_A_TIME].into_iter().map(|read| scope.spawn(|| turns.take(read)));
        let pickers: Vec<_> = pickers.collect();
        for bytes in steps {
            if work.step(bytes).is_break() {
                turns.stop.store(true, Ordering::Relaxed);
            }
        }
        let end =
            |picker: ScopedJoinHandle<'_, _>| picker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        pickers.into_iter().map(end).collect()
    });
    let mut records = BTreeMap::new();
    let mut stopped = work.step(0).is_break();
    for end in ends {
        match end {
            Ok(made) => records.extend(made),
            // Perhaps because another failed, which then says why.
            Err(NsdError::Stopped) => stopped = true,
            Err(error) => return Err(error),
        }
    }
    if stopped { Err(NsdError::Stopped) } else { Ok(records.into_values().collect()) }
}

/// Those who pick, and what they share.
struct Turns<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    pick: Pick,
    /// sha256 of the set.
    voxels: String,
    /// The sessions that nobody has taken.
    next: Mutex<Enumerate<Iter<'a, Session>>>,
    stop: AtomicBool,
}

impl Turns<'_> {
    /// Picks sessions until there are no more, or until all are told to stop, as they are by who fails; `read` is told of bytes.
    fn take(&self, read: Sender<u64>) -> Result<Vec<(usize, FileRecord)>, NsdError> {
        let mut records = Vec::new();
        while let Some(record) = self.one(&read).inspect_err(|_| self.stop.store(true, Ordering::Relaxed))? {
            records.push(record);
        }
        Ok(records)
    }

    /// Picks the next session.
    fn one(&self, read: &Sender<u64>) -> Result<Option<(usize, FileRecord)>, NsdError> {
        let mut watch = |bytes| match read.send(bytes).is_err() || self.stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some((at, session)) = next else { return Ok(None) };
        let (bytes, modified) = stamp(session)?;
        let name = self.plan.layout.name(&session.path);
        let place = path(self.folder, at);
        if let Some(earlier) = self.earlier(&place, &name, bytes, modified) {
            return match watch(bytes) {
                ControlFlow::Continue(()) => Ok(Some((at, earlier))),
                ControlFlow::Break(()) => Err(NsdError::Stopped),
            };
        }
        let (picked, source) = session.pass(&self.pick, name, &mut watch)?;
        let mut series = session.pick(&self.pick, picked)?;
        if stamp(session)? != (bytes, modified) {
            return Err(NsdError::Unexpected {
                path: session.path.clone(),
                what: "its size or time of change".to_owned(),
                found: "another one than before".to_owned(),
                expected: "a file that nobody writes while it is read".to_owned(),
            });
        }
        if at == 0 && session.format == BetasFormat::Hdf5 {
            same_as_nifti(self.plan, session, &self.pick, &series)?;
        }
        series.par_chunks_mut(TRIALS).for_each(z_score);
        commit(&place, bytemuck::cast_slice(&series))?;
        let record = Record { source, modified, voxels: self.voxels.clone() };
        commit(&place.with_extension(RECORD), &serde_json::to_vec(&record).unwrap_or_default())?;
        Ok(Some((at, record.source)))
    }

    /// The record of what an earlier try has made of the same file.
    fn earlier(&self, place: &Path, name: &str, bytes: u64, modified: u128) -> Option<FileRecord> {
        let record: Record = serde_json::from_slice(&fs::read(place.with_extension(RECORD)).ok()?).ok()?;
        let same = record.modified == modified && record.voxels == self.voxels;
        (same && record.source.name == name && record.source.bytes == bytes).then_some(record.source)
    }
}

fn stamp(session: &Session) -> Result<(u64, u128), NsdError> {
    let failed = |source| NsdError::Read { path: session.path.clone(), source };
    let metadata = fs::metadata(&session.path).map_err(failed)?;
    let modified = metadata.modified().map_err(failed)?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok((metadata.len(), modified.as_nanos()))
}

/// The same numbers are published in two forms: where both are there, they are compared once, so that no transposed file goes unnoticed.
fn same_as_nifti(plan: &Plan, session: &Session, pick: &Pick, series: &[f32]) -> Result<(), NsdError> {
    let path = plan.layout.session(plan.subject, &plan.preparation, 1, BetasFormat::Nifti);
    if !path.is_file() {
        return Ok(());
    }
    let other = Session { path, format: BetasFormat::Nifti };
    let first = other.first_trials(pick, COMPARED)?;
    for (row, (other_betas, betas)) in first.chunks_exact(COMPARED).zip(series.chunks_exact(TRIALS)).enumerate() {
        if other_betas != &betas[..COMPARED] {
            return Err(NsdError::Unexpected {
                path: other.path,
                what: format!("the first trials of voxel {:?}", plan.voxels[row]),
                found: format!("{other_betas:?}"),
                expected: format!("{:?} as in {}", &betas[..COMPARED], session.path.display()),
            });
        }
    }
    Ok(())
}

/// Writes a file that is there whole or not at all.
fn commit(path: &Path, bytes: &[u8]) -> Result<(), NsdError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    File::create(&partial)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_data()
        })
        .and_then(|()| fs::rename(&partial, path))
        .map_err(|source| NsdError::Write { path: path.to_owned(), source })
}
