//! Has the linker find the stand-ins of the crate `gpu` for NVIDIA's libraries before it finds a toolkit's: GNU's linker would note real
//! ones as needed, though nothing is taken from them.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Ok(folder) = std::env::var("DEP_NVIDIA_LIBRARIES") {
        println!("cargo::rustc-link-search=native={folder}");
    }
}
