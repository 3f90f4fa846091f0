//! Which folders a guest finds open, and under which names, so that its relative paths begin in its working directory.
//!
//! WASI has no working directory: libraries take the folder whose name is the longest prefix of the path, and a relative
//! path counts as one below `.` or `/` alike. For the working directory `/` one folder `/` is exact. For another one `.`
//! stands for it and every top-level folder is opened by its own name beside it. Two things then differ from Linux: a
//! path straight below `/` (`/file`) is looked for in the working directory, and a relative path whose first word is the
//! name of a top-level folder (`etc/x`) is looked for there.

use shoal_ipc::{Preopen, Spec};
use std::fs;
use std::path::Path;

/// The most top-level folders that are opened.
const TOP_LEVEL: usize = 256;

/// The engine's preopens for `spec`, in the engine's own notation.
pub(crate) fn preopens(spec: &Spec) -> Result<Vec<String>, String> {
    let mut folders = spec.preopens.clone();
    if spec.working_dir != "/" {
        let here = locate(&spec.preopens, &spec.working_dir).ok_or_else(|| {
            format!("the working directory {} is in no folder of the container", spec.working_dir)
        })?;
        fs::create_dir_all(&here.host)
            .map_err(|e| format!("the working directory {} cannot be entered: {e}", spec.working_dir))?;
        let top_level = spec.preopens.iter().find(|p| p.guest == "/").map(top_level).unwrap_or_default();
        folders.retain(|p| p.guest != "/");
        for folder in top_level {
            if folders.iter().all(|p| p.guest != folder.guest) {
                folders.push(folder);
            }
        }
        folders.insert(0, here);
    }
    folders.iter().map(notation).collect()
}

/// The folder that `path` is in the guest's eyes: below the preopen with the longest name that it begins with.
fn locate(preopens: &[Preopen], path: &str) -> Option<Preopen> {
    let below = |p: &Preopen| -> Option<(usize, Preopen)> {
        let name = p.guest.trim_end_matches('/');
        let rest = path.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
        let host = format!("{}{}", p.host.trim_end_matches('/'), rest.trim_end_matches('/'));
        let host = if host.is_empty() { "/".to_owned() } else { host };
        Some((name.len(), Preopen { guest: ".".to_owned(), host, read_only: p.read_only }))
    };
    preopens.iter().filter_map(below).max_by_key(|(length, _)| *length).map(|(_, folder)| folder)
}

fn top_level(root: &Preopen) -> Vec<Preopen> {
    let Ok(entries) = fs::read_dir(Path::new(&root.host)) else { return Vec::new() };
    entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|e| e.file_name().into_string().ok())
        .take(TOP_LEVEL)
        .map(|name| Preopen {
            guest: format!("/{name}"),
            host: format!("{}/{name}", root.host.trim_end_matches('/')),
            read_only: root.read_only,
        })
        .collect()
}

fn notation(p: &Preopen) -> Result<String, String> {
    if [&p.guest, &p.host].iter().any(|path| path.contains([':', '\0'])) {
        return Err(format!(
            "the folder {} has a colon in its path, which WASI's names cannot carry",
            p.guest
        ));
    }
    let mode = if p.read_only { ":readonly" } else { "" };
    Ok(format!("{}:{}{mode}", p.guest, p.host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(working_dir: &str, preopens: &[(&str, &str, bool)]) -> Spec {
        let preopen =
            |p: &(&str, &str, bool)| Preopen { guest: p.0.into(), host: p.1.into(), read_only: p.2 };
        Spec {
            version: shoal_ipc::VERSION,
            code: String::new(),
            argv: Vec::new(),
            env: Vec::new(),
            preopens: preopens.iter().map(preopen).collect(),
            working_dir: working_dir.into(),
            wasm_pages: None,
            interpreter: false,
            entry: shoal_ipc::Entry::Start,
            start_function: false,
        }
    }

    #[test]
    fn the_root_as_working_directory_is_the_one_folder() {
        let s = spec("/", &[("/", "/srv/root", false), ("/data", "/srv/data", true)]);
        assert_eq!(preopens(&s).unwrap(), ["/:/srv/root", "/data:/srv/data:readonly"]);
    }

    #[test]
    fn another_working_directory_comes_first_and_top_level_folders_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let root = dir.path().to_str().unwrap();
        let s = spec("/srv/here", &[("/", root, true), ("/etc", "/mnt", false)]);
        let expected = [
            format!(".:{root}/srv/here:readonly"),
            "/etc:/mnt".to_owned(),
            format!("/srv:{root}/srv:readonly"),
        ];
        assert_eq!(preopens(&s).unwrap(), expected);
        assert!(dir.path().join("srv/here").is_dir());
    }

    #[test]
    fn a_working_directory_in_a_mount_is_the_mounts() {
        let dir = tempfile::tempdir().unwrap();
        let (root, data) = (dir.path().join("root"), dir.path().join("data"));
        fs::create_dir(&root).unwrap();
        let s =
            spec("/data/x", &[("/", root.to_str().unwrap(), true), ("/data", data.to_str().unwrap(), false)]);
        assert_eq!(preopens(&s).unwrap()[0], format!(".:{}/x", data.display()));
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        assert!(preopens(&spec("/", &[("/", "/a:b", false)])).unwrap_err().contains("colon"));
        assert!(preopens(&spec("/w", &[("/data", "/a", false)])).unwrap_err().contains("/w"));
    }
}
