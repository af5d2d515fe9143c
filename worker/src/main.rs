//! The `worker` binary; everything lives in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    worker::cli::main()
}
