//! HDF5 files that a download or a full disk has cut short: they open, and only what is missing can't be read.

use hdf5_reader::Hdf5File;

/// How long a file is and how long it says that it is, in bytes, if the first is less.
pub fn truncated(file: &Hdf5File) -> Option<[u64; 2]> {
    let lengths @ [length, announced] = [file.storage().len(), file.superblock().eof_address];
    (length < announced).then_some(lengths)
}
