//! Envelopes: what is parsed has one spelling, and a further signature changes neither identity nor what was there.

use crate::fleet::{Fleet, full, key, seal, seed};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::latest::Alg;

pub(crate) fn run(data: &[u8]) -> bool {
    let Ok(envelope) = Envelope::parse(data) else { return false };
    assert_eq!(spell(&envelope), data, "an envelope has one spelling");
    let _ = envelope.kind();
    if envelope.signatures().len() < shoal_protocol::envelope::MAX_SIGNATURES {
        let Ok(more) = envelope.cosign(&key(seed::STRANGER)) else {
            panic!("there was room for a signature")
        };
        let Ok(again) = Envelope::parse(&more) else { panic!("what is cosigned is an envelope") };
        assert_eq!(again.identity(), envelope.identity(), "a signature changes no identity");
        assert_eq!(again.payload(), envelope.payload());
        let (last, before) = again.signatures().split_last().unwrap_or_else(|| panic!("none"));
        assert_eq!(before, envelope.signatures(), "what was there stays");
        assert_eq!(last.kid, shoal_protocol::Signer::key(&key(seed::STRANGER)).kid());
    }
    true
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let fleet = Fleet::new();
    vec![
        seal(&fleet.fact(1), &[seed::ATTEST]).0,
        seal(&full::orders(&fleet)[3], &[seed::ONLINE, seed::ROOT, seed::DEPLOY]).0,
    ]
}

/// RFC 9052's COSE_Sign as the protocol page says it, written a second time and independently.
fn spell(e: &Envelope<'_>) -> Vec<u8> {
    let mut out = vec![0xd8, 0x62, 0x84];
    let mut header = vec![0xa1, 0x03];
    string(&mut header, 3, e.content_type().as_bytes());
    string(&mut out, 2, &header);
    out.push(0xa0);
    string(&mut out, 2, e.payload());
    head(&mut out, 4, e.signatures().len());
    for s in e.signatures() {
        out.push(0x83);
        string(&mut out, 2, &[0xa1, 0x01, if s.alg == Alg::EdDsa { 0x27 } else { 0x26 }]);
        out.extend([0xa1, 0x04]);
        string(&mut out, 2, &s.kid);
        string(&mut out, 2, s.bytes);
    }
    out
}

fn string(out: &mut Vec<u8>, major: u8, bytes: &[u8]) {
    head(out, major, bytes.len());
    out.extend_from_slice(bytes);
}

fn head(out: &mut Vec<u8>, major: u8, n: usize) {
    let m = major << 5;
    let be = (n as u64).to_be_bytes();
    match n {
        0..24 => out.push(m | be[7]),
        24..0x100 => out.extend([m | 0x18, be[7]]),
        0x100..0x1_0000 => out.extend([m | 0x19, be[6], be[7]]),
        _ => out.extend([m | 0x1a, be[4], be[5], be[6], be[7]]),
    }
}
