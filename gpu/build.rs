//! Compiles the kernels to PTX for the feature `ptx`, and for the host for `emulation`; stands in for NVIDIA's libraries at the linker for
//! `libraries`. A build without features does nothing here.

#[cfg(feature = "emulation")]
#[path = "build/emulation.rs"]
mod emulation;

use std::error::Error;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// The element types that every kernel is compiled for, as `Element` names them.
const ELEMENTS: [&str; 3] = ["F32", "F16", "BF16"];

/// PTX for the oldest cards that are served runs on every newer one: the driver translates it.
fn architecture(element: &str, nvcc_release: u32) -> &'static str {
    match (element, nvcc_release) {
        // None before multiplies matrices of brain floats.
        ("BF16", _) => "compute_80",
        // It knows Volta no more.
        (_, 13..) => "compute_75",
        _ => "compute_70",
    }
}

/// What cudarc and candle's kernels have the linker look for.
const LIBRARIES: [&str; 7] = ["cuda", "cudart", "cublas", "cublasLt", "curand", "nvrtc", "cudnn"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    if env::var_os("CARGO_FEATURE_PTX").is_some() {
        compile(&out)?;
    }
    if env::var_os("CARGO_FEATURE_LIBRARIES").is_some() {
        stand_in(&out.join("libraries"))?;
    }
    #[cfg(feature = "emulation")]
    emulation::compile(&ELEMENTS)?;
    Ok(())
}

/// Writes empty archives for the linker to find: the functions themselves are defined in `libraries/functions.rs`.
fn stand_in(folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    for library in LIBRARIES {
        fs::write(folder.join(format!("lib{library}.a")), "!<arch>\n")?;
    }
    println!("cargo::rustc-link-search=native={}", folder.display());
    println!("cargo::metadata=LIBRARIES={}", folder.display());
    Ok(())
}

/// Compiles `kernels/*.cu`, together as one unit and once per element type, into `OUT_DIR/<element>.ptx`.
fn compile(out: &Path) -> Result<(), Box<dyn Error>> {
    for variable in ["NVCC", "PATH", "CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=kernels");
    let kernels = env::current_dir()?.join("kernels");
    let nvcc = nvcc()?;
    let release = release(&nvcc)?;

    let unit = out.join("kernels.cu");
    let mut sources: Vec<PathBuf> = match fs::read_dir(&kernels) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    sources.retain(|path| path.extension() == Some(OsStr::new("cu")));
    sources.sort();
    fs::write(&unit, sources.iter().map(|path| format!("#include \"{}\"\n", path.display())).collect::<String>())?;

    for element in ELEMENTS {
        let ptx = out.join(format!("{}.ptx", element.to_lowercase()));
        let mut command = Command::new(&nvcc);
        command.args(["--ptx", "-std=c++17", "-O3", "-arch", architecture(element, release)]);
        command.arg(format!("-DELEMENT_{element}")).arg("-I").arg(&kernels);
        if let Some(compiler) = env::var_os("NVCC_CCBIN") {
            command.arg("-allow-unsupported-compiler").arg("-ccbin").arg(compiler);
        }
        let output = command.arg("-o").arg(&ptx).arg(&unit).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{} failed for ELEMENT_{element}:\n{said}", nvcc.display()).into());
        }
    }
    Ok(())
}

/// Where the build of candle's kernels finds it, too: `NVCC`, `PATH`, `CUDA_HOME`, `CUDA_PATH`, the usual folders.
fn nvcc() -> Result<PathBuf, String> {
    let named = env::var_os("NVCC").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("nvcc"));
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let usual = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"].map(PathBuf::from);
    let under = homes.chain(usual).map(|folder| folder.join("bin/nvcc"));
    let mut places = named.into_iter().chain(on_path).chain(under);
    places.find(|place| place.is_file()).ok_or_else(|| {
        "nvcc was not found in NVCC, PATH, CUDA_HOME or CUDA_PATH, and the feature `cuda` compiles kernels with it: \
         load your cluster's module (`module load cuda/12.4`) or build without `--features cuda`"
            .to_owned()
    })
}

/// The major release of CUDA that the compiler belongs to.
fn release(nvcc: &Path) -> Result<u32, String> {
    let output = Command::new(nvcc).arg("--version").output();
    let output = output.map_err(|error| format!("{} does not start: {error}", nvcc.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let major = said.split("release ").nth(1).and_then(|rest| rest.split('.').next()?.trim().parse().ok());
    major.ok_or_else(|| format!("{} --version names no release of CUDA: {said}", nvcc.display()))
}
