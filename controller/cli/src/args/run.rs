//! `shoal run`: a module on the operator's own machine.

use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "\
Standard output and error are the module's own, live, and so is the exit code: 128 and the signal for one that was killed, 134
after a trap, 124 when --timeout ended it, 130 after Ctrl-C. What Shoal says goes to standard error.

As root the module runs behind the same walls and limits as on a device; as another user only the engine's own sandbox holds, and
what is missing is said.

Examples:
  shoal run app.wasm
  shoal run --memory 64Mi --cpus 0.5 --timeout 10s app.wasm -- --verbose input.txt
  shoal run -i filter.wasm < lines.txt
  shoal run --device /dev/ttyUSB0 meter.wasm
  shoal run -p 8080:80 server.wasm
  shoal run --network host client.wasm
  shoal run --mount ./data:/data:ro --env LEVEL=debug app.wasm")]
pub(crate) struct Run {
    /// A .wasm file, an image archive or layout with one image, or an image of the own layout (`shoal image ls`).
    #[arg(value_name = "APP")]
    pub(crate) app: String,
    /// What the module gets as its arguments.
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) args: Vec<String>,
    /// Memory and swap at most, as in a manifest (needs root).
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// CPUs at most, as in a manifest (needs root).
    #[arg(long, value_name = "CPUS")]
    pub(crate) cpus: Option<String>,
    /// Pages of 64 KiB of the module's own memory at most.
    #[arg(long, value_name = "N")]
    pub(crate) pages: Option<u32>,
    /// Set an environment variable; may be repeated.
    #[arg(short = 'e', long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Show a folder to the module; may be repeated. As root the module's user is its own: to write, that user needs leave.
    #[arg(short = 'v', long, value_name = "HOST:GUEST[:ro]")]
    pub(crate) mount: Vec<String>,
    /// Show a character device to the module, which keeps its name without GUEST; may be repeated (needs root).
    #[arg(long, value_name = "DEVICE[:GUEST[:ro]]")]
    pub(crate) device: Vec<String>,
    /// Pass standard input on to the module; without this it reads nothing.
    #[arg(short = 'i', long)]
    pub(crate) interactive: bool,
    /// Where relative paths begin.
    #[arg(short = 'w', long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// The module's network: none, its own (needs root and CNI plugins: in CNI_PATH or where packages put them), or this machine's.
    #[arg(long, value_name = "NETWORK", value_parser = ["none", "pod", "host"])]
    pub(crate) network: Option<String>,
    /// Lead a port of this machine to one that the module listens at in its own network; may be repeated.
    #[arg(short = 'p', long, value_name = "HOST:MODULE[/udp]")]
    pub(crate) publish: Vec<String>,
    /// End it after so long.
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<String>,
    /// Do not say what the module needs.
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    /// Where shoal-guard, shoal-runner and the engine are; beside this program otherwise.
    #[arg(long, value_name = "DIR", env = "SHOAL_LIBEXEC")]
    pub(crate) libexec: Option<PathBuf>,
}

/// Tidies up after `shoal run`, however that ends: waits for the end of its standard input.
#[derive(Debug, Args)]
pub(crate) struct Keeper {
    /// The private guard's binary.
    pub(crate) guard: PathBuf,
    /// Its folder.
    pub(crate) root: PathBuf,
}
