//! The `coordinator` program. Exit codes: 0 done, 1 failed, 2 bad input.

use clap::Parser;
use coordinator::cli::Cli;
use std::io::{IsTerminal, stderr};
use std::process::{ExitCode, exit};
use tracing_subscriber::EnvFilter;

/// A reader that has seen enough closes its pipe, as `head` does: that ends the program and is no fault of it.
fn end_with_the_reader() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str().is_some_and(|text| text.starts_with("failed printing to stdout: Broken pipe")) {
            exit(0);
        }
        report(panic);
    }));
}

#[tokio::main]
async fn main() -> ExitCode {
    end_with_the_reader();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal()).init();
    Cli::parse().run().await.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
