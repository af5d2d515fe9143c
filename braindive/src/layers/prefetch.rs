//! Brings values nearer before they are needed.

/// Bytes that come at once.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Asks the processor's caches for `values`, which will be read soon, and does not wait for them. Where the processor has no instruction for
/// it that Rust knows, nothing happens.
pub(crate) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(LINE.div_ceil(size_of::<T>().max(1))) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint that neither reads nor writes; every x86-64 processor has it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}
