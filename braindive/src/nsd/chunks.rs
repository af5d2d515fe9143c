//! Where the chunks of an HDF5 dataset lie: a walk of the B-tree of version 1 that indexes them (HDF5 File Format Specification 3.0,
//! III.A.1). Betas have one chunk a voxel, 700,000 a file, which libraries look up one by one; here one pass over the index finds all.

use std::ops::Range;

const SIGNATURE: &[u8] = b"TREE";
const CHUNKS: u8 = 1;
/// Signature, type, level, number of entries, two siblings.
const NODE_HEADER: usize = 24;

/// Why an index can't be walked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the index of its chunks is damaged at byte {at}: {what}")]
pub struct IndexError {
    pub at: usize,
    pub what: &'static str,
}

/// Calls `found` with the position in the dataset of every chunk's first element and the chunk's bytes in `file`; `rank` axes, addresses
/// of eight bytes, at most `most` chunks.
///
/// # Errors
/// A node is outside the file or malformed, or there are more chunks.
pub fn walk<const RANK: usize>(
    file: &[u8],
    root: u64,
    most: usize,
    found: &mut impl FnMut([u64; RANK], Range<usize>),
) -> Result<(), IndexError> {
    let mut walk = Walk { file, left: most, found };
    walk.node(root, None)
}

struct Walk<'a, F> {
    file: &'a [u8],
    /// Chunks that may still come.
    left: usize,
    found: &'a mut F,
}

impl<F> Walk<'_, F> {
    fn node<const RANK: usize>(&mut self, address: u64, level: Option<u8>) -> Result<(), IndexError>
    where
        F: FnMut([u64; RANK], Range<usize>),
    {
        let at = usize::try_from(address).unwrap_or(usize::MAX);
        let wrong = |what| IndexError { at, what };
        let node = self.file.get(at..).ok_or(wrong("it is outside the file"))?;
        let header = node.first_chunk::<NODE_HEADER>().ok_or(wrong("it ends with the file"))?;
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
        let table = node.get(NODE_HEADER..NODE_HEADER + entries * entry).ok_or(wrong("it ends with the file"))?;
        for entry in table.chunks_exact(entry) {
            let (words, _) = entry.as_chunks::<8>();
            let word = |at: usize| u64::from_le_bytes(words[at]);
            let child = word(RANK + 2);
            if header[5] > 0 {
                self.left = self.left.checked_sub(1).ok_or(wrong("more entries than chunks"))?;
                self.node::<RANK>(child, Some(header[5] - 1))?;
                continue;
            }
            let bytes = (word(0) & u64::from(u32::MAX)) as usize;
            let start = usize::try_from(child).unwrap_or(usize::MAX);
            let chunk = start..start.saturating_add(bytes);
            if chunk.end > self.file.len() {
                return Err(wrong("a chunk is outside the file"));
            }
            self.left = self.left.checked_sub(1).ok_or(wrong("more entries than chunks"))?;
            (self.found)(std::array::from_fn(|axis| word(1 + axis)), chunk);
        }
        Ok(())
    }
}
