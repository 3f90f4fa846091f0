//! Flags of keys and of everything about the root: founding, signing together, rotating, revoking, granting.

use super::{Output, Signing};
use clap::{ArgGroup, Args, Subcommand};
use shoal_protocol::ids::{Digest, Name};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make an Ed25519 key: NAME.key (mode 0600; PKCS#8 behind a passphrase, in age's format) and NAME.pub.
    #[command(after_help = "\
Examples:
  shoal keys new alice                       # asks for a passphrase, twice
  shoal keys new ci --plain                  # whoever reads the file signs with it
  age -d ~/.config/shoal/keys/alice.key      # the same key, without this program")]
    New {
        /// What to call it.
        name: Name,
        /// No passphrase: the file's mode is its only protection.
        #[arg(long)]
        plain: bool,
    },
    /// Note a key that is elsewhere: in an ssh-agent, behind a command, or a colleague's public half.
    #[command(group = ArgGroup::new("place").args(["ssh_agent", "signer_command"]), after_help = "\
A signer command gets the bytes to sign on standard input and writes 64 bytes (Ed25519's signature, or r‖s of P-256 over
SHA-256) to standard output; $SHOAL_PUBLIC_KEY says whose, in hexadecimal.

Examples:
  shoal keys add yubi --ssh-agent SHA256:Yk3…        # after `ssh-add -s /usr/lib/opensc-pkcs11.so`
  shoal keys add hsm --public hsm.pub --signer-command 'hsm-sign --slot 3'
  shoal keys add bob --public bob.pub")]
    Add {
        /// What to call it.
        name: Name,
        /// The key with this fingerprint in the running ssh-agent (see `ssh-add -l`); Ed25519 or P-256.
        #[arg(long, value_name = "SHA256:…")]
        ssh_agent: Option<String>,
        /// A command that signs, run by `sh -c`.
        #[arg(long, value_name = "COMMAND", requires = "public")]
        signer_command: Option<String>,
        /// Its public half: PEM, or OpenSSH's line.
        #[arg(long, value_name = "FILE", required_unless_present = "ssh_agent")]
        public: Option<PathBuf>,
    },
    /// List keys, where they are, and their fingerprints.
    Ls(Output),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// Sign root 1 and an empty snapshot: the fleet begins.
    #[command(after_help = "\
Without flags two keys are made when they are not there: `root` (signs roots only: keep it offline) and `operator`
(signs snapshots, deployments, device records and tokens). Both get a passphrase, unless --plain-keys.

Examples:
  shoal trust init
  shoal trust init --root-keys 3 --threshold 2               # root-1, root-2, root-3: any two sign
  shoal trust init --root-key alice.pub --root-key bob.pub --threshold 2 --draft root-1.draft
      # then each on their own machine: shoal trust sign root-1.draft --key alice
      # and at last:                    shoal trust publish root-1.draft")]
    Init(TrustInit),
    /// Add signatures to a draft, without a network: the last signer has it complete.
    #[command(after_help = "\
The file carries all that is needed to check it: the root chain, and what is to be signed. What it would change is shown
before anything is signed. Several signers never need to be online together.

Examples:
  shoal trust sign root-2.draft --key root-1
  shoal trust sign root-2.draft --key ssh-agent:SHA256:Yk3… --yes")]
    Sign(TrustSign),
    /// Give the controller a draft that nothing is missing from.
    Publish {
        /// The draft.
        draft: PathBuf,
        /// Do not ask.
        #[arg(short = 'y', long)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Sign the next root: other keys, thresholds, addresses or epoch.
    #[command(after_help = "\
The next root is signed by the thresholds of the root before and of its own. A lost root key is exchanged by the others.
What a key signed that is only taken out goes on running, but counts for nothing new; `trust revoke` decides otherwise.

Examples:
  shoal trust rotate --replace root-3=root-4                 # root-3 is lost; root-1 and root-2 sign
  shoal trust rotate --add root=carol.pub --threshold root=2 --draft root-2.draft
  shoal trust rotate --expires 1825d                         # only sign it again")]
    Rotate(TrustRotate),
    /// Sign a root in which a key counts no longer, and say what becomes of what it signed.
    #[command(after_help = "\
Examples:
  shoal trust revoke ci --stop --replace-with ci-2           # stolen: what it signed is stopped
  shoal trust revoke 9f86d081884c7d65 --keep                 # by the beginning of its hash, as `trust show` prints it")]
    Revoke(TrustRevoke),
    /// Sign a root in which a key may sign for some names, with a bound on what they may ask for.
    #[command(after_help = "\
Examples:
  shoal trust grant ci.pub --role deployment --prefix web- --network pod --memory 64Mi
  shoal trust grant alice --with bob --threshold 2 --role deployment --may-remove")]
    Grant(TrustGrant),
    /// Show fleet, root, who may what, snapshot and history as this operator has verified them.
    #[command(after_help = "\
Examples:
  shoal trust show
  shoal trust show --offline -o json
  shoal trust show --draft root-2.draft")]
    Show(TrustShow),
    /// Sign the snapshot again before it expires; nothing else changes.
    Refresh {
        #[command(flatten)]
        signing: Signing,
    },
    /// Give a restored controller the roots, snapshot and documents that this operator holds.
    #[command(after_help = "\
Examples:
  shoal trust push                                # after a backup was restored
  shoal --context old trust push --handover       # the newest root names another controller: have this one say so to its devices")]
    Push {
        /// Also a root that names another controller: this one's devices leave it for that one.
        #[arg(long)]
        handover: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TrustShow {
    #[command(flatten)]
    pub(crate) output: Output,
    /// Without own state: take the published snapshot with this digest.
    #[arg(long, value_name = "DIGEST", conflicts_with_all = ["offline", "draft"])]
    pub(crate) adopt: Option<Digest>,
    /// From the own state alone.
    #[arg(long)]
    pub(crate) offline: bool,
    /// A draft: what it would change, and whose signatures it has.
    #[arg(long, value_name = "FILE", conflicts_with = "offline")]
    pub(crate) draft: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TrustInit {
    /// Make that many root keys (`root`, or `root-1` …), each in a file of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8), conflicts_with = "root_key")]
    pub(crate) root_keys: u8,
    /// How many of the root keys must sign a root; without it more than half.
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(crate) threshold: Option<u8>,
    /// A key that signs roots, and sits in no other role (may be repeated; a public half will do).
    #[arg(long, value_name = "KEY")]
    pub(crate) root_key: Vec<String>,
    /// The key for snapshots, deployments and enrolment, unless they have one of their own.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// The key that signs snapshots.
    #[arg(long, value_name = "KEY")]
    pub(crate) snapshot_key: Option<String>,
    /// The key that signs deployments.
    #[arg(long, value_name = "KEY")]
    pub(crate) deployment_key: Option<String>,
    /// The key that signs device records and tokens.
    #[arg(long, value_name = "KEY")]
    pub(crate) enrollment_key: Option<String>,
    /// Make keys without a passphrase: whoever reads the files has the fleet.
    #[arg(long)]
    pub(crate) plain_keys: bool,
    /// A name for people; it stands in the root.
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,
    /// How long root 1 counts.
    #[arg(long, value_name = "TIME", default_value = "1825d")]
    pub(crate) expires: String,
    /// Write a draft for others to sign, instead of founding the fleet at once.
    #[arg(long, value_name = "FILE")]
    pub(crate) draft: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TrustSign {
    /// The draft; the signature is added to it.
    pub(crate) draft: PathBuf,
    /// Sign with this key (may be repeated; as for `apply`). Without it: those of the keys folder that are asked for.
    #[arg(short = 'k', long = "key", value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Do not ask.
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// How a next root comes about.
#[derive(Debug, Args)]
pub(crate) struct Ceremony {
    #[command(flatten)]
    pub(crate) signing: Signing,
    /// Write a draft for others to sign, instead of publishing at once.
    #[arg(long, value_name = "FILE")]
    pub(crate) draft: Option<PathBuf>,
    /// How long the next root counts.
    #[arg(long, value_name = "TIME", default_value = "1825d")]
    pub(crate) expires: String,
    /// Do not ask.
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct TrustRotate {
    /// Put NEW in the place of OLD, wherever that sits (may be repeated).
    #[arg(long, value_name = "OLD=NEW")]
    pub(crate) replace: Vec<String>,
    /// Add a key to a role that is for all names (may be repeated).
    #[arg(long, value_name = "ROLE=KEY")]
    pub(crate) add: Vec<String>,
    /// Take a key out of a role (may be repeated).
    #[arg(long, value_name = "ROLE=KEY")]
    pub(crate) remove: Vec<String>,
    /// How many keys of a role must sign (may be repeated).
    #[arg(long, value_name = "ROLE=N")]
    pub(crate) threshold: Vec<String>,
    /// Begin a new epoch: sequences start again. For recovery from a sequence that leapt.
    #[arg(long)]
    pub(crate) new_epoch: bool,
    /// Take the controller's key, CA and addresses from the controller that is logged in to.
    #[arg(long)]
    pub(crate) controller: bool,
    #[command(flatten)]
    pub(crate) ceremony: Ceremony,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("work").args(["keep", "stop"]).required(true))]
pub(crate) struct TrustRevoke {
    /// The key: a name, a file, or its fingerprint as `trust show` prints it.
    pub(crate) key: String,
    /// What it signed goes on running where it runs.
    #[arg(long)]
    pub(crate) keep: bool,
    /// What it signed is stopped.
    #[arg(long)]
    pub(crate) stop: bool,
    /// Put this key in its place.
    #[arg(long, value_name = "KEY")]
    pub(crate) replace_with: Option<String>,
    #[command(flatten)]
    pub(crate) ceremony: Ceremony,
}

#[derive(Debug, Args)]
pub(crate) struct TrustGrant {
    /// The key; a public half will do.
    pub(crate) key: String,
    /// Further keys of the same grant (may be repeated).
    #[arg(long = "with", value_name = "KEY")]
    pub(crate) others: Vec<String>,
    /// deployment, enrollment or release.
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: String,
    /// Only names that begin with this.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub(crate) prefix: String,
    /// How many of the grant's keys must sign.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threshold: u64,
    /// It may end names and raise their floor.
    #[arg(long)]
    pub(crate) may_remove: bool,
    /// The widest network that a deployment may ask for: none, pod or host.
    #[arg(long, value_name = "NETWORK")]
    pub(crate) network: Option<String>,
    /// A folder of the device that may be mounted (may be repeated).
    #[arg(long, value_name = "PATH")]
    pub(crate) host_path: Vec<String>,
    /// A device node that may be granted (may be repeated).
    #[arg(long, value_name = "PATH")]
    pub(crate) device: Vec<String>,
    /// The most memory of a pod.
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    #[command(flatten)]
    pub(crate) ceremony: Ceremony,
}
