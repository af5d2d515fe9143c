//! What a launch of a kernel says beside the kernel's name.

/// How many threads run a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// x, y, z.
    pub blocks: [u32; 3],
    /// Threads of a block, in one dimension; a multiple of 32, at most 1024.
    pub threads: u32,
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
