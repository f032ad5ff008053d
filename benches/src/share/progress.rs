//! How far it is, on standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Tells how much is done: on a terminal in one line, elsewhere in one for each twentieth.
pub(crate) struct Progress {
    total: usize,
    begin: Instant,
    is_terminal: bool,
    /// Twentieths that were told.
    told: Mutex<usize>,
}

impl Progress {
    /// Of so many steps.
    pub(crate) fn of(total: usize) -> Self {
        Self {
            total,
            begin: Instant::now(),
            is_terminal: io::stderr().is_terminal(),
            told: Mutex::new(0),
        }
    }

    /// So many are done.
    pub(crate) fn tell(&self, done: usize) {
        const PARTS: usize = 20;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let part = done * PARTS / self.total.max(1);
        if !self.is_terminal && part <= *told {
            return;
        }
        *told = part;
        let seconds = self.begin.elapsed().as_secs();
        let (before, after) = match self.is_terminal {
            true => ("\r", if done == self.total { "\n" } else { "" }),
            false => ("", "\n"),
        };
        // Who has closed standard error wants to know nothing.
        let _ = write!(
            io::stderr(),
            "{before}{done} of {} runs, {seconds} s{after}",
            self.total
        );
    }
}
