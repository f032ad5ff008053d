//! `cuda-hook agent`: the node's own process. It watches, and nobody waits for it: programs do not know that it is there.
//!
//! Everything that it says it has from [`sample_of`](crate::status::sample_of), as `cuda-hook status` has. It reads the files of the shared
//! state and writes to none: whatever takes their locks runs in a process of its own ([`own_command`]), because a container may hold a
//! lock for ever, or cut a file short under whoever has it mapped.

mod ending;
mod http;
mod metrics;
mod own_command;
mod reaping;
mod socket;
mod tenure;

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{AgentArgs, AgentCommand, Listen};
use crate::artefacts;
use crate::failure::Failure;
use crate::output;
use crate::settings;
use http::Node;
use socket::Socket;
use tenure::Tenure;

/// Watches until a signal ends it, or does what an agent has another process do.
pub(crate) fn agent(args: &AgentArgs) -> Result<(), Failure> {
    match &args.command {
        None => {}
        Some(AgentCommand::Reap { file }) => return reaping::reap(file),
        Some(AgentCommand::Forget {
            dir,
            container,
            mark,
        }) => return ending::forget(dir, container, mark),
    }
    let dir = folder(args)?;
    let _tenure = Tenure::begin(&dir)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::failed)?;
    runtime.block_on(watch(args, dir))
}

fn folder(args: &AgentArgs) -> Result<PathBuf, Failure> {
    match &args.dir {
        Some(dir) => artefacts::absolute(dir),
        None => settings::of(&settings::environment())
            .map(|settings| settings.dir)
            .map_err(Failure::failed),
    }
}

async fn watch(args: &AgentArgs, dir: PathBuf) -> Result<(), Failure> {
    let tcp = match args.listen {
        Listen::None => None,
        Listen::At(address) => Some(TcpListener::bind(address).await.map_err(|error| {
            Failure::failed(format_args!(
                "cannot listen on {address}: {error}; --listen names another address, and --listen none none"
            ))
        })?),
    };
    let socket = Socket::bind(&args.socket)?;
    let ended = signals().map_err(Failure::failed)?;
    tell(format_args!("watches over {}", dir.display()));
    if let Some(address) = tcp.as_ref().and_then(|tcp| tcp.local_addr().ok()) {
        tell(format_args!("metrics on http://{address}/metrics"));
    }
    tell(format_args!("status and set on {}", args.socket.display()));
    let node = Arc::new(Node::new(dir));
    let metrics = async {
        match tcp {
            Some(tcp) => axum::serve(tcp, http::for_all(&node)).await,
            None => pending().await,
        }
    };
    let served = tokio::select! {
        served = metrics => served,
        served = axum::serve(socket.listener()?, http::for_owner(&node)) => served,
        () = reaping::for_ever(&node, args.keep_ended) => Ok(()),
        signal = ended => {
            tell(format_args!("ends: {signal}"));
            Ok(())
        }
    };
    served.map_err(Failure::failed)
}

/// The name of the first signal that asks for an end.
fn signals() -> std::io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// One event, one line.
fn tell(event: impl std::fmt::Display) {
    output::complain(format_args!("agent: {event}"));
}
