//! A function of a library that the linker finds in this program, and that jumps to where the library has it once that is loaded.
//!
//! cudarc, as candle asks for it, has the functions of NVIDIA's libraries linked. A program that defines every one of them needs none
//! of the libraries to be built, nor to start.

use std::ffi::c_void;
use std::process::abort;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Where a trampoline jumps to, and how often it did. Its code knows where the two lie.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Slot {
    pub address: AtomicPtr<c_void>,
    pub calls: AtomicU64,
}

/// A function by its name, and the slot that its trampoline jumps through.
#[derive(Debug)]
pub(super) struct Function {
    pub name: &'static str,
    pub slot: &'static Slot,
    /// Whether only newer releases of the library have it; who was compiled against an older one does not call it.
    pub newer: bool,
}

impl Function {
    /// From here on the trampoline jumps to `address`.
    pub(super) fn set(&self, address: *mut c_void) {
        self.slot.address.store(address, Ordering::Release);
    }

    /// How often it was called.
    pub(super) fn calls(&self) -> u64 {
        self.slot.calls.load(Ordering::Relaxed)
    }
}

/// Where a slot leads until its library is loaded.
pub(super) fn absent(library: &str, function: &str) -> ! {
    eprintln!("error: {function} was called, and {library} is not loaded or has no such function");
    abort()
}

/// Defines the functions of one library, and `FUNCTIONS`, the list of them. Hidden, so that no library that is loaded finds them here.
macro_rules! functions {
    ($library:literal: $($name:ident)* $(; newer: $($newer:ident)*)?) => {
        $crate::libraries::trampoline::functions! { @define $library: $($name)* $($($newer)*)? }

        pub(in $crate::libraries) static FUNCTIONS: &[$crate::libraries::trampoline::Function] = &[
            $($crate::libraries::trampoline::Function { name: stringify!($name), slot: &$name, newer: false },)*
            $($($crate::libraries::trampoline::Function { name: stringify!($newer), slot: &$newer, newer: true },)*)?
        ];
    };
    (@define $library:literal: $($name:ident)*) => {
        $(
            #[allow(non_upper_case_globals, reason = "a slot has its function's name")]
            static $name: $crate::libraries::trampoline::Slot = $crate::libraries::trampoline::Slot {
                address: std::sync::atomic::AtomicPtr::new({
                    extern "C" fn absent() -> ! {
                        $crate::libraries::trampoline::absent($library, stringify!($name))
                    }
                    absent as *mut std::ffi::c_void
                }),
                calls: std::sync::atomic::AtomicU64::new(0),
            };

            #[cfg(target_arch = "x86_64")]
            std::arch::global_asm!(
                ".text",
                concat!(".globl ", stringify!($name)),
                concat!(".hidden ", stringify!($name)),
                concat!(".type ", stringify!($name), ", @function"),
                concat!(stringify!($name), ":"),
                "lock inc qword ptr [rip + {slot} + 8]",
                "jmp qword ptr [rip + {slot}]",
                slot = sym $name,
            );

            #[cfg(target_arch = "aarch64")]
            std::arch::global_asm!(
                ".text",
                ".balign 4",
                concat!(".globl ", stringify!($name)),
                concat!(".hidden ", stringify!($name)),
                concat!(".type ", stringify!($name), ", %function"),
                concat!(stringify!($name), ":"),
                "adrp x16, {slot}",
                "add x16, x16, :lo12:{slot}",
                // Not atomic: calls of two threads at the same moment may count as one.
                "ldr x17, [x16, 8]",
                "add x17, x17, 1",
                "str x17, [x16, 8]",
                "ldr x16, [x16]",
                "br x16",
                slot = sym $name,
            );
        )*
    };
}

pub(super) use functions;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the feature `libraries` knows how to jump on x86_64 and aarch64 only");
