//! A call of CUDA goes to the library that was loaded, and ends the process with a line where none was. The libraries are made here by a
//! C compiler.
#![cfg(feature = "libraries")]

use cudarc::driver::result;
use gpu::libraries::{Library, cudnn, functions, load};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Set for the child process that calls CUDA; its value says when.
const CHILD: &str = "LIBRARIES_TEST_CALLS";

/// Minor version of a cuDNN without its parts.
const TORN: u32 = 1;
/// Minor version of a cuDNN of CUDA 13, which the driver does not serve.
const FOR_CUDA_13: u32 = 2;

/// A folder with libraries that have every function and do nothing, but for the driver, which tells of a V100, and cuDNN, which tells its
/// version.
fn libraries(cudnn_minor: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for library in
        [Library::Driver, Library::CuBlasLt, Library::CuBlas, Library::CuRand, Library::Nvrtc, Library::Cudnn]
    {
        let name = library.names()[0];
        let source = folder.path().join(format!("{name}.c"));
        let define = |function| format!("__attribute__((weak)) int {function}(void) {{ return 0; }}\n");
        let mut text: String =
            functions(library).filter(|&function| function != "cudnnGetCudartVersion").map(define).collect();
        if library == Library::Cudnn {
            text += &format!(
                "int cudnnGetProperty(int k, int *v) {{ *v = k == 0 ? 9 : k == 1 ? {cudnn_minor} : 0; return 0; }}\n\
                 unsigned long cudnnGetCudartVersion(void) {{ return {}; }}\n",
                if cudnn_minor == FOR_CUDA_13 { 13000 } else { 12040 }
            );
        }
        fs::write(&source, text).expect("a file can be written");
        // The parts of cuDNN 9 are only looked for.
        if library == Library::Cudnn && cudnn_minor != TORN {
            for part in ["graph", "ops", "cnn", "heuristic", "engines_precompiled"] {
                fs::write(folder.path().join(format!("libcudnn_{part}.so.9")), "").expect("a file can be written");
            }
        }
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-w", "-o"]).arg(folder.path().join(name)).arg(source);
        if library == Library::Driver {
            compile.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver.c"));
        }
        assert!(compile.status().expect("cc starts").success());
    }
    folder
}

fn call(when: &str, cudnn_minor: u32) -> Output {
    let folder = libraries(cudnn_minor);
    let own = std::env::current_exe().expect("a test knows its own path");
    let mut command = Command::new(own);
    command.args(["--exact", "child", "--nocapture"]).env(CHILD, when).env("LD_LIBRARY_PATH", folder.path());
    command.output().expect("the test starts again")
}

/// Not a test of its own: the process that `call` starts.
#[test]
fn child() {
    let Ok(when) = std::env::var(CHILD) else { return };
    if when == "loaded" {
        let loaded = load().expect("the libraries are there");
        let names: Vec<String> = loaded.files().map(|file| file.library().to_string()).collect();
        println!("answer: {}", names.join(", "));
        println!("answer: {}", cudnn().map_or("no cuDNN".to_owned(), |file| format!("{:?}", file.version())));
    }
    let count = result::device::get_count().expect("the driver counts");
    println!("answer: {count}, {}", result::device::get_name(0).expect("the driver names it"));
}

#[test]
fn a_call_goes_to_the_library_that_was_loaded() {
    let said = answers("loaded", 10);
    assert_eq!(said, ["cuBLASLt, cuBLAS, cuRAND, NVRTC, cuDNN", "Some((9, 10, 0))", "1, Tesla V100-SXM2-16GB"]);
}

#[test]
fn a_volta_card_does_without_a_cudnn_that_dropped_it() {
    let said = answers("loaded", 11);
    assert_eq!(said, ["cuBLASLt, cuBLAS, cuRAND, NVRTC", "no cuDNN", "1, Tesla V100-SXM2-16GB"]);
}

#[test]
fn a_cudnn_without_its_parts_is_left_alone() {
    let said = answers("loaded", TORN);
    assert_eq!(said, ["cuBLASLt, cuBLAS, cuRAND, NVRTC", "no cuDNN", "1, Tesla V100-SXM2-16GB"]);
}

#[test]
fn a_cudnn_of_a_newer_cuda_than_the_drivers_is_left_alone() {
    let said = answers("loaded", FOR_CUDA_13);
    assert_eq!(said, ["cuBLASLt, cuBLAS, cuRAND, NVRTC", "no cuDNN", "1, Tesla V100-SXM2-16GB"]);
}

#[test]
fn a_call_before_that_ends_the_process_with_a_line() {
    let Output { status, stderr, .. } = call("not loaded", 10);
    assert!(!status.success());
    let said = String::from_utf8_lossy(&stderr);
    assert!(said.contains("error: cuDeviceGetCount was called, and the NVIDIA driver is not loaded"), "{said}");
}

fn answers(when: &str, cudnn_minor: u32) -> Vec<String> {
    let said = String::from_utf8_lossy(&call(when, cudnn_minor).stdout).into_owned();
    said.lines().filter_map(|line| line.split_once("answer: ")).map(|(_, said)| said.to_owned()).collect()
}
