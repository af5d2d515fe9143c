//! What a process learns of its cards, from a driver that a C compiler makes here.

use gpu::Needs;
use gpu::libraries::{Driver, devices};
use std::path::Path;
use std::process::Command;

/// Set for the child process that asks the driver; its value is what it asks for.
const CHILD: &str = "CARDS_TEST_ASKS";

/// What kernels for every card from V100 on need.
const KERNELS: Needs = Needs { cuda: (12, 4), capability: (7, 0), exactly: false };

/// A folder with a driver in it, for LD_LIBRARY_PATH.
fn driver() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver.c");
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-w", "-o"]).arg(folder.path().join("libcuda.so.1")).arg(source);
    assert!(compile.status().expect("cc starts").success());
    folder
}

/// What a process of its own says that sees the libraries of a folder.
fn ask(folder: &Path, what: &str, settings: &[(&str, &str)]) -> String {
    let own = std::env::current_exe().expect("a test knows its own path");
    let mut command = Command::new(own);
    command.args(["--exact", "answer", "--nocapture"]).env(CHILD, what).env("LD_LIBRARY_PATH", folder);
    let output = command.envs(settings.iter().copied()).output().expect("the test starts again");
    let said = String::from_utf8(output.stdout).expect("it prints text");
    let lines: Vec<&str> = said.lines().filter_map(|line| line.split_once("answer: ")).map(|(_, said)| said).collect();
    lines.join("\n")
}

/// Not a test of its own: the process that `ask` starts.
#[test]
fn answer() {
    match std::env::var(CHILD).as_deref() {
        Ok("cards") => match devices() {
            Ok(cards) => cards.iter().for_each(|card| {
                println!("answer: {card:?}");
                println!("answer: {:?}", card.runs(KERNELS).map_err(|error| error.to_string()));
            }),
            Err(error) => println!("answer: {error}"),
        },
        Ok("driver") => match Driver::start() {
            Ok(driver) => println!("answer: {:?} {}", driver.cuda(), driver.file()),
            Err(error) => println!("answer: {error}"),
        },
        _ => {}
    }
}

#[test]
fn a_card_is_told_as_the_driver_tells_it() {
    let folder = driver();
    let said = ask(folder.path(), "cards", &[]);
    for expected in [
        "ordinal: 0",
        "name: \"Tesla V100-SXM2-16GB\"",
        "uuid: \"GPU-00112233-4455-6677-8899-aabbccddeeff\"",
        "capability: (7, 0)",
        "total_bytes: 17179869184",
        "cuda: (12, 4)",
        "\nOk(())",
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
}

#[test]
fn the_driver_is_told_with_the_file_that_it_came_from() {
    let folder = driver();
    let said = ask(folder.path(), "driver", &[("DRIVER_CUDA", "12080")]);
    let file = folder.path().join("libcuda.so.1");
    assert_eq!(said, format!("(12, 8) the NVIDIA driver ({})", file.display()));
}

#[test]
fn a_node_without_a_driver_says_so() {
    let empty = tempfile::tempdir().expect("a temporary folder can be made");
    let said = ask(empty.path(), "cards", &[]);
    // A machine that has a driver tells of its cards instead.
    if !said.contains("capability") {
        assert!(said.starts_with("no NVIDIA driver on this node: libcuda.so.1 was not found;"), "{said}");
    }
}

#[test]
fn a_driver_that_does_not_start_says_why_and_what_to_do() {
    let folder = driver();
    for (code, expected) in [
        ("100", "cuInit says CUDA_ERROR_NO_DEVICE (100): this process sees no GPU; ask Slurm for one"),
        ("34", "cuInit says CUDA_ERROR_STUB_LIBRARY (34): the libcuda found is the toolkit's stub"),
        (
            "803",
            "cuInit says CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803): library and kernel module are of different drivers",
        ),
        ("777", "cuInit says CUresult 777"),
    ] {
        let said = ask(folder.path(), "cards", &[("DRIVER_INIT", code)]);
        assert!(said.contains(expected), "{expected} in {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_card_that_is_too_old_says_so() {
    let folder = driver();
    let said = ask(folder.path(), "cards", &[("DRIVER_CARD", "Tesla P100-PCIE-16GB"), ("DRIVER_CAPABILITY", "60")]);
    let expected = "Err(\"cuda:0 is a Tesla P100-PCIE-16GB of compute capability 6.0, and this build's kernels need 7.0 or newer; ";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_part_of_a_card_has_an_identity_of_its_own() {
    let folder = driver();
    let said = ask(folder.path(), "cards", &[("DRIVER_MIG", "1")]);
    assert!(said.contains("uuid: \"MIG-01112233-4455-6677-8899-aabbccddeeff\""), "{said}");
}

#[test]
fn a_file_that_is_no_library_is_told_apart_from_none() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    std::fs::write(folder.path().join("libcuda.so.1"), "not a library").expect("a file can be written");
    let said = ask(folder.path(), "cards", &[]);
    assert!(said.contains("the NVIDIA driver was found as libcuda.so.1 and does not load:"), "{said}");
}
