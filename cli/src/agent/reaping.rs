//! The places of processes that have died, freed a moment after their death, and what containers have left, a while after their end.

use std::path::Path;
use std::time::{Duration, Instant};

use limiter::reap;

use super::ending::{self, Endings};
use super::http::Node;
use super::{own_command, tell};
use crate::failure::Failure;
use crate::output;

/// Between two looks, while programs run.
const WHILE_PROGRAMS_RUN: Duration = Duration::from_secs(1);
/// Between two looks, while none does.
const WHILE_NONE_DOES: Duration = Duration::from_secs(10);

/// Looks for the dead again and again, and has another process free their places; and for containers that ended as long ago as `keep_ended`.
pub(crate) async fn for_ever(node: &Node, keep_ended: Duration) {
    let mut told = String::new();
    let mut endings = Endings::default();
    loop {
        // A folder that cannot be listed is told at each scrape.
        let places = reap::look(node.dir()).unwrap_or_default();
        for file in &places.with_dead {
            if let Err(failure) = free(node, file).await {
                tell_once(&mut told, format!("{}: {failure}", file.display()));
            }
        }
        for ended in endings.due(places.ended, Instant::now(), keep_ended) {
            let name = &ended.container;
            match ending::have_forgotten(node, &ended).await {
                Ok(true) => tell(format_args!("removed what ended container {name} has left")),
                Ok(false) => {}
                Err(failure) => tell_once(&mut told, format!("{name}: {failure}")),
            }
        }
        let pause = if places.taken > 0 {
            WHILE_PROGRAMS_RUN
        } else {
            WHILE_NONE_DOES
        };
        tokio::time::sleep(pause.min(keep_ended)).await;
    }
}

/// What stays as it is, is no event.
fn tell_once(told: &mut String, complaint: String) {
    if *told != complaint {
        tell(&complaint);
        *told = complaint;
    }
}

async fn free(node: &Node, file: &Path) -> Result<(), Failure> {
    let arguments = ["agent".as_ref(), "reap".as_ref(), file.as_os_str()];
    let output = own_command::run(node.dir(), arguments).await?;
    if !output.status.success() {
        return Err(Failure::failed(own_command::complaint(&output)));
    }
    let freed: u64 = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .map_err(Failure::failed)?;
    if freed > 0 {
        tell(format_args!(
            "freed the places of {freed} dead in {}",
            file.display()
        ));
        node.add_reaped(freed);
    }
    Ok(())
}

/// The other process: frees the places of the dead in one file, and says how many they were.
pub(crate) fn reap(file: &Path) -> Result<(), Failure> {
    output::print(reap::reap(file).map_err(Failure::failed)?)
}
