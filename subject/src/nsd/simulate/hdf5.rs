//! Writing HDF5 files of one dataset, contiguous or chunked, as h5py does by default: superblock 0, a root group with a symbol
//! table, an object header of version 1, a version 1 B-tree of chunks (HDF5 File Format Specification 3.0, sections II.A, III, IV).
//!
//! Data lie in one run, so that they can be written in pieces and in any order; what is never written is zero and takes no disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where the data begin: behind superblock, root group and object header.
pub const DATA: u64 = 4096;
const UNDEFINED: u64 = u64::MAX;
/// Half of the most entries of a group's B-tree, of its leaves, and of a B-tree of chunks (the library's defaults).
const GROUP_K: usize = 16;
const LEAF_K: usize = 4;
const CHUNK_K: usize = 32;

const ROOT: usize = 96;
const GROUP_TREE: usize = ROOT + 40;
const LEAF: usize = GROUP_TREE + 24 + 8 * (4 * GROUP_K + 1);
const HEAP: usize = LEAF + 8 + 40 * 2 * LEAF_K;
const NAMES: usize = HEAP + 32;
const HEADER: usize = NAMES + 64;

/// What the elements are, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    U8,
    I16,
}

impl Element {
    fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I16 => 2,
        }
    }
}

/// The dataset of a file.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// At most 55 bytes.
    pub name: &'static str,
    pub element: Element,
    /// Slowest axis first.
    pub shape: Vec<usize>,
    /// Shape of a chunk, which divides that of the dataset; `None` for contiguous data.
    pub chunk: Option<Vec<usize>>,
}

/// A file that is being written.
#[derive(Debug)]
pub struct Writer {
    file: File,
    dataset: Dataset,
}

impl Writer {
    /// Makes the file of `dataset`, all zeros.
    pub fn create(path: &Path, dataset: Dataset) -> io::Result<Self> {
        let file = File::create(path)?;
        Ok(Self { file, dataset })
    }

    /// Writes `bytes` from byte `start` of the data: of elements in row-major order, or of chunks in row-major order.
    pub fn write(&self, start: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, DATA + start)
    }

    /// Writes everything but the data, to disk.
    pub fn finish(self) -> io::Result<()> {
        let size = self.dataset.bytes();
        let chunks = self.dataset.chunk.as_ref().map(|chunk| self.dataset.tree(chunk, DATA + size));
        let (nodes, root) = chunks.unwrap_or_default();
        let end = DATA + size + nodes.len() as u64;
        self.file.set_len(end)?;
        self.file.write_all_at(&head(&self.dataset, root, end), 0)?;
        self.file.write_all_at(&nodes, DATA + size)?;
        self.file.sync_all()
    }
}

/// Bytes that grow from the start of a block.
#[derive(Default)]
struct Block(Vec<u8>);

impl Block {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Zeros up to `address`.
    fn pad(&mut self, address: usize) -> &mut Self {
        self.0.resize(self.0.len().max(address), 0);
        self
    }

    /// A message of an object header, padded to eight bytes.
    fn message(&mut self, kind: u16, data: &Self) -> &mut Self {
        let padded = data.0.len().next_multiple_of(8);
        self.u16(kind).u16(padded as u16).u32(0).bytes(&data.0);
        let end = self.0.len() + padded - data.0.len();
        self.pad(end)
    }

    /// An object header of `count` messages.
    fn object_header(&mut self, count: u16, messages: &Self) -> &mut Self {
        self.bytes(&[1, 0]).u16(count).u32(1).u32(messages.0.len() as u32).u32(0).bytes(&messages.0)
    }
}

/// Everything before the data. `tree`: address of the chunks' B-tree; `end`: length of the file.
fn head(dataset: &Dataset, tree: u64, end: u64) -> Vec<u8> {
    let mut head = Block::default();
    head.bytes(b"\x89HDF\r\n\x1a\n").bytes(&[0, 0, 0, 0, 0, 8, 8, 0]);
    head.u16(LEAF_K as u16).u16(GROUP_K as u16).u32(0);
    head.u64(0).u64(UNDEFINED).u64(end).u64(UNDEFINED);
    let group = [GROUP_TREE as u64, HEAP as u64];
    head.u64(0).u64(ROOT as u64).u32(1).u32(0).u64(group[0]).u64(group[1]);

    let (mut table, mut messages) = (Block::default(), Block::default());
    table.u64(group[0]).u64(group[1]);
    messages.message(0x11, &table);
    head.pad(ROOT).object_header(1, &messages);
    // Keys are places of names in the heap: of the empty one, and of the only dataset's.
    head.pad(GROUP_TREE).bytes(b"TREE").bytes(&[0, 0]).u16(1).u64(UNDEFINED).u64(UNDEFINED);
    head.u64(0).u64(LEAF as u64).u64(8);
    head.pad(LEAF).bytes(b"SNOD").bytes(&[1, 0]).u16(1).u64(8).u64(HEADER as u64).u32(0).u32(0);
    // The heap has no free block, which the library writes as 1.
    head.pad(HEAP).bytes(b"HEAP").u32(0).u64((HEADER - NAMES) as u64).u64(1).u64(NAMES as u64);
    head.pad(NAMES + 8).bytes(dataset.name.as_bytes());
    head.pad(HEADER).object_header(4, &dataset.messages(tree));
    head.0
}

impl Dataset {
    fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.element.bytes() as u64
    }

    /// Dataspace, datatype, fill value (zero) and layout.
    fn messages(&self, tree: u64) -> Block {
        let [mut space, mut datatype, mut fill, mut layout] = std::array::from_fn(|_| Block::default());
        space.bytes(&[1, self.shape.len() as u8, 0, 0]).u32(0);
        for &length in &self.shape {
            space.u64(length as u64);
        }
        let width = self.element.bytes();
        let signed = u8::from(self.element == Element::I16);
        datatype.bytes(&[0x10, signed << 3, 0, 0]).u32(width as u32).u16(0).u16(8 * width as u16);
        match &self.chunk {
            // Space is taken at once for contiguous data, chunk by chunk else.
            None => {
                fill.bytes(&[2, 1, 2, 1]).u32(0);
                layout.bytes(&[3, 1]).u64(DATA).u64(self.bytes());
            }
            Some(chunk) => {
                fill.bytes(&[2, 3, 2, 1]).u32(0);
                layout.bytes(&[3, 2, chunk.len() as u8 + 1]).u64(tree);
                for &length in chunk.iter().chain([&width]) {
                    layout.u32(length as u32);
                }
            }
        }
        let mut messages = Block::default();
        messages.message(1, &space).message(3, &datatype).message(5, &fill).message(8, &layout);
        messages
    }

    /// The B-tree of the chunks, which begins at address `at`, and the address of its root. Chunks lie in row-major order behind
    /// [`DATA`]; so do the nodes of a level, leaves first.
    fn tree(&self, chunk: &[usize], at: u64) -> (Vec<u8>, u64) {
        let grid: Vec<usize> = self.shape.iter().zip(chunk).map(|(length, chunk)| length / chunk).collect();
        let count: usize = grid.iter().product();
        let chunk_bytes = chunk.iter().product::<usize>() * self.element.bytes();
        let key = |tree: &mut Block, number: usize| {
            tree.u32(if number < count { chunk_bytes as u32 } else { 0 }).u32(0);
            // The key behind the last chunk is larger than all: one past the slowest axis.
            let mut stride = count;
            let mut rest = number;
            for (length, chunk) in grid.iter().zip(chunk) {
                stride /= length;
                tree.u64((rest / stride * chunk) as u64);
                rest %= stride;
            }
            tree.u64(0);
        };
        let key_bytes = 8 * (chunk.len() + 2);
        let node_bytes = 24 + 8 * 2 * CHUNK_K + key_bytes * (2 * CHUNK_K + 1);
        let mut tree = Block::default();
        // What the level's children are: how many, how many chunks each holds, where they begin and how long they are.
        let (mut children, mut holds, mut first, mut size) = (count, 1, DATA, chunk_bytes as u64);
        for level in 0_u8.. {
            let nodes = children.div_ceil(2 * CHUNK_K);
            let begin = at + tree.0.len() as u64;
            for node in 0..nodes {
                let node_begin = tree.0.len();
                let own = node * 2 * CHUNK_K..children.min((node + 1) * 2 * CHUNK_K);
                let sibling = |exists: bool, node: usize| match exists {
                    true => begin + (node * node_bytes) as u64,
                    false => UNDEFINED,
                };
                tree.bytes(b"TREE").bytes(&[1, level]).u16(own.len() as u16);
                tree.u64(sibling(node > 0, node.wrapping_sub(1))).u64(sibling(node + 1 < nodes, node + 1));
                for child in own.clone() {
                    key(&mut tree, child * holds);
                    tree.u64(first + child as u64 * size);
                }
                key(&mut tree, (own.end * holds).min(count));
                tree.pad(node_begin + node_bytes);
            }
            if nodes == 1 {
                return (tree.0, begin);
            }
            (children, holds, first, size) = (nodes, holds * 2 * CHUNK_K, begin, node_bytes as u64);
        }
        unreachable!("every level has fewer nodes than the one below it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address of the chunk at `offsets`, found as the library does: from the root down, between two keys.
    fn find(file: &[u8], node: u64, offsets: &[u64]) -> u64 {
        let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        let node = node as usize;
        assert_eq!((&file[node..node + 4], file[node + 4]), (&b"TREE"[..], 1));
        let entries = usize::from(u16::from_le_bytes([file[node + 6], file[node + 7]]));
        let key_bytes = 8 * (offsets.len() + 2);
        let key = |entry: usize| {
            let at = node + 24 + entry * (key_bytes + 8) + 8;
            (0..offsets.len()).map(|axis| word(at + 8 * axis)).collect::<Vec<_>>()
        };
        let entry = (0..entries).find(|&entry| key(entry).as_slice() <= offsets && offsets < key(entry + 1).as_slice());
        let child = word(node + 24 + entry.unwrap() * (key_bytes + 8) + key_bytes);
        if file[node + 5] == 0 { child } else { find(file, child, offsets) }
    }

    #[test]
    fn every_chunk_is_found_through_three_levels_of_the_tree() {
        let shape = [3, 17, 19, 13];
        let dataset =
            Dataset { name: "betas", element: Element::I16, shape: shape.to_vec(), chunk: Some(vec![3, 1, 1, 1]) };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("betas.hdf5");
        let writer = Writer::create(&path, dataset.clone()).unwrap();
        writer.write(0, &(0..dataset.bytes()).map(|byte| (byte % 251) as u8).collect::<Vec<_>>()).unwrap();
        writer.finish().unwrap();
        let file = std::fs::read(&path).unwrap();
        let (_, root) = dataset.tree(&[3, 1, 1, 1], DATA + dataset.bytes());
        assert_eq!(file[root as usize + 5], 2, "levels");
        let mut expected = DATA;
        for z in 0..17 {
            for y in 0..19 {
                for x in 0..13 {
                    assert_eq!(find(&file, root, &[0, z, y, x]), expected);
                    expected += 6;
                }
            }
        }
    }

    #[test]
    fn a_reader_finds_every_element_of_contiguous_and_chunked_data() {
        let folder = tempfile::tempdir().unwrap();
        for chunk in [None, Some(vec![4, 1, 1])] {
            let path = folder.path().join("data.hdf5");
            let dataset = Dataset { name: "data", element: Element::I16, shape: vec![4, 11, 13], chunk };
            let writer = Writer::create(&path, dataset.clone()).unwrap();
            // What is not written is zero.
            let values: Vec<i16> = (0..500).map(|value| 40 * value - 9_000).collect();
            writer.write(0, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()).unwrap();
            writer.finish().unwrap();
            let read =
                hdf5_reader::Hdf5File::open(&path).unwrap().dataset("data").unwrap().read_array::<i16>().unwrap();
            assert_eq!(read.shape(), [4, 11, 13]);
            for (index, &found) in read.indexed_iter() {
                let row_major = (index[0] * 11 + index[1]) * 13 + index[2];
                let chunk_by_chunk = (index[1] * 13 + index[2]) * 4 + index[0];
                let at = if dataset.chunk.is_some() { chunk_by_chunk } else { row_major };
                assert_eq!(found, values.get(at).copied().unwrap_or(0), "{index:?}");
            }
        }
    }
}
