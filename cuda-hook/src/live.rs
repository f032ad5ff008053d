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
    /// A `CUcontext`: what the driver has taken for it since, measured.
    Grown(usize),
}

/// The context, by its handle, whose end is the end of a block besides the block's own free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(pub(crate) usize);

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

    /// Add the bytes of `more` to the block of `key`, which is made where there is none.
    pub(crate) fn grow(&self, key: Key, more: Block) {
        let Some(shard) = self.shard(key) else { return };
        shard
            .lock()
            .entry(key)
            .and_modify(|block| {
                block.bytes = Bytes::new(block.bytes.get().saturating_add(more.bytes.get()));
            })
            .or_insert(more);
    }

    /// Take so many bytes from the block of `key`, or what it has. Returns what was taken.
    pub(crate) fn shrink(&self, key: Key, less: Bytes) -> Bytes {
        let Some(shard) = self.shard(key) else {
            return Bytes::default();
        };
        let mut blocks = shard.lock();
        let Some(block) = blocks.get_mut(&key) else {
            return Bytes::default();
        };
        let taken = less.min(block.bytes);
        block.bytes = Bytes::new(block.bytes.get().saturating_sub(taken.get()));
        taken
    }

    /// Every block that `wanted` names.
    pub(crate) fn find_all(&self, wanted: impl Fn(&Key, &Block) -> bool) -> Vec<(Key, Block)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let blocks = shard.lock();
            let these = blocks.iter().filter(|(key, block)| wanted(key, block));
            found.extend(these.map(|(&key, &block)| (key, block)));
        }
        found
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
        let ours = block(64, Owner(9));
        assert_eq!(live.insert(Key::Pointer(16), ours), None);
        assert_eq!(live.take(Key::Pointer(16)), Some(ours));
        assert_eq!(live.take(Key::Pointer(16)), None);
    }

    #[test]
    fn a_pointer_and_an_array_of_the_same_number_are_two_blocks() {
        let live = LiveMap::default();
        live.insert(Key::Pointer(16), block(1, Owner(9)));
        live.insert(Key::Array(16), block(2, Owner(9)));
        assert_eq!(live.take(Key::Pointer(16)).unwrap().bytes, Bytes::new(1));
        assert_eq!(live.take(Key::Array(16)).unwrap().bytes, Bytes::new(2));
    }

    #[test]
    fn a_block_that_grows_and_shrinks_is_one_and_never_less_than_nothing() {
        let live = LiveMap::default();
        let key = Key::Grown(7);
        live.grow(key, block(40, Owner(7)));
        live.grow(key, block(2, Owner(7)));
        assert_eq!(live.shrink(key, Bytes::new(30)), Bytes::new(30));
        assert_eq!(
            live.find_all(|found, _| *found == key)[0].1.bytes,
            Bytes::new(12)
        );
        assert_eq!(live.shrink(key, Bytes::new(30)), Bytes::new(12));
        assert_eq!(live.shrink(Key::Grown(8), Bytes::new(1)), Bytes::default());
    }

    #[test]
    fn the_end_of_a_context_takes_its_blocks_and_no_others() {
        let live = LiveMap::default();
        for address in 0..100 {
            live.insert(Key::Pointer(address), block(1, Owner(7)));
        }
        live.insert(Key::Pointer(1000), block(1, Owner(8)));
        live.insert(Key::Pointer(1001), block(1, Owner(9)));
        assert_eq!(live.take_all(|block| block.owner == Owner(7)).len(), 100);
        assert!(live.take(Key::Pointer(1000)).is_some());
        assert!(live.take(Key::Pointer(1001)).is_some());
    }
}
