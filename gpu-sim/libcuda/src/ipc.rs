//! What one process hands another as plain bytes: memory of `cuMemAlloc`, blocks of exported pools, events.
//!
//! The bytes name a block or a semaphore of the machine; who has them can open it. Memory that several processes hold lives until the last of
//! them lets go, and counts for the one that allocated it until then, even if that one is dead. (CUDA calls it undefined what
//! happens to an importer whose exporter has freed; with this driver the memory simply stays.)

use cuda_sys_stubs::abi::*;
use gpu_sim::command::{BlockId, SemaphoreId};

use crate::address::{Backing, Range};
use crate::context;
use crate::door::Answer;
use crate::event::{self, Event};
use crate::memory;
use crate::pool::{self, Part, PartName, Pool};
use crate::process::{Process, State, refused};
use crate::table::Key;

/// Size of each kind of handle that is plain bytes (cuda.h, `CU_IPC_HANDLE_SIZE`; `CUmemPoolPtrExportData`).
pub(crate) const TOKEN_BYTES: usize = 64;

/// Plain bytes that stand for something.
pub(crate) type Token = [u8; TOKEN_BYTES];

/// What a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    Memory(BlockId),
    PoolMemory(BlockId),
    HostPoolMemory(PartName),
    Event(SemaphoreId),
}

impl Named {
    fn token(self) -> Token {
        let (kind, numbers) = match self {
            Self::Memory(block) => (*b"gpusim:m", [block.0, 0, 0]),
            Self::PoolMemory(block) => (*b"gpusim:p", [block.0, 0, 0]),
            Self::HostPoolMemory(part) => (*b"gpusim:h", [part.inode, part.offset, part.bytes]),
            Self::Event(semaphore) => (*b"gpusim:e", [u64::from(semaphore.0), 0, 0]),
        };
        let numbers = numbers.into_iter().flat_map(u64::to_le_bytes);
        let mut token = [0; TOKEN_BYTES];
        for (to, from) in token.iter_mut().zip(kind.into_iter().chain(numbers)) {
            *to = from;
        }
        token
    }

    /// `None`: bytes that no driver of this machine made.
    fn of(token: &Token) -> Option<Self> {
        let (kind, rest) = token.split_first_chunk::<8>()?;
        let (words, _) = rest.as_chunks();
        let mut numbers = words.iter().copied().map(u64::from_le_bytes);
        let [number, offset, bytes] = [numbers.next()?, numbers.next()?, numbers.next()?];
        match kind {
            b"gpusim:m" => Some(Self::Memory(BlockId(number))),
            b"gpusim:p" => Some(Self::PoolMemory(BlockId(number))),
            b"gpusim:h" => Some(Self::HostPoolMemory(PartName {
                inode: number,
                offset,
                bytes,
            })),
            b"gpusim:e" => Some(Self::Event(SemaphoreId(u32::try_from(number).ok()?))),
            _ => None,
        }
    }
}

/// `cuIpcGetMemHandle`: of the whole allocation that an address of `cuMemAlloc` belongs to.
pub(crate) fn memory_token(process: &Process, address: CUdeviceptr) -> Answer<Token> {
    let state = process.lock();
    context::owner(&state)?;
    let range = state.book.find(address).filter(|range| is_capable(range));
    let block = range
        .and_then(Range::block)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    Ok(Named::Memory(block.id).token())
}

/// Whether a stretch can be given to others by `cuIpcGetMemHandle`.
pub(crate) fn is_capable(range: &Range) -> bool {
    matches!(range.backing, Backing::Device(_)) && range.pool.is_none() && !range.is_global
}

/// `cuIpcOpenMemHandle`: once more the same address if it is open. `CUDA_ERROR_INVALID_CONTEXT`: it is this process's own.
pub(crate) fn open_memory(process: &Process, token: &Token) -> Answer<CUdeviceptr> {
    let Some(Named::Memory(id)) = Named::of(token) else {
        return Err(CUDA_ERROR_INVALID_VALUE);
    };
    let mut state = process.lock();
    context::owner(&state)?;
    match state.book.find_block(id).copied() {
        None => open(process, &mut state, id, None),
        Some(mut known) => {
            let Backing::Imported { opens, .. } = &mut known.backing else {
                return Err(CUDA_ERROR_INVALID_CONTEXT);
            };
            *opens = opens.saturating_add(1);
            state.book.replace(known);
            Ok(known.start)
        }
    }
}

/// Takes hold of another process's block and writes down where it is.
fn open(
    process: &Process,
    state: &mut State,
    id: BlockId,
    pool: Option<Key<Pool>>,
) -> Answer<CUdeviceptr> {
    let context = context::owner(state)?;
    let block = process.machine.open(id).map_err(refused)?;
    let mut devices = process.devices.iter().enumerate();
    let Some((ordinal, device)) = devices.find(|(_, device)| device.index == block.device) else {
        // On a device that this process does not see.
        process.machine.free(id).map_err(refused)?;
        return Err(CUDA_ERROR_INVALID_DEVICE);
    };
    let start = device.window.address(block.offset);
    state.book.insert(Range {
        start,
        bytes: block.bytes,
        backing: Backing::Imported { block, opens: 1 },
        context: Some(context),
        device: ordinal,
        pool,
        id: 0,
        is_global: false,
    });
    Ok(start)
}

/// `cuIpcCloseMemHandle`: the last close of an address waits for all work that may use it.
pub(crate) fn close_memory(process: &Process, start: CUdeviceptr) -> Answer {
    {
        let mut state = process.lock();
        context::owner(&state)?;
        let range = state
            .book
            .find(start)
            .filter(|range| is_opened(range, start));
        let mut range = *range.ok_or(CUDA_ERROR_INVALID_VALUE)?;
        if let Backing::Imported { opens, .. } = &mut range.backing
            && *opens > 1
        {
            *opens -= 1;
            state.book.replace(range);
            return Ok(());
        }
    }
    let which = |range: &Range| is_opened(range, start);
    let closed = memory::take_back(process, start, which, CUDA_ERROR_INVALID_VALUE)?;
    memory::give_back(process, closed)
}

fn is_opened(range: &Range, start: CUdeviceptr) -> bool {
    range.start == start
        && matches!(range.backing, Backing::Imported { .. })
        && range.pool.is_none()
}

/// `cuMemPoolExportPointer`: memory of a pool that may be given to others.
pub(crate) fn pool_memory_token(process: &Process, address: CUdeviceptr) -> Answer<Token> {
    let state = process.lock();
    let exportable = |range: &&Range| {
        let pool = range.pool.and_then(|key| state.pools.get(key));
        pool.is_some_and(|pool| pool.handle_types != 0 && !pool.is_imported)
    };
    let range = state.book.find(address).filter(exportable);
    let range = range.ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let named = match range.backing {
        Backing::HostPooled {
            bytes,
            part: Some(part),
        } => Named::HostPoolMemory(process.shared_files.name(part, bytes)?),
        _ => Named::PoolMemory(range.block().ok_or(CUDA_ERROR_INVALID_VALUE)?.id),
    };
    Ok(named.token())
}

/// `cuMemPoolImportPointer`: into a pool that was imported itself.
pub(crate) fn open_pool_memory(
    process: &Process,
    pool: CUmemoryPool,
    token: &Token,
) -> Answer<CUdeviceptr> {
    let mut state = process.lock();
    let key = pool::find(&state, pool)?;
    let pool = pool::get(&mut state, key)?;
    match (Named::of(token), pool.file, pool.is_imported) {
        (Some(Named::PoolMemory(id)), None, true) if state.book.find_block(id).is_none() => {
            open(process, &mut state, id, Some(key))
        }
        (Some(Named::HostPoolMemory(name)), Some(file), true) => {
            let part = process.shared_files.find(file, &name)?;
            open_part(process, &mut state, part, (name.bytes, key))
        }
        _ => Err(CUDA_ERROR_INVALID_VALUE),
    }
}

/// Maps another process's part of a shared pool of the host, and writes down where it is. `CUDA_ERROR_INVALID_VALUE`: this process
/// has it already, or nobody has it.
fn open_part(
    process: &Process,
    state: &mut State,
    part: Part,
    (bytes, pool): (u64, Key<Pool>),
) -> Answer<CUdeviceptr> {
    let context = context::owner(state)?;
    let device = context::get(state, context)?.device;
    if state.book.has_part(part) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let start = process.shared_files.open(part, bytes)?;
    let part = Some(part);
    state.book.insert(Range {
        start,
        bytes,
        backing: Backing::HostPooled { bytes, part },
        context: Some(context),
        device,
        pool: Some(pool),
        id: 0,
        is_global: false,
    });
    Ok(start)
}

/// `cuIpcGetEventHandle`. `CUDA_ERROR_INVALID_HANDLE`: the event was not made for other processes.
pub(crate) fn event_token(process: &Process, handle: CUevent) -> Answer<Token> {
    let state = process.lock();
    let event = event::get(&state, event::find(&state, handle)?)?;
    let semaphore = event.semaphore.id();
    if semaphore.is_shared() {
        Ok(Named::Event(semaphore).token())
    } else {
        Err(CUDA_ERROR_INVALID_HANDLE)
    }
}

/// `cuIpcOpenEventHandle`: an event that is the same in both processes.
pub(crate) fn open_event(process: &Process, token: &Token) -> Answer<Key<Event>> {
    let Some(Named::Event(id)) = Named::of(token) else {
        return Err(CUDA_ERROR_INVALID_VALUE);
    };
    let mut state = process.lock();
    let context = context::owner(&state)?;
    let semaphore = process.machine.open_shared_semaphore(id).map_err(refused)?;
    Ok(state.events.insert(Event::interprocess(context, semaphore)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_means_what_it_was_made_for_and_nothing_else() {
        for named in [
            Named::Memory(BlockId(7)),
            Named::PoolMemory(BlockId(u64::MAX)),
            Named::HostPoolMemory(PartName {
                inode: 1,
                offset: 2,
                bytes: u64::MAX,
            }),
            Named::Event(SemaphoreId::shared(3)),
        ] {
            assert_eq!(Named::of(&named.token()), Some(named));
        }
        assert_eq!(Named::of(&[0; TOKEN_BYTES]), None);
    }
}
