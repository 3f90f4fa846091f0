//! Which module of an image runs, with which arguments, environment and working folder (Kubernetes' rules for
//! `command`, `args`, `env` and `workingDir` over the image's own). Pure.

use crate::error::{Error, Result};
use crate::image::{Form, Image};
use crate::path;
use crate::unpack::FileEntry;
use serde::{Deserialize, Serialize};
use shoal_protocol::refusal::Code;
use std::path::Path;

/// What the operator's file says; absent means the image's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overrides {
    /// Replaces the image's entry point, and its arguments too.
    pub command: Option<Vec<String>>,
    /// Replaces the image's arguments.
    pub args: Option<Vec<String>>,
    /// Set over the image's environment, by name.
    pub env: Vec<(String, String)>,
    /// Replaces the image's working folder.
    pub working_dir: Option<String>,
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The module.
    pub module: FileEntry,
    /// The argument vector, the program's own name first.
    pub argv: Vec<String>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// Absolute, normalised.
    pub working_dir: String,
}

/// Decides what of `image` runs.
pub fn resolve(image: &Image, overrides: &Overrides) -> Result<Resolved> {
    let working_dir = match &overrides.working_dir {
        Some(dir) if !dir.is_empty() => path::join("/", dir),
        _ => image.config.working_dir.clone(),
    };
    let mut env = image.config.env.clone();
    for (name, value) in &overrides.env {
        match env.iter_mut().find(|(n, _)| n == name) {
            Some(slot) => slot.1.clone_from(value),
            None => env.push((name.clone(), value.clone())),
        }
    }
    let given = |list: &Option<Vec<String>>| list.clone().filter(|l| !l.is_empty());
    let (command, args) = (given(&overrides.command), given(&overrides.args));
    let entrypoint = command.clone().unwrap_or_else(|| image.config.entrypoint.clone());
    let tail = match (&command, args) {
        (_, Some(args)) => args,
        (Some(_), None) => Vec::new(),
        (None, None) => image.config.cmd.clone(),
    };
    let mut argv: Vec<String> = entrypoint.into_iter().chain(tail).collect();
    let module = match image.form {
        Form::Artifact => artifact_module(image, command.is_some(), &mut argv)?,
        Form::Layers => layered_module(image, &working_dir, &env, &mut argv)?,
    };
    Ok(Resolved { module, argv, env, working_dir })
}

/// An artifact is its module, so `args` are arguments; only a `command` names the program as well.
fn artifact_module(image: &Image, named: bool, argv: &mut Vec<String>) -> Result<FileEntry> {
    let module = image.files.values().next().ok_or_else(|| missing(image, "a module"))?;
    let is_its_name = |arg: &String| path::join("/", arg) == module.path;
    if !named && !argv.first().is_some_and(is_its_name) {
        argv.insert(0, module.path.clone());
    }
    Ok(module.clone())
}

fn layered_module(
    image: &Image,
    working_dir: &str,
    env: &[(String, String)],
    argv: &mut Vec<String>,
) -> Result<FileEntry> {
    let Some(program) = argv.first().cloned() else {
        // The images called "compat" carry one module and no entry point.
        let mut modules = image.files.values().filter(|f| is_module_name(&f.path));
        return match (modules.next(), modules.next()) {
            (Some(only), None) => {
                argv.push(only.path.clone());
                Ok(only.clone())
            }
            _ => Err(missing(image, "an entry point or a command")),
        };
    };
    let search = env.iter().find(|(n, _)| n == "PATH").map_or("", |(_, v)| v.as_str());
    let by_search = search.split(':').filter(|dir| dir.starts_with('/') && !program.contains('/'));
    [working_dir, "/"]
        .into_iter()
        .chain(by_search)
        .find_map(|dir| image.files.get(&path::join(dir, &program)))
        .cloned()
        .ok_or_else(|| missing(image, &format!("a file {program:?}")))
}

fn is_module_name(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|e| e.eq_ignore_ascii_case("wasm"))
}

fn missing(image: &Image, what: &str) -> Error {
    let modules: Vec<&str> =
        image.files.keys().map(String::as_str).filter(|p| is_module_name(p)).take(8).collect();
    let hint = match modules.as_slice() {
        [] => "it holds no .wasm file at all".to_owned(),
        some => format!("set `command` to one of its modules: {}", some.join(", ")),
    };
    Error::refused(Code::NotWasm, format!("image {} has not {what}; {hint}", image.manifest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ImageConfig;
    use crate::unpack::FileTree;
    use shoal_protocol::ids::Digest;

    fn image(form: Form, paths: &[&str], entrypoint: &[&str], cmd: &[&str]) -> Image {
        let file = |p: &&str| FileEntry {
            path: (*p).into(),
            mode: 0o644,
            size: 1,
            digest: Digest::of(p.as_bytes()),
        };
        Image {
            manifest: Digest::of(b"m"),
            manifest_size: 1,
            form,
            config: ImageConfig {
                entrypoint: list(entrypoint),
                cmd: list(cmd),
                env: vec![("A".into(), "image".into()), ("PATH".into(), "/usr/bin:/opt".into())],
                working_dir: "/srv".into(),
                diff_ids: Vec::new(),
            },
            files: paths.iter().map(|p| ((*p).to_owned(), file(p))).collect::<FileTree>(),
            annotations: std::collections::BTreeMap::new(),
        }
    }

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    fn run(image: &Image, command: Option<&[&str]>, args: Option<&[&str]>) -> (String, Vec<String>) {
        let overrides =
            Overrides { command: command.map(list), args: args.map(list), ..Overrides::default() };
        let r = resolve(image, &overrides).unwrap();
        (r.module.path, r.argv)
    }

    #[test]
    fn command_and_args_follow_the_kubernetes_table() {
        let i = image(Form::Layers, &["/ep.wasm", "/c.wasm"], &["/ep.wasm", "e"], &["c"]);
        assert_eq!(run(&i, None, None), ("/ep.wasm".into(), list(&["/ep.wasm", "e", "c"])));
        assert_eq!(run(&i, None, Some(&["z"])), ("/ep.wasm".into(), list(&["/ep.wasm", "e", "z"])));
        assert_eq!(run(&i, Some(&["/c.wasm"]), None), ("/c.wasm".into(), list(&["/c.wasm"])));
        assert_eq!(run(&i, Some(&["/c.wasm"]), Some(&["z"])), ("/c.wasm".into(), list(&["/c.wasm", "z"])));
    }

    #[test]
    fn a_docker_image_without_entry_point_takes_the_program_from_args() {
        let i = image(Form::Layers, &["/wasi_example_main.wasm"], &[], &["wasi_example_main.wasm"]);
        assert_eq!(run(&i, None, None).0, "/wasi_example_main.wasm");
        let args: &[&str] = &["/wasi_example_main.wasm", "50000000"];
        assert_eq!(run(&i, None, Some(args)), ("/wasi_example_main.wasm".into(), list(args)));
    }

    #[test]
    fn the_program_is_looked_for_in_working_folder_root_and_path() {
        let i = image(Form::Layers, &["/srv/a.wasm", "/a.wasm", "/opt/b.wasm"], &[], &[]);
        assert_eq!(run(&i, Some(&["a.wasm"]), None).0, "/srv/a.wasm");
        assert_eq!(run(&i, Some(&["./a.wasm"]), None).0, "/srv/a.wasm");
        assert_eq!(run(&i, Some(&["b.wasm"]), None).0, "/opt/b.wasm");
    }

    #[test]
    fn an_image_without_entry_point_runs_its_only_module_or_says_what_it_has() {
        let i = image(Form::Layers, &["/plugin.wasm", "/etc/x"], &[], &[]);
        assert_eq!(run(&i, None, None), ("/plugin.wasm".into(), list(&["/plugin.wasm"])));
        let i = image(Form::Layers, &["/a.wasm", "/b.wasm"], &[], &["sh"]);
        for args in [None, Some(vec!["x".to_owned()])] {
            let e = resolve(&i, &Overrides { args, ..Overrides::default() }).unwrap_err();
            assert!(e.to_string().contains("/a.wasm, /b.wasm"), "{e}");
        }
    }

    #[test]
    fn an_artifact_gets_its_own_name_first() {
        let i = image(Form::Artifact, &["/module.wasm"], &[], &[]);
        assert_eq!(run(&i, None, Some(&["x"])).1, list(&["/module.wasm", "x"]));
        assert_eq!(run(&i, None, Some(&["/module.wasm", "x"])).1, list(&["/module.wasm", "x"]));
        assert_eq!(run(&i, Some(&["me"]), Some(&["x"])), ("/module.wasm".into(), list(&["me", "x"])));
    }

    #[test]
    fn env_is_set_over_the_images_and_working_dir_replaces_its_own() {
        let i = image(Form::Artifact, &["/module.wasm"], &[], &[]);
        let env = vec![("A".to_owned(), "mine".to_owned()), ("B".to_owned(), "2".to_owned())];
        let r = resolve(&i, &Overrides { env, working_dir: Some("/x/../y/".into()), ..Overrides::default() })
            .unwrap();
        assert_eq!(r.env[0], ("A".to_owned(), "mine".to_owned()));
        assert_eq!((r.env.len(), r.working_dir.as_str()), (3, "/y"));
        assert_eq!(resolve(&i, &Overrides::default()).unwrap().working_dir, "/srv");
    }
}
