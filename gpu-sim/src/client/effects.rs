//! What has to happen in this process when commands complete, in the order of completion.

use super::connection::Connection;
use super::quiet_thread;
use super::{Inner, LIFE_CHECK};
use crate::command::ContextId;
use crate::shared::{LOG_CAPACITY, SharedMapping, Ticket};
use crate::wire::Request;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A function that runs once, on whichever thread.
type Call = Box<dyn FnOnce() + Send>;

/// What a completed command does to this process's memory. It must not wait for the device.
pub enum Effect {
    /// Has to have run before a wait for the command returns, not earlier.
    OnWait(Box<dyn FnOnce() + Send>),
    /// Can be seen without a wait (page-locked memory that the program polls), so a thread runs it.
    HostVisible(Box<dyn FnOnce() + Send>),
    /// The function of a [`crate::command::Command::HostCall`]; runs on a thread of its own, and the
    /// stream goes on when it has returned.
    HostCall(Box<dyn FnOnce() + Send>),
    /// What the process is to know of a [`crate::command::Command::FaultingKernel`]; a thread runs it. Nothing else that its context
    /// was to do has an effect any more.
    Fault(Box<dyn FnOnce() + Send>),
}

/// The effects of commands that have not completed, and the thread that runs some of them.
pub(super) struct Effects {
    shared: Arc<SharedMapping>,
    /// By token, until taken from the log. Held while effects run, so that one runs after the other.
    pending: Mutex<HashMap<u64, (ContextId, Effect)>>,
    /// Host calls that are due, with their tokens.
    due: Mutex<VecDeque<(u64, Call)>>,
    tokens: AtomicU64,
    thread: Mutex<bool>,
    stopping: AtomicBool,
}

impl Effects {
    pub(super) fn new(shared: Arc<SharedMapping>) -> Self {
        Self {
            shared,
            pending: Mutex::default(),
            due: Mutex::default(),
            tokens: AtomicU64::new(1),
            thread: Mutex::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    /// Files effects of a context's commands under consecutive tokens and gives the first, or the effects
    /// back while the log might not hold them. More than it can hold at all are taken when it is
    /// empty: the device throws the process out should they really overflow it.
    pub(super) fn expect(
        inner: &Arc<Inner>,
        context: ContextId,
        effects: Vec<Effect>,
    ) -> Result<u64, Vec<Effect>> {
        let this = &inner.effects;
        let mut pending = this.pending.lock();
        if !pending.is_empty() && pending.len() + effects.len() > LOG_CAPACITY {
            return Err(effects);
        }
        if effects
            .iter()
            .any(|effect| !matches!(effect, Effect::OnWait(_)))
        {
            this.start_thread(inner);
        }
        let first = this.tokens.fetch_add(effects.len() as u64, SeqCst);
        pending.extend((first..).zip(effects.into_iter().map(|effect| (context, effect))));
        Ok(first)
    }

    /// Drops what a destroyed context's commands would have done: they never complete.
    pub(super) fn forget(&self, context: ContextId) {
        self.pending.lock().retain(|_, (of, _)| *of != context);
    }

    /// Runs what is due. When this returns, every effect logged before the call has run, or, for
    /// host calls, is on its way.
    pub(super) fn drain(&self, connection: &Connection) {
        if self.shared.is_drained() {
            return;
        }
        let mut pending = self.pending.lock();
        while let Some(token) = self.shared.peek() {
            match pending.remove(&token) {
                Some((_, Effect::OnWait(run) | Effect::HostVisible(run))) => run(),
                Some((_, Effect::HostCall(run))) => self.due.lock().push_back((token, run)),
                Some((context, Effect::Fault(run))) => {
                    run();
                    pending.retain(|_, (of, _)| *of != context);
                }
                // The device logs only what it was told; a stranger's token releases nothing.
                None => drop(connection.abandon()),
            }
            self.shared.pop();
        }
        drop(pending);
        if !self.due.lock().is_empty() {
            self.shared.ring();
        }
    }

    /// See [`crate::shared::Shared::ticket`].
    pub(super) fn ticket(&self) -> Ticket {
        self.shared.ticket()
    }

    /// Sleeps until something is logged since the ticket was taken, or the time is over.
    pub(super) fn listen(&self, ticket: Ticket, timeout: Duration) {
        self.shared.listen(ticket, timeout);
    }

    /// Lets the thread end.
    pub(super) fn stop(&self) {
        self.stopping.store(true, SeqCst);
        self.shared.ring();
    }

    fn start_thread(&self, inner: &Arc<Inner>) {
        let mut started = self.thread.lock();
        if *started {
            return;
        }
        let inner = Arc::downgrade(inner);
        // Without the thread, waits still run every effect but host calls; the next try may succeed.
        *started = quiet_thread::spawn("gpu-sim-effects", move || serve(&inner)).is_ok();
    }

    fn take_due(&self) -> Option<(u64, Call)> {
        self.due.lock().pop_front()
    }
}

/// The thread: runs effects as they are logged, and host calls.
fn serve(inner: &Weak<Inner>) {
    while let Some(inner) = inner.upgrade() {
        let effects = &inner.effects;
        let ticket = effects.ticket();
        if effects.stopping.load(SeqCst) || inner.connection.alive().is_err() {
            return;
        }
        effects.drain(&inner.connection);
        while let Some((token, run)) = effects.take_due() {
            run();
            if inner
                .connection
                .send(&Request::HostCallDone { token })
                .is_err()
            {
                return;
            }
        }
        effects.listen(ticket, LIFE_CHECK);
    }
}
