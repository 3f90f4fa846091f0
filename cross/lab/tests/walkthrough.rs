//! The tutorial's walk through a device's own command line, word for word, `shoal-agent` in crictl's place: with its two JSON
//! files, and an image made and pushed the way it says. No fleet, no controller.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use shoal_lab::{Device, Finished, Service, wait_until};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const TOOLS: [&str; 3] = ["docker-registry", "buildah", "skopeo"];

fn lacks_tools(test: &str) -> bool {
    let installed = |t: &&str| Command::new(t).arg("--version").output().is_ok();
    let missing: Vec<&str> = TOOLS.iter().filter(|t| !installed(t)).copied().collect();
    if !missing.is_empty() {
        skipped(test, &format!("needs {}", missing.join(", ")));
    }
    !missing.is_empty()
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A registry that stands in for Docker Hub; the device knows it as a mirror.
fn registry(dir: &Path) -> (Helper, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = format!("127.0.0.1:{port}");
    let config = dir.join("registry.yml");
    std::fs::write(&config, "version: 0.1\nstorage:\n  filesystem: {}\n").unwrap();
    let mut command = Command::new("docker-registry");
    command
        .arg("serve")
        .arg(config)
        .env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", dir.join("registry"))
        .env("REGISTRY_HTTP_ADDR", &host);
    let service = Service::spawn(&mut command, &dir.join("registry.log")).unwrap();
    wait_until("the registry to listen", LONG, || Ok(TcpStream::connect(&host).ok().map(drop))).unwrap();
    (Helper(service), host)
}

/// `FROM scratch`, `ADD`, `CMD`, with buildah in docker's place; pushed to `host`.
fn build_and_push(dir: &Path, host: &str) {
    let (root, state) = (dir.join("buildah"), dir.join("buildah-run"));
    let own = ["--storage-driver", "vfs", "--root", utf8(&root), "--runroot", utf8(&state)];
    let buildah = |args: &[&str]| -> String {
        Finished::of(Command::new("buildah").args([&own, args].concat()))
            .unwrap()
            .ok()
            .unwrap()
            .trim()
            .to_owned()
    };
    let module = workspace().join("deploy/apps/prebuilt/wasi_example_main.wasm");
    let container = buildah(&["from", "scratch"]);
    buildah(&["copy", "--chmod", "644", &container, utf8(&module), "/wasi_example_main.wasm"]);
    buildah(&["config", "--cmd", r#"["wasi_example_main.wasm"]"#, &container]);
    buildah(&["commit", "--format", "docker", &container, "example"]);
    let target = format!("docker://{host}/hydai/wasm-wasi-example:latest");
    buildah(&["push", "--tls-verify=false", "example", &target]);
}

/// A shell in which `sudo shoal-agent` is the device's own binary: the tutorial's lines run in it as they stand.
struct Shell {
    dir: PathBuf,
    env: Vec<(String, String)>,
}

impl Shell {
    fn new(device: &Device, dir: &Path) -> Self {
        let bin = dir.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let sudo = bin.join("sudo");
        // The test is uid 0 already.
        std::fs::write(&sudo, "#!/bin/sh\nexec \"$@\"\n").unwrap();
        std::fs::set_permissions(&sudo, std::fs::Permissions::from_mode(0o755)).unwrap();
        for json in ["container_wasi.json", "sandbox_config.json"] {
            std::fs::copy(workspace().join("deploy/examples/cri").join(json), dir.join(json)).unwrap();
        }
        let bins = binaries();
        let path = format!("{}:{}:{}", utf8(&bin), utf8(bins.dir()), std::env::var("PATH").unwrap());
        let env = vec![
            ("PATH".to_owned(), path),
            ("SHOAL_ROOT".to_owned(), utf8(&device.root).to_owned()),
            ("SHOAL_LIBEXEC".to_owned(), utf8(bins.dir()).to_owned()),
        ];
        Self { dir: dir.to_owned(), env }
    }

    fn try_run(&self, line: &str) -> Finished {
        let mut command = Command::new("sh");
        command.arg("-c").arg(line).current_dir(&self.dir).envs(self.env.iter().cloned());
        Finished::of(&mut command).unwrap()
    }

    fn run(&self, line: &str) -> String {
        self.try_run(line).ok().unwrap_or_else(|e| panic!("{line}: {e:#}"))
    }

    fn set(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }
}

fn device(dir: &Path, more: &str) -> Device {
    let tag = format!("w{}x{}", std::process::id(), dir.file_name().unwrap().to_string_lossy());
    let mut device = Device::prepare(&binaries(), &dir.join("device"), &tag, 3).unwrap();
    let policy = device.root.join("etc/shoal/policy.toml");
    let text = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, format!("{text}{more}\n")).unwrap();
    device.start_guard().unwrap();
    device
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[test]
fn the_tutorials_walkthrough_runs_word_for_word() {
    let test = "the_tutorials_walkthrough_runs_word_for_word";
    if needs_root(test) || lacks_tools(test) {
        return;
    }
    let dir = open_dir();
    let (_registry, host) = registry(dir.path());
    build_and_push(dir.path(), &host);
    let mut device = device(dir.path(), "local_unsigned = true");
    let mirrors = format!(r#"{{"docker.io": {{"mirror": "{host}", "plain_http": true}}}}"#);
    std::fs::write(device.root.join("etc/shoal/registries.json"), mirrors).unwrap();
    let mut shell = Shell::new(&device, dir.path());

    let pulled = shell.run("sudo shoal-agent pull docker.io/hydai/wasm-wasi-example");
    assert_eq!(pulled.trim(), "Image is up to date for docker.io/hydai/wasm-wasi-example:latest");
    let images = shell.run("sudo shoal-agent images");
    assert!(images.contains("docker.io/hydai/wasm-wasi-example"), "{images}");

    let pod = shell.run("sudo shoal-agent runp sandbox_config.json").trim().to_owned();
    assert!(is_id(&pod), "{pod}");
    shell.set("POD_ID", &pod);
    let container = shell
        .run("sudo shoal-agent create $POD_ID container_wasi.json sandbox_config.json")
        .trim()
        .to_owned();
    assert!(is_id(&container), "{container}");
    shell.set("CONTAINER_ID", &container);

    let row = |state: &str| -> String {
        let ps = shell.run("sudo shoal-agent ps -a");
        let mut lines = ps.lines();
        let heads: Vec<&str> =
            lines.next().unwrap().split("  ").map(str::trim).filter(|h| !h.is_empty()).collect();
        assert_eq!(heads, ["CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID"]);
        let line = lines.next().unwrap_or_default().to_owned();
        assert!(line.starts_with(&container[..13]) && line.trim_end().ends_with(&pod[..13]), "{ps}");
        assert!(
            line.contains("hydai/wasm-wasi-example:latest") && line.contains("podsandbox1-wasm-wasi"),
            "{ps}"
        );
        if line.contains(state) { line } else { String::new() }
    };
    assert!(!row("Created").is_empty());
    assert_eq!(shell.run("sudo shoal-agent start $CONTAINER_ID").trim(), container);
    wait_until("the end of the container", LONG, || Ok((!row("Exited").is_empty()).then_some(())))
        .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", shell.run("shoal-agent ps -a"), device.guard_output()));

    let log = shell.run("sudo shoal-agent logs $CONTAINER_ID");
    for line in [
        "Test 1: Print Random Number",
        "Random number: ",
        "Test 2: Print Random Bytes",
        "Test 3: Call an echo function",
        "Printed from wasi: This is from a main function",
        "Test 4: Print Environment Variables",
        "HOSTNAME: crictl_host",
        "The args are as follows.",
        "50000000",
        "Test 5: Create a file `tmp.txt` with content `This is in a file`",
        "File content is This is in a file",
        "Test 7: Delete the previous file",
    ] {
        assert!(log.contains(line), "{line} in\n{log}");
    }

    // What the tutorial leaves open: how it ended, and that nothing stays.
    let inspected: serde_json::Value =
        serde_json::from_str(&shell.run("shoal-agent inspect $CONTAINER_ID")).unwrap();
    assert_eq!(inspected["status"]["state"], "CONTAINER_EXITED");
    assert_eq!(
        (&inspected["status"]["exitCode"], &inspected["status"]["reason"]),
        (&0.into(), &"Completed".into())
    );
    let limits = &inspected["status"]["resources"]["linux"];
    assert_eq!((&limits["cpuQuota"], &limits["cpuPeriod"]), (&20_000.into(), &10_000.into()), "{limits:#}");
    assert_eq!(limits["memoryLimitInBytes"], 49_999_872, "the pod's 50,000,000 bytes, in whole pages");
    let again = shell.try_run("shoal-agent start $CONTAINER_ID");
    assert!(again.code == Some(1) && again.stderr.contains("wrong_state"), "{}", again.stderr);
    assert!(shell.run("shoal-agent pods").contains("podsandbox12"));
    assert!(shell.try_run("shoal-agent rmp $POD_ID").stderr.contains("wrong_state"));
    assert_eq!(shell.run("shoal-agent rm $CONTAINER_ID").trim(), container);
    shell.run("shoal-agent stopp $POD_ID");
    shell.run("shoal-agent rmp $POD_ID");
    assert_eq!(shell.run("shoal-agent ps -a -q").trim(), "");
    shell.run("shoal-agent rmi hydai/wasm-wasi-example");
    assert_eq!(shell.run("shoal-agent images -q").trim(), "");
    device.stop().unwrap();
    assert!(shoal_lab::cgroups::named(&device.cgroup_parent).is_empty(), "no group is left");
}

#[test]
fn c5_without_local_unsigned_the_walkthrough_ends_at_runp() {
    if needs_root("c5_without_local_unsigned_the_walkthrough_ends_at_runp") {
        return;
    }
    let dir = open_dir();
    let device = device(dir.path(), "");
    let shell = Shell::new(&device, dir.path());
    let refused = shell.try_run("sudo shoal-agent runp sandbox_config.json");
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("not_admitted"), "{}", refused.stderr);
    assert!(refused.stderr.contains("local_unsigned = true"), "{}", refused.stderr);
    // Nor as the agent's own uid.
    let uid = std::os::unix::fs::MetadataExt::uid(
        &std::fs::metadata(device.root.join("var/lib/shoal/agent")).unwrap(),
    );
    let line =
        format!("setpriv --reuid={uid} --regid={uid} --clear-groups shoal-agent runp sandbox_config.json");
    let refused = shell.try_run(&line);
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
}

#[test]
fn a_local_container_is_followed_stopped_and_its_pod_removed_by_force() {
    if needs_root("a_local_container_is_followed_stopped_and_its_pod_removed_by_force") {
        return;
    }
    let dir = open_dir();
    let device = device(dir.path(), "local_unsigned = true");
    let mut shell = Shell::new(&device, dir.path());
    // The agent's uid reads the file.
    std::fs::write(dir.path().join("spin.wasm"), wat::parse_str(SPINS).unwrap()).unwrap();
    shell.run("shoal-agent load spin.wasm spin:1");
    let container = r#"{"metadata": {"name": "spin"}, "image": {"image": "spin:1"}, "log_path": "x.log",
        "linux": {"resources": {"cpu_quota": 20000, "cpu_period": 100000}}}"#;
    std::fs::write(dir.path().join("spin.json"), container).unwrap();
    std::fs::write(dir.path().join("pod.json"), r#"{"metadata": {"name": "p"}}"#).unwrap();
    let pod = shell.run("shoal-agent runp pod.json").trim().to_owned();
    shell.set("POD", &pod[..10]);
    let twice = shell.try_run("shoal-agent runp pod.json");
    assert!(twice.code == Some(3) && twice.stderr.contains("conflict"), "{}", twice.stderr);
    let made = shell.try_run("shoal-agent create $POD spin.json pod.json");
    assert!(made.stderr.contains("log_path: ignored"), "{}", made.stderr);
    let id = made.ok().unwrap().trim().to_owned();
    shell.set("ID", &id[..12]);
    shell.run("shoal-agent start $ID");
    let running = shell.run("shoal-agent ps");
    assert!(running.contains("Running"), "{running}");
    let stats: serde_json::Value = serde_json::from_str(&shell.run("shoal-agent stats -o json")).unwrap();
    assert_eq!(stats["stats"][0]["attributes"]["id"], id);
    assert!(shell.run("shoal-agent inspect -o yaml $ID").contains("state: \"CONTAINER_RUNNING\""));
    assert!(shell.try_run("shoal-agent rm $ID").stderr.contains("wrong_state"));
    // A follower ends with what it follows.
    let follow = std::thread::scope(|scope| {
        let follower = scope.spawn(|| shell.try_run("timeout 60 shoal-agent logs -f $ID"));
        shell.run("shoal-agent stop $ID");
        follower.join().unwrap()
    });
    assert_eq!(follow.code, Some(0), "{}", follow.stderr);
    assert!(shell.run("shoal-agent ps -a").contains("Exited"));
    shell.run("shoal-agent rmp -f $POD");
    assert_eq!(shell.run("shoal-agent pods -q").trim(), "");
}

#[test]
fn the_controller_is_told_that_something_unsigned_runs_and_touches_none_of_it() {
    if needs_root("the_controller_is_told_that_something_unsigned_runs_and_touches_none_of_it") {
        return;
    }
    let mut fleet = fleet_with(1);
    fleet.file("spin.wasm", wat::parse_str(SPINS).unwrap());
    fleet.file("pod.json", r#"{"metadata": {"name": "p"}}"#);
    fleet.file(
        "spin.json",
        r#"{"metadata": {"name": "spin"}, "image": {"image": "spin:1"},
            "linux": {"resources": {"cpu_quota": 10000, "cpu_period": 100000}}}"#,
    );
    let path = |name: &str| utf8(&fleet.dir.path().join(name)).to_owned();
    let (module, pod, container) = (path("spin.wasm"), path("pod.json"), path("spin.json"));
    let device = &mut fleet.lab.devices[0];
    let policy = device.root.join("etc/shoal/policy.toml");
    let text = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, format!("{text}local_unsigned = true\n")).unwrap();
    device.guard().unwrap().terminate(LONG);
    device.start_guard().unwrap();
    let run = |args: &[&str]| device.cli(args).unwrap().ok().unwrap().trim().to_owned();
    run(&["load", &module, "spin:1"]);
    let pod_id = run(&["runp", &pod]);
    let id = run(&["create", &pod_id, &container, &pod]);
    run(&["start", &id]);
    let conditions = || {
        let devices = fleet.lab.operator.json(&["get", "devices"]).unwrap();
        let id = devices["devices"][0]["id"].as_str().unwrap().to_owned();
        fleet.lab.operator.json(&["describe", "device", &id]).unwrap()
    };
    wait_until("the condition at the controller", LONG, || {
        Ok(conditions().to_string().contains("local_unsigned").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{:#}\n{}", conditions(), fleet.outputs()));
    // A signed deployment comes and goes beside it.
    fleet.import_wat("guest:1", SLEEPS);
    fleet.apply(&manifest("signed", "guest:1", "Always", ""));
    fleet.wait_running("signed", 1);
    let ps: serde_json::Value = fleet.lab.devices[0].cli(&["ps", "-o", "json"]).unwrap().json().unwrap();
    let rows = ps["containers"].as_array().unwrap();
    let local = |row: &&serde_json::Value| row["shoal"]["local"] == true;
    assert_eq!((rows.len(), rows.iter().filter(local).count()), (2, 1), "{ps:#}");
    let signed = rows.iter().find(|r| !local(r)).unwrap();
    assert_eq!((&signed["image"]["image"], &signed["shoal"]["pod"]), (&"guest:1".into(), &"signed".into()));
    let stop = fleet.lab.devices[0].cli(&["stop", signed["id"].as_str().unwrap()]).unwrap();
    assert!(stop.code != Some(0) && stop.stderr.contains("signed deployment"), "{}", stop.stderr);
    fleet.lab.devices[0].cli(&["rmp", "-f", &pod_id]).unwrap().ok().unwrap();
}
