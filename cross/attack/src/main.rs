//! What a thief of the controller would run: with its store and keys, send one device what no operator signed.
//!
//! It uses the real broker as the real controller. Nothing of it is ever installed.
#![forbid(unsafe_code)]

mod attempts;
mod loot;
mod wire;

use anyhow::{Context as _, Result, bail};
use attempts::{Comes, Thief};
use clap::{Args, Parser, Subcommand};
use loot::Loot;
use serde_json::{Value, json};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::{self, Envelope};
use shoal_protocol::ids::DeviceId;
use shoal_protocol::latest::{Deployment, Kind};
use shoal_protocol::topics::Topic;
use shoal_protocol::{Ed25519Signer, Signer};
use std::path::PathBuf;

/// Send a device what no operator signed, as a thief of its controller.
#[derive(Debug, Parser)]
struct Cli {
    /// The controller's data folder
    #[arg(long)]
    data: PathBuf,
    /// An older copy of it: what the thief saw before
    #[arg(long)]
    before: Option<PathBuf>,
    /// The device
    #[arg(long)]
    device: DeviceId,
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Clone, Subcommand)]
enum Act {
    /// The newest real deployment with its last payload byte changed
    Flip,
    /// An own next revision, signed with the controller's online key
    OnlineKey,
    /// An own next revision, signed with a key that nobody knows
    FreshKey,
    /// Any envelope, of whatever kind
    Document {
        /// The envelope
        #[arg(long)]
        file: PathBuf,
    },
    /// Everything that the protocol can express, in families: prints their names
    Families,
    /// Send all of a family; prints what must come of each
    Try(Try),
    /// Put a record with a sealing key of the thief's in the place of the device's
    Plant,
}

#[derive(Debug, Clone, Args)]
struct Try {
    /// As `families` prints it
    family: String,
    /// The counter of an order: above all that the device has accepted
    #[arg(long, default_value_t = 1)]
    counter: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let loot = Loot::take(&cli.data, cli.before.as_deref())?;
    let message = match &cli.act {
        Act::Families => {
            let names: Vec<String> =
                Thief::new(&loot, &cli.device, 1)?.families()?.into_iter().map(|(name, _)| name).collect();
            return say(&json!(names));
        }
        Act::Try(t) => return one_family(&loot, &cli.device, t).await,
        Act::Plant => {
            let record = attempts::planted_record(&Thief::new(&loot, &cli.device, 1)?)?;
            return loot::plant(&cli.data, &cli.device, &record);
        }
        Act::Document { file } => std::fs::read(file).with_context(|| format!("read {}", file.display()))?,
        Act::Flip => flipped(&loot)?,
        Act::OnlineKey => next(&loot, &Ed25519Signer::from_seed(loot.online))?,
        Act::FreshKey => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("no entropy: {e}"))?;
            next(&loot, &Ed25519Signer::from_seed(seed))?
        }
    };
    let topic = match Envelope::parse(&message).ok().and_then(|e| e.kind().ok()) {
        Some(Kind::Root) => Topic::Root,
        Some(Kind::Snapshot) => Topic::Snapshot,
        _ => Topic::Document,
    };
    if wire::send(&loot, &cli.device, &[(topic, message)]).await? != [true] {
        bail!("the broker did not take it");
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "what it says is its result")]
fn say(value: &Value) -> Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

/// Sends a family, and after it one more message that is refused as `malformed`: once that is counted, all before it was heard.
async fn one_family(loot: &Loot, device: &DeviceId, t: &Try) -> Result<()> {
    let families = Thief::new(loot, device, t.counter)?.families()?;
    let (_, attempts) = families.into_iter().find(|(name, _)| *name == t.family).context("no such family")?;
    let mut messages: Vec<(Topic, Vec<u8>)> = attempts.iter().map(|a| (a.topic, a.message.clone())).collect();
    messages.push((Topic::Order, vec![0xff]));
    let taken = wire::send(loot, device, &messages).await?;
    let told: Vec<Value> = attempts
        .iter()
        .zip(&taken)
        .map(|(a, taken)| {
            let (comes, word) = match a.comes {
                Comes::Refused(code) => ("refused", code.as_str()),
                Comes::Nothing => ("nothing", ""),
                Comes::Denied => ("denied", ""),
                Comes::Granted(word) => ("granted", word),
            };
            json!({"what": a.what, "comes": comes, "word": word, "taken": taken})
        })
        .collect();
    say(&json!(told))
}

fn newest(loot: &Loot) -> Result<&loot::Genuine> {
    loot.newest(Kind::Deployment).context("no deployment in the store")
}

fn flipped(loot: &Loot) -> Result<Vec<u8>> {
    let real = newest(loot)?;
    let payload = Envelope::parse(&real.envelope)?.payload().to_vec();
    let mut bytes = real.envelope.clone();
    let at = bytes.windows(payload.len()).position(|w| w == payload).context("find the payload")?;
    bytes[at + payload.len() - 1] ^= 1;
    Ok(bytes)
}

fn next(loot: &Loot, signer: &dyn Signer) -> Result<Vec<u8>> {
    let real = newest(loot)?;
    let payload = Envelope::parse(&real.envelope)?;
    let mut deployment: Deployment =
        codec::decode(payload.payload(), Limits::of_size(Kind::Deployment.size_cap()))?;
    deployment.sequence += 1;
    Ok(envelope::seal_document(&deployment, &[signer])?.0)
}
