//! Compiles loops for the vector instructions that the processor turns out to have.

/// Defines functions that are compiled thrice: for AVX-512, for AVX2 and for the target's baseline; a call runs the widest
/// that the processor has.
///
/// The compiler neither reorders floating-point sums nor contracts products into them, so that all three give the same bits.
/// A body consists of plain loops and of `#[inline(always)]` functions: whatever is not inlined is compiled for the baseline.
macro_rules! vectorised {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident<$type:ident: $bound:ident>($($argument:ident: $of:ty),* $(,)?) $(-> $returned:ty)?
        $body:block
    )*) => {$(
        $(#[$attribute])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name<$type: $bound>($($argument: $of),*) $(-> $returned)? {
            #[inline(always)]
            fn portable<$type: $bound>($($argument: $of),*) $(-> $returned)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512<$type: $bound>($($argument: $of),*) $(-> $returned)? {
                    portable($($argument),*)
                }

                #[target_feature(enable = "avx2")]
                fn avx2<$type: $bound>($($argument: $of),*) $(-> $returned)? {
                    portable($($argument),*)
                }

                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the processor has the features that the function is compiled for.
                    return unsafe { avx512($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: as above.
                    return unsafe { avx2($($argument),*) };
                }
            }
            portable($($argument),*)
        }
    )*};
}
pub(crate) use vectorised;
