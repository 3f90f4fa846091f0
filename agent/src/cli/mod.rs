//! The command line: what can be asked, in words. Parsing only; doing comes later.

pub(crate) mod cri;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// The device daemon of Shoal and its own command line.
#[derive(Debug, Parser)]
#[command(
    name = "shoal-agent",
    version,
    about = "Runs signed WebAssembly deployments on this device",
    after_help = "Exit codes: 0 done, 1 failure, 2 usage, 3 refused, 4 unavailable (try again later).\n\n\
Examples:\n  shoal-agent enroll join.txt\n  shoal-agent run\n  shoal-agent status\n  shoal-agent logs -f sensor\n\n\
Unsigned containers of this device's owner, in crictl's words:\n  shoal-agent pull | load | images | inspecti | rmi | imagefsinfo\n  \
shoal-agent runp | pods | inspectp | stopp | rmp\n  shoal-agent create | start | ps | logs | stats | inspect | stop | rm\n  shoal-agent info | version"
)]
pub(crate) struct Cli {
    /// Everything of this device is below this folder.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/",
        env = "SHOAL_ROOT",
        help_heading = "Common options"
    )]
    pub root: PathBuf,
    /// Logs on standard error as lines of text or of JSON.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, help_heading = "Common options")]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// How results look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For machines; stable.
    Json,
}

/// How the device's own containers are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CriOutput {
    /// For people.
    Table,
    /// CRI v1's messages.
    Json,
    /// The same.
    Yaml,
}

/// Shared by commands that print data.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// How results look.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    pub output: Format,
}

impl Output {
    /// Whether JSON was asked for.
    pub(crate) fn json(&self) -> bool {
        self.output == Format::Json
    }
}

/// What can be asked.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make this device a member of a fleet, with the join file of `shoal token create`.
    ///
    /// Run it as uid 0: root and token go straight to admission; it drops to the agent's uid before it uses the network. It can
    /// be run again at any time: what is done is kept, what is missing is done. It prints the fingerprint of the device's keys,
    /// which an operator compares where the token asks for approval; `shoal-agent run` then goes on by itself.
    #[command(
        after_help = "Examples:\n  shoal-agent enroll join.txt\n  shoal-agent enroll --root /tmp/dev1 --name dev1 join.txt\n  \
shoal-agent enroll --offline join-0007.shoal   # in a factory: no network\n  \
shoal-agent enroll --key-command 'tpm2_sign -Q -c 0x81010001 -g sha256 -f plain -o /dev/stdout' --key-public tpm.pem join.txt"
    )]
    Enroll {
        /// The join file.
        #[arg(value_name = "JOINFILE")]
        file: PathBuf,
        /// What this device is called in reports; its host name otherwise.
        #[arg(long)]
        name: Option<String>,
        /// Do not ask the controller: the daemon does, when there is a network.
        #[arg(long)]
        offline: bool,
        /// Also write what a controller would be sent into this new file, for an operator to carry (`shoal receipt import`).
        #[arg(long, value_name = "FILE")]
        request: Option<PathBuf>,
        /// Use a key that is not in a file: this command signs what it reads (a TPM, PKCS#11; docs/enrolment.md).
        ///
        /// It runs by `sh -c` as the agent's user, reads the bytes to sign from standard input and writes the signature: 64
        /// bytes, or DER for P-256.
        #[arg(long, value_name = "COMMAND", requires = "key_public")]
        key_command: Option<String>,
        /// The public half of that key, in PEM: Ed25519 or P-256.
        #[arg(long, value_name = "FILE", requires = "key_command")]
        key_public: Option<PathBuf>,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Run the daemon in the foreground.
    #[command(
        after_help = "Examples:\n  shoal-agent run\n  SHOAL_LOG=debug shoal-agent run --root /tmp/dev1 --log-format json"
    )]
    Run,
    /// Take a bundle from a stick instead of the network: signed documents and the images that they run.
    ///
    /// Everything is verified as what comes from a controller is. The running agent then acts on it as always; this command
    /// can be run again at any time, and a bundle that was taken before changes nothing. Given by uid 0 it is also the order
    /// that deployments with `activation: ordered` wait for.
    #[command(
        after_help = "Examples:\n  shoal-agent sideload /media/usb/app.shoal\n  shoal-agent sideload /media/usb/bundle/ --output json   # an unpacked one\n  shoal-agent sideload /media/usb/app.shoal --receipt /media/usb"
    )]
    Sideload {
        /// The bundle of `shoal bundle create`, unpacked or not; or a folder with bundles (`*.shoal`) at its top.
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// Nobody stands at the device: it is no order to activate (`activation: ordered`).
        #[arg(long)]
        unattended: bool,
        /// Write a receipt into this folder, if the bundle asks for one: state and logs, signed by this device.
        #[arg(long, value_name = "DIR")]
        receipt: Option<PathBuf>,
        /// How many seconds the receipt waits for what the bundle brought to run, or not to.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
        /// Read for the process that was started as uid 0.
        #[arg(long, hide = true)]
        reads: bool,
        /// Make the receipt for the process that was started as uid 0.
        #[arg(long, hide = true, requires = "reads")]
        tells: Option<String>,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Bring images to this device without a registry.
    #[command(
        subcommand,
        after_help = "Examples:\n  shoal-agent image import oci-archive:/media/usb/app.tar app:1.0\n  shoal-agent images"
    )]
    Image(ImageVerb),
    /// Show this device: membership, trust, deployments and what each waits for.
    #[command(after_help = "Examples:\n  shoal-agent status\n  shoal-agent status --output json")]
    Status {
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// The device's own containers.
    #[command(flatten)]
    Cri(cri::Verb),
    /// Check kernel, cgroups, disk, clock, guard and the way to the controller.
    #[command(after_help = "Examples:\n  shoal-agent doctor\n  shoal-agent doctor --output json")]
    Doctor {
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// List the points at which a test can kill the agent.
    #[cfg(feature = "failpoints")]
    #[command(hide = true)]
    Points,
}

/// What can be done with images that lie in files.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// Import every image of an archive or layout, by skopeo's words for them
    ///
    /// A deployment whose digest it has uses it without a registry; `runp` and `create` use it by its name. Read as the agent's
    /// user, who must be able to reach it.
    #[command(
        after_help = "Examples:\n  shoal-agent image import docker-archive:app.tar\n  shoal-agent image import oci-archive:app.tar app:1.0\n  shoal-agent image import oci:/media/usb/layout"
    )]
    Import {
        /// `docker-archive:FILE`, `oci-archive:FILE` or `oci:FOLDER`.
        #[arg(value_name = "TRANSPORT:PATH", value_parser = ImageSource::parse)]
        source: ImageSource,
        /// What a single image is called; else what the archive says.
        name: Option<String>,
    },
}

/// Where an image lies, in skopeo's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageSource {
    /// The file or folder.
    pub path: PathBuf,
    /// Whether it is a folder.
    pub is_folder: bool,
}

impl ImageSource {
    fn parse(text: &str) -> Result<Self, String> {
        let (transport, path) = text.split_once(':').unwrap_or(("", text));
        let is_folder = match transport {
            "docker-archive" | "oci-archive" => false,
            "oci" | "oci-dir" => true,
            _ => return Err("write docker-archive:FILE, oci-archive:FILE or oci:FOLDER".to_owned()),
        };
        if path.is_empty() {
            return Err(format!("{transport}: of which path?"));
        }
        Ok(Self { path: path.into(), is_folder })
    }
}

impl Command {
    /// Whether errors are to be printed as JSON.
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Enroll { output, .. }
            | Self::Sideload { output, .. }
            | Self::Status { output }
            | Self::Doctor { output } => output.json(),
            Self::Cri(verb) => verb.json(),
            Self::Run | Self::Image(_) => false,
            #[cfg(feature = "failpoints")]
            Self::Points => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn an_image_is_named_by_skopeos_transports() {
        let parsed = |text| ImageSource::parse(text).map(|s| (s.path, s.is_folder));
        assert_eq!(parsed("docker-archive:a.tar"), Ok(("a.tar".into(), false)));
        assert_eq!(parsed("oci-archive:/x/a:b.tar"), Ok(("/x/a:b.tar".into(), false)));
        assert_eq!(parsed("oci:/x"), Ok(("/x".into(), true)));
        assert_eq!(parsed("oci-dir:/x"), Ok(("/x".into(), true)));
        assert!(parsed("a.tar").is_err() && parsed("oci:").is_err() && parsed("docker://x").is_err());
    }

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_examples() {
        let command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{} has no examples", sub.get_name());
        }
    }
}
