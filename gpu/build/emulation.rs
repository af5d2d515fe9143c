//! The kernels as C++ for the host.

const FOLDER: &str = "kernels/emulation";

/// A library for each element type, and one that launches what they hold.
pub fn compile(elements: &[&str]) -> Result<(), cc::Error> {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=kernels");
    for element in elements {
        compiler()
            .define(&format!("ELEMENT_{element}"), None)
            .file(format!("{FOLDER}/kernels.cpp"))
            .try_compile(&format!("emulated_{}", element.to_lowercase()))?;
    }
    compiler().file(format!("{FOLDER}/launch.cpp")).try_compile("emulated_launch")
}

/// Optimised whatever the profile, for a kernel has as many threads as a tensor has elements. Products and sums are rounded
/// one by one, and memory is read as whatever type, as on a device.
fn compiler() -> cc::Build {
    let mut compiler = cc::Build::new();
    compiler
        .cpp(true)
        .std("c++20")
        .define("EMULATION", None)
        .opt_level(2)
        .flag("-ffp-contract=off")
        .flag("-fno-strict-aliasing")
        .flag("-fno-exceptions")
        .flag("-U_FORTIFY_SOURCE")
        .flag_if_supported("-Wno-unknown-pragmas")
        .flag_if_supported("-Wno-unused-function");
    compiler
}
