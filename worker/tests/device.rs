//! What `worker --device cuda:0` says where a GPU cannot be used. The libraries are made here by a C compiler.

use std::path::Path;
use std::process::{Command, Output};

/// `worker sample` with a request that is not there: a device that opens leads to exit code 2.
fn sample(folder: &Path, device: &str, settings: &[(&str, &str)]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.args(["sample", "no_such_request.json", "--out"]).arg(folder.join("out")).args(["--device", device]);
    command.env("LD_LIBRARY_PATH", folder).env_remove("CUDA_HOME").env_remove("CUDA_PATH");
    let Output { status, stderr, .. } = command.envs(settings.iter().copied()).output().expect("the worker starts");
    let said = String::from_utf8(stderr).expect("it prints text");
    assert_eq!(said.lines().count(), 1, "one line: {said}");
    (status.code().unwrap_or(-1), said)
}

#[test]
fn the_processor_needs_no_library() {
    let empty = tempfile::tempdir().expect("a temporary folder can be made");
    let (code, said) = sample(empty.path(), "cpu", &[]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("no_such_request.json"), "{said}");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_worker_without_cuda_ends_with_4() {
    let empty = tempfile::tempdir().expect("a temporary folder can be made");
    let (code, said) = sample(empty.path(), "cuda:0", &[]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("built without CUDA"), "{said}");
}

#[cfg(feature = "cuda")]
mod with_cuda {
    use super::*;
    use gpu::libraries::{Library, functions};
    use std::collections::BTreeMap;
    use std::fs;
    use tempfile::TempDir;

    const DRIVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../gpu/tests/driver.c");
    const REST: [Library; 4] = [Library::CuBlasLt, Library::CuBlas, Library::CuRand, Library::Nvrtc];

    /// Libraries that have every function and do nothing, but for the driver, which tells of a V100.
    struct Node {
        folder: TempDir,
        /// The version that libraries tell of themselves.
        version: (u32, u32),
    }

    impl Node {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().expect("a temporary folder can be made"), version: (12, 4) }
        }

        fn with(self, libraries: &[Library]) -> Self {
            for library in libraries {
                self.make(*library, functions(*library).collect());
            }
            self
        }

        fn make(&self, library: Library, functions: Vec<&str>) {
            let property = BTreeMap::from([
                ("libcublasLt.so.12", "cublasLtGetProperty"),
                ("libcublas.so.12", "cublasGetProperty"),
                ("libcurand.so.10", "curandGetProperty"),
            ]);
            let name = library.names()[0];
            let mut text = functions
                .iter()
                .map(|function| format!("__attribute__((weak)) int {function}(void) {{ return 0; }}\n"))
                .collect::<String>();
            if let Some(property) = property.get(name) {
                let (major, minor) = self.version;
                text += &format!(
                    "int {property}(int k, int *v) {{ *v = k == 0 ? {major} : k == 1 ? {minor} : 0; return 0; }}\n"
                );
            }
            let source = self.folder.path().join(format!("{name}.c"));
            fs::write(&source, text).expect("a file can be written");
            let mut compile = Command::new("cc");
            compile.args(["-shared", "-fPIC", "-w", "-o"]).arg(self.folder.path().join(name)).arg(source);
            if library == Library::Driver {
                compile.arg(DRIVER);
            }
            assert!(compile.status().expect("cc starts").success());
        }

        fn sample(&self, settings: &[(&str, &str)]) -> (i32, String) {
            sample(self.folder.path(), "cuda:0", settings)
        }

        fn refuses(&self, settings: &[(&str, &str)], expected: &str) {
            let (code, said) = self.sample(settings);
            assert!(said.contains(expected), "{expected} in {said}");
            assert_eq!(code, 4, "{said}");
        }
    }

    #[test]
    fn a_node_with_everything_opens_the_card() {
        let (code, said) = Node::new().with(&[Library::Driver]).with(&REST).sample(&[]);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("no_such_request.json"), "{said}");
    }

    #[test]
    fn what_the_driver_answers_comes_through() {
        let node = Node::new().with(&[Library::Driver]).with(&REST);
        node.refuses(&[("DRIVER_CONTEXT", "2")], "cuda:0 does not open: ");
        node.refuses(&[("DRIVER_CONTEXT", "2")], "out of memory");
    }

    #[test]
    fn a_node_without_a_driver_says_so() {
        if Path::new("/proc/driver/nvidia").exists() {
            return;
        }
        Node::new().refuses(&[], "cuda:0 cannot be used: no NVIDIA driver on this node");
    }

    #[test]
    fn a_driver_that_is_too_old_says_what_is_needed() {
        let node = Node::new().with(&[Library::Driver]);
        node.refuses(&[("DRIVER_CUDA", "11040")], "is too old: it serves CUDA 11.4, and this build needs ");
    }

    #[test]
    fn a_node_without_a_gpu_says_so() {
        Node::new().with(&[Library::Driver]).refuses(&[("DRIVER_INIT", "100")], "CUDA_ERROR_NO_DEVICE");
    }

    #[test]
    fn a_card_that_is_too_old_says_so() {
        let node = Node::new().with(&[Library::Driver]).with(&REST);
        node.refuses(&[("DRIVER_CAPABILITY", "61")], "of compute capability 6.1, and the kernels need 7.0");
    }

    #[test]
    fn a_card_that_is_not_there_says_which_are() {
        let node = Node::new().with(&[Library::Driver]).with(&REST);
        let (code, said) = sample(node.folder.path(), "cuda:3", &[]);
        assert!(said.contains("there is no cuda:3: this process sees one GPU (cuda:0 Tesla V100-SXM2-16GB)"), "{said}");
        assert_eq!(code, 4);
    }

    #[test]
    fn a_missing_library_is_named_with_what_to_do() {
        for missing in REST {
            let others: Vec<Library> = REST.into_iter().filter(|library| *library != missing).collect();
            let node = Node::new().with(&[Library::Driver]).with(&others);
            let (code, said) = node.sample(&[]);
            // A machine may have the library itself.
            if said.contains("was not found") {
                assert!(said.contains(&format!("{missing} was not found (tried {}", missing.names()[0])), "{said}");
                assert!(said.contains(&format!("pip install {}", missing.wheel())), "{said}");
                assert_eq!(code, 4, "{said}");
            }
        }
    }

    #[test]
    fn a_library_without_a_function_is_named() {
        let node = Node::new().with(&[Library::Driver]).with(&REST);
        node.make(Library::CuBlas, functions(Library::CuBlas).filter(|name| *name != "cublasGemmEx").collect());
        node.refuses(&[], "libcublas.so.12 has no `cublasGemmEx`");
    }

    #[test]
    fn a_volta_card_takes_no_library_of_cuda_13() {
        let node = Node { version: (13, 0), ..Node::new() }.with(&[Library::Driver]).with(&REST);
        node.refuses(&[], "serves no card of compute capability 7.0 (cuda:0, Tesla V100-SXM2-16GB)");
        let (code, said) = node.sample(&[("DRIVER_CAPABILITY", "90")]);
        assert_eq!(code, 2, "{said}");
    }
}
