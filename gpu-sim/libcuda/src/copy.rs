//! Copies: linear, pitched and three-dimensional, between any two places.
//!
//! Ordering follows "API synchronization behavior" of the CUDA Driver API: a copy takes effect in stream order; from pageable
//! memory the bytes are staged before the call returns, to pageable memory the call returns when they are there; a
//! synchronous copy returns when it is done, but for one within device memory, which returns at once.

use std::sync::Arc;

use cuda_sys_stubs::abi::*;
use gpu_sim::client::{Effect, Machine};
use gpu_sim::command::{Command, CopyDirection};

use crate::address::{HostKind, Place};
use crate::array::{self, Array, ArrayMemory, Layout, Shape, Tiles};
use crate::door::{Answer, NullStream};
use crate::graph::{self, Operation};
use crate::process::{Process, State, lost};
use crate::{bytes, capture, context, stream};

/// One side of a copy as the program describes it; lengths in bytes, `height` in rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SideParams {
    pub(crate) x: u64,
    pub(crate) y: u64,
    pub(crate) z: u64,
    pub(crate) memory_type: CUmemorytype,
    /// Of an array: its handle.
    pub(crate) address: u64,
    pub(crate) pitch: u64,
    pub(crate) height: u64,
}

/// A copy as the program describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CopyParams {
    pub(crate) src: SideParams,
    pub(crate) dst: SideParams,
    pub(crate) width: u64,
    pub(crate) height: u64,
    pub(crate) depth: u64,
}

impl SideParams {
    /// A stretch of bytes without rows.
    pub(crate) fn linear(memory_type: CUmemorytype, address: u64) -> Self {
        Self {
            x: 0,
            y: 0,
            z: 0,
            memory_type,
            address,
            pitch: 0,
            height: 0,
        }
    }
}

impl CopyParams {
    /// `bytes` in one piece.
    pub(crate) fn linear(dst: (CUmemorytype, u64), src: (CUmemorytype, u64), bytes: u64) -> Self {
        let side = |(memory_type, address)| SideParams::linear(memory_type, address);
        Self {
            src: side(src),
            dst: side(dst),
            width: bytes,
            height: 1,
            depth: 1,
        }
    }
}

/// One side of a copy, resolved.
#[derive(Clone, Debug)]
enum Side {
    /// Where the first byte is, and how far rows and slices are apart.
    Rows {
        place: Place,
        pitch: u64,
        slice: u64,
    },
    /// Elements of an array that lie where the program maps them, from this byte, row and slice on.
    Tiles {
        tiles: Arc<Tiles>,
        layout: Layout,
        first: [u64; 3],
    },
}

/// Bytes of a row that lie together.
struct Piece {
    /// `None`: nowhere.
    place: Option<Place>,
    offset: u64,
    bytes: u64,
}

/// A copy that can be run.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) params: CopyParams,
    src: Side,
    dst: Side,
}

impl Copy {
    /// Resolves both sides. `CUDA_ERROR_INVALID_VALUE`: rows that do not fit their pitch, or memory that is not there.
    pub(crate) fn plan(process: &Process, state: &State, params: CopyParams) -> Answer<Self> {
        let side = |side: &SideParams| Side::plan(process, state, side, &params);
        Ok(Self {
            params,
            src: side(&params.src)?,
            dst: side(&params.dst)?,
        })
    }

    /// Where it reads and writes.
    pub(crate) fn places(&self) -> Vec<Place> {
        [&self.src, &self.dst]
            .into_iter()
            .filter_map(Side::place)
            .collect()
    }

    /// Bytes that it moves.
    pub(crate) fn bytes(&self) -> u64 {
        self.params
            .width
            .saturating_mul(self.params.height)
            .saturating_mul(self.params.depth)
    }

    fn direction(&self) -> Option<CopyDirection> {
        match (self.src.host_kind(), self.dst.host_kind()) {
            (Some(HostKind::Pageable), None) => Some(CopyDirection::PageableToDevice),
            (Some(_), None) => Some(CopyDirection::HostToDevice),
            (None, Some(HostKind::Pageable)) => Some(CopyDirection::DeviceToPageable),
            (None, Some(_)) => Some(CopyDirection::DeviceToHost),
            (None, None) => Some(CopyDirection::DeviceToDevice),
            (Some(_), Some(_)) => None,
        }
    }

    /// The command that takes the time; a copy within host memory takes none of the device's.
    pub(crate) fn command(&self) -> Command {
        self.direction()
            .map_or(Command::Marker, |direction| Command::Copy {
                direction,
                bytes: self.bytes(),
            })
    }

    /// What moves the bytes when the command completes.
    pub(crate) fn effect(self, machine: &'static Machine) -> Effect {
        self.effect_with(machine, Vec::new())
    }

    fn effect_with(self, machine: &'static Machine, staged: Vec<u8>) -> Effect {
        let to = self.dst.place();
        let run = Box::new(move || {
            self.run(machine);
            drop(staged);
        });
        match to {
            Some(place) => place.written_by(run),
            None => Effect::OnWait(run),
        }
    }

    fn run(&self, machine: &Machine) {
        for slice in 0..self.params.depth {
            for row in 0..self.params.height {
                self.run_row(machine, row, slice);
            }
        }
    }

    fn run_row(&self, machine: &Machine, row: u64, slice: u64) {
        let mut at = 0;
        while at < self.params.width {
            let (dst, src) = (
                self.dst.piece([at, row, slice]),
                self.src.piece([at, row, slice]),
            );
            let bytes = dst.bytes.min(src.bytes).min(self.params.width - at);
            match (dst.place, src.place) {
                (Some(to), Some(from)) => {
                    bytes::copy(machine, (to, dst.offset), (from, src.offset), bytes);
                }
                (Some(to), None) => bytes::fill(machine, (to, dst.offset), &[0], bytes),
                (None, _) => {}
            }
            at = at.saturating_add(bytes);
        }
    }

    /// The same copy out of a private copy of its source.
    fn staged(mut self, machine: &Machine) -> Answer<(Self, Vec<u8>)> {
        let bytes = usize::try_from(self.bytes()).map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?;
        let mut staged = vec![0u8; bytes];
        let address = u64::try_from(staged.as_mut_ptr().expose_provenance())
            .map_err(|_| CUDA_ERROR_OUT_OF_MEMORY)?;
        let place = Place::Host {
            address,
            kind: HostKind::Pageable,
        };
        let side = Side::Rows {
            place,
            pitch: self.params.width,
            slice: self.params.width.saturating_mul(self.params.height),
        };
        let dst = std::mem::replace(&mut self.dst, side.clone());
        self.run(machine);
        (self.src, self.dst) = (side, dst);
        Ok((self, staged))
    }
}

impl Side {
    /// `None`: it lies in tiles, which are the device's.
    fn place(&self) -> Option<Place> {
        match self {
            Self::Rows { place, .. } => Some(*place),
            Self::Tiles { .. } => None,
        }
    }

    fn host_kind(&self) -> Option<HostKind> {
        self.place()?.host_kind()
    }

    /// What lies together from a byte of a row on.
    fn piece(&self, [at, row, slice]: [u64; 3]) -> Piece {
        match self {
            Self::Rows {
                place,
                pitch,
                slice: slice_bytes,
            } => {
                let rows = row.saturating_mul(*pitch);
                let slices = slice.saturating_mul(*slice_bytes);
                Piece {
                    place: Some(*place),
                    offset: slices.saturating_add(rows).saturating_add(at),
                    bytes: u64::MAX,
                }
            }
            Self::Tiles {
                tiles,
                layout,
                first: [x, y, z],
            } => {
                let (tile, offset, bytes) = layout.find([x + at, y + row, z + slice]);
                Piece {
                    place: tiles.place(tile),
                    offset,
                    bytes,
                }
            }
        }
    }

    /// Elements of an array that lie in tiles. `CUDA_ERROR_INVALID_VALUE`: some of them are beyond its end.
    fn in_tiles(
        (tiles, layout): (&Arc<Tiles>, Layout),
        shape: &Shape,
        side: &SideParams,
        params: &CopyParams,
    ) -> Answer<Self> {
        let shape = shape.stored();
        let within = |start: u64, length: u64, extent: u64| {
            let end = start.checked_add(length);
            end.is_some_and(|end| end <= extent)
        };
        let fits = within(side.x, params.width, shape.row_bytes()?)
            && within(side.y, params.height.max(1), shape.height.max(1))
            && within(side.z, params.depth.max(1), shape.depth.max(1));
        if !fits {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        Ok(Self::Tiles {
            tiles: Arc::clone(tiles),
            layout,
            first: [side.x, side.y, side.z],
        })
    }

    fn plan(
        process: &Process,
        state: &State,
        side: &SideParams,
        params: &CopyParams,
    ) -> Answer<Self> {
        if let Some(array) = side.array(state)?
            && let ArrayMemory::Tiles(tiles, layout) = &array.memory
        {
            return Self::in_tiles((tiles, *layout), &array.shape, side, params);
        }
        let side = &side.of_memory(state)?;
        let (rows, right) = (params.height.max(1), side.x.saturating_add(params.width));
        let or = |given: u64, least: u64| if given == 0 { least } else { given };
        let pitch = or(side.pitch, right);
        let height = or(side.height, side.y.saturating_add(rows));
        let fits = right <= pitch || rows.saturating_mul(params.depth) <= 1;
        if !fits || (params.depth > 1 && side.y.saturating_add(rows) > height) {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let slice = pitch.checked_mul(height).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let at = |(x, y, z): (u64, u64, u64)| {
            let parts = [z.checked_mul(slice), y.checked_mul(pitch), Some(x)];
            let sum = parts
                .into_iter()
                .try_fold(0u64, |sum, part| sum.checked_add(part?));
            sum.ok_or(CUDA_ERROR_INVALID_VALUE)
        };
        let first = at((side.x, side.y, side.z))?;
        let start = side
            .address
            .checked_add(first)
            .ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let bytes = at((params.width, rows - 1, params.depth.saturating_sub(1)))?;
        let place = match side.memory_type {
            CU_MEMORYTYPE_HOST | CU_MEMORYTYPE_UNIFIED => {
                state.book.place(&process.devices, start, bytes)?
            }
            CU_MEMORYTYPE_DEVICE => state.book.known_place(start, bytes)?,
            _ => return Err(CUDA_ERROR_INVALID_VALUE),
        };
        Ok(Self::Rows {
            place,
            pitch,
            slice,
        })
    }
}

impl SideParams {
    /// The array that it is, if it is one.
    fn array<'a>(&self, state: &'a State) -> Answer<Option<&'a Array>> {
        if self.memory_type != CU_MEMORYTYPE_ARRAY {
            return Ok(None);
        }
        let handle = usize::try_from(self.address).map_err(|_| CUDA_ERROR_INVALID_HANDLE)?;
        array::find(state, std::ptr::without_provenance_mut(handle)).map(Some)
    }

    /// An array as the device memory that it is.
    fn of_memory(&self, state: &State) -> Answer<Self> {
        let Some(array) = self.array(state)? else {
            return Ok(*self);
        };
        let ArrayMemory::Own(address) = array.memory else {
            return Err(CUDA_ERROR_INVALID_VALUE);
        };
        Ok(Self {
            memory_type: CU_MEMORYTYPE_DEVICE,
            address,
            pitch: array.shape.row_bytes()?,
            height: array.shape.stored().height.max(1),
            ..*self
        })
    }
}

impl Place {
    /// `None`: it counts as device memory.
    pub(crate) fn host_kind(self) -> Option<HostKind> {
        match self {
            Self::Vram { .. }
            | Self::Host {
                kind: HostKind::Managed | HostKind::Mapped | HostKind::Graph { is_host: false, .. },
                ..
            } => None,
            Self::Host {
                kind: HostKind::Graph { is_host: true, .. },
                ..
            } => Some(HostKind::PageLocked),
            Self::Host { kind, .. } => Some(kind),
        }
    }
}

/// Whether the call may return before the copy is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Return {
    WhenDone,
    AtOnce,
}

/// Copies on a stream, or records the copy if the stream is capturing.
pub(crate) fn copy(
    process: &'static Process,
    params: CopyParams,
    handle: CUstream,
    null: NullStream,
    when: Return,
) -> Answer {
    let mut state = process.lock();
    if when == Return::WhenDone {
        capture::forbid(&mut state)?;
    }
    let key = stream::resolve(process, &mut state, handle, null)?;
    if params.width == 0 || params.height == 0 || params.depth == 0 {
        return Ok(());
    }
    let plan = Copy::plan(process, &state, params)?;
    if capture::place(&mut state, key)?.is_some() {
        return capture::append(&mut state, key, Operation::Copy(plan));
    }
    graph::memory::check_live(&state, plan.places())?;
    let (command, direction) = (plan.command(), plan.direction());
    let (plan, staged) = match plan.src.host_kind() {
        Some(HostKind::Pageable) => plan.staged(&process.machine)?,
        _ => (plan, Vec::new()),
    };
    let sequence = stream::submit(
        process,
        &mut state,
        key,
        command,
        Some(plan.effect_with(&process.machine, staged)),
    )?;
    let waits = match direction {
        Some(CopyDirection::DeviceToDevice) => false,
        Some(CopyDirection::DeviceToPageable) | None => true,
        Some(_) => when == Return::WhenDone,
    };
    let stream::Stream { context, gpu, .. } = stream::get(&state, key)?;
    let (context, gpu) = (*context, Arc::clone(gpu));
    drop(state);
    if waits {
        process.machine.wait_stream(&gpu, sequence).map_err(lost)?;
        context::check(&process.lock(), context)?;
    }
    Ok(())
}
