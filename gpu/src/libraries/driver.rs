//! The few functions of the driver that tell which cards there are, called without a context on any of them.

use super::{Library, LibraryError, LibraryFile};
use std::ffi::{c_char, c_int, c_uint};
use std::fs;
use std::sync::OnceLock;

/// `CUdevice`
pub(super) type Ordinal = c_int;
const SUCCESS: c_int = 0;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`
const CAPABILITY: [c_int; 2] = [75, 76];

/// The CUDA that a driver must serve to take this program's kernels; it has none without the features.
fn needed() -> Option<(u32, u32)> {
    #[cfg(all(feature = "ptx", feature = "libraries"))]
    return crate::needs().map(|needs| needs.cuda);
    #[cfg(not(all(feature = "ptx", feature = "libraries")))]
    None
}

/// The driver's library, started.
#[derive(Debug)]
pub struct Driver {
    file: LibraryFile,
    cuda: (u32, u32),
    calls: Calls,
}

#[derive(Debug)]
struct Calls {
    get_count: unsafe extern "C" fn(*mut c_int) -> c_int,
    get: unsafe extern "C" fn(*mut Ordinal, c_int) -> c_int,
    get_name: unsafe extern "C" fn(*mut c_char, c_int, Ordinal) -> c_int,
    get_uuid: GetUuid,
    /// Drivers before 470 lack it.
    get_own_uuid: Option<GetUuid>,
    get_attribute: unsafe extern "C" fn(*mut c_int, c_int, Ordinal) -> c_int,
    total_memory: unsafe extern "C" fn(*mut usize, Ordinal) -> c_int,
}

type GetUuid = unsafe extern "C" fn(*mut [u8; 16], Ordinal) -> c_int;

/// A device's identity. It is its card's, but for a part of a card (MIG).
#[derive(Debug, Clone, Copy)]
pub(super) struct Uuid {
    pub own: [u8; 16],
    pub card: [u8; 16],
}

impl Driver {
    /// The driver, once for the process.
    pub fn start() -> Result<&'static Self, LibraryError> {
        static DRIVER: OnceLock<Result<Driver, LibraryError>> = OnceLock::new();
        let driver = DRIVER.get_or_init(Self::open);
        driver.as_ref().map_err(LibraryError::clone)
    }

    fn open() -> Result<Self, LibraryError> {
        let file = LibraryFile::open(Library::Driver)?;
        // SAFETY: cuda.h declares these functions, and those of `Calls`, with these types on every version of the driver.
        let (get_version, init) = unsafe {
            let get_version: unsafe extern "C" fn(*mut c_int) -> c_int = file.function("cuDriverGetVersion")?;
            let init: unsafe extern "C" fn(c_uint) -> c_int = file.function("cuInit")?;
            (get_version, init)
        };
        let mut version = 0;
        // SAFETY: it writes one int, and may be called before cuInit.
        check("cuDriverGetVersion", unsafe { get_version(&raw mut version) })?;
        let version = u32::try_from(version).unwrap_or(0);
        let cuda = (version / 1000, version % 1000 / 10);
        if let Some(needed) = needed().filter(|needed| cuda < *needed) {
            return Err(LibraryError::OldDriver { release: release(), found: cuda, needed });
        }
        // SAFETY: flags must be 0.
        match unsafe { init(0) } {
            SUCCESS => {}
            code => return Err(LibraryError::Start { code }),
        }
        // SAFETY: as above.
        let calls = unsafe {
            Calls {
                get_count: file.function("cuDeviceGetCount")?,
                get: file.function("cuDeviceGet")?,
                get_name: file.function("cuDeviceGetName")?,
                get_uuid: file.function("cuDeviceGetUuid")?,
                get_own_uuid: file.function("cuDeviceGetUuid_v2").ok(),
                get_attribute: file.function("cuDeviceGetAttribute")?,
                total_memory: file.function("cuDeviceTotalMem_v2")?,
            }
        };
        Ok(Self { file, cuda, calls })
    }

    /// Where its library was found.
    pub fn file(&self) -> &LibraryFile {
        &self.file
    }

    /// Major and minor version of the newest CUDA that it serves.
    pub fn cuda(&self) -> (u32, u32) {
        self.cuda
    }

    /// Its release, for example 550.54.15; the library does not tell it, the kernel's module does where it is loaded.
    pub fn release(&self) -> Option<String> {
        release()
    }

    pub(super) fn count(&self) -> Result<u32, LibraryError> {
        let mut count = 0;
        // SAFETY: it writes one int.
        check("cuDeviceGetCount", unsafe { (self.calls.get_count)(&raw mut count) })?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    pub(super) fn device(&self, ordinal: u32) -> Result<Ordinal, LibraryError> {
        let mut device = 0;
        // SAFETY: it writes one CUdevice.
        check("cuDeviceGet", unsafe { (self.calls.get)(&raw mut device, ordinal.cast_signed()) })?;
        Ok(device)
    }

    pub(super) fn name(&self, device: Ordinal) -> Result<String, LibraryError> {
        let mut text = [0_u8; 256];
        // SAFETY: it writes at most the given number of bytes, with a zero at the end.
        check("cuDeviceGetName", unsafe { (self.calls.get_name)(text.as_mut_ptr().cast(), 256, device) })?;
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).trim().to_owned())
    }

    pub(super) fn uuid(&self, device: Ordinal) -> Result<Uuid, LibraryError> {
        let get = |function: GetUuid| {
            let mut uuid = [0; 16];
            // SAFETY: it writes a CUuuid, 16 bytes.
            check("cuDeviceGetUuid", unsafe { function(&raw mut uuid, device) }).map(|()| uuid)
        };
        let card = get(self.calls.get_uuid)?;
        Ok(Uuid { own: self.calls.get_own_uuid.map_or(Ok(card), get)?, card })
    }

    pub(super) fn capability(&self, device: Ordinal) -> Result<(u32, u32), LibraryError> {
        let [major, minor] = CAPABILITY.map(|attribute| {
            let mut value = 0;
            // SAFETY: it writes one int.
            let code = unsafe { (self.calls.get_attribute)(&raw mut value, attribute, device) };
            check("cuDeviceGetAttribute", code).map(|()| u32::try_from(value).unwrap_or(0))
        });
        Ok((major?, minor?))
    }

    pub(super) fn total_bytes(&self, device: Ordinal) -> Result<u64, LibraryError> {
        let mut bytes = 0_usize;
        // SAFETY: it writes one size_t.
        check("cuDeviceTotalMem", unsafe { (self.calls.total_memory)(&raw mut bytes, device) })?;
        Ok(bytes as u64)
    }
}

fn check(call: &'static str, code: c_int) -> Result<(), LibraryError> {
    if code == SUCCESS { Ok(()) } else { Err(LibraryError::Driver { call, code }) }
}

fn release() -> Option<String> {
    let text = fs::read_to_string("/sys/module/nvidia/version").ok()?;
    Some(text.trim().to_owned()).filter(|release| !release.is_empty())
}
