//! Words of memory that streams wait for (`cuStreamWaitValue32` and its kin).
//!
//! When a stream comes to such a wait, the word is looked at, again and again, by one thread for the whole process, until it
//! has the value; then the thread raises the semaphore that the stream waits for. The thread starts with the first wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cuda_sys_stubs::abi::*;
use gpu_sim::client::{Effect, Machine, SemaphoreHandle};
use gpu_sim::command::Command;
use parking_lot::{Condvar, Mutex};

use crate::address::Place;
use crate::bytes;
use crate::door::Answer;
use crate::fill::{Fill, FillParams};
use crate::graph::Operation;
use crate::graph::words::Words;
use crate::process::{Process, State, refused};
use crate::reduction::Reduction;
use crate::stream::Stream;
use crate::table::Key;
use crate::{capture, graph, log, stream};

/// How often words are looked at while a stream waits.
const PERIOD: Duration = Duration::from_micros(50);

/// What a word has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) kind: CUstreamWaitValue_flags,
    pub(crate) value: u64,
    /// 4 or 8.
    pub(crate) bytes: u32,
}

impl Condition {
    /// "At least" is cyclic: the difference is read as a signed number (CUDA Driver API, `CUstreamWaitValue_flags`).
    fn holds(self, word: u64) -> bool {
        let mask = if self.bytes == 4 {
            u64::from(u32::MAX)
        } else {
            u64::MAX
        };
        let sign = (mask >> 1) + 1;
        match self.kind {
            CU_STREAM_WAIT_VALUE_EQ => word == self.value,
            CU_STREAM_WAIT_VALUE_AND => word & self.value != 0,
            CU_STREAM_WAIT_VALUE_NOR => !(word | self.value) & mask != 0,
            _ => word.wrapping_sub(self.value) & sign == 0,
        }
    }
}

/// What is done with a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WordOperation {
    Write(Fill),
    Wait(Place, Condition),
    Reduce(Reduction),
}

impl WordOperation {
    pub(crate) fn write(state: &State, params: FillParams) -> Answer<Self> {
        Ok(Self::Write(Fill::plan(state, params)?))
    }

    pub(crate) fn wait(state: &State, address: CUdeviceptr, condition: Condition) -> Answer<Self> {
        let bytes = u64::from(condition.bytes);
        if condition.kind > CU_STREAM_WAIT_VALUE_NOR || !address.is_multiple_of(bytes) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        Ok(Self::Wait(
            state.book.known_place(address, bytes)?,
            condition,
        ))
    }

    /// Does it, if it can be done now.
    fn is_done(self, machine: &Machine) -> bool {
        match self {
            Self::Write(fill) => {
                fill.run(machine);
                true
            }
            Self::Reduce(reduction) => {
                reduction.run(machine);
                true
            }
            Self::Wait(place, condition) => {
                condition.holds(bytes::read(machine, place, condition.bytes.into()))
            }
        }
    }
}

/// What raises a semaphore when all of it is done, one after the other.
struct Watch {
    rest: VecDeque<WordOperation>,
    semaphore: Arc<SemaphoreHandle>,
    payload: u64,
}

impl Watch {
    fn is_done(&mut self, machine: &Machine) -> bool {
        while let Some(next) = self.rest.front() {
            if !next.is_done(machine) {
                return false;
            }
            self.rest.pop_front();
        }
        true
    }
}

/// The words that are waited for now.
#[derive(Default)]
struct Watched {
    words: Mutex<Vec<Watch>>,
    more: Condvar,
}

fn watched() -> &'static Arc<Watched> {
    static WATCHED: std::sync::OnceLock<Arc<Watched>> = std::sync::OnceLock::new();
    WATCHED.get_or_init(Arc::default)
}

/// Has a stream do a batch, or records it as a node if the stream is capturing.
pub(crate) fn perform(
    process: &'static Process,
    state: &mut State,
    stream: Key<Stream>,
    words: Words,
) -> Answer {
    if capture::place(state, stream)?.is_some() {
        return capture::append(state, stream, Operation::Words(words));
    }
    for operation in words.operations.iter() {
        match *operation {
            WordOperation::Write(fill) => {
                graph::perform(process, state, stream, Operation::Fill(fill))?;
            }
            WordOperation::Wait(place, _) => {
                graph::memory::check_live(state, [place])?;
                wait(process, state, stream, *operation)?;
            }
            WordOperation::Reduce(reduction) => {
                graph::memory::check_live(state, [reduction.place])?;
                let effect = reduction.effect(&process.machine);
                stream::submit(process, state, stream, reduction.command(), Some(effect))?;
            }
        }
    }
    Ok(())
}

/// Has a stream wait until a word meets its condition.
fn wait(
    process: &'static Process,
    state: &mut State,
    stream: Key<Stream>,
    operation: WordOperation,
) -> Answer {
    let semaphore = Arc::new(process.machine.create_semaphore().map_err(refused)?);
    let payload = semaphore.next_payload();
    let wait = Command::Wait {
        semaphore: semaphore.id(),
        payload,
    };
    let machine = &process.machine;
    let begin = move || begin(machine, &[operation], (semaphore, payload));
    let begin = Effect::HostVisible(Box::new(begin));
    stream::submit(process, state, stream, Command::Marker, Some(begin))?;
    stream::submit(process, state, stream, wait, None).map(drop)
}

/// Has operations done one after the other, and then a semaphore raised.
pub(crate) fn begin(
    machine: &'static Machine,
    operations: &[WordOperation],
    (semaphore, payload): (Arc<SemaphoreHandle>, u64),
) {
    if start_thread(machine).is_err() {
        log::error(format_args!(
            "no thread can be started; a stream waits for a word in vain"
        ));
    }
    let watched = watched();
    watched.words.lock().push(Watch {
        rest: operations.iter().copied().collect(),
        semaphore,
        payload,
    });
    watched.more.notify_one();
}

fn start_thread(machine: &'static Machine) -> Answer {
    static STARTED: Mutex<bool> = Mutex::new(false);
    let mut started = STARTED.lock();
    if !*started {
        let builder = std::thread::Builder::new().name("gpu-sim-watch".to_owned());
        builder
            .spawn(|| look(machine))
            .map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?;
        *started = true;
    }
    Ok(())
}

fn look(machine: &Machine) {
    let watched = watched();
    let mut words = watched.words.lock();
    loop {
        for mut watch in std::mem::take(&mut *words) {
            if !watch.is_done(machine) {
                words.push(watch);
            } else if machine.signal(&watch.semaphore, watch.payload).is_err() {
                return log::error(format_args!(
                    "the device is gone; a stream waits for a word in vain"
                ));
            }
        }
        if words.is_empty() {
            watched.more.wait(&mut words);
        } else {
            watched.more.wait_for(&mut words, PERIOD);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(kind: CUstreamWaitValue_flags, bytes: u32, value: u64, word: u64) -> bool {
        Condition { kind, value, bytes }.holds(word)
    }

    #[test]
    fn at_least_is_cyclic() {
        assert!(
            holds(CU_STREAM_WAIT_VALUE_GEQ, 4, 5, 5)
                && holds(CU_STREAM_WAIT_VALUE_GEQ, 4, 0xffff_fffe, 1)
        );
        assert!(!holds(CU_STREAM_WAIT_VALUE_GEQ, 4, 5, 4));
        assert!(!holds(CU_STREAM_WAIT_VALUE_GEQ, 8, 0xffff_fffe, 1));
    }

    #[test]
    fn bits_are_compared_in_the_words_width() {
        assert!(
            holds(CU_STREAM_WAIT_VALUE_AND, 4, 6, 2) && !holds(CU_STREAM_WAIT_VALUE_AND, 4, 6, 1)
        );
        assert!(!holds(
            CU_STREAM_WAIT_VALUE_NOR,
            4,
            0xffff_0000,
            0x0000_ffff
        ));
        assert!(holds(CU_STREAM_WAIT_VALUE_NOR, 4, 0xffff_0000, 0x0000_fffe));
    }
}
