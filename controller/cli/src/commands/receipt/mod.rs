//! `shoal receipt`: what devices without a network give back by hand.

mod import;

use crate::args::ReceiptCommand;
use crate::commands::Session;
use crate::error::Result;
use crate::home::Home;

pub(super) fn run(home: &Home, context: Option<&str>, command: &ReceiptCommand) -> Result<()> {
    match command {
        ReceiptCommand::Import(a) => import::run(&Session::open(home.clone(), context)?, a),
    }
}
