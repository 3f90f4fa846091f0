//! Golden bytes: what was signed once must verify for ever. Fails when any encoding changes.
//!
//! `SHOAL_GOLDEN=write cargo test -p shoal-protocol --test wire golden` writes them anew; only before a release may it.

use crate::common::*;
use shoal_protocol::codec::{Limits, decode, encode};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::v1::*;
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", &format!("{name}.hex")].iter().collect()
}

/// In lines of 32 bytes, so that a change shows where it is.
fn to_hex(bytes: &[u8]) -> String {
    bytes.chunks(32).map(|c| hex::encode(c) + "\n").collect()
}

fn samples() -> Vec<(String, Vec<u8>)> {
    let fleet = Fleet::new();
    let mut out = vec![
        ("root-1".to_owned(), seal(&root_1(), &[seed::ROOT]).0),
        ("root-2".to_owned(), seal(&full::root(&fleet.id), &[seed::ROOT]).0),
        ("snapshot".to_owned(), seal(&full::snapshot(&fleet.id), &[seed::SNAPSHOT]).0),
        ("deployment".to_owned(), seal(&full::deployment(&fleet.id), &[seed::DEPLOY, seed::WEB]).0),
        ("deployment-least".to_owned(), seal(&fleet.deployment("app", 1), &[seed::DEPLOY]).0),
        ("device".to_owned(), seal(&fleet.record(1), &[seed::ENROLL]).0),
        (
            "device-decommissioned".to_owned(),
            seal(&DeviceRecord { decommissioned: true, ..fleet.record(2) }, &[seed::ENROLL]).0,
        ),
        ("token".to_owned(), seal(&fleet.token(), &[seed::ENROLL]).0),
        ("report".to_owned(), seal(&full::report(&fleet), &[seed::IDENTITY]).0),
        ("config".to_owned(), seal(&full::config(&fleet), &[seed::DEPLOY]).0),
        ("secret".to_owned(), seal(&full::secret(&fleet), &[seed::DEPLOY]).0),
        ("grant".to_owned(), seal(&full::grant(&fleet), &[seed::DEPLOY]).0),
        ("release".to_owned(), seal(&fleet.release("agent", 2, "0.2.0"), &[seed::RELEASE]).0),
        ("receipt-request".to_owned(), seal(&full::receipt_request(&fleet), &[seed::SNAPSHOT]).0),
        ("receipt".to_owned(), seal(&full::receipt(&fleet), &[seed::IDENTITY]).0),
        ("hello".to_owned(), encode(&full::hello(&fleet))),
        ("heartbeat".to_owned(), encode(&Heartbeat { uptime: 3600 })),
        ("ack".to_owned(), encode(&Ack { counter: 17 })),
        ("log".to_owned(), encode(&full::log())),
        ("join".to_owned(), encode(&full::join(&fleet))),
        ("enroll-request".to_owned(), encode(&full::enroll(&fleet).0)),
        ("enroll-response".to_owned(), encode(&full::enroll(&fleet).1)),
    ];
    for (n, order) in full::orders(&fleet).iter().enumerate() {
        out.push((format!("order-{n}"), seal(order, &[seed::ONLINE]).0));
    }
    for (n, fact) in full::facts(&fleet).iter().enumerate() {
        out.push((format!("fact-{n:02}"), seal(fact, &[seed::ATTEST]).0));
    }
    out
}

#[test]
fn every_encoding_is_as_it_was() {
    let write = std::env::var_os("SHOAL_GOLDEN").is_some_and(|v| v == "write");
    for (name, bytes) in samples() {
        if write {
            std::fs::write(path(&name), to_hex(&bytes)).unwrap();
        }
        let golden = std::fs::read_to_string(path(&name)).unwrap_or_default();
        assert_eq!(to_hex(&bytes), golden, "{name}: its encoding changed");
    }
}

fn payload(name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(path(name)).unwrap();
    let bytes = hex::decode(text.replace('\n', "")).unwrap();
    Envelope::parse(&bytes).unwrap().payload().to_vec()
}

#[test]
fn golden_bytes_decode_to_what_they_were_made_from() {
    let fleet = Fleet::new();
    let limits = Limits::of_size(64 << 10);
    assert_eq!(decode::<Root>(&payload("root-2"), limits).unwrap(), full::root(&fleet.id));
    assert_eq!(decode::<Snapshot>(&payload("snapshot"), limits).unwrap(), full::snapshot(&fleet.id));
    assert_eq!(decode::<Deployment>(&payload("deployment"), limits).unwrap(), full::deployment(&fleet.id));
    assert_eq!(decode::<Config>(&payload("config"), limits).unwrap(), full::config(&fleet));
    assert_eq!(decode::<Secret>(&payload("secret"), limits).unwrap(), full::secret(&fleet));
    assert_eq!(decode::<Report>(&payload("report"), limits).unwrap(), full::report(&fleet));
}
