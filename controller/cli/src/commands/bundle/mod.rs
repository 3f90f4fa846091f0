//! `shoal bundle`: what the snapshot lists, as it was signed, and the images that it runs, in one file; and what a device
//! would say to such a file.

mod create;
mod gather;
mod verify;

use crate::args::{BundleCommand, BundleInspect};
use crate::error::{CliError, OnPath as _, Result};
use crate::home::Home;
use crate::images::image_error;
use crate::output;
use serde::Serialize;
use shoal_image::bundle::{Bundle, SignedDocument};
use std::path::Path;
use tempfile::TempDir;

pub(super) fn run(home: &Home, context: Option<&str>, command: &BundleCommand) -> Result<()> {
    match command {
        BundleCommand::Create(a) => create::run(home, context, a),
        BundleCommand::Inspect(a) => inspect(a),
        BundleCommand::Verify(a) => verify::run(home, context, a),
    }
}

#[derive(Serialize)]
struct Contents {
    file: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    documents: Vec<String>,
    images: Vec<String>,
}

/// Opens a bundle, with a folder for what has to be unpacked.
fn open(path: &Path) -> Result<(Bundle, TempDir)> {
    let scratch = tempfile::tempdir().map_err(|e| CliError::failure("no temporary folder").because(e))?;
    let found = Bundle::open(path, scratch.path()).map_err(|e| image_error("the bundle", e))?;
    Ok((found, scratch))
}

/// Holds every image of a bundle against its digests; each in words.
fn checked_images(found: &Bundle) -> Result<Vec<String>> {
    let check = |image: &shoal_image::Descriptor| {
        let absent = found.check(image).map_err(|e| image_error("the bundle", e))?;
        let name = image.annotations.get("org.opencontainers.image.ref.name").map_or("-", String::as_str);
        let left_out = match absent.len() {
            0 => String::new(),
            n => format!(", {n} blob(s) left out"),
        };
        Ok(format!("{name} {}{left_out}", image.digest))
    };
    found.images().iter().map(check).collect()
}

fn inspect(args: &BundleInspect) -> Result<()> {
    let (found, _scratch) = open(&args.path)?;
    let images = checked_images(&found)?;
    report(&args.path, args.output.format, found.since(), found.documents(), images)
}

fn report(
    path: &Path,
    format: output::Format,
    since: Option<&str>,
    documents: &[SignedDocument],
    images: impl IntoIterator<Item = String>,
) -> Result<()> {
    let size = std::fs::metadata(path).on_path("read", path)?.len();
    let contents = Contents {
        file: path.display().to_string(),
        size,
        since: since.map(str::to_owned),
        documents: documents.iter().map(|d| d.title.clone()).collect(),
        images: images.into_iter().collect(),
    };
    if format.is_data() {
        return output::data(format, &contents);
    }
    for title in &contents.documents {
        output::line(&format!("document  {}", output::clean(title)));
    }
    for image in &contents.images {
        output::line(&format!("image     {}", output::clean(image)));
    }
    output::line(&format!("{} ({size} bytes)", contents.file));
    if let Some(since) = &contents.since {
        output::note(&format!(
            "only for devices that took the bundle {}: it leaves out what they have",
            output::clean(since)
        ));
    }
    output::note("on the device: shoal-agent sideload FILE");
    Ok(())
}
