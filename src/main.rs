//! The `homeostat` command: parses, hands over, sets the exit code.

use clap::Parser;
use homeostat::cli::{Cli, local, run};

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(run(cli, local::LOCAL));
            // What was late has been named; nothing waits for it any more.
            runtime.shutdown_background();
            exit
        }
        Err(error) => {
            eprintln!("homeostat: no threads: {error}");
            std::process::ExitCode::from(7)
        }
    }
}
