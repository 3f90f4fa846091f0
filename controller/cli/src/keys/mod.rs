//! The keys that an operator signs with: in a file (plain, or behind a passphrase), in an ssh-agent, or behind a command.
//!
//! Every one has its public half beside it (`NAME.pub`), so that nothing is opened before it has to sign. Never here: what
//! a key may sign (the root says that).

mod agent;
mod file;
pub(crate) mod passphrase;

use crate::error::{CliError, OnPath as _, Result};
use crate::home::{Home, write_new};
use serde::{Deserialize, Serialize};
use shoal_protocol::ids::Name;
use shoal_protocol::latest::{Alg, Key};
use shoal_protocol::{Ed25519Signer, SignError, Signer};
use shoal_signer::SignerCommand;
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

const AGENT: &str = "ssh-agent:";
const COMMAND: &str = "command:";
/// How long a signer command may take: somebody may have to touch something.
const PATIENCE: Duration = Duration::from_mins(2);

/// What `--key` may name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reference {
    /// In the keys folder.
    Named(Name),
    /// By its file.
    Path(PathBuf),
    /// By its fingerprint in the running agent.
    Agent(String),
    /// By a public key's file and a command.
    Command { public: PathBuf, line: String },
}

impl Reference {
    fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            CliError::usage(format!("{text:?} names no key: {why}")).hint(
                "NAME of the keys folder, PATH/TO/FILE, ssh-agent:SHA256:… (see `ssh-add -l`), or command:PUBLIC_KEY_FILE:COMMAND",
            )
        };
        if let Some(fingerprint) = text.strip_prefix(AGENT) {
            if !fingerprint.starts_with("SHA256:") {
                return Err(bad("after ssh-agent: comes a fingerprint, SHA256:…"));
            }
            return Ok(Self::Agent(fingerprint.to_owned()));
        }
        if let Some(rest) = text.strip_prefix(COMMAND) {
            let (public, line) = rest.split_once(':').ok_or_else(|| bad("a public key's file is missing"))?;
            if line.trim().is_empty() {
                return Err(bad("the command is missing"));
            }
            return Ok(Self::Command { public: public.into(), line: line.to_owned() });
        }
        if text.contains('/') {
            return Ok(Self::Path(text.into()));
        }
        let name = text.strip_suffix(".key").or_else(|| text.strip_suffix(".pub")).unwrap_or(text);
        name.parse().map(Self::Named).map_err(|e| bad(&format!("{e}")))
    }
}

/// Where the private half is.
#[derive(Debug)]
enum Holder {
    /// In a file behind a passphrase, and here once it was opened.
    Locked {
        path: PathBuf,
        text: Zeroizing<String>,
        source: passphrase::Source,
        opened: OnceCell<Ed25519Signer>,
    },
    /// Here.
    Open(Ed25519Signer),
    /// In the agent that runs.
    Agent { fingerprint: String, found: OnceCell<agent::AgentKey> },
    /// Behind a command.
    Command(SignerCommand),
}

/// A key that can sign, and what its owner calls it.
#[derive(Debug)]
pub(crate) struct OwnKey {
    pub(crate) name: String,
    public: Key,
    holder: Holder,
}

impl OwnKey {
    /// A key in memory.
    pub(crate) fn open(name: String, signer: Ed25519Signer) -> Self {
        Self { name, public: signer.public(), holder: Holder::Open(signer) }
    }

    /// The public half.
    pub(crate) fn public(&self) -> Key {
        self.public.clone()
    }

    /// Where it is, for a table.
    pub(crate) fn place(&self) -> &'static str {
        match &self.holder {
            Holder::Locked { .. } => "file, passphrase",
            Holder::Open(_) => "file",
            Holder::Agent { .. } => "ssh-agent",
            Holder::Command(_) => "command",
        }
    }

    /// Makes it ready to sign: asks for its passphrase, or looks whether the agent has it.
    pub(crate) fn unlock(&self) -> Result<()> {
        match &self.holder {
            Holder::Open(_) | Holder::Command(_) => Ok(()),
            Holder::Locked { path, text, source, opened } => {
                if opened.get().is_none() {
                    let signer = file::unlock(path, text, source.of(&self.name)?)?;
                    self.is_itself(&signer.public(), &path.display().to_string())?;
                    let _ = opened.set(signer);
                }
                Ok(())
            }
            Holder::Agent { fingerprint, found } => {
                if found.get().is_none() {
                    let key = agent::find(fingerprint)?;
                    self.is_itself(&key.public, fingerprint)?;
                    let _ = found.set(key);
                }
                Ok(())
            }
        }
    }

    fn is_itself(&self, found: &Key, place: &str) -> Result<()> {
        if *found == self.public {
            return Ok(());
        }
        Err(CliError::usage(format!("the public half beside the key {} is another key's", self.name))
            .details(vec![
                format!("{place}: {}", fingerprint(found)),
                format!("{}.pub: {}", self.name, fingerprint(&self.public)),
            ])
            .hint("find out who exchanged one of them before you sign anything"))
    }
}

impl Signer for OwnKey {
    fn key(&self) -> Key {
        self.public()
    }
    fn sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, SignError> {
        let closed = || SignError(format!("the key {} was not opened", self.name));
        match &self.holder {
            Holder::Open(signer) => signer.sign(message),
            Holder::Locked { opened, .. } => opened.get().ok_or_else(closed)?.sign(message),
            Holder::Agent { found, .. } => {
                found.get().ok_or_else(closed)?.sign(message).map_err(|e| SignError(e.to_string()))
            }
            Holder::Command(command) => command.sign(message),
        }
    }
}

/// A key for people: the first 16 digits of its hash, as in signatures.
pub(crate) fn fingerprint(key: &Key) -> String {
    hex::encode(key.kid())
}

/// `NAME.signer`: where a key is that is in no file here.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum External {
    /// In the running agent, by its fingerprint.
    SshAgent(String),
    /// Behind a command.
    Command(String),
}

fn path_of(home: &Home, name: &str, extension: &str) -> PathBuf {
    home.keys().join(format!("{name}.{extension}"))
}

/// 32 bytes from the operating system.
pub(crate) fn random_seed() -> Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|e| CliError::failure(format!("the operating system gave no randomness: {e}")))?;
    Ok(seed)
}

/// How a new key's file is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    /// By a passphrase.
    Passphrase,
    /// By the file's mode alone.
    Plain,
}

fn is_free(home: &Home, name: &str) -> Result<()> {
    for extension in ["key", "signer", "pub"] {
        let path = path_of(home, name, extension);
        if path.exists() {
            return Err(CliError::usage(format!("the key {name} exists already: {}", path.display()))
                .hint("choose another name, or use the key that is there"));
        }
    }
    Ok(())
}

/// Makes a key; an existing one is never replaced.
pub(crate) fn create(home: &Home, name: &Name, protection: Protection) -> Result<OwnKey> {
    is_free(home, name.as_str())?;
    let seed = Zeroizing::new(random_seed()?);
    let signer = Ed25519Signer::from_seed(*seed);
    let path = path_of(home, name.as_str(), "key");
    match protection {
        Protection::Plain => write_new(&path, file::plain(&seed).as_bytes())?,
        Protection::Passphrase => {
            let text = file::locked(&seed, home.passphrase.new_for(name.as_str())?)?;
            write_new(&path, text.as_bytes())?;
        }
    }
    write_new(&path.with_extension("pub"), file::public(&signer.key()).as_bytes())?;
    Ok(OwnKey::open(name.to_string(), signer))
}

/// Notes a key that is elsewhere, under a name.
pub(crate) fn add(
    home: &Home,
    name: &Name,
    external: Option<&External>,
    public: Option<&Path>,
) -> Result<Key> {
    is_free(home, name.as_str())?;
    let key = match (external, public) {
        (_, Some(path)) => read_public(path)?,
        (Some(External::SshAgent(fingerprint)), None) => agent::find(fingerprint)?.public,
        (_, None) => {
            return Err(CliError::usage(format!("the public half of {name} is not known"))
                .hint("give it with --public FILE"));
        }
    };
    if let Some(external) = external {
        let text = serde_json::to_string(external)
            .map_err(|e| CliError::failure("cannot write where the key is").because(e))?;
        write_new(&path_of(home, name.as_str(), "signer"), (text + "\n").as_bytes())?;
    }
    write_new(&path_of(home, name.as_str(), "pub"), file::public(&key).as_bytes())?;
    Ok(key)
}

fn read_public(path: &Path) -> Result<Key> {
    file::parse_public(path, &std::fs::read_to_string(path).on_path("read the public key", path)?)
}

/// Loads a key that can sign.
pub(crate) fn load(home: &Home, key: &str) -> Result<OwnKey> {
    match Reference::parse(key)? {
        Reference::Named(name) => named(home, &name),
        Reference::Path(path) => {
            let name = path.file_stem().map_or_else(|| key.to_owned(), |s| s.to_string_lossy().into_owned());
            let text = std::fs::read_to_string(&path).map_err(|e| missing(home, &path, e))?;
            of_file(home, name, path, Zeroizing::new(text))
        }
        Reference::Agent(fingerprint) => {
            let found = agent::find(&fingerprint)?;
            let public = found.public.clone();
            Ok(OwnKey {
                name: key.to_owned(),
                public,
                holder: Holder::Agent { fingerprint, found: found.into() },
            })
        }
        Reference::Command { public, line } => {
            let public = read_public(&public)?;
            let holder = Holder::Command(SignerCommand { line, public: public.clone(), patience: PATIENCE });
            Ok(OwnKey { name: key.to_owned(), public, holder })
        }
    }
}

fn named(home: &Home, name: &Name) -> Result<OwnKey> {
    let path = path_of(home, name.as_str(), "key");
    match std::fs::read_to_string(&path) {
        Ok(text) => return of_file(home, name.to_string(), path, Zeroizing::new(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).on_path("read the key", &path),
    }
    let other = path_of(home, name.as_str(), "signer");
    let text = std::fs::read_to_string(&other).map_err(|e| missing(home, &path, e))?;
    let external: External = serde_json::from_str(&text)
        .map_err(|e| CliError::usage(format!("{} is damaged", other.display())).because(e))?;
    let public = read_public(&path_of(home, name.as_str(), "pub"))?;
    let holder = match external {
        External::SshAgent(fingerprint) => Holder::Agent { fingerprint, found: OnceCell::new() },
        External::Command(line) => {
            Holder::Command(SignerCommand { line, public: public.clone(), patience: PATIENCE })
        }
    };
    Ok(OwnKey { name: name.to_string(), public, holder })
}

fn missing(home: &Home, path: &Path, e: std::io::Error) -> CliError {
    if e.kind() != std::io::ErrorKind::NotFound {
        return CliError::usage(format!("cannot read the key {}", path.display())).because(e);
    }
    let known = names(home).join(", ");
    let known = if known.is_empty() { "none yet".to_owned() } else { known };
    CliError::usage(format!("there is no key {}", path.display()))
        .hint(format!("your keys: {known}; make one with `shoal keys new NAME`"))
}

fn of_file(home: &Home, name: String, path: PathBuf, text: Zeroizing<String>) -> Result<OwnKey> {
    if !file::is_locked(&text) {
        return Ok(OwnKey::open(name, file::parse(&path, &text)?));
    }
    let source = home.passphrase.clone();
    let beside = path.with_extension("pub");
    if beside.exists() {
        let public = read_public(&beside)?;
        let holder = Holder::Locked { path, text, source, opened: OnceCell::new() };
        return Ok(OwnKey { name, public, holder });
    }
    let signer = file::unlock(&path, &text, source.of(&name)?)?;
    Ok(OwnKey::open(name, signer))
}

/// The public half of a key, which need not be able to sign here: by name, file (private or public), agent or command.
pub(crate) fn public(home: &Home, key: &str) -> Result<Key> {
    match Reference::parse(key)? {
        Reference::Named(name) => {
            let path = path_of(home, name.as_str(), "pub");
            if path.exists() { read_public(&path) } else { load(home, key).map(|k| k.public()) }
        }
        Reference::Path(path) => {
            let text = Zeroizing::new(std::fs::read_to_string(&path).on_path("read the key", &path)?);
            let is_private = file::is_locked(&text) || text.contains("-----BEGIN PRIVATE KEY-----");
            if is_private { load(home, key).map(|k| k.public()) } else { file::parse_public(&path, &text) }
        }
        Reference::Agent(_) | Reference::Command { .. } => load(home, key).map(|k| k.public()),
    }
}

fn stems(home: &Home, extensions: &[&str]) -> Vec<String> {
    let files = std::fs::read_dir(home.keys()).into_iter().flatten().flatten();
    let mut names: Vec<String> = files
        .filter_map(|e| {
            let file = PathBuf::from(e.file_name());
            let extension = file.extension()?.to_str()?;
            let stem = file.file_stem()?.to_str()?;
            extensions.contains(&extension).then(|| stem.to_owned())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The names of all keys in the keys folder that can sign.
pub(crate) fn names(home: &Home) -> Vec<String> {
    stems(home, &["key", "signer"])
}

/// What the keys folder calls public keys, those of colleagues too.
#[derive(Debug, Default)]
pub(crate) struct Known(Vec<(Key, String)>);

impl Known {
    /// Reads the public halves; one that cannot be read has no name.
    pub(crate) fn of(home: &Home) -> Self {
        let all = stems(home, &["key", "signer", "pub"]).into_iter();
        Self(all.filter_map(|n| public(home, &n).ok().map(|k| (k, n))).collect())
    }

    /// What the owner calls it, if it has a name here.
    pub(crate) fn name(&self, key: &Key) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, n)| n.as_str())
    }

    /// `name (fingerprint)`, or the fingerprint alone.
    pub(crate) fn show(&self, key: &Key) -> String {
        let fingerprint = fingerprint(key);
        match self.name(key) {
            Some(name) => format!("{name} ({fingerprint})"),
            None => fingerprint,
        }
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &str)> {
        self.0.iter().map(|(k, n)| (k, n.as_str()))
    }
}

/// What an algorithm is called.
pub(crate) fn algorithm(key: &Key) -> &'static str {
    match key.alg {
        Alg::EdDsa => "Ed25519",
        Alg::Es256 => "ES256",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        (dir, home)
    }

    #[test]
    fn a_key_is_made_once_and_read_by_name_or_path() {
        let (_dir, home) = home();
        let ops = "ops".parse().unwrap();
        let made = create(&home, &ops, Protection::Plain).unwrap();
        assert_eq!(load(&home, "ops").unwrap().public(), made.public());
        let path = home.keys().join("ops.key");
        assert_eq!(load(&home, path.to_str().unwrap()).unwrap().name, "ops");
        assert_eq!(public(&home, "ops").unwrap(), made.public());
        assert_eq!(public(&home, path.with_extension("pub").to_str().unwrap()).unwrap(), made.public());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let e = create(&home, &ops, Protection::Plain).unwrap_err().render();
        assert!(e.contains("exists already"), "{e}");
        assert_eq!(names(&home), ["ops"]);
    }

    #[test]
    fn a_missing_key_names_those_that_are_there() {
        let (_dir, home) = home();
        create(&home, &"ops".parse().unwrap(), Protection::Plain).unwrap();
        let e = load(&home, "opps").unwrap_err().render();
        assert!(e.contains("there is no key") && e.contains("your keys: ops"), "{e}");
    }

    #[test]
    fn a_protected_key_opens_only_to_sign_and_a_swapped_public_half_is_noticed() {
        let (dir, mut home) = home();
        let pass = dir.path().join("pass");
        std::fs::write(&pass, "correct horse battery\n").unwrap();
        home.passphrase.file = Some(pass.clone());
        let made = create(&home, &"ops".parse().unwrap(), Protection::Passphrase).unwrap();
        let path = home.keys().join("ops.key");
        assert!(file::is_locked(&std::fs::read_to_string(&path).unwrap()));
        std::fs::write(&pass, "another one\n").unwrap();
        let key = load(&home, "ops").unwrap();
        assert_eq!(key.public(), made.public());
        assert!(key.sign(b"x").is_err(), "nothing signs before it was opened");
        assert_eq!(key.unlock().unwrap_err().kind, crate::error::Kind::Credential);
        std::fs::write(&pass, "correct horse battery\n").unwrap();
        key.unlock().unwrap();
        assert_eq!(key.sign(b"x").unwrap(), made.sign(b"x").unwrap());
        let other = Ed25519Signer::from_seed([9; 32]).public();
        std::fs::write(path.with_extension("pub"), file::public(&other)).unwrap();
        let e = load(&home, "ops").unwrap().unlock().unwrap_err().render();
        assert!(e.contains("is another key's"), "{e}");
    }

    #[test]
    fn what_names_no_key_says_what_would() {
        for bad in ["ssh-agent:x", "command:x", "command:x: ", "A B"] {
            let e = Reference::parse(bad).unwrap_err().render();
            assert!(e.contains("ssh-agent:SHA256:…"), "{bad}: {e}");
        }
        let command = Reference::parse("command:k.pub:tool --slot 9a:1").unwrap();
        assert_eq!(
            command,
            Reference::Command { public: "k.pub".into(), line: "tool --slot 9a:1".to_owned() }
        );
    }
}
