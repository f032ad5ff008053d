//! What this process holds: device pointer or array → the bytes that were charged for it.
//!
//! A block is taken out *before* the driver frees it, and put back if the driver refuses: the driver may hand the
//! address to another thread before we would get to our record. Shard locks are leaves: nothing is called under one.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crossbeam::utils::CachePadded;
use limiter::units::Bytes;
use parking_lot::Mutex;

const SHARDS: usize = 16;

/// Names a block. Pointers and array handles are numbers from different worlds, and may be equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// A `CUdeviceptr`.
    Pointer(u64),
    /// A `CUarray` or `CUmipmappedArray`.
    Array(usize),
    /// A `CUcontext`: what it takes itself.
    Context(usize),
}

/// Whose end is the end of a block, besides its own free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A context, by its handle: destroyed, it frees what was allocated in it.
    Context(usize),
    /// The device's memory pools: they outlive contexts, but not a reset of the primary context.
    Pool,
}

/// Charged device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// As charged.
    pub(crate) bytes: Bytes,
    /// The device that holds it, in the ledger's order.
    pub(crate) device_index: usize,
    /// Who frees it if nobody else does.
    pub(crate) owner: Owner,
}

type Shard = CachePadded<Mutex<HashMap<Key, Block>>>;

/// The live blocks of this process.
#[derive(Default)]
pub(crate) struct LiveMap {
    shard_of: RandomState,
    shards: [Shard; SHARDS],
}

impl LiveMap {
    /// Remember `block`. A record that stood under the key belonged to memory that the driver freed unseen; it is returned.
    pub(crate) fn insert(&self, key: Key, block: Block) -> Option<Block> {
        self.shard(key)?.lock().insert(key, block)
    }

    /// Forget the block of `key`.
    pub(crate) fn take(&self, key: Key) -> Option<Block> {
        self.shard(key)?.lock().remove(&key)
    }

    /// Forget every block that `gone` names, and return them.
    pub(crate) fn take_all(&self, mut gone: impl FnMut(&Block) -> bool) -> Vec<(Key, Block)> {
        let mut taken = Vec::new();
        for shard in &self.shards {
            taken.extend(shard.lock().extract_if(|_, block| gone(block)));
        }
        taken
    }

    fn shard(&self, key: Key) -> Option<&Shard> {
        let hash = usize::try_from(self.shard_of.hash_one(key)).ok()?;
        self.shards.get(hash.checked_rem(SHARDS)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(bytes: u64, owner: Owner) -> Block {
        Block {
            bytes: Bytes::new(bytes),
            device_index: 0,
            owner,
        }
    }

    #[test]
    fn a_block_is_taken_once() {
        let live = LiveMap::default();
        let ours = block(64, Owner::Pool);
        assert_eq!(live.insert(Key::Pointer(16), ours), None);
        assert_eq!(live.take(Key::Pointer(16)), Some(ours));
        assert_eq!(live.take(Key::Pointer(16)), None);
    }

    #[test]
    fn a_pointer_and_an_array_of_the_same_number_are_two_blocks() {
        let live = LiveMap::default();
        live.insert(Key::Pointer(16), block(1, Owner::Pool));
        live.insert(Key::Array(16), block(2, Owner::Pool));
        assert_eq!(live.take(Key::Pointer(16)).unwrap().bytes, Bytes::new(1));
        assert_eq!(live.take(Key::Array(16)).unwrap().bytes, Bytes::new(2));
    }

    #[test]
    fn the_end_of_a_context_takes_its_blocks_and_no_others() {
        let live = LiveMap::default();
        for address in 0..100 {
            live.insert(Key::Pointer(address), block(1, Owner::Context(7)));
        }
        live.insert(Key::Pointer(1000), block(1, Owner::Context(8)));
        live.insert(Key::Pointer(1001), block(1, Owner::Pool));
        assert_eq!(
            live.take_all(|block| block.owner == Owner::Context(7))
                .len(),
            100
        );
        assert!(live.take(Key::Pointer(1000)).is_some());
        assert!(live.take(Key::Pointer(1001)).is_some());
    }
}
