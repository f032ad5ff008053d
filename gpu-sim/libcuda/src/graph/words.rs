//! Graph nodes that write words and wait for them (`cuGraphAddBatchMemOpNode`).
//!
//! A node becomes two steps: one that has the batch begun, and one that waits for a semaphore of the executable graph's own, which
//! the thread that looks at words raises when the batch is done.

use std::fmt;
use std::sync::Arc;

use cuda_sys_stubs::abi::*;
use gpu_sim::client::{Effect, Machine, SemaphoreHandle};
use gpu_sim::command::Command;

use crate::door::Answer;
use crate::process::{Process, refused};
use crate::watch::{self, WordOperation};

/// A batch of operations on words.
#[derive(Clone)]
pub(crate) struct Words {
    pub(crate) operations: Arc<[WordOperation]>,
    /// As the program described them, for who asks the node.
    pub(crate) described: Arc<[CUstreamBatchMemOpParams]>,
    /// Handle of the context that the program named.
    pub(crate) context: usize,
    /// Of an executable graph's step.
    semaphore: Option<Arc<SemaphoreHandle>>,
}

impl fmt::Debug for Words {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operations.fmt(formatter)
    }
}

impl Words {
    pub(crate) fn new(
        operations: Vec<WordOperation>,
        described: &[CUstreamBatchMemOpParams],
        context: usize,
    ) -> Self {
        Self {
            operations: operations.into(),
            described: described.into(),
            context,
            semaphore: None,
        }
    }

    /// The same, with a semaphore of its own.
    pub(super) fn with_semaphore(&self, process: &Process) -> Answer<Self> {
        let semaphore = process.machine.create_semaphore().map_err(refused)?;
        Ok(Self {
            semaphore: Some(Arc::new(semaphore)),
            ..self.clone()
        })
    }

    /// The same, with the semaphore of the batch that it takes the place of.
    pub(super) fn in_place_of(&self, old: &Self) -> Self {
        Self {
            semaphore: old.semaphore.clone(),
            ..self.clone()
        }
    }

    /// What waits for one more launch's batch.
    pub(super) fn next_wait(&self) -> Command {
        let wait = self.semaphore.as_ref().map(|semaphore| Command::Wait {
            semaphore: semaphore.id(),
            payload: semaphore.next_payload(),
        });
        wait.unwrap_or(Command::Marker)
    }

    /// Has the batch begun that [`Words::next_wait`] waits for.
    pub(super) fn begin(&self, machine: &'static Machine) -> Option<Effect> {
        let semaphore = Arc::clone(self.semaphore.as_ref()?);
        let (payload, operations) = (semaphore.last_payload(), Arc::clone(&self.operations));
        let begin = move || watch::begin(machine, &operations, (semaphore, payload));
        Some(Effect::HostVisible(Box::new(begin)))
    }
}
