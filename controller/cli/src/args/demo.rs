//! `shoal demo`: a whole fleet on this machine, from the installed packages.

use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "\
It needs the packages shoal-agent, shoal-compiler and shoal-controller, no network and no settings. Everything it makes is in one
temporary folder, and gone at its end, also after Ctrl-C. Real users and limits need root; as another user it shows what works
without.

Examples:
  sudo shoal demo
  sudo shoal demo --keep                 # leaves the fleet running, and says how to look around
  sudo shoal demo --stop /tmp/shoal-demo-Xyz123")]
pub(crate) struct Demo {
    /// Leave controller and device running at the end.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Stop what `--keep` left running in this folder, and do nothing else.
    #[arg(long, value_name = "DIR", conflicts_with = "keep")]
    pub(crate) stop: Option<PathBuf>,
    /// Where shoal-agent, shoal-guard, shoal-runner and the engine are; beside this program otherwise.
    #[arg(long, value_name = "DIR", env = "SHOAL_LIBEXEC")]
    pub(crate) libexec: Option<PathBuf>,
}

/// Tidies up after `shoal demo`, however that ends: waits for the end of its standard input.
#[derive(Debug, Args)]
pub(crate) struct DemoKeeper {
    /// The demo's folder.
    pub(crate) dir: PathBuf,
}

/// Offers a document to a device's admission, as its agent could; prints what came of it.
#[derive(Debug, Args)]
pub(crate) struct DemoOffer {
    /// The device's folder.
    pub(crate) root: PathBuf,
    /// The document.
    pub(crate) file: PathBuf,
}
