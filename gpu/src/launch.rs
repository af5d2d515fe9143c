//! What a launch of a kernel says beside the kernel's name.

/// Bytes of shared memory that a block may use on every device.
pub const SHARED_BYTES: u32 = 48 << 10;
/// Bytes of shared memory that a block may use if the launch says so, from compute capability 7.0 on.
pub const LARGE_SHARED_BYTES: u32 = 96 << 10;

/// How many threads run a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// x, y, z.
    pub blocks: [u32; 3],
    /// Threads of a block, in one dimension; a multiple of 32, at most 1024.
    pub threads: u32,
    /// Bytes of shared memory of a block, beside those that the kernel declares.
    pub shared_bytes: u32,
    /// Whether a block uses more than [`SHARED_BYTES`] in all, which a device must be told before the kernel is launched. At
    /// most [`LARGE_SHARED_BYTES`].
    pub large_shared: bool,
}

/// An argument of a kernel, of the type that its parameter has in CUDA C.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    /// An address in the device's memory.
    Pointer(u64),
    /// `int`
    Int(i32),
    /// `long long`
    Long(i64),
    /// `float`
    Float(f32),
}
