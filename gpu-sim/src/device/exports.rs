//! Descriptors that stand for memory on its way from one process to another.
//!
//! Such a descriptor is the write end of a pipe that nobody writes to. We keep the read end: it hangs up when the last copy of
//! the descriptor is closed, wherever it went, and then what it kept is let go. Who imports one tells the file's number.

use super::ends::Ends;
use crate::command::Exported;
use crate::model::{Model, ProcessId};
use crate::wire::{Refusal, Reply};
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

/// Device and inode number of a descriptor's file.
pub(super) type FileNumber = (u64, u64);

/// What is under way, by the source of its pipe's end.
#[derive(Default)]
pub(super) struct Exports(BTreeMap<u64, Export>);

struct Export {
    _read_end: OwnedFd,
    file: FileNumber,
    what: Exported,
}

impl Exports {
    /// Makes a descriptor for what a process holds, and watches it as `source`. `OutOfMemory`: we have no descriptors left.
    pub(super) fn export(
        &mut self,
        model: &mut Model,
        (ends, source): (&Ends, u64),
        process: ProcessId,
        what: Exported,
    ) -> Result<OwnedFd, Refusal> {
        let made = pipe_with(PipeFlags::CLOEXEC).and_then(|(read_end, write_end)| {
            ends.watch(&read_end, source)?;
            Ok((read_end, write_end))
        });
        let (read_end, write_end) = made.map_err(|_| Refusal::OutOfMemory)?;
        let file = file_number(&write_end).map_err(|_| Refusal::OutOfMemory)?;
        keep(model, process, what)?;
        let export = Export {
            _read_end: read_end,
            file,
            what,
        };
        self.0.insert(source, export);
        Ok(write_end)
    }

    /// Gives a process what a descriptor stands for.
    pub(super) fn import(
        &self,
        model: &mut Model,
        process: ProcessId,
        file: FileNumber,
    ) -> Result<Reply, Refusal> {
        let mut exports = self.0.values();
        let export = exports.find(|export| export.file == file);
        match export.ok_or(Refusal::Unknown)?.what {
            Exported::Block(block) => model.open(process, block).map(Reply::Block),
            Exported::Pool { device } => Ok(Reply::Pool { device }),
            Exported::Multicast(object) => {
                let team = model.open_multicast(process, object)?;
                Ok(Reply::Multicast { object, team })
            }
        }
    }

    /// The last copy of a descriptor was closed: the machine lets go of what it kept. False: `source` is none of ours.
    pub(super) fn hang_up(&mut self, model: &mut Model, source: u64) -> bool {
        let Some(export) = self.0.remove(&source) else {
            return false;
        };
        // The machine has held it since the descriptor was made.
        let _ = match export.what {
            Exported::Block(block) => model.free(ProcessId::MACHINE, block),
            Exported::Multicast(object) => model.drop_multicast(ProcessId::MACHINE, object),
            Exported::Pool { .. } => Ok(()),
        };
        true
    }
}

/// Has the machine hold what a descriptor will stand for.
fn keep(model: &mut Model, process: ProcessId, what: Exported) -> Result<(), Refusal> {
    match what {
        Exported::Block(block) if model.holds(process, block) => {
            model.open(ProcessId::MACHINE, block).map(drop)
        }
        Exported::Block(_) => Err(Refusal::Unknown),
        Exported::Pool { device } => model.memory(device).map(drop),
        Exported::Multicast(object) if model.holds_multicast(process, object) => {
            model.open_multicast(ProcessId::MACHINE, object).map(drop)
        }
        Exported::Multicast(_) => Err(Refusal::Unknown),
    }
}

fn file_number(descriptor: &OwnedFd) -> Result<FileNumber, Errno> {
    let stat = fstat(descriptor)?;
    Ok((stat.st_dev, stat.st_ino))
}
