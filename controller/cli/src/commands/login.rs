//! `shoal login`: pins the controller's CA by the fingerprint that the operator brings, and tries the credential.

use crate::api::{Client, fetch_ca, server_url};
use crate::args::Login;
use crate::error::{CliError, OnPath as _, Result};
use crate::home::{Context, Home};
use crate::output;
use shoal_controller_core::api;

pub(super) fn run(home: &Home, args: &Login) -> Result<()> {
    let server = server_url(&args.server)?;
    let ca = match (&args.ca_fingerprint, &args.ca) {
        (Some(fingerprint), _) => fetch_ca(&server, fingerprint)?,
        (None, Some(path)) => std::fs::read_to_string(path).on_path("read the CA", path)?,
        (None, None) => return Err(CliError::usage("neither --ca-fingerprint nor --ca is given")),
    };
    let known = home.config()?.contexts.into_iter().find(|c| c.name == args.name && c.server == server);
    let mut context = Context {
        name: args.name.clone(),
        server: server.clone(),
        ca,
        token: args.token.trim().to_owned(),
        fleet: known.and_then(|c| c.fleet),
    };
    let client = Client::new(&context)?;
    let answer: api::Login = client.post("/v1/login", &serde_json::json!({}), "the login")?;
    // Own state is kept for the fleet that it was verified for; what the controller says now decides nothing about it.
    if context.fleet.is_none() {
        let own = answer.fleet.as_ref().map(ToString::to_string);
        context.fleet = own.filter(|f| home.trust(f).is_dir());
    }
    home.save_context(&context, true)?;
    output::line(&format!("logged in to {server} as {} (context {})", answer.user, args.name));
    match answer.fleet {
        Some(fleet) => output::note(&format!("fleet {fleet}; look around with `shoal get devices`")),
        None => output::note("it has no fleet yet: found it with `shoal trust init`"),
    }
    Ok(())
}
