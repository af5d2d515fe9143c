//! A disk that can be filled: a tmpfs of a known size, which only root can mount.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small disk, unmounted at the end.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `megabytes` at `path`, which is made if it is not there; `None` if that is not allowed here.
    pub fn mount(path: &Path, megabytes: u32) -> Option<Self> {
        std::fs::create_dir_all(path).ok()?;
        let size = format!("size={megabytes}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output().ok()?;
        mount.status.success().then(|| Self { path: path.to_owned() })
    }

    /// Fills it to the last block, until the answer is dropped.
    pub fn fill(&self) -> Full {
        let filler = self.path.join("filler");
        let mut file = OpenOptions::new().create(true).append(true).open(&filler).expect("a file can be made");
        for block in [vec![0; 1 << 20], vec![0; 4096]] {
            while file.write_all(&block).is_ok() {}
        }
        Full { filler }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// A disk without room.
#[derive(Debug)]
pub struct Full {
    filler: PathBuf,
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.filler);
    }
}
