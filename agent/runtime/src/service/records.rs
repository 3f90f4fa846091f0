//! What uid 0's own pods are, as the local commands made them: a folder a pod, with its configuration and its ticket.
//!
//! Nothing here permits anything: supervise keeps its own copy of every ticket. Written whole or not at all, one writer at a time.

use crate::cri::config::{ContainerConfig, PodSandboxConfig};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use shoal_ipc::{Digest, Ticket};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// The most that is read of one file, bytes.
const FILE_MAX: u64 = 4 << 20;

/// A container of a local pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// 64 hexadecimal digits.
    pub id: String,
    /// As it was asked for.
    pub config: ContainerConfig,
    /// The image's manifest.
    pub image_ref: String,
    /// Nanoseconds since 1970.
    pub created_at: u64,
}

/// A local pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// 64 hexadecimal digits: also its ticket's id.
    pub id: String,
    /// As it was asked for.
    pub config: PodSandboxConfig,
    /// Its name under supervise.
    pub ticket_name: String,
    /// Nanoseconds since 1970.
    pub created_at: u64,
    /// Whether `StopPodSandbox` was asked for.
    pub stopped: bool,
    /// By index in the ticket; a removed one leaves its place to the next.
    pub containers: Vec<Option<ContainerRecord>>,
}

impl PodRecord {
    /// The ticket's id.
    pub fn ticket_id(&self) -> Digest {
        let mut bytes = [0; 32];
        for (i, b) in bytes.iter_mut().enumerate() {
            *b = self.id.get(i * 2..i * 2 + 2).and_then(|d| u8::from_str_radix(d, 16).ok()).unwrap_or(0);
        }
        Digest(bytes)
    }

    /// Its containers with their index.
    pub fn live(&self) -> impl Iterator<Item = (u16, &ContainerRecord)> {
        let places = self.containers.iter().enumerate();
        places.filter_map(|(i, c)| Some((u16::try_from(i).ok()?, c.as_ref()?)))
    }
}

/// The folder of all.
#[derive(Debug, Clone)]
pub struct Records {
    dir: PathBuf,
}

/// Held while something changes.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let what = format!("cannot {what} {}", path.display());
    move |source| Error::Io { what, source }
}

/// 64 hexadecimal digits that nobody can guess.
pub(super) fn new_id() -> Result<String> {
    let mut bytes = [0; 32];
    let path = Path::new("/dev/urandom");
    File::open(path).and_then(|mut f| f.read_exact(&mut bytes)).map_err(failed("read", path))?;
    Ok(Digest(bytes).hex())
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => {
            other.and_then(|f| f.take(FILE_MAX).read_to_end(&mut bytes)).map_err(failed("read", path))?
        }
    };
    Ok(Some(bytes))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = path.with_extension("new");
    let run = || -> io::Result<()> {
        let mut file = File::create(&temp)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temp, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    run().map_err(failed("write", path))
}

impl Records {
    /// Makes the folder, closed to everybody else.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let made = fs::create_dir_all(&dir)
            .and_then(|()| fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)));
        made.map_err(failed("make", &dir))?;
        Ok(Self { dir })
    }

    /// Waits until nobody else changes anything.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.dir.join("lock");
        let file = File::create(&path).map_err(failed("make", &path))?;
        file.lock().map_err(failed("lock", &path))?;
        Ok(Lock { _file: file })
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// All pods, oldest first.
    pub fn all(&self) -> Result<Vec<PodRecord>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed("list", &self.dir))? {
            let path = entry.map_err(failed("list", &self.dir))?.path();
            let Some(bytes) = (if path.is_dir() { read(&path.join("pod.json"))? } else { None }) else {
                continue;
            };
            let pod: PodRecord = serde_json::from_slice(&bytes)
                .map_err(|e| failed("understand", &path)(io::Error::other(e)))?;
            all.push(pod);
        }
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(all)
    }

    /// The pod's ticket as it was handed over last.
    pub fn ticket(&self, pod: &PodRecord) -> Result<Ticket> {
        let path = self.folder(&pod.id).join("ticket");
        let bytes = read(&path)?.unwrap_or_default();
        Ticket::decode(&bytes).map_err(|e| failed("understand", &path)(io::Error::other(e)))
    }

    /// Keeps a pod and its ticket.
    pub fn save(&self, pod: &PodRecord, ticket: &Ticket) -> Result<()> {
        let folder = self.folder(&pod.id);
        fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        write(&folder.join("ticket"), &ticket.encode())?;
        self.save_pod(pod)
    }

    /// Keeps a pod whose ticket is as it was.
    pub fn save_pod(&self, pod: &PodRecord) -> Result<()> {
        let path = self.folder(&pod.id).join("pod.json");
        let json = serde_json::to_vec(pod).map_err(|e| failed("write", &path)(io::Error::other(e)))?;
        write(&path, &json)
    }

    /// Forgets a pod.
    pub fn remove(&self, id: &str) -> Result<()> {
        let folder = self.folder(id);
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &folder)(e)),
            _ => Ok(()),
        }
    }
}

/// The one whose id is `wanted` or begins with it.
pub(crate) fn by_prefix<T>(
    kind: &'static str,
    wanted: &str,
    all: Vec<T>,
    id: impl Fn(&T) -> &str,
) -> Result<T> {
    let absent = || Error::NotFound { kind, id: wanted.to_owned() };
    if wanted.is_empty() {
        return Err(absent());
    }
    let mut found: Vec<T> = all.into_iter().filter(|x| id(x).starts_with(wanted)).collect();
    if let Some(at) = found.iter().position(|x| id(x) == wanted) {
        return Ok(found.swap_remove(at));
    }
    match found.len() {
        1 => found.pop().ok_or_else(absent),
        0 => Err(absent()),
        count => Err(Error::Ambiguous { kind, id: wanted.to_owned(), count }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(id: &str) -> PodRecord {
        let config = serde_json::from_str(r#"{"metadata": {"name": "a"}, "strange": 1}"#).unwrap();
        PodRecord {
            id: id.into(),
            config,
            ticket_name: "local_a_0".into(),
            created_at: 5,
            stopped: false,
            containers: vec![None],
        }
    }

    #[test]
    fn pods_come_back_as_they_were_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path().join("local")).unwrap();
        let id = new_id().unwrap();
        let p = pod(&id);
        assert_eq!(p.ticket_id().hex(), id);
        records.save_pod(&p).unwrap_err();
        fs::create_dir(dir.path().join("local").join(&id)).unwrap();
        records.save_pod(&p).unwrap();
        assert_eq!(records.all().unwrap(), [p]);
        records.remove(&id).unwrap();
        assert!(records.all().unwrap().is_empty());
    }

    #[test]
    fn an_id_may_be_cut_short_while_it_names_one() {
        let find = |wanted| by_prefix("pod", wanted, vec!["abc1", "abd2", "ab"], |s| s).map_err(|e| e.code());
        assert_eq!(find("abc"), Ok("abc1"));
        assert_eq!(find("ab"), Ok("ab"), "a whole id wins");
        assert_eq!(find("a"), Err("ambiguous".into()));
        assert_eq!(find("x"), Err("not_found".into()));
        assert_eq!(find(""), Err("not_found".into()));
    }
}
