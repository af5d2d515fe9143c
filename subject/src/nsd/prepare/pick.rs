//! The one pass over the betas: each session leaves the z-scored values of the set's voxels in the draft, with a record of what they were made
//! from.

use super::{Plan, Work};
use crate::folder::FileRecord;
use crate::nsd::betas::{Pick, Session, z_score};
use crate::nsd::layout::BetasFormat;
use crate::nsd::{NsdError, TRIALS};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::iter::Enumerate;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::slice::Iter;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread::{ScopedJoinHandle, available_parallelism};
use std::time::UNIX_EPOCH;

/// Trials in which the two forms of the first session are compared.
const COMPARED: usize = 8;
/// Sessions that are read at a time, with eight processors or more.
const MOST_READERS: usize = 4;
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

/// Picks what no earlier try has picked; gives every session's record, in their order. While the picker takes voxels out of one session, the
/// next is read, so that neither disk nor processors wait for each other; with processors to spare some are read at a time, so that no core's
/// digest is the limit.
pub fn sessions(plan: &Plan, folder: &Path, work: &mut Work<'_>) -> Result<Vec<FileRecord>, NsdError> {
    let voxels = plan.voxels.iter().flatten().flat_map(|&index| (index as u32).to_le_bytes()).collect::<Vec<_>>();
    let (read, steps) = mpsc::channel();
    let (pass, passed) = mpsc::sync_channel(1);
    let turns = Turns {
        plan,
        folder,
        pick: Pick::new(plan.grid.shape(), &plan.voxels),
        voxels: Sha256::digest(voxels).iter().map(|byte| format!("{byte:02x}")).collect(),
        next: Mutex::new(plan.sessions.iter().enumerate()),
        stop: AtomicBool::new(false),
    };
    let readers = (available_parallelism().map_or(1, usize::from) / 2).clamp(1, MOST_READERS);
    let (ends, picked) = std::thread::scope(|scope| {
        let picker = scope.spawn(|| turns.pick_all(passed));
        let readers =
            vec![(read, pass); readers].into_iter().map(|(read, pass)| scope.spawn(|| turns.read_all(read, pass)));
        let readers: Vec<_> = readers.collect();
        for bytes in steps {
            if work.step(bytes).is_break() {
                turns.stop.store(true, Ordering::Relaxed);
            }
        }
        (readers.into_iter().map(end).collect::<Vec<_>>(), end(picker))
    });
    let mut stopped = work.step(0).is_break();
    let mut records = BTreeMap::new();
    for end in ends.into_iter().chain([picked]) {
        match end {
            Ok(made) => records.extend(made),
            // Perhaps because another failed, which then says why.
            Err(NsdError::Stopped) => stopped = true,
            Err(error) => return Err(error),
        }
    }
    if stopped { Err(NsdError::Stopped) } else { Ok(records.into_values().collect()) }
}

fn end<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Records by session.
type Records = Vec<(usize, FileRecord)>;

/// A session that was read.
struct Passed<'a> {
    at: usize,
    session: &'a Session,
    /// Its size and time of change before.
    stamp: (u64, u128),
    /// The voxels, if they could be had on the way.
    picked: Option<Vec<f32>>,
    source: FileRecord,
}

/// How a session's voxels are had.
enum Known<'a> {
    /// An earlier try has kept them.
    Earlier(FileRecord),
    Now(Passed<'a>),
}

/// Those who read and who picks, and what they share.
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

impl<'a> Turns<'a> {
    /// Reads sessions until there are no more, or until all are told to stop, as they are by who fails; `read` is told of bytes. Gives the
    /// records of what an earlier try has made.
    fn read_all(&self, read: Sender<u64>, pass: SyncSender<Passed<'a>>) -> Result<Records, NsdError> {
        let next = || self.next.lock().unwrap_or_else(PoisonError::into_inner).next();
        let mut records = Vec::new();
        while let Some((at, session)) = next() {
            match self.read(at, session, &read).inspect_err(|_| self.stop.store(true, Ordering::Relaxed))? {
                Known::Earlier(record) => records.push((at, record)),
                // The picker has failed, and says why.
                Known::Now(passed) => pass.send(passed).map_err(|_| NsdError::Stopped)?,
            }
        }
        Ok(records)
    }

    fn read(&self, at: usize, session: &'a Session, read: &Sender<u64>) -> Result<Known<'a>, NsdError> {
        let mut watch = |bytes| match read.send(bytes).is_err() || self.stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let stamp = stamp(session)?;
        let name = self.plan.layout.name(&session.path);
        if let Some(earlier) = self.earlier(&path(self.folder, at), &name, stamp) {
            return match watch(stamp.0) {
                ControlFlow::Continue(()) => Ok(Known::Earlier(earlier)),
                ControlFlow::Break(()) => Err(NsdError::Stopped),
            };
        }
        let (picked, source) = session.pass(&self.pick, name, &mut watch)?;
        Ok(Known::Now(Passed { at, session, stamp, picked, source }))
    }

    /// Keeps the voxels of every session that comes, those too that were read before all were told to stop: the reading was the dear part.
    fn pick_all(&self, passed: Receiver<Passed<'a>>) -> Result<Records, NsdError> {
        let keep = |passed| self.keep(passed).inspect_err(|_| self.stop.store(true, Ordering::Relaxed));
        passed.into_iter().map(keep).collect()
    }

    fn keep(&self, passed: Passed<'a>) -> Result<(usize, FileRecord), NsdError> {
        let Passed { at, session, stamp: before, picked, source } = passed;
        let other = match (at, session.format) {
            (0, BetasFormat::Hdf5) => other_form(self.plan, &self.pick)?,
            _ => None,
        };
        let place = path(self.folder, at);
        commit(&place, |file| {
            session.pick(&self.pick, picked, &|first, series| {
                if let Some(other) = &other {
                    other.same(self.plan, session, first, series)?;
                }
                series.chunks_exact_mut(TRIALS).for_each(z_score);
                let at = first * TRIALS * size_of::<f32>();
                file.write_all_at(bytemuck::cast_slice(series), at as u64).map_err(not_written(&place))
            })?;
            match stamp(session)? == before {
                true => Ok(()),
                false => Err(NsdError::Unexpected {
                    path: session.path.clone(),
                    what: "its size or time of change".to_owned(),
                    found: "another one than before".to_owned(),
                    expected: "a file that nobody writes while it is read".to_owned(),
                }),
            }
        })?;
        let record = Record { source, modified: before.1, voxels: self.voxels.clone() };
        let place = place.with_extension(RECORD);
        let text = serde_json::to_vec(&record).unwrap_or_default();
        commit(&place, |file| file.write_all_at(&text, 0).map_err(not_written(&place)))?;
        Ok((at, record.source))
    }

    /// The record of what an earlier try has made of the same file.
    fn earlier(&self, place: &Path, name: &str, (bytes, modified): (u64, u128)) -> Option<FileRecord> {
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
struct OtherForm {
    path: PathBuf,
    /// Of all voxels the first trials, [voxels, [`COMPARED`]].
    betas: Vec<f32>,
}

/// The first session's NIfTI file beside its HDF5 file, if it is there.
fn other_form(plan: &Plan, pick: &Pick) -> Result<Option<OtherForm>, NsdError> {
    let path = plan.layout.session(plan.subject, &plan.preparation, 1, BetasFormat::Nifti);
    if !path.is_file() {
        return Ok(None);
    }
    let session = Session { path, format: BetasFormat::Nifti };
    let betas = session.first_trials(pick, COMPARED)?;
    Ok(Some(OtherForm { path: session.path, betas }))
}

impl OtherForm {
    /// Compares the series of `session` that begin with the row `first`.
    fn same(&self, plan: &Plan, session: &Session, first: usize, series: &[f32]) -> Result<(), NsdError> {
        let rows = self.betas[first * COMPARED..].chunks_exact(COMPARED).zip(series.chunks_exact(TRIALS));
        for (row, (other, betas)) in rows.enumerate() {
            if other != &betas[..COMPARED] {
                return Err(NsdError::Unexpected {
                    path: self.path.clone(),
                    what: format!("the first trials of voxel {:?}", plan.voxels[first + row]),
                    found: format!("{other:?}"),
                    expected: format!("{:?} as in {}", &betas[..COMPARED], session.path.display()),
                });
            }
        }
        Ok(())
    }
}

/// Writes a file that is there whole or not at all.
fn commit(path: &Path, write: impl FnOnce(&File) -> Result<(), NsdError>) -> Result<(), NsdError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let file = File::create(&partial).map_err(not_written(path))?;
    write(&file)?;
    file.sync_data().and_then(|()| fs::rename(&partial, path)).map_err(not_written(path))
}

fn not_written(path: &Path) -> impl Fn(io::Error) -> NsdError {
    |source| NsdError::Write { path: path.to_owned(), source }
}
