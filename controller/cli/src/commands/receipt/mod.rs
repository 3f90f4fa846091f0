//! `shoal receipt`: what devices without a network give back by hand.

mod import;
mod read;

use crate::args::{ReceiptCommand, ReceiptInspect};
use crate::commands::Session;
use crate::commands::apply::own_state;
use crate::error::Result;
use crate::home::Home;
use crate::output;

pub(super) fn run(home: &Home, context: Option<&str>, command: &ReceiptCommand) -> Result<()> {
    match command {
        ReceiptCommand::Inspect(a) => inspect(&Session::open(home.clone(), context)?, a),
        ReceiptCommand::Import(a) => import::run(&Session::open(home.clone(), context)?, a),
    }
}

/// Shows a receipt, verified by what is known here; nothing is kept.
fn inspect(s: &Session, args: &ReceiptInspect) -> Result<()> {
    let trust = own_state(s)?;
    let bytes = import::read(&args.file)?;
    let view = read::View::of(&read::read(&trust, &bytes, None, &[])?);
    if args.output.format.is_data() {
        return output::data(args.output.format, &view);
    }
    for line in view.lines().into_iter().chain(view.log_lines()) {
        output::line(&output::clean(&line));
    }
    Ok(())
}
