//! Green contexts: parts of a device's SMs, and contexts whose streams run on one.
//!
//! CUDA Driver API, "Green Contexts". A green context is the primary context with fewer SMs: memory, modules and events
//! that are made while it is current belong to the primary context, streams to it. SMs of a part are contiguous; parts may be
//! cut from parts. Smallest part and alignment: as the CUDA Driver API of 12.4 lists them by architecture at
//! `cuDevSmResourceSplitByCount`; groups of different sizes: cuda.h 13.4, `cuDevSmResourceSplit`. Which SMs are scheduled together
//! has no effect here.

use cuda_sys_stubs::abi::*;

use crate::context::{self, Context};
use crate::door::Answer;
use crate::process::{Process, State};
use crate::stream::{Kind, Stream};
use crate::table::Key;
use crate::workqueue::{self, Wanted, Workqueue};

/// SMs of a device, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sms {
    /// Ordinal of the device.
    pub(crate) device: u32,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Sizes that parts can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grain {
    pub(crate) least: u32,
    pub(crate) alignment: u32,
}

/// What one of several parts is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// SMs; 0: as many as there are.
    pub(crate) count: u32,
    /// So many are to be scheduled together; 0: as many as usual.
    pub(crate) together: u32,
    /// Whether `count` matters more than `together`.
    pub(crate) is_backfilled: bool,
}

/// Every group has an even number of SMs.
const GROUP_ALIGNMENT: u32 = 2;

impl Group {
    /// SMs of a device of this compute capability that are scheduled together.
    pub(crate) fn together(self, (major, _): (u32, u32)) -> u32 {
        match self.together {
            0 if major >= 9 => 8,
            0 => 2,
            asked => asked,
        }
    }

    /// Refuses what no device of this compute capability can make of so many SMs.
    fn check(self, compute_capability: (u32, u32), available: u32) -> Answer {
        let together_max = if compute_capability.0 >= 9 { 32 } else { 2 };
        let together = self.together(compute_capability);
        let alignment = if self.is_backfilled {
            GROUP_ALIGNMENT
        } else {
            together
        };
        let is_possible = together <= together_max
            && together.is_multiple_of(GROUP_ALIGNMENT)
            && self.count <= available
            && self.count.is_multiple_of(GROUP_ALIGNMENT)
            && self.count.is_multiple_of(alignment);
        if is_possible {
            Ok(())
        } else {
            Err(CUDA_ERROR_INVALID_VALUE)
        }
    }

    /// SMs of it, of so many that are left.
    fn size(self, compute_capability: (u32, u32), left: u32) -> Answer<u32> {
        let alignment = if self.is_backfilled {
            GROUP_ALIGNMENT
        } else {
            self.together(compute_capability)
        };
        match self.count {
            0 => Ok(left - left % alignment),
            count if count <= left => Ok(count),
            _ => Err(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION),
        }
    }
}

/// A green context.
pub(crate) struct Green {
    pub(crate) context: Key<Context>,
    pub(crate) sms: Sms,
    pub(crate) workqueue: Workqueue,
}

/// What a green context can be made of. Nothing is taken until one is.
#[derive(Clone, Copy)]
pub(crate) struct Description {
    sms: Sms,
    workqueue: Wanted,
}

impl Description {
    /// Of parts of one device, or all its SMs where there are none, and at most one wish for work queues.
    /// `CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION`: they do not go together. (That work queues alone make a green context with all
    /// SMs: our estimate.)
    pub(crate) fn new(process: &Process, parts: &[Sms], queues: &[Wanted]) -> Answer<Self> {
        let workqueue = match queues {
            [] => Wanted::Shared,
            [one] => *one,
            _ => return Err(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION),
        };
        let sms = match (parts, workqueue.device()) {
            ([], Some(device)) => whole(process, usize::try_from(device).unwrap_or(usize::MAX))?,
            (parts, _) => Sms::join(parts)?,
        };
        if workqueue
            .device()
            .is_some_and(|device| device != sms.device)
        {
            return Err(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
        }
        Ok(Self { sms, workqueue })
    }
}

impl Grain {
    /// Of a device of this compute capability; `free`: without regard to which SMs are scheduled together.
    pub(crate) fn of((major, _): (u32, u32), free: bool) -> Self {
        let (least, alignment) = match major {
            _ if free => (2, 2),
            0..=7 => (2, 2),
            8 => (4, 2),
            _ => (8, 8),
        };
        Self { least, alignment }
    }

    /// The smallest size that a part of at least `count` can have.
    fn size(self, count: u32) -> Option<u32> {
        count
            .max(self.least)
            .checked_next_multiple_of(self.alignment)
    }
}

impl Sms {
    /// As many equal parts as there can be, up to `groups_max`, and what is left.
    pub(crate) fn split(
        self,
        grain: Grain,
        count: u32,
        groups_max: u32,
    ) -> Answer<(Vec<Self>, Self)> {
        let size = grain.size(count).filter(|_| count <= self.count);
        let size = size.ok_or(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION)?;
        let groups = (self.count / size).min(groups_max);
        let part = |index: u32| Self {
            first: self.first + index * size,
            count: size,
            ..self
        };
        let rest = Self {
            first: self.first + groups * size,
            count: self.count - groups * size,
            ..self
        };
        Ok(((0..groups).map(part).collect(), rest))
    }

    /// Parts in their order, each with what the ones before left, and what is left of all. `CUDA_ERROR_INVALID_VALUE`: no device can
    /// have such a part. `CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION`: there are not enough SMs.
    pub(crate) fn split_in_groups(
        self,
        compute_capability: (u32, u32),
        groups: &[Group],
    ) -> Answer<(Vec<Self>, Self)> {
        for group in groups {
            group.check(compute_capability, self.count)?;
        }
        let mut rest = self;
        let mut parts = Vec::with_capacity(groups.len());
        for group in groups {
            let count = group.size(compute_capability, rest.count)?;
            parts.push(Self { count, ..rest });
            rest.first += count;
            rest.count -= count;
        }
        Ok((parts, rest))
    }

    /// Parts as one. `CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION`: of different devices, or with SMs in common.
    pub(crate) fn join(parts: &[Self]) -> Answer<Self> {
        let mut sorted = parts.to_vec();
        sorted.sort_by_key(|part| part.first);
        let first = *sorted.first().ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let pairs = sorted.windows(2);
        let fits = pairs.clone().all(|pair| match pair {
            [one, next] => one.device == next.device && one.first + one.count <= next.first,
            _ => true,
        });
        if !fits || sorted.iter().any(|part| part.count == 0) {
            return Err(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
        }
        let count = sorted.iter().map(|part| part.count).sum();
        Ok(Self { count, ..first })
    }
}

/// All SMs of a device.
pub(crate) fn whole(process: &Process, ordinal: usize) -> Answer<Sms> {
    let device = process.devices.get(ordinal);
    Ok(Sms {
        device: u32::try_from(ordinal).map_err(|_| CUDA_ERROR_INVALID_DEVICE)?,
        first: 0,
        count: device.ok_or(CUDA_ERROR_INVALID_DEVICE)?.profile.sm_count,
    })
}

/// The SMs of a context: a green one's own, else the device's.
pub(crate) fn of_context(process: &Process, state: &State, key: Key<Context>) -> Answer<Sms> {
    let context = context::get(state, key)?;
    match context.green {
        Some(part) => Ok(part.sms),
        None => whole(process, context.device),
    }
}

/// The green context behind a handle.
pub(crate) fn find(state: &State, handle: CUgreenCtx) -> Answer<Key<Green>> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_HANDLE)?;
    state
        .greens
        .get(key)
        .map(|_| key)
        .ok_or(CUDA_ERROR_INVALID_HANDLE)
}

/// A green context that must exist, because its handle was looked up.
pub(crate) fn get(state: &State, key: Key<Green>) -> Answer<&Green> {
    state.greens.get(key).ok_or(CUDA_ERROR_INVALID_HANDLE)
}

/// The green context that a context is.
pub(crate) fn of(state: &State, context: Key<Context>) -> Option<Key<Green>> {
    let mut greens = state.greens.iter();
    greens
        .find(|(_, green)| green.context == context)
        .map(|(key, _)| key)
}

/// `cuGreenCtxCreate`: retains the primary context.
pub(crate) fn create(
    process: &Process,
    Description { sms, workqueue }: Description,
    device: CUdevice,
) -> Answer<Key<Green>> {
    let (ordinal, _) = process.device(device)?;
    if usize::try_from(sms.device) != Ok(ordinal) {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    let workqueue = workqueue::provide(process, &mut process.lock(), sms.device, workqueue)?;
    let primary = context::retain_primary(process, ordinal)?;
    let mut state = process.lock();
    let context = context::create_green(&mut state, primary, sms)?;
    Ok(state.greens.insert(Green {
        context,
        sms,
        workqueue,
    }))
}

/// `cuGreenCtxDestroy`: when its streams have done their work; releases the primary context. Streams that the program made stay until it
/// ends them, and can do nothing any more (cuda.h 13.5, `cuGreenCtxDestroy`).
pub(crate) fn destroy(process: &Process, handle: CUgreenCtx) -> Answer {
    let (key, context, device) = {
        let mut state = process.lock();
        let key = find(&state, handle)?;
        let Green { context, sms, .. } = *get(&state, key)?;
        let of_program = |(stream, own): (Key<Stream>, &Stream)| {
            (own.context == context && own.kind == Kind::Created).then_some(stream)
        };
        let left: Vec<_> = state.streams.iter().filter_map(of_program).collect();
        state.detached.extend(left);
        (key, context, usize::try_from(sms.device))
    };
    context::destroy_green(process, context)?;
    process.lock().greens.remove(key);
    context::release_primary(process, device.map_err(|_| CUDA_ERROR_INVALID_DEVICE)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Sms = Sms {
        device: 0,
        first: 0,
        count: 40,
    };

    #[test]
    fn parts_are_equal_and_apart_and_what_is_left_is_the_rest() {
        let grain = Grain::of((7, 5), false);
        let (parts, rest) = WHOLE.split(grain, 15, 9).unwrap();
        let firsts: Vec<_> = parts.iter().map(|part| (part.first, part.count)).collect();
        assert_eq!(firsts, [(0, 16), (16, 16)]);
        assert_eq!((rest.first, rest.count), (32, 8));
        let (parts, rest) = WHOLE.split(grain, 8, 1).unwrap();
        assert_eq!((parts.len(), rest.count), (1, 32));
        assert_eq!(
            WHOLE.split(grain, 41, 1),
            Err(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION)
        );
    }

    #[test]
    fn sizes_follow_the_architecture_unless_asked_not_to() {
        assert_eq!(Grain::of((7, 5), false).size(1), Some(2));
        assert_eq!(Grain::of((8, 0), false).size(5), Some(6));
        assert_eq!(Grain::of((9, 0), false).size(9), Some(16));
        assert_eq!(Grain::of((9, 0), true).size(3), Some(4));
    }

    fn group(count: u32, together: u32, is_backfilled: bool) -> Group {
        Group {
            count,
            together,
            is_backfilled,
        }
    }

    /// Sizes of the parts, and of what is left.
    fn groups(capability: (u32, u32), groups: &[Group]) -> Answer<(Vec<u32>, u32)> {
        let (parts, rest) = WHOLE.split_in_groups(capability, groups)?;
        let mut at = 0;
        for part in parts.iter().chain([&rest]) {
            assert_eq!(part.first, at);
            at += part.count;
        }
        Ok((parts.iter().map(|part| part.count).collect(), rest.count))
    }

    #[test]
    fn groups_follow_one_another_and_take_what_the_ones_before_left() {
        let (turing, hopper) = ((7, 5), (9, 0));
        let (ten, all) = (group(10, 2, false), group(0, 0, false));
        assert_eq!(groups(turing, &[ten]), Ok((vec![10], 30)));
        assert_eq!(groups(turing, &[ten, all, all]), Ok((vec![10, 30, 0], 0)));
        assert_eq!(
            groups(hopper, &[group(12, 4, false), all]),
            Ok((vec![12, 24], 4))
        );
        let filled = [group(12, 0, true), group(0, 0, true)];
        assert_eq!(groups(hopper, &filled), Ok((vec![12, 28], 0)));
    }

    #[test]
    fn a_group_that_no_device_can_have_is_not_one_that_there_is_no_room_for() {
        let (turing, hopper) = ((7, 5), (9, 0));
        for impossible in [
            (turing, group(3, 0, true)),
            (turing, group(42, 0, false)),
            (turing, group(8, 4, false)),
            (hopper, group(12, 8, false)),
            (hopper, group(0, 34, false)),
            (hopper, group(0, 3, false)),
        ] {
            let refused = groups(impossible.0, &[impossible.1]);
            assert_eq!(refused, Err(CUDA_ERROR_INVALID_VALUE), "{impossible:?}");
        }
        assert_eq!(
            groups(turing, &[group(30, 0, false), group(12, 0, false)]),
            Err(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION)
        );
    }

    #[test]
    fn parts_are_joined_if_they_have_no_sm_in_common() {
        let (parts, rest) = WHOLE.split(Grain::of((7, 5), false), 16, 2).unwrap();
        assert_eq!(Sms::join(&[parts[1], rest]).unwrap().count, 24);
        assert!(Sms::join(&[parts[0], parts[0]]).is_err() && Sms::join(&[]).is_err());
    }
}
