//! Ceremonies against a real controller: several root keys on several machines, protected files, an ssh-agent, a token
//! behind PKCS#11, a signer command; lost, revoked and granted keys.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;
use common::*;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn tool(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// A running ssh-agent with its own socket.
struct Agent {
    child: Child,
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Agent {
    fn start(env: &[(&str, &str)]) -> Self {
        // Short, since a socket's path has at most 107 bytes.
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let socket = dir.path().join("agent");
        let mut child = Command::new("ssh-agent")
            .args(["-D", "-a", utf8(&socket)])
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "the agent ended");
            assert!(began.elapsed() < Duration::from_secs(20), "the agent does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut all: Vec<(String, String)> =
            env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        all.push(("SSH_AUTH_SOCK".into(), utf8(&socket).to_owned()));
        Self { child, dir, env: all }
    }
    fn env(&self) -> Vec<(&str, &str)> {
        self.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()
    }
    /// Makes a key, gives it to the agent and throws its file away; the public half's file.
    fn add(&self, kind: &str) -> PathBuf {
        let path = self.dir.path().join(format!("key-{kind}"));
        tool(Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-f", utf8(&path)]));
        tool(Command::new("ssh-add").args(["-q", utf8(&path)]).envs(self.env()));
        std::fs::remove_file(&path).unwrap();
        path.with_extension("pub")
    }
    fn forget_all(&self) {
        tool(Command::new("ssh-add").args(["-q", "-D"]).envs(self.env()));
    }
}

fn fingerprint(public: &Path) -> String {
    let line = tool(Command::new("ssh-keygen").args(["-lf", utf8(public)]));
    line.split_whitespace().nth(1).unwrap().to_owned()
}

/// Copies the public half of a key from one operator to another.
fn give_public(from: &Operator, to: &Operator, name: &str) {
    std::fs::create_dir_all(to.home.join("keys")).unwrap();
    let file = format!("keys/{name}.pub");
    std::fs::copy(from.home.join(&file), to.home.join(&file)).unwrap();
}

#[test]
fn a_fleet_is_founded_by_two_of_three_whose_keys_never_meet() {
    let dir = tempfile::tempdir().unwrap();
    let test = "a_fleet_is_founded_by_two_of_three_whose_keys_never_meet";
    let Some(shoald) = Shoald::start(test, &dir.path().join("data")) else { return };
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|n| operator(dir.path(), n));
    alice.login(&shoald);
    for (who, name) in [(&alice, "alice"), (&bob, "bob"), (&carol, "carol")] {
        who.run(&["keys", "new", name, "--plain"]).ok();
    }
    give_public(&bob, &alice, "bob");
    give_public(&carol, &alice, "carol");
    let init =
        ["trust", "init", "--plain-keys", "--threshold", "2", "--root-key", "alice", "--root-key", "bob"];
    let init = [&init[..], &["--root-key", "carol"]].concat();
    alice.run(&init).fails(3, "error[threshold]");
    let draft = dir.path().join("root-1.draft");
    let said = alice.run(&[&init[..], &["--draft", utf8(&draft)]].concat()).ok();
    assert!(said.contains("still needed: 1 more of the root keys of root 1"), "{said}");
    alice.run(&["trust", "publish", utf8(&draft), "--yes"]).fails(3, "error[threshold]");
    // Bob is not logged in anywhere; what he signs is shown to him first.
    bob.run(&["trust", "sign", utf8(&draft), "--key", "bob"]).fails(2, "error: nothing was signed");
    let said = bob.run(&["trust", "sign", utf8(&draft), "--key", "bob", "--yes"]).ok();
    assert!(said.contains("root for all: 2 of 3 must sign") && said.contains("nothing is missing"), "{said}");
    // Carol comes too late: nothing more is asked for.
    carol.run(&["trust", "sign", utf8(&draft), "--yes"]).fails(3, "error[role_scope]");
    alice.run(&["trust", "publish", utf8(&draft), "--yes"]).ok();
    let shown = alice.json(&["trust", "show"]);
    assert_eq!(shown["roles"][0]["threshold"], 2);
    assert_eq!(shown["history"][0]["signed_by"].as_array().unwrap().len(), 2);
    let fingerprints = carol.json(&["keys", "ls"]);
    assert_eq!(fingerprints["keys"][0]["place"], "file");
    let offline = alice.run(&["trust", "show", "--offline"]).ok();
    assert!(offline.contains("2 of 3") && offline.contains("grant anything"), "{offline}");
}

#[test]
fn keys_are_protected_unless_asked_otherwise_and_open_by_file_or_environment() {
    let dir = tempfile::tempdir().unwrap();
    let o = operator(dir.path(), "home");
    let said = o.run(&["keys", "new", "ops"]).fails(2, "error: ");
    assert!(said.contains("--passphrase-file FILE or SHOAL_PASSPHRASE"), "{said}");
    let pass = dir.path().join("pass");
    std::fs::write(&pass, "correct horse battery staple\n").unwrap();
    o.run(&["keys", "new", "ops", "--passphrase-file", utf8(&pass)]).ok();
    let path = o.home.join("keys/ops.key");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"), "{text}");
    o.run(&["keys", "new", "ops", "--plain"]).fails(2, "error: the key ops exists already");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "a key is never overwritten");
    assert_eq!(o.json(&["keys", "ls"])["keys"][0]["place"], "file, passphrase");
    let Some(shoald) = Shoald::start("keys_are_protected_unless_asked_otherwise", &dir.path().join("data"))
    else {
        return;
    };
    o.login(&shoald);
    o.run_with(&["trust", "init", "--key", "ops"], &[("SHOAL_PASSPHRASE", "correct horse battery staple")])
        .ok();
    assert!(o.home.join("keys/root.key").exists());
    assert!(!std::fs::read_to_string(o.home.join("keys/root.key")).unwrap().contains("PRIVATE KEY"));
    let wrong = [("SHOAL_PASSPHRASE", "another one")];
    o.run_with(&["trust", "refresh"], &wrong).fails(7, "error: the passphrase does not open");
    o.run(&["trust", "refresh"]).fails(2, "error: there is no terminal to ask on");
    o.run(&["trust", "refresh", "--passphrase-file", utf8(&pass)]).ok();
}

#[test]
fn the_root_rotates_revokes_and_grants_and_the_old_threshold_counts_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let test = "the_root_rotates_revokes_and_grants_and_the_old_threshold_counts_no_more";
    let Some((_shoald, o, second)) = fleet(test, dir.path()) else { return };
    o.apply("web-shop", "a").ok();
    for name in ["root-b", "root-c", "ci", "ops-2"] {
        o.run(&["keys", "new", name, "--plain"]).ok();
    }
    // 1 of 1 becomes 2 of 3: signed by the old one and by two of the new.
    let said = o.run(&["trust", "rotate", "--add", "root=root-b", "--add", "root=root-c"]).fails(2, "error");
    assert!(said.contains("nothing was signed"), "{said}");
    let grow = ["trust", "rotate", "--add", "root=root-b", "--add", "root=root-c", "--threshold", "root=2"];
    let said = o.run(&[&grow[..], &["--yes"]].concat()).ok();
    assert!(said.contains("+ root for all: 2 of 3 must sign") && said.contains("root 2 published"), "{said}");
    // One key is not enough any more.
    let alone = ["trust", "rotate", "--key", "root", "--yes"];
    let said = o.run(&alone).fails(3, "error[threshold]");
    assert!(said.contains("1 more of the root keys of root 2") || said.contains("2 more"), "{said}");
    // A grant for some names: within them it signs, beyond them not.
    let grant =
        ["trust", "grant", "ci", "--role", "deployment", "--prefix", "web-", "--memory", "64Mi", "--yes"];
    o.run(&grant).ok();
    o.run(&grant).fails(2, "error: the root grants exactly that already");
    let ci = ["--key", "ci", "--key", "operator"];
    let only_ci = second.home.join("keys");
    for file in ["ci.key", "ci.pub"] {
        std::fs::copy(o.home.join("keys").join(file), only_ci.join(file)).unwrap();
    }
    let digest = o.json(&["trust", "show"])["snapshot"].as_str().unwrap().to_owned();
    second.run(&["trust", "show", "--adopt", &digest]).ok();
    second.apply("web-shop", "b").ok();
    o.run(&[&["delete", "deployment", "web-shop", "--yes"], &ci[..2]].concat()).fails(3, "error[role_scope]");
    // The operator's key is stolen: revoked, replaced, the snapshot signed again at once.
    let revoke = ["trust", "revoke", "operator", "--stop", "--replace-with", "ops-2", "--yes"];
    let done = o.run(&revoke);
    assert!(done.err.contains("snapshot") && done.err.contains("published"), "{}", done.err);
    let shown = o.json(&["trust", "show"]);
    assert_eq!(shown["root_version"], 4);
    assert_eq!(shown["snapshot_current"], true);
    assert_eq!(shown["revoked"][0]["disposition"], "stop");
    assert_eq!(shown["history"].as_array().unwrap().len(), 4);
    // What it signed no longer counts for the thief, and the own base still verifies for the owner.
    second.apply("web-shop", "c").fails(3, "error[role_scope]");
    o.apply("web-shop", "d").ok();
    assert!(o.apply("web-shop", "d").ok().contains("unchanged"));
    // A key that is only taken out: what it signed is signed anew by the next, though nothing else changed.
    o.run(&["keys", "new", "ops-3", "--plain"]).ok();
    o.run(&["trust", "rotate", "--replace", "ops-2=ops-3", "--yes"]).ok();
    let said = o.apply("web-shop", "d").ok();
    assert!(said.contains("revision 4 signed and published"), "{said}");
    o.run(&["trust", "grant", "operator", "--role", "deployment", "--yes"]).fails(3, "error[revoked_key]");
    o.run(&["delete", "deployment", "web-shop", "--yes"]).ok();
}

#[test]
fn losing_one_root_key_of_three_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let test = "losing_one_root_key_of_three_is_survived";
    let Some(shoald) = Shoald::start(test, &dir.path().join("data")) else { return };
    let o = operator(dir.path(), "home");
    o.login(&shoald);
    o.run(&["trust", "init", "--plain-keys", "--root-keys", "3", "--threshold", "2"]).ok();
    std::fs::remove_file(o.home.join("keys/root-3.key")).unwrap();
    o.run(&["keys", "new", "root-4", "--plain"]).ok();
    // One alone is not enough, with the new key either.
    let replace = ["trust", "rotate", "--replace", "root-3=root-4", "--yes"];
    o.run(&[&replace[..], &["--key", "root-1", "--key", "root-4"]].concat()).fails(3, "error[threshold]");
    o.run(&replace).ok();
    let shown = o.json(&["trust", "show"]);
    assert_eq!((shown["root_version"].as_u64(), shown["roles"][0]["threshold"].as_u64()), (Some(2), Some(2)));
    // Root 3 by root-1 and the new key.
    o.run(&["trust", "rotate", "--yes", "--key", "root-1", "--key", "root-4"]).ok();
}

#[test]
fn an_ssh_agent_signs_roots_and_deployments_and_nothing_without_its_key() {
    let test = "an_ssh_agent_signs_roots_and_deployments_and_nothing_without_its_key";
    if lacks(test, &["ssh-agent", "ssh-add", "ssh-keygen"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(shoald) = Shoald::start(test, &dir.path().join("data")) else { return };
    let agent = Agent::start(&[]);
    let (root, operator_key) = (agent.add("ed25519"), agent.add("ecdsa"));
    let o = operator(dir.path(), "home");
    o.login(&shoald);
    o.import();
    let by_agent = |public: &Path| format!("ssh-agent:{}", fingerprint(public));
    let init = ["trust", "init", "--root-key", &by_agent(&root), "--key", &by_agent(&operator_key)];
    o.run_with(&init, &agent.env()).ok();
    let rows = o.json(&["trust", "show"]);
    assert!(rows["keys"].as_array().unwrap().iter().any(|k| k["algorithm"] == "ES256"), "{rows}");
    // Under a name of its own, from here on.
    let noted = ["keys", "add", "card", "--ssh-agent", &fingerprint(&operator_key)];
    o.run_with(&noted, &agent.env()).ok();
    assert_eq!(o.json(&["keys", "ls"])["keys"][0]["place"], "ssh-agent");
    let file = o.file("app", "a");
    let apply = ["apply", "-f", &file, "--yes"];
    o.run(&apply).fails(4, "error: cannot sign with the ssh-agent");
    o.run_with(&apply, &agent.env()).ok();
    o.run_with(&["trust", "rotate", "--yes", "--key", &by_agent(&root)], &agent.env()).ok();
    agent.forget_all();
    let file = o.file("app", "b");
    let said = o.run_with(&["apply", "-f", &file, "--yes"], &agent.env()).fails(7, "error: cannot sign");
    assert!(said.contains("it has: none") && said.contains("ssh-add"), "{said}");
    assert_eq!(o.json(&["get", "deployments"])["deployments"][0]["newest"]["sequence"], 1);
}

#[test]
fn a_token_behind_pkcs11_signs_through_the_agent() {
    let test = "a_token_behind_pkcs11_signs_through_the_agent";
    if lacks(test, &["ssh-agent", "ssh-add", "ssh-keygen", "softhsm2-util"]) {
        return;
    }
    let library = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"];
    let library = library.into_iter().find(|l| Path::new(l).exists()).expect("softhsm2 without its library");
    let dir = tempfile::tempdir().unwrap();
    let Some(shoald) = Shoald::start(test, &dir.path().join("data")) else { return };
    let tokens = dir.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let conf = dir.path().join("softhsm2.conf");
    std::fs::write(
        &conf,
        format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display()),
    )
    .unwrap();
    let ask = dir.path().join("pin");
    std::fs::write(&ask, "#!/bin/sh\necho 1234\n").unwrap();
    tool(Command::new("chmod").args(["700", utf8(&ask)]));
    let env = [("SOFTHSM2_CONF", utf8(&conf)), ("SSH_ASKPASS", utf8(&ask)), ("SSH_ASKPASS_REQUIRE", "force")];
    let key = dir.path().join("key");
    tool(Command::new("ssh-keygen").args([
        "-q",
        "-t",
        "ecdsa",
        "-b",
        "256",
        "-m",
        "PKCS8",
        "-N",
        "",
        "-f",
        utf8(&key),
    ]));
    let hsm = |args: &[&str]| tool(Command::new("softhsm2-util").args(args).env("SOFTHSM2_CONF", &conf));
    hsm(&["--init-token", "--free", "--label", "shoal", "--pin", "1234", "--so-pin", "5678"]);
    hsm(&["--import", utf8(&key), "--token", "shoal", "--label", "root", "--id", "01", "--pin", "1234"]);
    std::fs::remove_file(&key).unwrap();
    let agent = Agent::start(&env);
    tool(Command::new("ssh-add").args(["-q", "-s", library]).envs(agent.env()));
    let o = operator(dir.path(), "home");
    o.login(&shoald);
    let in_token = fingerprint(&key.with_extension("pub"));
    o.run_with(&["keys", "add", "token", "--ssh-agent", &in_token], &agent.env()).ok();
    o.run_with(&["trust", "init", "--root-key", "token", "--plain-keys"], &agent.env()).ok();
    o.run_with(&["trust", "rotate", "--yes", "--key", "token"], &agent.env()).ok();
    assert_eq!(o.json(&["trust", "show"])["root_version"], 2);
    o.run(&["trust", "rotate", "--yes", "--key", "token"]).fails(4, "error: cannot sign with the ssh-agent");
}

/// An Ed25519 signature by openssl over a file, as an HSM's tool would make it.
const SIGNER: &str = "f=$(mktemp) && cat > $f && openssl pkeyutl -sign -rawin -inkey KEY -in $f; rm -f $f";

#[test]
fn a_signer_command_signs_and_one_that_signs_something_else_does_not() {
    let test = "a_signer_command_signs_and_one_that_signs_something_else_does_not";
    if lacks(test, &["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(shoald) = Shoald::start(test, &dir.path().join("data")) else { return };
    let o = operator(dir.path(), "home");
    o.login(&shoald);
    let (key, public) = (dir.path().join("hsm.key"), dir.path().join("hsm.pub"));
    tool(Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out", utf8(&key)]));
    tool(Command::new("openssl").args(["pkey", "-in", utf8(&key), "-pubout", "-out", utf8(&public)]));
    let line = SIGNER.replace("KEY", utf8(&key));
    let by_command = format!("command:{}:{line}", public.display());
    o.run(&["trust", "init", "--plain-keys", "--root-key", &by_command]).ok();
    o.run(&["keys", "add", "hsm", "--public", utf8(&public), "--signer-command", &line]).ok();
    o.run(&["trust", "rotate", "--yes"]).ok();
    let bad = format!("command:{}:head -c 64 /dev/zero", public.display());
    let said = o.run(&["trust", "rotate", "--yes", "--key", &bad]).fails(1, "error: the key command:");
    assert!(said.contains("does not verify"), "{said}");
    let failing = format!("command:{}:exit 3", public.display());
    let said =
        o.run(&["trust", "rotate", "--yes", "--key", &failing]).fails(1, "error: cannot sign the root");
    assert!(said.contains("exit status: 3"), "{said}");
    assert_eq!(o.json(&["trust", "show"])["root_version"], 2);
}

#[test]
fn a_deployment_that_two_must_sign_travels_as_a_draft() {
    let dir = tempfile::tempdir().unwrap();
    let test = "a_deployment_that_two_must_sign_travels_as_a_draft";
    let Some((_shoald, o, _)) = fleet(test, dir.path()) else { return };
    let bob = operator(dir.path(), "bob");
    bob.run(&["keys", "new", "bob", "--plain"]).ok();
    give_public(&bob, &o, "bob");
    o.run(&["trust", "rotate", "--add", "deployment=bob", "--threshold", "deployment=2", "--yes"]).ok();
    o.apply("app", "a").fails(3, "error[role_scope]");
    let draft = dir.path().join("app.draft");
    let file = o.file("app", "a");
    let said = o.run(&["apply", "-f", &file, "--draft", utf8(&draft), "--yes"]).ok();
    assert!(said.contains("still needed: 1 more of the deployment keys for app: bob"), "{said}");
    o.run(&["trust", "publish", utf8(&draft), "--yes"]).fails(3, "error[threshold]");
    let shown = bob.run(&["trust", "show", "--draft", utf8(&draft)]).ok();
    assert!(shown.contains("main.argv: /app.wasm a"), "{shown}");
    bob.run(&["trust", "sign", utf8(&draft), "--yes"]).ok();
    o.run(&["trust", "publish", utf8(&draft), "--yes"]).ok();
    assert_eq!(o.json(&["get", "deployments"])["deployments"][0]["newest"]["sequence"], 1);
    assert!(o.json(&["audit", "--verify"])["snapshot_entry"].as_u64().unwrap() > 2);
    // Once more is no harm, as after a lost answer; after somebody else's snapshot it is too late.
    o.run(&["trust", "publish", utf8(&draft), "--yes"]).ok();
    o.run(&["trust", "refresh"]).ok();
    o.run(&["trust", "publish", utf8(&draft), "--yes"]).fails(5, "error[conflict]");
}
