//! The betas of one session: a value of every voxel for each of 750 trials, as HDF5 (one chunk a voxel) or as NIfTI (one volume a trial).
//! Whole numbers are per cent signal change times 300, real numbers are per cent.

use super::chunks;
use super::hdf5::truncated;
use super::layout::BetasFormat;
use super::{NsdError, TRIALS};
use crate::folder::FileRecord;
use flate2::read::MultiGzDecoder;
use hdf5_reader::error::ByteOrder;
use hdf5_reader::messages::{HdfMessage, layout::DataLayout};
use hdf5_reader::{Dataset, Datatype, Hdf5File, SliceInfo, SliceInfoElem};
use nifti::{Endianness, NiftiHeader, NiftiType};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, mpsc};

const DATASET: &str = "betas";
/// Whole numbers in a unit of per cent signal change.
const SCALE: f32 = 300.0;
/// What is read before it is hashed.
const PIECE: usize = 2 << 20;
/// Pieces that are read or hashed at a time; together they stay in a processor's cache.
const PIECES: usize = 4;
const NOT_PICKED: u32 = u32::MAX;
/// Voxels that are picked at a time: their series stay in a core's cache.
const BLOCK: usize = 64;

/// Called with the bytes that were read since the last call; breaking ends the work.
pub type Watch<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// Called with the series of some picked voxels, per cent signal change, [voxels, 750], and the row of the first; from several threads, in any
/// order.
pub type Keep<'a> = &'a (dyn Fn(usize, &mut [f32]) -> Result<(), NsdError> + Sync);

/// Which voxels to take from a subject's volumes.
#[derive(Debug, Clone)]
pub struct Pick {
    shape: [usize; 3],
    voxels: usize,
    /// Of every voxel of the volume, the first axis running fastest, as both formats have it: its row, or [`NOT_PICKED`].
    rows: Vec<u32>,
}

impl Pick {
    /// `voxels`: indices along x, y, z inside `shape`; their order is that of the rows.
    pub fn new(shape: [usize; 3], voxels: &[[usize; 3]]) -> Self {
        let mut rows = vec![NOT_PICKED; shape.iter().product()];
        for (row, &[x, y, z]) in voxels.iter().enumerate() {
            rows[(z * shape[1] + y) * shape[0] + x] = row as u32;
        }
        Self { shape, voxels: voxels.len(), rows }
    }

    /// `position`: along z, y, x, as a file says it.
    fn row(&self, position: [u64; 3]) -> Option<usize> {
        let [width, height, depth] = self.shape;
        let [z, y, x] = position.map(|index| usize::try_from(index).unwrap_or(usize::MAX));
        if x >= width || y >= height || z >= depth {
            return None;
        }
        let row = self.rows[(z * height + y) * width + x];
        (row != NOT_PICKED).then_some(row as usize)
    }
}

/// The file of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub path: PathBuf,
    pub format: BetasFormat,
}

impl Session {
    /// Compares what the file's header says with a subject's `shape`; no data is read.
    ///
    /// # Errors
    /// The file can't be read, is truncated (HDF5), or holds something else.
    pub fn check(&self, shape: [usize; 3]) -> Result<(), NsdError> {
        match self.format {
            BetasFormat::Hdf5 => self.open_hdf5(shape).map(|_| ()),
            BetasFormat::Nifti => self.check_nifti(&self.nifti_header()?, shape).map(|_| ()),
        }
    }

    /// Per cent signal change of the picked voxels, [voxels, 750], and the file's size and digest.
    ///
    /// # Errors
    /// As [`Self::pass`] and [`Self::pick`].
    pub fn read(&self, pick: &Pick, name: String, watch: Watch<'_>) -> Result<(Vec<f32>, FileRecord), NsdError> {
        let (picked, record) = self.pass(pick, name, watch)?;
        let all = Mutex::new(vec![0.0; pick.voxels * TRIALS]);
        self.pick(pick, picked, &|first, series| {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all[first * TRIALS..][..series.len()].copy_from_slice(series);
            Ok(())
        })?;
        Ok((all.into_inner().unwrap_or_else(PoisonError::into_inner), record))
    }

    /// The one pass over the file: its size and digest, and the picked voxels if they can be had on the way.
    ///
    /// # Errors
    /// The file can't be read or is damaged, or the watch wants to stop.
    pub fn pass(
        &self,
        pick: &Pick,
        name: String,
        watch: Watch<'_>,
    ) -> Result<(Option<Vec<f32>>, FileRecord), NsdError> {
        match self.format {
            BetasFormat::Hdf5 => Ok((None, self.digest(name, watch)?)),
            BetasFormat::Nifti => {
                let (series, record) = self.read_nifti(pick, name, watch)?;
                Ok((Some(series), record))
            }
        }
    }

    /// Gives `keep` all picked voxels: those that the pass picked, or those of a file that has just passed and is in the system's cache. What
    /// lies where in an HDF5 file is told between its data, so that a file would have to be held in memory to pick from it while it comes.
    ///
    /// # Errors
    /// The file is damaged, a value is not finite, or `keep` fails; of several errors that of the first voxel.
    pub fn pick(&self, pick: &Pick, picked: Option<Vec<f32>>, keep: Keep<'_>) -> Result<(), NsdError> {
        let mut series = match picked {
            Some(series) => series,
            None => {
                let (file, dataset) = self.open_hdf5(pick.shape)?;
                match by_voxel(&file, &dataset) {
                    Some(root) => return self.pick_chunks(file.superblock().base_address, root, pick, keep),
                    None => self.pick_slices(&dataset, pick)?,
                }
            }
        };
        first_error(series.par_chunks_mut(BLOCK * TRIALS).enumerate().map(|(block, series)| {
            self.check_finite(pick, block * BLOCK, series)?;
            keep(block * BLOCK, series)
        }))
    }

    fn check_finite(&self, pick: &Pick, first: usize, series: &[f32]) -> Result<(), NsdError> {
        // Without an early end, so that whole registers are compared.
        if series.iter().fold(true, |finite, beta| finite & beta.is_finite()) {
            return Ok(());
        }
        let at = series.iter().position(|beta| !beta.is_finite()).unwrap_or_default();
        let voxel = pick.rows.iter().position(|&row| row as usize == first + at / TRIALS).unwrap_or_default();
        let [width, height, _] = pick.shape;
        let voxel = [voxel % width, voxel / width % height, voxel / width / height];
        let what = format!("voxel {voxel:?} of trial {}", at % TRIALS + 1);
        Err(self.unexpected(what, series[at].to_string(), "a finite number".to_owned()))
    }

    /// Per cent signal change of the picked voxels in the first `trials` trials, [voxels, trials], from a NIfTI file that is left there.
    ///
    /// # Errors
    /// The file can't be read or is damaged.
    pub fn first_trials(&self, pick: &Pick, trials: usize) -> Result<Vec<f32>, NsdError> {
        let mut stream = self.nifti_stream(File::open(&self.path).map_err(|source| self.failed(source))?);
        let header = NiftiHeader::from_reader(&mut stream).map_err(|source| self.nifti(source))?;
        let volumes = self.check_nifti(&header, pick.shape)?;
        let mut series = vec![0.0; pick.voxels * trials];
        volumes.pick(&mut stream, pick, trials, &mut series, &mut |_| ControlFlow::Continue(()))?;
        Ok(series)
    }

    fn failed(&self, source: std::io::Error) -> NsdError {
        NsdError::Read { path: self.path.clone(), source }
    }

    fn hdf5(&self, source: hdf5_reader::error::Error) -> NsdError {
        NsdError::Hdf5 { path: self.path.clone(), source }
    }

    fn nifti(&self, source: nifti::NiftiError) -> NsdError {
        NsdError::Nifti { path: self.path.clone(), source }
    }

    fn unexpected(&self, what: impl Into<String>, found: String, expected: String) -> NsdError {
        NsdError::Unexpected { path: self.path.clone(), what: what.into(), found, expected }
    }

    fn open_hdf5(&self, [x, y, z]: [usize; 3]) -> Result<(Hdf5File, Dataset), NsdError> {
        let file = Hdf5File::open(&self.path).map_err(|source| self.hdf5(source))?;
        if let Some(lengths) = truncated(&file) {
            return Err(NsdError::truncated(&self.path, lengths));
        }
        let dataset = file.dataset(DATASET).map_err(|source| self.hdf5(source))?;
        let expected = [TRIALS, z, y, x].map(|side| side as u64);
        if dataset.shape() != expected {
            return Err(self.unexpected(
                format!("the shape of `{DATASET}`"),
                format!("{:?}", dataset.shape()),
                format!("{expected:?}: {TRIALS} trials of the subject's volume"),
            ));
        }
        match dataset.dtype() {
            Datatype::FixedPoint { size: 2, signed: true, .. } | Datatype::FloatingPoint { size: 4 | 8, .. } => {
                Ok((file, dataset))
            }
            other => Err(self.unexpected(
                format!("the type of `{DATASET}`"),
                format!("{other:?}"),
                "whole numbers of 16 bits, or real numbers".to_owned(),
            )),
        }
    }

    /// Reads the whole file in its order and hashes it, on a thread of its own.
    fn digest(&self, name: String, watch: Watch<'_>) -> Result<FileRecord, NsdError> {
        let mut file = File::open(&self.path).map_err(|source| self.failed(source))?;
        let (back, empty) = mpsc::channel();
        let (read, pieces) = mpsc::channel::<(Vec<u8>, usize)>();
        std::thread::scope(|scope| {
            let hash = scope.spawn(move || {
                let mut hash = Sha256::new();
                for (piece, length) in pieces {
                    hash.update(&piece[..length]);
                    // Who reads has come to the end.
                    let _ = back.send(piece);
                }
                hexadecimal(hash)
            });
            let mut bytes = 0;
            for turn in 0.. {
                let again = if turn < PIECES { None } else { empty.recv().ok() };
                let mut piece = again.unwrap_or_else(|| vec![0; PIECE]);
                let length = file.read(&mut piece).map_err(|source| self.failed(source))?;
                if length == 0 {
                    break;
                }
                bytes += length as u64;
                if watch(length as u64).is_break() {
                    return Err(NsdError::Stopped);
                }
                // Who hashes has panicked, which the end tells.
                let _ = read.send((piece, length));
            }
            drop(read);
            let sha256 = hash.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok(FileRecord { name, bytes, sha256 })
        })
    }

    /// `base`: where the addresses in the file count from.
    fn pick_chunks(&self, base: u64, root: u64, pick: &Pick, keep: Keep<'_>) -> Result<(), NsdError> {
        const NOWHERE: Range<u64> = 0..0;
        const BYTES: u64 = 2 * TRIALS as u64;
        let failed = |source| self.failed(source);
        let file = File::open(&self.path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut places = vec![NOWHERE; pick.voxels];
        // Entries are chunks and the nodes above them, of which there are fewer.
        let most = 2 * pick.rows.len() + 1;
        let index = chunks::Index { file: &file, base, length };
        index
            .walk(root, most, &mut |[trial, z, y, x]: [u64; 4], place| {
                if let Some(row) = pick.row([z, y, x]).filter(|_| trial == 0) {
                    places[row] = place;
                }
            })
            .map_err(|source| NsdError::Index { path: self.path.clone(), source })?;
        if let Some(row) = places.iter().position(|place| place.end - place.start != BYTES) {
            return Err(self.unexpected(
                format!("the data of voxel {row} of the set"),
                (places[row].end - places[row].start).to_string(),
                format!("{BYTES} bytes for every voxel"),
            ));
        }
        let read = |series: &mut [f32], place: &Range<u64>| {
            let mut bytes = [0; BYTES as usize];
            file.read_exact_at(&mut bytes, place.start).map_err(failed)?;
            let (values, _) = bytes.as_chunks::<2>();
            series
                .iter_mut()
                .zip(values)
                .for_each(|(beta, value)| *beta = f32::from(i16::from_le_bytes(*value)) / SCALE);
            Ok::<_, NsdError>(())
        };
        first_error(places.par_chunks(BLOCK).enumerate().map_init(
            || vec![0.0; BLOCK * TRIALS],
            |buffer, (block, places)| {
                let series = &mut buffer[..places.len() * TRIALS];
                series.chunks_exact_mut(TRIALS).zip(places).try_for_each(|(series, place)| read(series, place))?;
                keep(block * BLOCK, series)
            },
        ))
    }

    /// For files that are laid out in another way than NSD's.
    fn pick_slices(&self, dataset: &Dataset, pick: &Pick) -> Result<Vec<f32>, NsdError> {
        let [width, height, depth] = pick.shape;
        let mut picked = vec![0.0; pick.voxels * TRIALS];
        for z in 0..depth {
            let mut slice = SliceInfo::all(4);
            slice.selections[1] = SliceInfoElem::Index(z as u64);
            let read = |source| self.hdf5(source);
            let betas: Vec<f32> = match dataset.dtype() {
                Datatype::FixedPoint { .. } => {
                    let plane = dataset.read_slice::<i16>(&slice).map_err(read)?;
                    plane.iter().map(|&value| f32::from(value) / SCALE).collect()
                }
                Datatype::FloatingPoint { size: 4, .. } => {
                    dataset.read_slice::<f32>(&slice).map_err(read)?.iter().copied().collect()
                }
                _ => dataset.read_slice::<f64>(&slice).map_err(read)?.iter().map(|&value| value as f32).collect(),
            };
            for (at, voxel) in pick.rows[z * width * height..(z + 1) * width * height].iter().enumerate() {
                if *voxel != NOT_PICKED {
                    let series = &mut picked[*voxel as usize * TRIALS..][..TRIALS];
                    let values = betas[at..].iter().step_by(width * height);
                    series.iter_mut().zip(values).for_each(|(beta, value)| *beta = *value);
                }
            }
        }
        Ok(picked)
    }

    fn is_packed(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "gz")
    }

    fn nifti_stream<'a>(&self, file: impl Read + 'a) -> Box<dyn Read + 'a> {
        let file = BufReader::with_capacity(1 << 20, file);
        if self.is_packed() {
            Box::new(BufReader::with_capacity(1 << 20, MultiGzDecoder::new(file)))
        } else {
            Box::new(file)
        }
    }

    fn nifti_header(&self) -> Result<NiftiHeader, NsdError> {
        let file = File::open(&self.path).map_err(|source| self.failed(source))?;
        NiftiHeader::from_reader(self.nifti_stream(file)).map_err(|source| self.nifti(source))
    }

    fn check_nifti(&self, header: &NiftiHeader, [x, y, z]: [usize; 3]) -> Result<Volumes<'_>, NsdError> {
        let dim: Vec<usize> =
            header.dim().map_err(|source| self.nifti(source))?.iter().map(|&side| side.into()).collect();
        if dim != [x, y, z, TRIALS] {
            let expected = format!("{:?}: {TRIALS} trials of the subject's volume", [x, y, z, TRIALS]);
            return Err(self.unexpected("its shape", format!("{dim:?}"), expected));
        }
        let kind = header.data_type().map_err(|source| self.nifti(source))?;
        if !matches!(kind, NiftiType::Int16 | NiftiType::Float32) {
            let expected = "whole numbers of 16 bits or real numbers of 32".to_owned();
            return Err(self.unexpected("the type of its values", format!("{kind:?}"), expected));
        }
        let (slope, intercept) = match header.scl_slope {
            slope if slope.is_finite() && slope != 0.0 => (slope, header.scl_inter),
            _ => (1.0, 0.0),
        };
        let little = header.endianness == Endianness::Little;
        Ok(Volumes { session: self, kind, little, slope, intercept, offset: header.vox_offset })
    }

    fn read_nifti(&self, pick: &Pick, name: String, watch: Watch<'_>) -> Result<(Vec<f32>, FileRecord), NsdError> {
        let file = File::open(&self.path).map_err(|source| self.failed(source))?;
        let mut series = vec![0.0; pick.voxels * TRIALS];
        let mut file = Hashed { inner: file, hash: Sha256::new(), bytes: 0 };
        let mut stream = self.nifti_stream(&mut file);
        let header = NiftiHeader::from_reader(&mut stream).map_err(|source| self.nifti(source))?;
        let volumes = self.check_nifti(&header, pick.shape)?;
        // The watch counts a file's own bytes; volumes share them evenly.
        let each = std::fs::metadata(&self.path).map_err(|source| self.failed(source))?.len() / TRIALS as u64;
        volumes.pick(&mut stream, pick, TRIALS, &mut series, &mut |volumes| watch(volumes * each))?;
        std::io::copy(&mut stream, &mut std::io::sink()).map_err(|source| self.failed(source))?;
        drop(stream);
        std::io::copy(&mut file, &mut std::io::sink()).map_err(|source| self.failed(source))?;
        Ok((series, FileRecord { name, bytes: file.bytes, sha256: hexadecimal(file.hash) }))
    }
}

/// Of work on voxels in their order the first error: which one is told must not depend on threads.
fn first_error(ends: impl IndexedParallelIterator<Item = Result<(), NsdError>>) -> Result<(), NsdError> {
    ends.find_map_first(Result::err).map_or(Ok(()), Err)
}

/// Where the index of a dataset's chunks begins, if it has one little-endian chunk of whole numbers a voxel, as NSD's files have.
fn by_voxel(file: &Hdf5File, dataset: &Dataset) -> Option<u64> {
    let Datatype::FixedPoint { byte_order: ByteOrder::LittleEndian, .. } = dataset.dtype() else { return None };
    if file.superblock().offset_size != 8 {
        return None;
    }
    let header = file.get_or_parse_header(dataset.address()).ok()?;
    let filtered = header.messages.iter().any(|message| matches!(message, HdfMessage::FilterPipeline(_)));
    let layout = header.messages.iter().find_map(|message| match message {
        HdfMessage::DataLayout(message) => Some(&message.layout),
        _ => None,
    })?;
    match layout {
        DataLayout::Chunked { address, dims, chunk_indexing: None, .. } if !filtered => {
            let dims = dims.get(..4)?;
            (dims == [TRIALS as u32, 1, 1, 1]).then_some(*address)
        }
        _ => None,
    }
}

/// The volumes of a NIfTI file, one a trial.
struct Volumes<'a> {
    session: &'a Session,
    kind: NiftiType,
    little: bool,
    slope: f32,
    intercept: f32,
    /// Of the first value, in bytes.
    offset: f32,
}

impl Volumes<'_> {
    /// Copies the first `trials` trials of the picked voxels into `series`; `stream` stands behind the header. `read` is called with the
    /// number of volumes that came.
    fn pick(
        &self,
        stream: &mut dyn Read,
        pick: &Pick,
        trials: usize,
        series: &mut [f32],
        read: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), NsdError> {
        const HEADER: u64 = 348;
        let failed = |source| self.session.failed(source);
        let gap = (self.offset as u64).saturating_sub(HEADER);
        std::io::copy(&mut (&mut *stream).take(gap), &mut std::io::sink()).map_err(failed)?;
        let size = self.kind.size_of();
        let mut volume = vec![0; pick.rows.len() * size];
        for trial in 0..trials {
            stream.read_exact(&mut volume).map_err(|source| match source.kind() {
                std::io::ErrorKind::UnexpectedEof => self.session.unexpected(
                    "the number of its volumes",
                    trial.to_string(),
                    format!("{TRIALS}: the file is truncated"),
                ),
                _ => failed(source),
            })?;
            for (value, row) in volume.chunks_exact(size).zip(&pick.rows) {
                if *row != NOT_PICKED {
                    series[*row as usize * trials + trial] = self.percent(value);
                }
            }
            if read(1).is_break() {
                return Err(NsdError::Stopped);
            }
        }
        Ok(())
    }

    fn percent(&self, bytes: &[u8]) -> f32 {
        match (bytes, self.little) {
            (&[a, b], true) => self.scaled(f32::from(i16::from_le_bytes([a, b]))) / SCALE,
            (&[a, b], false) => self.scaled(f32::from(i16::from_be_bytes([a, b]))) / SCALE,
            (&[a, b, c, d], true) => self.scaled(f32::from_le_bytes([a, b, c, d])),
            (&[a, b, c, d], false) => self.scaled(f32::from_be_bytes([a, b, c, d])),
            _ => f32::NAN,
        }
    }

    fn scaled(&self, value: f32) -> f32 {
        value * self.slope + self.intercept
    }
}

/// Hashes what passes.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(bytes)?;
        self.hash.update(&bytes[..length]);
        self.bytes += length as u64;
        Ok(length)
    }
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a voxel's values of one session have mean 0 and standard deviation 1, as the paper's authors do: (x − mean)/(sd + 10⁻⁶), sd over all
/// trials; a voxel without signal becomes 0.
pub fn z_score(series: &mut [f32]) {
    let count = series.len() as f64;
    let mean = sum(series, |beta| beta) / count;
    let variance = sum(series, |beta| (beta - mean).powi(2)) / count;
    let scale = 1.0 / (variance.sqrt() + 1e-6);
    series.iter_mut().for_each(|beta| *beta = ((f64::from(*beta) - mean) * scale) as f32);
}

/// Σ term(x), in lanes that a compiler keeps in registers.
fn sum(series: &[f32], term: impl Fn(f64) -> f64) -> f64 {
    let (chunks, rest) = series.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &beta)| *lane += term(f64::from(beta)));
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&beta| term(f64::from(beta))).sum::<f64>()
}
