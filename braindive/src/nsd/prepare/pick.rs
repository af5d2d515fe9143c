//! The one pass over the betas: each session leaves the z-scored values of the set's voxels in the draft, with a record of what they were made
//! from.

use super::{Plan, Work};
use crate::folder::FileRecord;
use crate::nsd::betas::{Pick, Scratch, Session, z_score};
use crate::nsd::layout::BetasFormat;
use crate::nsd::{NsdError, TRIALS};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Trials in which the two forms of the first session are compared.
const COMPARED: usize = 8;

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

/// Picks what no earlier try has picked; gives every session's record.
pub fn sessions(plan: &Plan, folder: &Path, work: &mut Work<'_>) -> Result<Vec<FileRecord>, NsdError> {
    let pick = Pick::new(plan.grid.shape(), &plan.voxels);
    let voxels = plan.voxels.iter().flatten().flat_map(|&index| (index as u32).to_le_bytes()).collect::<Vec<_>>();
    let voxels: String = Sha256::digest(voxels).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut scratch = Scratch::default();
    let mut records = Vec::new();
    for (at, session) in plan.sessions.iter().enumerate() {
        let (bytes, modified) = stamp(session)?;
        let name = plan.layout.name(&session.path);
        let record_path = path(folder, at).with_extension("json");
        let earlier: Option<Record> = fs::read(&record_path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(Record { source, .. }) = earlier.filter(|record| {
            record.modified == modified
                && record.voxels == voxels
                && (&record.source.name, record.source.bytes) == (&name, bytes)
        }) {
            records.push(source);
            if work.step(bytes).is_break() {
                return Err(NsdError::Stopped);
            }
            continue;
        }
        let (mut series, source) = session.read(&pick, name, &mut scratch, &mut |bytes| work.step(bytes))?;
        if at == 0 && session.format == BetasFormat::Hdf5 {
            same_as_nifti(plan, session, &pick, &series)?;
        }
        series.par_chunks_mut(TRIALS).for_each(z_score);
        commit(&path(folder, at), as_bytes(&series))?;
        let record = Record { source, modified, voxels: voxels.clone() };
        commit(&record_path, &serde_json::to_vec(&record).unwrap_or_default())?;
        records.push(record.source);
        if work.step(0).is_break() {
            return Err(NsdError::Stopped);
        }
    }
    Ok(records)
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

fn as_bytes(values: &[f32]) -> &[u8] {
    bytemuck::cast_slice(values)
}
