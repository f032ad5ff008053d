//! What this process holds: device pointer or array → the bytes that were charged for it.
//!
//! Who frees a block asks *before* the driver's call how far the records have got, and takes the block's out after the call's
//! success if it was made by then. So of two threads that free one block, of a free and the end of its context, exactly one takes the
//! record, whichever of them the driver obeyed; and a record that another thread has made meanwhile, of a new block at the same
//! address, is another's. Shard locks are leaves: nothing is called under one.
//!
//! Keys are the driver's handles. Whoever could choose them badly for the hash would slow down himself alone.

mod table;

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use limiter::ledger::Residence;
use limiter::units::Bytes;
use parking_lot::Mutex;

use self::table::{Inserted, Table};
use crate::ends::Moment;

/// As a power of two.
const SHARDS_BITS: u32 = 4;
const SHARDS: usize = 1 << SHARDS_BITS;

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

/// Tells a record from all others of the same key, and the older from the newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Number(u64);

/// A block on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// What is on record.
    pub(crate) block: Block,
    /// Which record it is.
    pub(crate) number: Number,
}

#[derive(Default)]
struct Shard {
    records: Mutex<Table>,
    /// How many were ever made. Changed under the lock only.
    made: AtomicU64,
}

impl Shard {
    /// Of the next record. With the lock held.
    #[inline]
    fn number(&self) -> Number {
        let number = self.made.load(Ordering::Relaxed).wrapping_add(1);
        self.made.store(number, Ordering::Relaxed);
        Number(number)
    }

    /// Forget what is on record under `key`, if it is one that is `wanted`.
    #[inline(always)]
    fn take(&self, key: Key, wanted: impl FnOnce(Number) -> bool) -> Option<Block> {
        let mut records = self.records.lock();
        let record = records.take(key, |record| wanted(record.number));
        record.map(|record| record.block)
    }
}

/// A free under way of what was on record when it began.
pub(crate) struct Freeing<'a> {
    shard: &'a Shard,
    key: Key,
    made: Number,
}

impl Freeing<'_> {
    /// Forget it. Whoever gets the block is the only one who does.
    #[inline(always)]
    pub(crate) fn take(self) -> Option<Block> {
        self.shard.take(self.key, |number| number <= self.made)
    }
}

/// The live blocks of this process.
#[derive(Default)]
pub(crate) struct LiveMap {
    shards: [CachePadded<Shard>; SHARDS],
}

impl LiveMap {
    /// Remember `block`. What stood under the key was freed: by a thread that has not come to its record yet, or unseen. It is
    /// returned beside the number of the new record.
    #[inline(always)]
    pub(crate) fn insert(&self, key: Key, block: Block) -> (Number, Option<Block>) {
        let shard = self.shard(key);
        let mut records = shard.records.lock();
        let number = shard.number();
        let make = || Record { block, number };
        match records.insert(key, make) {
            Inserted::Yes => (number, None),
            Inserted::No => {
                let replaced = records.replace(key, make());
                (number, replaced.map(|record| record.block))
            }
        }
    }

    /// What is on record under `key`.
    pub(crate) fn find(&self, key: Key) -> Option<Record> {
        self.shard(key).records.lock().get(key).copied()
    }

    /// A free of what `key` names begins. What its holder has been handed is on record.
    #[inline]
    pub(crate) fn freeing(&self, key: Key) -> Freeing<'_> {
        let shard = self.shard(key);
        // Whoever names a block was handed it after it was on record.
        let made = Number(shard.made.load(Ordering::Relaxed));
        Freeing { shard, key, made }
    }

    /// Forget a record. Whoever gets the block is the only one who does.
    pub(crate) fn take(&self, key: Key, number: Number) -> Option<Block> {
        self.shard(key).take(key, |found| found == number)
    }

    /// Correct the bytes of a record; whether it is still there.
    pub(crate) fn resize(&self, key: Key, record: Record, bytes: Bytes) -> bool {
        let mut records = self.shard(key).records.lock();
        let found = records.get_mut(key);
        let same = found.filter(|found| found.number == record.number);
        same.map(|record| record.block.bytes = bytes).is_some()
    }

    /// Add the bytes of `more` to the block of `key`, which is made where there is none.
    pub(crate) fn grow(&self, key: Key, more: Block) {
        let shard = self.shard(key);
        let mut records = shard.records.lock();
        if let Some(Record { block, .. }) = records.get_mut(key) {
            block.bytes = Bytes::new(block.bytes.get().saturating_add(more.bytes.get()));
        } else {
            let number = shard.number();
            let block = more;
            records.insert(key, || Record { block, number });
        }
    }

    /// Take so many bytes from the block of `key`, or what it has. Returns what was taken.
    pub(crate) fn shrink(&self, key: Key, less: Bytes) -> Bytes {
        let mut records = self.shard(key).records.lock();
        let Some(Record { block, .. }) = records.get_mut(key) else {
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
            let all = records.iter().map(|(key, record)| (key, record.block));
            found.extend(all.filter(|(key, block)| wanted(key, block)));
        }
        found
    }

    /// Forget every block that `gone` names, and return them.
    pub(crate) fn take_all(&self, mut gone: impl FnMut(&Block) -> bool) -> Vec<(Key, Block)> {
        let mut taken = Vec::new();
        for shard in &self.shards {
            let these = shard.records.lock().take_all(|record| gone(&record.block));
            taken.extend(these.into_iter().map(|(key, record)| (key, record.block)));
        }
        taken
    }

    /// By other bits of the hash than those by which a table looks for its keys.
    #[inline]
    fn shard(&self, key: Key) -> &Shard {
        const LOWEST_BIT: u32 = u32::BITS - SHARDS_BITS;
        let [first, ..] = &self.shards;
        let bits = key.spread() >> LOWEST_BIT;
        let index = usize::try_from(bits).unwrap_or(0) & (SHARDS - 1);
        self.shards.get(index).unwrap_or(first)
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
        let (number, replaced) = live.insert(key, block);
        assert_eq!(replaced, None);
        Record { block, number }
    }

    #[test]
    fn a_block_is_taken_once() {
        let live = LiveMap::default();
        let ours = block(64, 9);
        let record = put(&live, Key::Pointer(16), ours);
        assert_eq!(live.find(Key::Pointer(16)), Some(record));
        assert_eq!(live.take(Key::Pointer(16), record.number), Some(ours));
        assert_eq!(live.take(Key::Pointer(16), record.number), None);
    }

    #[test]
    fn a_record_is_not_taken_for_the_next_one_of_its_address() {
        let live = LiveMap::default();
        let first = put(&live, Key::Pointer(16), block(64, 9));
        // Another thread is given the address before the first one has come to its record.
        let (_, replaced) = live.insert(Key::Pointer(16), block(64, 9));
        assert_eq!(replaced, Some(first.block));
        assert_eq!(live.take(Key::Pointer(16), first.number), None);
        let second = live.find(Key::Pointer(16)).unwrap();
        assert!(!live.resize(Key::Pointer(16), first, Bytes::new(1)));
        assert!(live.resize(Key::Pointer(16), second, Bytes::new(2)));
        let taken = live.take(Key::Pointer(16), second.number).unwrap();
        assert_eq!(taken.bytes, Bytes::new(2));
    }

    #[test]
    fn a_free_takes_what_was_on_record_before_it_and_nothing_newer() {
        let live = LiveMap::default();
        let key = Key::Pointer(16);
        let before = live.freeing(key);
        put(&live, key, block(64, 9));
        assert_eq!(before.take(), None, "another's block");
        let [first, second] = [live.freeing(key), live.freeing(key)];
        assert_eq!(first.take(), Some(block(64, 9)));
        assert_eq!(second.take(), None, "once");
    }

    #[test]
    fn blocks_in_a_row_are_spread_over_the_shards() {
        for bits in [9, 12, 16, 21] {
            let live = LiveMap::default();
            for number in 0..1600 {
                let address = 0x7f00_0000_0000 + (number << bits);
                put(&live, Key::Pointer(address), block(1, 7));
            }
            for shard in &live.shards {
                let count = shard.records.lock().len();
                assert!((25..400).contains(&count), "{count} of 1600");
            }
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
