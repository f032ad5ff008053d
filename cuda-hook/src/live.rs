//! What this process holds: device pointer or array → the bytes that were charged for it.
//!
//! Who frees a block asks *before* the driver's call how far the records have got, and takes the block's out after the call's
//! success if it was made by then. So of two threads that free one block, of a free and the end of its context, exactly one takes the
//! record, whichever of them the driver obeyed; and a record that another thread has made meanwhile, of a new block at the same
//! address, is another's. Shard locks are leaves: nothing is called under one.
//!
//! Keys are the driver's handles. Whoever could choose them badly for the hash would slow down himself alone.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use limiter::ledger::Residence;
use limiter::units::Bytes;
use parking_lot::Mutex;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::ends::Moment;

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

/// The context whose end is the end of a block besides the block's own free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// By its handle.
    pub(crate) context: usize,
    /// When it had that handle: before the call that took the block.
    pub(crate) since: Moment,
}

/// Charged device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// As charged.
    pub(crate) bytes: Bytes,
    /// The device that holds it, in the ledger's order.
    pub(crate) device_index: usize,
    /// Whether it really lies there.
    pub(crate) residence: Residence,
    /// Who frees it if nobody else does.
    pub(crate) owner: Owner,
}

/// A block on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// What is on record.
    pub(crate) block: Block,
    /// No other record of the same key has it.
    number: u64,
}

type Records = FxHashMap<Key, Record>;

/// The record itself, if it is still there.
fn same(records: &mut Records, key: Key, record: Record) -> Option<&mut Record> {
    let found = records.get_mut(&key)?;
    (found.number == record.number).then_some(found)
}

#[derive(Default)]
struct Shard {
    records: Mutex<Records>,
    /// How many were ever made. Changed under the lock only.
    made: AtomicU64,
}

impl Shard {
    /// With the lock held.
    fn make(&self, block: Block) -> Record {
        let number = self.made.load(Ordering::Relaxed).wrapping_add(1);
        self.made.store(number, Ordering::Relaxed);
        Record { block, number }
    }
}

/// How far the records of a key had got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made(u64);

/// The live blocks of this process.
#[derive(Default)]
pub(crate) struct LiveMap {
    shards: [CachePadded<Shard>; SHARDS],
}

impl LiveMap {
    /// Remember `block`. What stood under the key was freed: by a thread that has not come to its record yet, or unseen. It is
    /// returned beside the new record.
    pub(crate) fn insert(&self, key: Key, block: Block) -> Option<(Record, Option<Block>)> {
        let shard = self.shard(key)?;
        let mut records = shard.records.lock();
        let record = shard.make(block);
        let replaced = records.insert(key, record);
        Some((record, replaced.map(|record| record.block)))
    }

    /// What is on record under `key`.
    pub(crate) fn find(&self, key: Key) -> Option<Record> {
        self.shard(key)?.records.lock().get(&key).copied()
    }

    /// How far the records of `key` have got. What its holder has been handed is among them.
    pub(crate) fn made(&self, key: Key) -> Made {
        let shard = self.shard(key);
        // Whoever names a block was handed it after it was on record.
        Made(shard.map_or(0, |shard| shard.made.load(Ordering::Relaxed)))
    }

    /// Forget what is on record under `key`, if it was `by` then. Whoever gets the block is the only one who does.
    pub(crate) fn take_made(&self, key: Key, by: Made) -> Option<Block> {
        let mut records = self.shard(key)?.records.lock();
        records.get(&key).filter(|record| record.number <= by.0)?;
        records.remove(&key).map(|record| record.block)
    }

    /// Forget a record. Whoever gets the block is the only one who does.
    pub(crate) fn take(&self, key: Key, record: Record) -> Option<Block> {
        let mut records = self.shard(key)?.records.lock();
        same(&mut records, key, record)?;
        records.remove(&key).map(|record| record.block)
    }

    /// Correct the bytes of a record; whether it is still there.
    pub(crate) fn resize(&self, key: Key, record: Record, bytes: Bytes) -> bool {
        let Some(shard) = self.shard(key) else {
            return false;
        };
        let mut records = shard.records.lock();
        let found = same(&mut records, key, record);
        found.map(|record| record.block.bytes = bytes).is_some()
    }

    /// Add the bytes of `more` to the block of `key`, which is made where there is none.
    pub(crate) fn grow(&self, key: Key, more: Block) {
        let Some(shard) = self.shard(key) else { return };
        let mut records = shard.records.lock();
        if let Some(Record { block, .. }) = records.get_mut(&key) {
            block.bytes = Bytes::new(block.bytes.get().saturating_add(more.bytes.get()));
        } else {
            records.insert(key, shard.make(more));
        }
    }

    /// Take so many bytes from the block of `key`, or what it has. Returns what was taken.
    pub(crate) fn shrink(&self, key: Key, less: Bytes) -> Bytes {
        let Some(shard) = self.shard(key) else {
            return Bytes::default();
        };
        let mut records = shard.records.lock();
        let Some(Record { block, .. }) = records.get_mut(&key) else {
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
            let records = shard.records.lock();
            let all = records.iter().map(|(&key, record)| (key, record.block));
            found.extend(all.filter(|(key, block)| wanted(key, block)));
        }
        found
    }

    /// Forget every block that `gone` names, and return them.
    pub(crate) fn take_all(&self, mut gone: impl FnMut(&Block) -> bool) -> Vec<(Key, Block)> {
        let mut taken = Vec::new();
        for shard in &self.shards {
            let mut records = shard.records.lock();
            let these = records
                .extract_if(|_, record| gone(&record.block))
                .map(|(key, record)| (key, record.block));
            taken.extend(these);
        }
        taken
    }

    fn shard(&self, key: Key) -> Option<&Shard> {
        // By other bits than those by which a table of up to a million places its keys, and by some of the 26 that are mixed best.
        let hash = usize::try_from(FxBuildHasher.hash_one(key) >> 20).ok()?;
        self.shards
            .get(hash.checked_rem(SHARDS)?)
            .map(|shard| &**shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(context: usize) -> Owner {
        Owner {
            context,
            since: Moment::default(),
        }
    }

    fn block(bytes: u64, context: usize) -> Block {
        Block {
            bytes: Bytes::new(bytes),
            device_index: 0,
            residence: Residence::Device,
            owner: owner(context),
        }
    }

    fn put(live: &LiveMap, key: Key, block: Block) -> Record {
        let (record, replaced) = live.insert(key, block).unwrap();
        assert_eq!(replaced, None);
        record
    }

    #[test]
    fn a_block_is_taken_once() {
        let live = LiveMap::default();
        let ours = block(64, 9);
        let record = put(&live, Key::Pointer(16), ours);
        assert_eq!(live.find(Key::Pointer(16)), Some(record));
        assert_eq!(live.take(Key::Pointer(16), record), Some(ours));
        assert_eq!(live.take(Key::Pointer(16), record), None);
    }

    #[test]
    fn a_record_is_not_taken_for_the_next_one_of_its_address() {
        let live = LiveMap::default();
        let first = put(&live, Key::Pointer(16), block(64, 9));
        // Another thread is given the address before the first one has come to its record.
        let (second, replaced) = live.insert(Key::Pointer(16), block(64, 9)).unwrap();
        assert_eq!(replaced, Some(first.block));
        assert_eq!(live.take(Key::Pointer(16), first), None);
        assert!(!live.resize(Key::Pointer(16), first, Bytes::new(1)));
        assert!(live.resize(Key::Pointer(16), second, Bytes::new(2)));
        let taken = live.take(Key::Pointer(16), second).unwrap();
        assert_eq!(taken.bytes, Bytes::new(2));
    }

    #[test]
    fn a_free_takes_what_was_on_record_before_it_and_nothing_newer() {
        let live = LiveMap::default();
        let key = Key::Pointer(16);
        let before = live.made(key);
        put(&live, key, block(64, 9));
        assert_eq!(live.take_made(key, before), None, "another's block");
        let now = live.made(key);
        assert_eq!(live.take_made(key, now), Some(block(64, 9)));
        assert_eq!(live.take_made(key, now), None, "once");
    }

    #[test]
    fn blocks_in_a_row_are_spread_over_the_shards() {
        let live = LiveMap::default();
        for address in 0..1600 {
            put(
                &live,
                Key::Pointer(0x7f00_0000_0000 + (address << 9)),
                block(1, 7),
            );
        }
        for shard in &live.shards {
            let count = shard.records.lock().len();
            assert!((25..400).contains(&count), "{count} of 1600");
        }
    }

    #[test]
    fn a_pointer_and_an_array_of_the_same_number_are_two_blocks() {
        let live = LiveMap::default();
        put(&live, Key::Pointer(16), block(1, 9));
        put(&live, Key::Array(16), block(2, 9));
        let bytes = |key| live.find(key).unwrap().block.bytes;
        assert_eq!(bytes(Key::Pointer(16)), Bytes::new(1));
        assert_eq!(bytes(Key::Array(16)), Bytes::new(2));
    }

    #[test]
    fn a_block_that_grows_and_shrinks_is_one_and_never_less_than_nothing() {
        let live = LiveMap::default();
        let key = Key::Grown(7);
        live.grow(key, block(40, 7));
        live.grow(key, block(2, 7));
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
            put(&live, Key::Pointer(address), block(1, 7));
        }
        put(&live, Key::Pointer(1000), block(1, 8));
        put(&live, Key::Pointer(1001), block(1, 9));
        assert_eq!(live.take_all(|block| block.owner == owner(7)).len(), 100);
        assert!(live.find(Key::Pointer(1000)).is_some());
        assert!(live.find(Key::Pointer(1001)).is_some());
    }
}
