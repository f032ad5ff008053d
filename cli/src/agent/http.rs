//! What the agent answers.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use limiter::sample::Sample;
use serde::{Deserialize, Serialize};

use super::metrics::{Exposition, Format, Highest};
use super::{own_command, tell};
use crate::failure::Failure;
use crate::folders;
use crate::inject::labels::Labels;
use crate::listed::Lists;
use crate::output;
use crate::status::sample_of;

/// The node, as far as the agent remembers anything of it.
pub(crate) struct Node {
    dir: PathBuf,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    highest: Highest,
    reaped: u64,
    /// What of the folder could not be read when last looked at.
    skipped: Vec<String>,
}

impl Node {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            memory: Mutex::default(),
        }
    }

    /// Folder of the shared state.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// So many places of the dead were freed.
    pub(crate) fn add_reaped(&self, freed: u64) {
        let mut memory = self.memory();
        memory.reaped = memory.reaped.saturating_add(freed);
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `cuda-hook status` would say now. The driver's library is opened for it and closed again: who keeps it open keeps the driver
    /// from being replaced, and does not see one that is loaded later.
    fn sample(&self) -> Result<Sample, Failure> {
        let sample = sample_of(&self.dir, &mut Lists::default())?;
        let mut memory = self.memory();
        for entry in &sample.skipped {
            if !memory.skipped.contains(entry) {
                tell(format_args!("skipped: {entry}"));
            }
        }
        memory.skipped.clone_from(&sample.skipped);
        Ok(sample)
    }

    fn exposition(&self) -> Result<Exposition, Failure> {
        let mut sample = self.sample()?;
        let mut memory = self.memory();
        memory.highest.keep(&mut sample);
        Ok(Exposition {
            sample,
            pods: Labels::of_all(&folders::of_containers(&self.dir)),
            reaped: memory.reaped,
        })
    }
}

/// What everybody may ask for.
pub(crate) fn for_all(node: &Arc<Node>) -> Router {
    open().with_state(Arc::clone(node))
}

/// The same, and what only the socket's owner and root may.
pub(crate) fn for_owner(node: &Arc<Node>) -> Router {
    open()
        .route("/status", get(status))
        .route("/set", post(set))
        .with_state(Arc::clone(node))
}

fn open() -> Router<Arc<Node>> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
}

async fn metrics(State(node): State<Arc<Node>>, headers: HeaderMap) -> Response {
    let accepted = headers.get_all(ACCEPT).into_iter();
    let accepted: Vec<&str> = accepted.filter_map(|value| value.to_str().ok()).collect();
    let format = Format::accepted(&accepted.join(","));
    match node.exposition().and_then(|all| all.text(format)) {
        Ok(text) => ([(CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(failure) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")).into_response(),
    }
}

/// Healthy is who can read the folder.
async fn healthz(State(node): State<Arc<Node>>) -> Response {
    match std::fs::read_dir(&node.dir) {
        Ok(_) => "ok\n".into_response(),
        Err(error) => {
            let reason = format!("{}: {error}\n", node.dir.display());
            (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
        }
    }
}

async fn status(State(node): State<Arc<Node>>) -> Response {
    let answer = node.sample().and_then(|sample| output::json(&sample));
    answer.map_or_else(
        |failure| refusal(StatusCode::SERVICE_UNAVAILABLE, &failure.to_string()),
        json,
    )
}

/// `POST /set`: the arguments of `cuda-hook set`, as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    container: String,
    memory: Option<Word>,
    memory_soft: Option<Word>,
    spill: Option<Word>,
    sm: Option<Word>,
    sm_max: Option<Word>,
}

/// A value as one would type it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Word {
    Flag(bool),
    Number(serde_json::Number),
    Text(String),
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(flag) => flag.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl Wanted {
    fn arguments(&self) -> Vec<String> {
        let given = self.limits().into_iter().filter_map(|(name, word)| {
            let word = word.as_ref()?;
            Some(format!("--{}={word}", name.replace('_', "-")))
        });
        let command = ["set", "--json"].map(str::to_owned);
        let container = ["--".to_owned(), self.container.clone()];
        command.into_iter().chain(given).chain(container).collect()
    }

    fn limits(&self) -> [(&'static str, &Option<Word>); 5] {
        [
            ("memory", &self.memory),
            ("memory_soft", &self.memory_soft),
            ("spill", &self.spill),
            ("sm", &self.sm),
            ("sm_max", &self.sm_max),
        ]
    }

    /// What is asked for, if it is anything.
    fn parse(body: &[u8]) -> Result<Self, String> {
        let wanted: Self = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let limits = wanted.limits();
        if limits.iter().any(|(_, word)| word.is_some()) {
            return Ok(wanted);
        }
        let names = limits.map(|(name, _)| name);
        Err(format!("none of {} is given", names.join(", ")))
    }
}

async fn set(State(node): State<Arc<Node>>, body: Bytes) -> Response {
    let wanted = match Wanted::parse(&body) {
        Ok(wanted) => wanted,
        Err(reason) => return refusal(StatusCode::BAD_REQUEST, &reason),
    };
    let arguments = wanted.arguments();
    let output = match own_command::run(&node.dir, &arguments).await {
        Ok(output) => output,
        Err(failure) => return refusal(StatusCode::SERVICE_UNAVAILABLE, &failure.to_string()),
    };
    let outcome = match output.status.code() {
        Some(0) => {
            tell(arguments.join(" "));
            return json(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Some(2) => StatusCode::BAD_REQUEST,
        Some(1) => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refusal(outcome, &own_command::complaint(&output))
}

fn json(text: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}

#[derive(Serialize)]
struct Refusal<'a> {
    error: &'a str,
}

fn refusal(status: StatusCode, error: &str) -> Response {
    let text = output::json(&Refusal { error }).unwrap_or_default();
    (status, json(text)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_what_one_would_type() {
        let body = r#"{"container": "-a", "memory": "6GiB", "sm": 12.5, "spill": true}"#;
        let wanted = Wanted::parse(body.as_bytes()).unwrap();
        let expected = [
            "set",
            "--json",
            "--memory=6GiB",
            "--spill=true",
            "--sm=12.5",
            "--",
            "-a",
        ];
        assert_eq!(wanted.arguments(), expected);
    }

    #[test]
    fn what_asks_for_nothing_or_is_misspelt_is_refused() {
        let refused = |body: &str| Wanted::parse(body.as_bytes()).unwrap_err();
        let misspelt = refused(r#"{"container": "a", "memroy": "6GiB"}"#);
        assert!(misspelt.contains("memroy"), "{misspelt}");
        let nothing = refused(r#"{"container": "a"}"#);
        assert_eq!(
            nothing,
            "none of memory, memory_soft, spill, sm, sm_max is given"
        );
    }
}
