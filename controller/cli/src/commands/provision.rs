//! `shoal provision`: join files for a factory, signed without a network from the operator's own state.

use super::{duration, token};
use crate::args::Provision;
use crate::error::{CliError, OnPath as _, Result};
use crate::home::{Home, write_secret};
use crate::output;
use crate::publish::Keyring;
use crate::trust::Trust;
use serde::Serialize;

/// Devices of one call: each costs a signature and a file.
const COUNT_MAX: u32 = 100_000;

#[derive(Serialize)]
struct Written {
    files: Vec<String>,
    fleet: String,
    not_after: u64,
}

pub(super) fn run(home: &Home, context: Option<&str>, args: &Provision) -> Result<()> {
    let labels = token::labels(&args.labels)?;
    let lifetime = duration("--expires", &args.expires)?;
    if args.count == 0 || args.count > COUNT_MAX || lifetime == 0 {
        return Err(CliError::usage(format!("--count is 1 to {COUNT_MAX}, --expires more than 0")));
    }
    if args.prefix.is_empty()
        || !args.prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    {
        return Err(CliError::usage(format!("--prefix: {:?} is no beginning of a file name", args.prefix)));
    }
    let context = home.context(context)?;
    let trust = match &context.fleet {
        Some(fleet) => Trust::load(home, fleet)?,
        None => None,
    };
    let trust = trust.ok_or_else(|| {
        CliError::refused(
            "state_lost",
            "this operator has no own state of the fleet, which offline is all there is",
        )
        .hint("on a machine with a way to the controller: shoal trust show")
    })?;
    let ring = Keyring::open(home, &args.keys)?;
    std::fs::create_dir_all(&args.out).on_path("create", &args.out)?;
    let width = args.count.to_string().len().max(4);
    let mut files = Vec::new();
    let mut not_after = 0;
    for n in 1..=args.count {
        let path = args.out.join(format!("{}-{n:0width$}.shoal", args.prefix));
        if path.exists() {
            return Err(CliError::usage(format!("{} is there already", path.display()))
                .details(vec![format!("{} file(s) were written before it", files.len())])
                .hint("choose another folder or --prefix: each file is for one device, once"));
        }
        let signed = token::sign(&trust, &ring, labels.clone(), lifetime, 1, args.approve)?;
        not_after = signed.token.not_after.0;
        write_secret(&path, signed.text.as_bytes())?;
        files.push(path.display().to_string());
    }
    let fleet = trust.anchor()?.fleet.to_string();
    if args.format.is_data() {
        return output::data(args.format, &Written { files, fleet, not_after });
    }
    output::line(&format!(
        "{} join file(s) in {}, one device each, until {}",
        files.len(),
        args.out.display(),
        super::show::time(shoal_protocol::ids::Timestamp(not_after))
    ));
    output::note("on each device, as root: shoal-agent enroll --offline FILE; then destroy the file");
    Ok(())
}
