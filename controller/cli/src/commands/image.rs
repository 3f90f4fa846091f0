//! `shoal image`: what is in the own layout, how it gets there, and what it may do.

use super::Session;
use crate::args::{ImageCommand, ImageImport};
use crate::error::{CliError, OnPath as _, Result};
use crate::home::Home;
use crate::images::{self, Lock, LockedImage, canonical, image_error};
use crate::manifest::quantity::show_bytes;
use crate::output::{self, Cell, Format};
use serde::Serialize;
use shoal_controller_core::api;
use shoal_image::registry::{self, Access, Progress, Registry, RegistryAuth};
use shoal_image::{ModuleFacts, Overrides, Reference, Store};
use shoal_protocol::ids::Digest;
use std::io::Read as _;
use std::path::Path;

pub(super) fn run(home: &Home, context: Option<&str>, command: &ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Import(a) => import(home, context, a),
        ImageCommand::Ls { remote: true, output } => {
            remote(&Session::open(home.clone(), context)?, output.format)
        }
        ImageCommand::Ls { remote: false, output } => list(home, output.format),
        ImageCommand::Inspect { image, output } => inspect(home, image, output.format),
        ImageCommand::Lock { images, file } => lock(home, images, file),
    }
}

/// An image that is whole in the own layout, and what it is called.
struct Named {
    reference: Reference,
    manifest: shoal_image::Descriptor,
    size: u64,
}

fn import(home: &Home, context: Option<&str>, args: &ImageImport) -> Result<()> {
    let name = args.name.as_deref().map(images::reference).transpose()?;
    let store = images::store(home)?;
    let path = Path::new(&args.source);
    let named = if path.exists() {
        check_bare(path)?;
        let spinner = output::spinner(&format!("reading {}", args.source));
        let found = shoal_image::import(&store, path)
            .map_err(|e| image_error(&format!("cannot import {}", args.source), e))?;
        spinner.finish_and_clear();
        from_files(args, name, found)?
    } else {
        if args.source.starts_with(['/', '.']) || images::is_wasm_name(&args.source) {
            return Err(CliError::usage(format!("there is no file or folder {}", args.source)));
        }
        vec![pull(&store, args, name)?]
    };
    for n in &named {
        check(&store, n)?;
        let name = canonical(&n.reference);
        shoal_image::tag(&store, &name, &n.manifest).map_err(|e| image_error(&name, e))?;
        output::line(&format!("{name} imported ({}, {})", n.manifest.digest, show_bytes(n.size)));
    }
    if args.local {
        return Ok(());
    }
    let session = match Session::open(home.clone(), context) {
        Ok(s) => s,
        Err(e) => {
            output::note(&format!(
                "not given to a controller: {e}; devices will have to find it in its registry"
            ));
            return Ok(());
        }
    };
    for n in &named {
        images::upload(&session.client, &store, &n.reference, &n.manifest.digest)?;
        output::line(&format!("{} is at {} too", canonical(&n.reference), session.client.server()));
    }
    Ok(())
}

fn from_files(
    args: &ImageImport,
    name: Option<Reference>,
    found: Vec<shoal_image::ImportedImage>,
) -> Result<Vec<Named>> {
    if let Some(reference) = name {
        let names: Vec<String> = found.iter().filter_map(|f| f.reference.clone()).collect();
        let mut all = found.into_iter();
        return match all.next() {
            // One image may have several names where it came from.
            Some(i) if all.all(|other| other.manifest == i.manifest) => {
                Ok(vec![Named { reference, manifest: i.manifest, size: i.size }])
            }
            _ => Err(CliError::usage(format!(
                "{} holds {} images, so one name is not enough",
                args.source,
                names.len()
            ))
            .details(names)
            .hint("leave the name out to import all of them under their own")),
        };
    }
    found
        .into_iter()
        .map(|i| {
            let text = i.reference.clone().ok_or_else(|| {
                CliError::usage(format!("{} does not say what it is called", args.source))
                    .hint(format!("add a name: `shoal image import {} NAME:TAG`", args.source))
            })?;
            Ok(Named { reference: images::reference(&text)?, manifest: i.manifest, size: i.size })
        })
        .collect()
}

/// What is called like a module has to be one, and not an archive.
fn check_bare(path: &Path) -> Result<()> {
    if !path.is_file() || !images::is_wasm_name(&path.to_string_lossy()) {
        return Ok(());
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).on_path("open", path)?;
    file.take(shoal_image::limits::MODULE + 1).read_to_end(&mut bytes).on_path("read", path)?;
    shoal_image::inspect(&bytes)
        .map(drop)
        .map_err(|e| image_error(&format!("cannot import {}", path.display()), e))
}

/// An image that no device could start is refused on the way in, where its maker still is.
fn check(store: &Store, n: &Named) -> Result<()> {
    let what = canonical(&n.reference);
    let pinned = images::load(store, &what, &n.manifest.digest)?;
    match shoal_image::resolve(&pinned.image, &Overrides::default()) {
        Ok(r) => pinned.facts(&what, &r.module).map(drop),
        Err(_) if !pinned.modules.is_empty() => {
            output::note(&format!(
                "{what} has no entry point: a deployment must name one of its modules in `command` or `args`"
            ));
            Ok(())
        }
        Err(e) => match pinned.refused.values().next() {
            Some((code, detail)) => {
                Err(CliError::refused(code.as_str(), format!("{what}: {detail}")).hint(code.hint()))
            }
            None => Err(image_error(&what, e)),
        },
    }
}

/// Fetches an image from the registry that its reference names, under the image library's bounds.
fn pull(store: &Store, args: &ImageImport, name: Option<Reference>) -> Result<Named> {
    let source = images::reference(&args.source)?;
    let host = source.host().to_owned();
    let access = Access { auth: credentials(&host)?, insecure: args.plain_http, ..Access::default() };
    let what = format!("cannot pull {} from {host}", args.source);
    let registry = Registry::new(&host, access).map_err(|e| image_error(&what, e))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::failure("cannot start the download").because(e))?;
    let bar = output::bytes_bar(&format!("pulling {}", args.source), 0);
    let watch = |p: Progress| {
        bar.set_length(p.total);
        bar.set_position(p.done);
    };
    let found = runtime.block_on(registry.pull(&source, store, &watch)).map_err(|e| image_error(&what, e))?;
    bar.finish_and_clear();
    Ok(Named { reference: name.unwrap_or(source), manifest: found.manifest, size: found.size })
}

/// The operator's credentials for a registry: from the environment, or where docker and podman keep them.
fn credentials(host: &str) -> Result<RegistryAuth> {
    let var = |name: &str| std::env::var(name).ok();
    if let (Some(user), Some(password)) = (var("SHOAL_REGISTRY_USER"), var("SHOAL_REGISTRY_PASSWORD")) {
        return Ok(RegistryAuth::Basic(user, password));
    }
    let docker = var("DOCKER_CONFIG").or_else(|| var("HOME").map(|h| format!("{h}/.docker")));
    let podman = var("REGISTRY_AUTH_FILE")
        .or_else(|| var("XDG_RUNTIME_DIR").map(|d| format!("{d}/containers/auth.json")));
    for path in [docker.map(|d| format!("{d}/config.json")), podman].into_iter().flatten() {
        let Ok(json) = std::fs::read(&path) else { continue };
        let auth = registry::credentials(&json, host).map_err(|e| image_error(&path, e))?;
        if auth != RegistryAuth::Anonymous {
            return Ok(auth);
        }
    }
    Ok(RegistryAuth::Anonymous)
}

#[derive(Serialize)]
struct Row {
    reference: String,
    digest: String,
}

fn list(home: &Home, format: Format) -> Result<()> {
    let store = images::store(home)?;
    let rows: Vec<Row> = images::tags(&store)?
        .into_iter()
        .map(|t| Row { reference: t.name, digest: t.manifest.digest.to_string() })
        .collect();
    if format.is_data() {
        return output::data(format, &serde_json::json!({ "images": rows }));
    }
    if rows.is_empty() {
        output::note("no images; import one with `shoal image import SOURCE NAME:TAG`");
        return Ok(());
    }
    let cells: Vec<Vec<Cell>> = rows.into_iter().map(|r| vec![r.reference.into(), r.digest.into()]).collect();
    output::table(&["IMAGE", "DIGEST"], &cells);
    Ok(())
}

fn remote(s: &Session, format: Format) -> Result<()> {
    let list: api::ImageList = s.client.get("/v1/images", "the controller's images")?;
    if format.is_data() {
        return output::data(format, &list);
    }
    let cells: Vec<Vec<Cell>> = list
        .images
        .iter()
        .map(|i| {
            let name = output::clean(&format!("{}:{}", i.repository, i.tag));
            vec![
                name.into(),
                i.digest.to_string().into(),
                show_bytes(i.size).into(),
                super::show::age(Some(i.imported_at)).into(),
            ]
        })
        .collect();
    output::table(&["IMAGE", "DIGEST", "SIZE", "AGE"], &cells);
    Ok(())
}

#[derive(Serialize)]
struct Module {
    path: String,
    digest: String,
    /// Absent when it must not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    facts: Option<ModuleFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

#[derive(Serialize)]
struct Inspected {
    reference: String,
    manifest: String,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    working_dir: String,
    modules: Vec<Module>,
    files: Vec<shoal_image::FileEntry>,
}

/// A name of the own layout, or a digest in it.
fn find(store: &Store, text: &str) -> Result<(String, Digest)> {
    if let Ok(digest) = text.parse::<Digest>() {
        return Ok((text.to_owned(), digest));
    }
    let name = canonical(&images::reference(text)?);
    let tag = images::tags(store)?.into_iter().find(|t| t.name == name);
    tag.map(|t| (t.name, t.manifest.digest)).ok_or_else(|| {
        CliError::usage(format!("no image of the own layout is called {name}"))
            .hint("list them with `shoal image ls`")
    })
}

fn inspect(home: &Home, image: &str, format: Format) -> Result<()> {
    let store = images::store(home)?;
    let (reference, digest) = find(&store, image)?;
    let pinned = images::load(&store, &reference, &digest)?;
    let config = &pinned.image.config;
    let modules = pinned
        .image
        .files
        .values()
        .filter_map(|f| {
            let facts = pinned.modules.get(&f.digest).cloned();
            let refused = pinned.refused.get(&f.digest).map(|(c, d)| format!("{c}: {d}"));
            (facts.is_some() || refused.is_some()).then(|| Module {
                path: f.path.clone(),
                digest: f.digest.to_string(),
                facts,
                refused,
            })
        })
        .collect();
    let shown = Inspected {
        reference,
        manifest: digest.to_string(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        working_dir: config.working_dir.clone(),
        modules,
        files: pinned.image.files.values().cloned().collect(),
    };
    if format.is_data() {
        return output::data(format, &shown);
    }
    output::line(&format!("Image:       {}", shown.reference));
    output::line(&format!("Manifest:    {}", shown.manifest));
    output::line(&format!(
        "Entry point: {}",
        output::clean(&[shown.entrypoint, shown.cmd].concat().join(" "))
    ));
    for m in &shown.modules {
        output::line(&format!("Module {} ({})", output::clean(&m.path), m.digest));
        if let Some(r) = &m.refused {
            output::line(&format!("  must not run: {r}"));
        }
        if let Some(f) = &m.facts {
            module_lines(f);
        }
    }
    let rows: Vec<Vec<Cell>> = shown
        .files
        .iter()
        .map(|f| {
            vec![
                output::clean(&f.path).into(),
                show_bytes(f.size).into(),
                format!("{:o}", f.mode).into(),
                f.digest.to_string().into(),
            ]
        })
        .collect();
    output::table(&["FILE", "SIZE", "MODE", "DIGEST"], &rows);
    Ok(())
}

fn module_lines(f: &ModuleFacts) {
    let may: Vec<String> = f.capabilities.iter().map(ToString::to_string).collect();
    let imports: Vec<&str> = f.imports.iter().map(|i| i.name.as_str()).collect();
    output::line(&format!(
        "  size:      {} ({} without custom sections)",
        show_bytes(f.size),
        show_bytes(f.stripped_size)
    ));
    output::line(&format!(
        "  may use:   {}",
        if may.is_empty() { "nothing".to_owned() } else { may.join(", ") }
    ));
    output::line(&format!("  imports:   {}", output::clean(&imports.join(" "))));
    output::line(&format!("  program:   {}", if f.is_command { "yes (_start)" } else { "no: a library" }));
    if let Some(m) = f.memory {
        let max = m.max_pages.map_or_else(|| "no limit of its own".to_owned(), |p| show_bytes(p * 65_536));
        output::line(&format!("  memory:    begins with {}, {max}", show_bytes(m.min_pages * 65_536)));
    }
}

fn lock(home: &Home, names: &[String], file: &Path) -> Result<()> {
    let store = images::store(home)?;
    let wanted: Vec<(String, Digest)> = if names.is_empty() {
        images::tags(&store)?.into_iter().map(|t| (t.name, t.manifest.digest)).collect()
    } else {
        names.iter().map(|n| find(&store, n)).collect::<Result<_>>()?
    };
    let mut lock = Lock::read(file, false)?;
    lock.version = 1;
    for (reference, digest) in wanted {
        let pinned = images::load(&store, &reference, &digest)?;
        lock.images.retain(|i| i.reference != reference);
        output::line(&format!("{reference} locked to {digest}"));
        lock.images.push(LockedImage::new(reference, &pinned));
    }
    lock.images.sort_by(|a, b| a.reference.cmp(&b.reference));
    lock.write(file)
}
