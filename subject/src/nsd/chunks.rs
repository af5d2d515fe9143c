//! Where the chunks of an HDF5 dataset lie: a walk of the B-tree of version 1 that indexes them (HDF5 File Format Specification 3.0,
//! III.A.1). Betas have one chunk a voxel, 700,000 a file, which libraries look up one by one; here one pass over the index finds all.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

const SIGNATURE: &[u8] = b"TREE";
const CHUNKS: u8 = 1;
/// Signature, type, level, number of entries, two siblings.
const NODE_HEADER: usize = 24;

/// Why an index can't be walked.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("the index of its chunks is damaged at byte {at}: {what}")]
    Damaged { at: u64, what: &'static str },
    #[error("reading the index of its chunks at byte {at}: {source}")]
    Read { at: u64, source: io::Error },
}

/// The index in a file whose addresses have eight bytes.
#[derive(Debug, Clone, Copy)]
pub struct Index<'a> {
    pub file: &'a File,
    /// Where addresses count from, in bytes from the file's beginning.
    pub base: u64,
    /// Of the file, in bytes.
    pub length: u64,
}

impl Index<'_> {
    /// Calls `found` with the position in the dataset of every chunk's first element and the chunk's bytes in the file; `RANK` axes, the
    /// uppermost node at the address `root`, at most `most` chunks.
    ///
    /// # Errors
    /// A node is outside the file or malformed, there are more chunks, or the file can't be read.
    pub fn walk<const RANK: usize>(
        self,
        root: u64,
        most: usize,
        found: &mut impl FnMut([u64; RANK], Range<u64>),
    ) -> Result<(), IndexError> {
        Walk { index: self, left: most, found }.node(root, None)
    }

    /// Fills `bytes` from `at`, which counts from the file's beginning.
    fn read(self, bytes: &mut [u8], at: u64) -> Result<(), IndexError> {
        match at.checked_add(bytes.len() as u64) {
            Some(end) if end <= self.length => {
                self.file.read_exact_at(bytes, at).map_err(|source| IndexError::Read { at, source })
            }
            _ => Err(IndexError::Damaged { at, what: "a node is outside the file" }),
        }
    }
}

struct Walk<'a, F> {
    index: Index<'a>,
    /// Chunks that may still come.
    left: usize,
    found: &'a mut F,
}

impl<F> Walk<'_, F> {
    fn node<const RANK: usize>(&mut self, address: u64, level: Option<u8>) -> Result<(), IndexError>
    where
        F: FnMut([u64; RANK], Range<u64>),
    {
        let at = self.index.base.saturating_add(address);
        let wrong = |what| IndexError::Damaged { at, what };
        let mut header = [0; NODE_HEADER];
        self.index.read(&mut header, at)?;
        if !header.starts_with(SIGNATURE) || header[4] != CHUNKS {
            return Err(wrong("no node of an index of chunks"));
        }
        // Every level is one below its parent, so that no walk is endless.
        if level.is_some_and(|level| level != header[5]) {
            return Err(wrong("a node of another level than its place"));
        }
        let entries = usize::from(u16::from_le_bytes([header[6], header[7]]));
        // A key: bytes of the chunk, filters left out, position, a zero for the element; then the child's address.
        let entry = 8 + 8 * (RANK + 1) + 8;
        let mut table = vec![0; entries * entry];
        self.index.read(&mut table, at + NODE_HEADER as u64)?;
        for entry in table.chunks_exact(entry) {
            let (words, _) = entry.as_chunks::<8>();
            let word = |at: usize| u64::from_le_bytes(words[at]);
            let child = word(RANK + 2);
            self.left = self.left.checked_sub(1).ok_or(wrong("more entries than chunks"))?;
            if header[5] > 0 {
                self.node::<RANK>(child, Some(header[5] - 1))?;
                continue;
            }
            let start = self.index.base.saturating_add(child);
            let chunk = start..start.saturating_add(word(0) & u64::from(u32::MAX));
            if chunk.end > self.index.length {
                return Err(wrong("a chunk is outside the file"));
            }
            (self.found)(std::array::from_fn(|axis| word(1 + axis)), chunk);
        }
        Ok(())
    }
}
