//! The operator's own folder, `~/.config/shoal` or `$SHOAL_HOME`: contexts, keys, verified trust, images.
//!
//! Everything is written aside, flushed and renamed; what is secret has mode 0600. Never here: what a file means to others.

use crate::error::{CliError, OnPath as _, Result};
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tempfile::{NamedTempFile, PersistError};

/// The folder.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    root: PathBuf,
    /// How its protected keys are opened.
    pub(crate) passphrase: crate::keys::passphrase::Source,
}

/// One controller that the operator has logged in to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// How `--context` calls it.
    pub(crate) name: String,
    /// `https://host:port`.
    pub(crate) server: String,
    /// The controller's CA, PEM, pinned at login.
    pub(crate) ca: String,
    /// The operator's credential.
    pub(crate) token: String,
    /// The fleet whose root chain this operator holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fleet: Option<String>,
}

/// `config.yaml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The context that is used without `--context`.
    #[serde(default)]
    pub(crate) current: String,
    /// All contexts.
    #[serde(default)]
    pub(crate) contexts: Vec<Context>,
}

impl Home {
    /// `$SHOAL_HOME`, or `~/.config/shoal`.
    pub(crate) fn find() -> Result<Self> {
        let own = std::env::var_os("SHOAL_HOME").map(PathBuf::from);
        let config = || std::env::var_os("XDG_CONFIG_HOME").map(|d| PathBuf::from(d).join("shoal"));
        let home = || std::env::var_os("HOME").map(|d| PathBuf::from(d).join(".config/shoal"));
        let root = own.or_else(config).or_else(home).ok_or_else(|| {
            CliError::usage("neither SHOAL_HOME nor HOME is set").hint("export SHOAL_HOME=/path/to/a/folder")
        })?;
        Ok(Self { root, passphrase: crate::keys::passphrase::Source::default() })
    }
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), passphrase: crate::keys::passphrase::Source::default() }
    }
    pub(crate) fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }
    pub(crate) fn trust(&self, fleet: &str) -> PathBuf {
        self.root.join("trust").join(fleet)
    }
    fn config_path(&self) -> PathBuf {
        self.root.join("config.yaml")
    }

    /// The contexts; none without the file.
    pub(crate) fn config(&self) -> Result<Config> {
        let path = self.config_path();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(e) => return Err(e).on_path("read", &path),
        };
        serde_saphyr::from_str(&text).map_err(|e| {
            CliError::usage(format!("{} is damaged", path.display()))
                .because(e)
                .hint("log in again with `shoal login`")
        })
    }

    /// Replaces the contexts.
    pub(crate) fn save_config(&self, config: &Config) -> Result<()> {
        let text = serde_saphyr::to_string(config)
            .map_err(|e| CliError::failure("cannot write config.yaml").because(e))?;
        write_secret(&self.config_path(), text.as_bytes())
    }

    /// The context to use.
    pub(crate) fn context(&self, name: Option<&str>) -> Result<Context> {
        let config = self.config()?;
        let wanted = name.unwrap_or(&config.current);
        config.contexts.iter().find(|c| c.name == wanted).cloned().ok_or_else(|| {
            let login = "log in first: `shoal login https://HOST:PORT --token TOKEN --ca-fingerprint sha256:…` (shoald prints the line at its first start)";
            match name {
                Some(n) => {
                    let known: Vec<&str> = config.contexts.iter().map(|c| c.name.as_str()).collect();
                    CliError::usage(format!("no context is called {n:?}; known: {}", known.join(", "))).hint(login)
                }
                None => CliError::credential("not logged in to any controller").hint(login),
            }
        })
    }

    /// Adds or replaces a context.
    pub(crate) fn save_context(&self, context: &Context, make_current: bool) -> Result<()> {
        let mut config = self.config()?;
        config.contexts.retain(|c| c.name != context.name);
        config.contexts.push(context.clone());
        if make_current {
            config.current.clone_from(&context.name);
        }
        self.save_config(&config)
    }
}

/// Replaces a file as a whole; only the owner can read it.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, |file| file.persist(path).map(drop))
}

/// Writes a file that is not there yet; only the owner can read it.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, |file| file.persist_noclobber(path).map(drop))
}

fn write(
    path: &Path,
    bytes: &[u8],
    persist: impl FnOnce(NamedTempFile) -> std::result::Result<(), PersistError>,
) -> Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !dir.is_dir() {
        std::fs::create_dir_all(dir).on_path("create", dir)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).on_path("protect", dir)?;
    }
    // A temporary file has mode 0600 from its beginning.
    let mut file = NamedTempFile::new_in(dir).on_path("write in", dir)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).on_path("write", path)?;
    persist(file).map_err(|e| e.error).on_path("write", path)?;
    std::fs::File::open(dir).and_then(|d| d.sync_all()).on_path("flush", dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_survive_and_the_file_is_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("shoal"));
        assert!(home.context(None).unwrap_err().render().contains("log in first"));
        let context = Context {
            name: "default".into(),
            server: "https://127.0.0.1:8443".into(),
            ca: "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n".into(),
            token: "a: b #c".into(),
            fleet: None,
        };
        home.save_context(&context, true).unwrap();
        assert_eq!(home.context(None).unwrap(), context);
        assert!(home.context(Some("other")).unwrap_err().render().contains("known: default"));
        let mode = std::fs::metadata(home.config_path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
