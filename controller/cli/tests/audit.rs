//! The audit log against a real controller and its real store: what is in it, and what becomes of one who rewrites it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;
use common::*;
use rusqlite::Connection;
use shoal_controller_core::audit::{Entry, Point};
use std::path::Path;
use std::process::Command;

/// Opens the store of a controller that does not run.
fn store(data: &Path) -> Connection {
    Connection::open(data.join("shoald.db")).unwrap()
}

/// Rewrites the log as somebody with the whole store would: `change` entries, and make the chain whole again.
fn rewrite(data: &Path, change: impl Fn(&mut Vec<Entry>)) {
    let store = store(data);
    let mut rows = store.prepare("SELECT entry FROM audit ORDER BY sequence").unwrap();
    let all: Vec<Vec<u8>> = rows.query_map((), |r| r.get(0)).unwrap().map(Result::unwrap).collect();
    let mut entries: Vec<Entry> = all.iter().map(|b| Entry::decode(b).unwrap()).collect();
    change(&mut entries);
    store.execute("DELETE FROM audit", ()).unwrap();
    let mut at = Point::START;
    for mut entry in entries {
        entry.sequence = at.sequence + 1;
        let bytes = entry.encode();
        at = at.after(&bytes);
        let sequence = i64::try_from(at.sequence).unwrap();
        store
            .execute("INSERT INTO audit VALUES (?1, ?2, ?3)", (sequence, bytes, at.head.0.as_slice()))
            .unwrap();
    }
}

fn actions(o: &Operator) -> Vec<String> {
    let all = o.json(&["audit", "--limit", "1000"]);
    all["entries"].as_array().unwrap().iter().map(|e| e["action"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn signatures_uploads_revocations_and_refusals_are_in_the_log_and_snapshots_carry_its_head() {
    let dir = tempfile::tempdir().unwrap();
    let test = "signatures_uploads_revocations_and_refusals_are_in_the_log_and_snapshots_carry_its_head";
    let Some((_shoald, o, second)) = fleet(test, dir.path()) else { return };
    assert_eq!(actions(&o), ["root", "snapshot"]);
    o.apply("app", "a").ok();
    let join = o.home.join("join.shoal");
    o.run(&["token", "create", "-o", join.to_str().unwrap()]).ok();
    o.run(&["keys", "new", "ci", "--plain"]).ok();
    o.run(&["trust", "revoke", "operator", "--stop", "--replace-with", "ci", "--yes"]).ok();
    // A refusal: the second operator's snapshot, by the revoked key, over what was there before.
    let digest = o.json(&["trust", "show"])["snapshot"].as_str().unwrap().to_owned();
    second.run(&["trust", "show", "--adopt", &digest]).ok();
    let found = actions(&o);
    let expected = ["root", "snapshot", "document", "snapshot", "token", "root", "snapshot"];
    assert_eq!(found, expected);
    let all = o.json(&["audit", "--action", "document"]);
    let entry = &all["entries"][0];
    assert_eq!((entry["subject"].as_str(), entry["number"].as_u64()), (Some("deployment app"), Some(1)));
    assert_eq!(entry["signers"].as_array().unwrap().len(), 1);
    let page = o.json(&["audit", "--after", "2", "--limit", "2"]);
    let shown: Vec<u64> =
        page["entries"].as_array().unwrap().iter().map(|e| e["sequence"].as_u64().unwrap()).collect();
    assert_eq!(shown, [3, 4]);
    let verified = o.json(&["audit", "--verify"]);
    assert_eq!(verified["entries"], 7);
    assert_eq!(verified["snapshot_entry"], 6, "the newest snapshot was signed over all that was before it");
    assert_eq!(second.json(&["audit", "--verify"])["head"], verified["head"]);
    let said = o.run(&["audit"]).ok();
    assert!(said.contains("ci") && said.contains("root 2"), "signers have names where they have one: {said}");
}

#[test]
fn s26_a_rewritten_audit_log_is_a_fork_and_nothing_is_signed_over_it() {
    let dir = tempfile::tempdir().unwrap();
    let test = "s26_a_rewritten_audit_log_is_a_fork_and_nothing_is_signed_over_it";
    let Some((mut shoald, o, second)) = fleet(test, dir.path()) else { return };
    o.apply("app", "a").ok();
    o.apply("app", "b").ok();
    shoald.stop();
    // Who did it, changed in the middle; the chain is whole again, and longer than before.
    rewrite(&shoald.data, |entries| {
        entries[2].event.signers = vec!["0123456789abcdef".into()];
        let last = entries.last().unwrap().clone();
        entries.push(last);
    });
    shoald.start_again();
    o.run(&["audit"]).fails(3, "error[audit_fork]");
    o.run(&["audit", "--verify"]).fails(3, "error[audit_fork]");
    let said = o.apply("app", "c").fails(3, "error[audit_fork]");
    assert!(said.contains("hint: the controller's log was rewritten"), "{said}");
    // Somebody who never saw the log before finds the signed head missing in it.
    let digest = o.json(&["trust", "show"])["snapshot"].as_str().unwrap().to_owned();
    let said = second.run(&["audit", "--snapshot", &digest]).fails(3, "error[audit_fork]");
    assert!(said.contains("was signed over an audit log with head"), "{said}");
    assert_eq!(o.json(&["describe", "deployment", "app"])["newest"]["sequence"], 2, "nothing was signed");
    // Whoever looked into it can go on, knowingly; the copy of what was true stays.
    o.run(&["audit", "--adopt", &format!("sha256:{}", "0".repeat(64))]).fails(3, "error[audit_fork]");
    let store = store(&shoald.data);
    let head: Vec<u8> =
        store.query_row("SELECT head FROM audit ORDER BY sequence DESC LIMIT 1", (), |r| r.get(0)).unwrap();
    let head = shoal_protocol::ids::Digest(head.try_into().unwrap()).to_string();
    o.run(&["audit", "--adopt", &head]).ok();
    o.apply("app", "c").ok();
    o.run(&["audit", "--verify"]).ok();
    let aside = std::fs::read_dir(o.home.join("trust")).unwrap().flatten().next().unwrap().path();
    let kept = std::fs::read_dir(aside).unwrap().flatten();
    assert!(kept.into_iter().any(|e| e.file_name().to_string_lossy().starts_with("audit.log.until-")));
}

#[test]
fn s26_a_log_cut_short_is_a_fork_and_is_given_back_from_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let test = "s26_a_log_cut_short_is_a_fork_and_is_given_back_from_the_copy";
    let Some((mut shoald, o, _)) = fleet(test, dir.path()) else { return };
    o.apply("app", "a").ok();
    o.run(&["audit"]).ok();
    let before = o.json(&["audit", "--verify"]);
    shoald.stop();
    rewrite(&shoald.data, |entries| entries.truncate(2));
    shoald.start_again();
    let said = o.run(&["audit"]).fails(3, "error[audit_fork]");
    assert!(said.contains("ends at entry 2"), "{said}");
    let said = o.run(&["trust", "push"]).ok();
    assert!(said.contains("2 entries of the audit log again"), "{said}");
    assert_eq!(o.json(&["audit", "--verify"])["head"], before["head"]);
    o.apply("app", "b").ok();
}

#[test]
fn refused_uploads_are_in_the_log_with_their_code_and_a_flood_of_them_is_one_entry() {
    let dir = tempfile::tempdir().unwrap();
    let test = "refused_uploads_are_in_the_log_with_their_code_and_a_flood_of_them_is_one_entry";
    if lacks(test, &["curl"]) {
        return;
    }
    let Some((shoald, o, _)) = fleet(test, dir.path()) else { return };
    let ca = shoald.data.join("ca.pem");
    for n in 0..30 {
        let body = format!("{{\"token\": \"{}\"}}", if n % 2 == 0 { "AAAA" } else { "AAAB" });
        let status = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "--cacert", ca.to_str().unwrap(), "-d", &body])
            .args(["-H", &format!("Authorization: Bearer {}", shoald.credential())])
            .arg(format!("{}/v1/tokens", shoald.url()))
            .status();
        assert!(status.unwrap().success());
    }
    let all = o.json(&["audit", "--action", "refused"]);
    let rows = all["entries"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{all:#}");
    assert_eq!((rows[0]["code"].as_str(), rows[0]["by"].as_str()), (Some("malformed"), Some("operator")));
    assert_eq!(rows[0]["subject"], "/v1/tokens");
}
