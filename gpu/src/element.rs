//! What kernels read and write.

/// The type of a kernel's elements in memory; it computes in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    F32,
    F16,
    /// Only on cards of compute capability 8.0 and above.
    Bf16,
}
