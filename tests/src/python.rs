//! A Python with the packages that the field reads its files with.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const PACKAGES: [&str; 5] = ["h5py", "nibabel", "numpy", "pillow", "scipy"];
const MODULES: &str = "h5py, nibabel, numpy, PIL, scipy";

/// An interpreter in a virtual environment with h5py, nibabel, numpy, Pillow and scipy; the first test that asks installs them beside the
/// binaries. Without python3, or where pip reaches no index, says so and returns `None`.
pub fn with_scientific_packages() -> Option<PathBuf> {
    let target = super::binary("worker").parent()?.to_owned();
    let environment = target.join("python");
    let interpreter = environment.join("bin/python");
    // Test binaries run at the same time; one of them installs.
    let lock = File::create(target.join("python.lock")).expect("a lock beside the binaries");
    lock.lock().expect("the lock can be taken");
    let imports = || {
        let import = format!("import {MODULES}");
        let quiet = Command::new(&interpreter).args(["-c", &import]).stderr(Stdio::null()).status();
        quiet.is_ok_and(|status| status.success())
    };
    if !imports() {
        let run = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let installed = run(Command::new("python3").args(["-m", "venv"]).arg(&environment))
            && run(Command::new(&interpreter).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES));
        if !installed || !imports() {
            eprintln!("skipped: no Python with {}, and pip could not install them", PACKAGES.join(", "));
            return None;
        }
    }
    Some(interpreter)
}
