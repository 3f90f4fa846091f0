//! The operator's files: YAML deployments, CRI JSON pairs, and what both become: a [`Draft`] without images and keys.
//!
//! Never here: reading images, signing, the network.

pub(crate) mod config;
pub(crate) mod cri;
pub(crate) mod deployment;
mod expand;
pub(crate) mod limits;
mod pod;
mod probe;
pub(crate) mod quantity;
pub(crate) mod reader;
pub(crate) mod tree;

use crate::error::{CliError, OnPath as _, Result};
use reader::Findings;
use shoal_protocol::ids::{Name, Timestamp};
use shoal_protocol::latest::{
    DeviceGrant, Engine, EnvFrom, EnvVar, LogConsent, Mount, PodTemplate, Require, Resources, RestartPolicy,
    Rollout, Target,
};
use std::path::Path;

/// What an operator asked for, checked as far as a file alone allows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draft {
    pub(crate) name: Name,
    pub(crate) target: Target,
    pub(crate) rollout: Rollout,
    pub(crate) logs: LogConsent,
    /// Seconds until devices accept it no longer for the first time.
    pub(crate) expires: Option<u64>,
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) requires: Vec<Require>,
    /// The pod without its containers.
    pub(crate) pod: PodTemplate,
    pub(crate) containers: Vec<ContainerDraft>,
    /// Those that run before the others, one after the other.
    pub(crate) init_containers: Vec<ContainerDraft>,
}

impl Draft {
    /// All containers, in the order of their numbers.
    pub(crate) fn all_containers(&self) -> impl Iterator<Item = &ContainerDraft> {
        self.containers.iter().chain(&self.init_containers)
    }
}

/// A container whose image has not been read yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ContainerDraft {
    pub(crate) name: Name,
    pub(crate) image: String,
    /// Replaces the image's entry point.
    pub(crate) command: Vec<String>,
    /// Replaces the image's command.
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<EnvVar>,
    pub(crate) env_from: Vec<EnvFrom>,
    pub(crate) working_dir: Option<String>,
    pub(crate) resources: Resources,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) restart_policy: Option<RestartPolicy>,
    pub(crate) readonly_rootfs: bool,
    pub(crate) engine: Engine,
    pub(crate) liveness: Option<ProbeDraft>,
    pub(crate) readiness: Option<ProbeDraft>,
    pub(crate) startup: Option<ProbeDraft>,
    pub(crate) devices: Vec<DeviceGrant>,
    pub(crate) capabilities: Vec<String>,
    pub(crate) self_test: Option<String>,
    pub(crate) stdin: bool,
    /// A module of the image and its arguments.
    pub(crate) post_start: Option<Vec<String>>,
    pub(crate) pre_stop: Option<Vec<String>>,
}

impl ContainerDraft {
    fn new(name: Name, image: String) -> Self {
        Self {
            name,
            image,
            command: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            env_from: Vec::new(),
            working_dir: None,
            resources: Resources::default(),
            mounts: Vec::new(),
            restart_policy: None,
            readonly_rootfs: false,
            engine: Engine::Aot,
            liveness: None,
            readiness: None,
            startup: None,
            devices: Vec::new(),
            capabilities: Vec::new(),
            self_test: None,
            stdin: false,
            post_start: None,
            pre_stop: None,
        }
    }
}

/// A probe whose module has not been read yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProbeDraft {
    pub(crate) action: ProbeActionDraft,
    pub(crate) initial_delay: u64,
    pub(crate) period: u64,
    pub(crate) timeout: u64,
    pub(crate) failure_threshold: u64,
    pub(crate) success_threshold: Option<u64>,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ProbeActionDraft {
    /// A module of the image, by path, and its arguments.
    Exec(Vec<String>),
    Tcp(u64),
    Http(u64, String),
    /// Path in the container, seconds.
    FileFresh(String, u64),
}

/// A pod template with nothing in it yet.
pub(crate) fn empty_pod() -> PodTemplate {
    PodTemplate {
        runtime_class: shoal_protocol::latest::RuntimeClass::default(),
        network: shoal_protocol::latest::Network::default(),
        restart_policy: RestartPolicy::default(),
        termination_grace: 30,
        containers: Vec::new(),
        resources: Resources::default(),
        hostname: None,
        volumes: Vec::new(),
        labels: shoal_protocol::text_map::TextMap::default(),
        annotations: shoal_protocol::text_map::TextMap::default(),
        ports: Vec::new(),
        required_features: Vec::new(),
        init_containers: Vec::new(),
    }
}

/// Reads a text file up to the cap; `-` is standard input.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    use std::io::Read as _;
    let limit = tree::MAX_BYTES as u64 + 1;
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin()
            .take(limit)
            .read_to_string(&mut text)
            .on_path("read", Path::new("standard input"))?;
    } else {
        let file = std::fs::File::open(path).on_path("open", path)?;
        file.take(limit).read_to_string(&mut text).on_path("read", path)?;
    }
    if text.len() > tree::MAX_BYTES {
        return Err(CliError::usage(format!("{} is larger than {} bytes", path.display(), tree::MAX_BYTES)));
    }
    Ok(text)
}

/// Turns the findings of a file that did not become a draft into one error.
pub(crate) fn report(findings: &Findings) -> CliError {
    let n = findings.problems.len();
    let plural = if n == 1 { "problem" } else { "problems" };
    CliError::usage(format!("{} has {n} {plural}", findings.file))
        .details(findings.lines(&findings.problems))
        .hint("the fields are described in `shoal apply --help`")
}

/// Turns a syntax error into a CLI error with its place.
pub(crate) fn not_readable(file: &str, language: &str, e: &tree::SyntaxError) -> CliError {
    let tree::Place { line, column } = e.place;
    CliError::usage(format!(
        "{file}:{}: not valid {language} (line {line}, column {column}): {}",
        e.place, e.message
    ))
}
