//! `shoal-agent sideload`: what an operator signed, from a stick instead of the network. Same admission, same reconcile.
//!
//! All of a stick is read as the agent's uid. Where uid 0 gave the command, its process waits beside and reads nothing of the
//! stick: it only tells admission, on the socket that is its own, that whoever stands at the device lets the revisions be
//! activated. A stick that is taken by itself (udev) has nobody who stands there. Nothing here is believed; admission verifies.

mod documents;
mod progress;
mod receipt;
mod take;

use crate::failure::{Explained, Kind};
use crate::{output, privilege};
use anyhow::{Context, Result};
use receipt::{Asked, Made};
use serde_json::json;
use shoal_ipc::{Layout, RootAdmitClient};
use shoal_protocol::ids::Digest;
use shoal_protocol::join;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use take::{Outcome, Taken};

/// The most that the process which reads the stick may say.
const ANSWER_MAX: u64 = 8 << 20;
/// Bundles of one stick.
const BUNDLES: usize = 32;

/// What the command line asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options<'a> {
    /// A bundle, or a folder of bundles.
    pub path: &'a Path,
    /// Nobody stands at the device.
    pub unattended: bool,
    /// This is the process that reads for another one.
    pub reads: bool,
    /// This is the process that makes the receipt which was asked for so.
    pub tells: Option<&'a str>,
    /// Where a receipt goes, if the stick asks for one.
    pub receipt: Option<&'a Path>,
    /// How long the outcome is waited for, so that the receipt tells of it.
    pub wait: Duration,
    /// Print JSON.
    pub json: bool,
}

/// The whole command.
pub(crate) fn run(options: Options<'_>, layout: &Layout) -> Result<()> {
    if privilege::is_root() && !options.unattended && !options.reads {
        return attend(options, layout);
    }
    if let Some(asked) = options.tells {
        privilege::become_agent(layout)?;
        let asked: Asked = serde_json::from_str(asked).context("a receipt is made for sideload only")?;
        output::line(&serde_json::to_string(&receipt::make(&asked, layout, options.wait)?)?);
        return Ok(());
    }
    let own = !privilege::is_root() && !options.unattended && !options.reads;
    // Before anything of the stick is opened: it is somebody else's.
    privilege::become_agent(layout)?;
    let mut all = Taken::default();
    for path in bundles(options.path)? {
        let taken = take::take(&path, layout).with_context(|| format!("{} was not taken", path.display()));
        let mut taken = match taken {
            // What was taken before it counts.
            Err(e) if options.reads && !all.documents.is_empty() => {
                output::line(&serde_json::to_string(&all)?);
                return Err(e);
            }
            other => other?,
        };
        all.documents.append(&mut taken.documents);
        all.images += taken.images;
        all.asked = taken.asked.take().or(all.asked);
        if all.refusal().is_some() {
            break;
        }
    }
    if options.reads {
        output::line(&serde_json::to_string(&all)?);
    } else {
        // Without root the guard's own uid stands for uid 0.
        let activated = if own && layout.admit_root_socket().exists() { activate(&all, layout)? } else { 0 };
        let asked = all.asked.take().filter(|_| all.refusal().is_none());
        let tell = |asked: &Asked| receipt::make(asked, layout, options.wait);
        let name = deliver(asked.as_ref(), options.receipt, &tell)?;
        say(&all, activated, name.as_deref(), options.json);
    }
    match all.refusal() {
        None => Ok(()),
        Some(why) => Err(Explained::new(Kind::Refused, why).into()),
    }
}

/// Writes the receipt that was asked for, if there is a place for it; what its file is called.
fn deliver(
    asked: Option<&Asked>,
    dir: Option<&Path>,
    tell: &dyn Fn(&Asked) -> Result<Made>,
) -> Result<Option<String>> {
    let Some(dir) = dir else { return Ok(None) };
    let Some(asked) = asked else {
        output::error("note: no receipt is written: nothing on this stick that counts here asks for one");
        return Ok(None);
    };
    let made = tell(asked)?;
    receipt::write(dir, &made.name, &made.envelope)?;
    Ok(Some(made.name))
}

/// The bundles that a path stands for: itself, or the `*.shoal` at the top of a folder that is none.
fn bundles(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() || path.join("index.json").is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let what = || format!("cannot read {}", path.display());
    let mut all = Vec::new();
    for entry in std::fs::read_dir(path).with_context(what)? {
        let path = entry.with_context(what)?.path();
        if path.extension().is_some_and(|e| e == "shoal") && path.is_file() && !is_join_file(&path) {
            all.push(path);
        }
    }
    all.sort();
    if all.is_empty() || all.len() > BUNDLES {
        let text =
            format!("{} holds {} bundles (*.shoal); 1 to {BUNDLES} are taken", path.display(), all.len());
        return Err(Explained::new(Kind::Usage, text).into());
    }
    Ok(all)
}

/// Join files are called like bundles, and lie beside them.
fn is_join_file(path: &Path) -> bool {
    let mut head = vec![0; join::BEGIN.len()];
    let read = std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut head));
    read.is_ok() && head == join::BEGIN.as_bytes()
}

/// As uid 0: has another process read the stick, opens what it brought for activation, has another one tell of it.
fn attend(options: Options<'_>, layout: &Layout) -> Result<()> {
    let read: Heard<Taken> = have(options, layout, &[])?;
    if let Some(taken) = &read.said {
        let activated = activate(taken, layout)?;
        let asked = taken.asked.as_ref().filter(|_| read.code == Some(0));
        let tell = |asked: &Asked| {
            let told: Heard<Made> = have(options, layout, &["--tells", &serde_json::to_string(asked)?])?;
            told.said.filter(|_| told.code == Some(0)).context("the process that makes the receipt broke off")
        };
        let name = deliver(asked, options.receipt, &tell)?;
        say(taken, activated, name.as_deref(), options.json);
    }
    match read.code {
        Some(0) if read.said.is_some() => Ok(()),
        // It has said why.
        Some(code) if code != 0 => Err(Explained::said(code).into()),
        _ => Err(Explained::new(Kind::Failure, "the process that reads the stick broke off").into()),
    }
}

/// What another process of this program said, and how it ended.
struct Heard<T> {
    said: Option<T>,
    code: Option<u8>,
}

/// Has this program do something for this process, as the agent's uid.
fn have<T: serde::de::DeserializeOwned>(
    options: Options<'_>,
    layout: &Layout,
    more: &[&str],
) -> Result<Heard<T>> {
    // By its descriptor in /proc, so that the folders above the binary need not be open to the agent's uid.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("shoal-agent")
        .arg("sideload")
        .arg(options.path)
        .arg("--reads")
        .arg("--root")
        .arg(layout.root());
    command.args(["--wait", &options.wait.as_secs().to_string()]).args(more);
    if options.json {
        command.args(["--output", "json"]);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the process that reads the stick")?;
    let mut answer = Vec::new();
    let stdout = child.stdout.take().context("the process that reads the stick says nothing")?;
    let heard = stdout.take(ANSWER_MAX).read_to_end(&mut answer);
    let ended = child.wait().context("the process that reads the stick is lost")?;
    heard.context("cannot hear the process that reads the stick")?;
    let code = ended.code().and_then(|c| u8::try_from(c).ok());
    Ok(Heard { said: serde_json::from_slice(&answer).ok(), code })
}

/// Lets what the stick brought be activated; how many revisions.
fn activate(taken: &Taken, layout: &Layout) -> Result<usize> {
    let here = |o| matches!(o, Outcome::Accepted | Outcome::Known);
    let revisions = taken.documents.iter().filter(|d| here(d.outcome)).filter_map(|d| d.revision.as_ref());
    let mut count = 0;
    let mut admit = None;
    for r in revisions {
        let digest: Digest = r.digest.parse().context("a digest that admission gave is none")?;
        let client = match &mut admit {
            Some(client) => client,
            none => none.insert(
                RootAdmitClient::connect(layout).context("cannot reach admission's root-only socket")?,
            ),
        };
        let id = shoal_ipc::Digest(digest.0);
        client.activate(&r.name, r.sequence, id).with_context(|| format!("{} is not activated", r.name))?;
        count += 1;
    }
    Ok(count)
}

fn say(taken: &Taken, activated: usize, receipt: Option<&str>, as_json: bool) {
    if as_json {
        let value = json!({
            "documents": taken.documents, "images": taken.images, "activated": activated, "receipt": receipt,
        });
        output::line(&value.to_string());
        return;
    }
    for told in &taken.documents {
        match (told.outcome, &told.code) {
            (Outcome::Accepted, _) => output::line(&format!("accepted    {}", told.document)),
            (Outcome::Refused, Some(code)) => {
                let detail = told.detail.as_deref().unwrap_or_default();
                output::line(&format!("refused     {}: {code}: {detail}", told.document));
            }
            _ => {}
        }
    }
    let (accepted, known) = (taken.count(Outcome::Accepted), taken.count(Outcome::Known));
    output::line(&format!(
        "{accepted} documents accepted, {known} known already, {} images kept",
        taken.images
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sticks_bundles_are_those_at_its_top_without_join_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert!(bundles(dir.path()).is_err(), "nothing to take");
        write("b.shoal", "tar");
        write("a.shoal", "tar");
        write("join-0001.shoal", &format!("{}\n", join::BEGIN));
        write("notes.txt", "x");
        std::fs::create_dir(dir.path().join("deeper.shoal")).unwrap();
        let found = bundles(dir.path()).unwrap();
        let names: Vec<_> = found.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.shoal", "b.shoal"]);
        write("index.json", "{}");
        assert_eq!(bundles(dir.path()).unwrap(), [dir.path()], "an unpacked bundle is one");
    }
}
