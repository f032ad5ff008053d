//! Records by key, for who looks one up among a million as among a few.
//!
//! Two parts. The index says where a record is: eight bytes a cell, at most half of them taken, so that of a million blocks it is 16 MiB
//! and a look-up one miss of the cache. The records lie in a row; a place that was left is the next one taken, and still in the
//! cache. What had many more records than it has is made anew.
//!
//! A cell is found by the top bits of its key's hash, and otherwise next to there (linear probing); what is taken out leaves no gap
//! between a cell and the place where it is looked for (Knuth, The Art of Computer Programming 6.4, algorithm R).

use super::{Key, Record};

/// A record's place, and the top half of its key's hash.
#[derive(Clone, Copy, Default)]
struct Cell {
    /// From 1 on; 0: the cell is free.
    place: u32,
    tag: u32,
}

/// A place in the row of records.
enum Place {
    Taken(Key, Record),
    /// Free, and which one is next: its number from 1 on, or 0.
    Free(u32),
}

/// A place where a look at it is one miss of the cache: lines have 64 bytes.
#[repr(align(64))]
struct Line(Place);

const _: () = assert!(size_of::<Line>() == 64);

/// Records by key.
#[derive(Default)]
pub(super) struct Table {
    /// A power of two of them, or none.
    index: Vec<Cell>,
    /// Which power.
    bits: u32,
    places: Vec<Line>,
    /// The free place that was left last, from 1 on; 0: none is free.
    left_last: u32,
    taken: usize,
}

/// Whether a record was put in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// It was.
    Yes,
    /// The key has one already.
    No,
}

/// An index has no fewer cells.
const CELLS_MIN: usize = 64;
/// An index of which only so small a part is taken is made anew, and so are places…
const LEAST_PART: usize = 32;
/// … with so many times as many cells as records.
const CELLS_PER_RECORD: usize = 4;

/// A number from 1 on as an index.
fn index_of(number: u32) -> Option<usize> {
    usize::try_from(number).ok()?.checked_sub(1)
}

fn number_of(index: usize) -> u32 {
    u32::try_from(index.saturating_add(1)).unwrap_or(0)
}

/// A handle as a number.
fn whole(handle: usize) -> u64 {
    u64::try_from(handle).unwrap_or(u64::MAX)
}

impl Key {
    /// Knuth, The Art of Computer Programming 6.4: multiplication by 2⁶⁴ over the golden ratio spreads what is alike, best in the top
    /// bits.
    #[inline]
    pub(super) fn spread(self) -> u64 {
        let (number, kind) = match self {
            Self::Pointer(address) => (address, 0),
            Self::Array(array) => (whole(array), 1),
            Self::Context(context) => (whole(context), 2),
            Self::Grown(context) => (whole(context), 3),
        };
        let number = number ^ kind << (u64::BITS - 2);
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[inline]
    fn tag(self) -> u32 {
        u32::try_from(self.spread() >> u32::BITS).unwrap_or(0)
    }
}

impl Table {
    /// How many records there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.taken
    }

    /// The cell where what has that tag is looked for first.
    #[inline]
    fn home(&self, tag: u32) -> usize {
        let home = u64::from(tag) << self.bits >> u32::BITS;
        usize::try_from(home).unwrap_or(0)
    }

    #[inline]
    fn after(&self, cell: usize) -> usize {
        cell.wrapping_add(1) & self.index.len().wrapping_sub(1)
    }

    /// The cell of a key with that tag, or the free one where it would be; `None`: there are no cells.
    #[inline]
    fn cell_of(&self, key: Key, tag: u32) -> Option<(usize, Cell)> {
        let mut at = self.home(tag);
        loop {
            let cell = *self.index.get(at)?;
            let is_its = |place| matches!(self.places.get(place), Some(Line(Place::Taken(other, _))) if *other == key);
            if cell.place == 0 || cell.tag == tag && index_of(cell.place).is_some_and(is_its) {
                return Some((at, cell));
            }
            at = self.after(at); // at most half of them are taken
        }
    }

    #[inline]
    fn place_of(&self, key: Key) -> Option<usize> {
        let (_, cell) = self.cell_of(key, key.tag())?;
        index_of(cell.place)
    }

    /// The record of a key.
    #[inline]
    pub(super) fn get(&self, key: Key) -> Option<&Record> {
        match self.places.get(self.place_of(key)?)? {
            Line(Place::Taken(_, record)) => Some(record),
            Line(Place::Free(_)) => None,
        }
    }

    /// The same, to change it.
    #[inline]
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Record> {
        let place = self.place_of(key)?;
        match self.places.get_mut(place)? {
            Line(Place::Taken(_, record)) => Some(record),
            Line(Place::Free(_)) => None,
        }
    }

    /// Puts the record in that `make` makes, unless the key has one.
    #[inline(always)]
    pub(super) fn insert(&mut self, key: Key, make: impl FnOnce() -> Record) -> Inserted {
        if self.taken.saturating_mul(2) >= self.index.len() {
            self.make_index(self.index.len().saturating_mul(2));
        }
        if self.left_last == 0 {
            self.add_place();
        }
        let tag = key.tag();
        let Some((at, Cell { place: 0, .. })) = self.cell_of(key, tag) else {
            return Inserted::No;
        };
        let place = self.left_last;
        let free = index_of(place).and_then(|place| self.places.get_mut(place));
        if let Some(Line(free)) = free {
            if let Place::Free(next) = *free {
                self.left_last = next;
            }
            *free = Place::Taken(key, make());
        }
        self.set(at, Cell { place, tag });
        self.taken = self.taken.saturating_add(1);
        Inserted::Yes
    }

    /// Puts a record in the place of the one that the key has.
    #[cold]
    pub(super) fn replace(&mut self, key: Key, record: Record) -> Option<Record> {
        self.get_mut(key).map(|old| std::mem::replace(old, record))
    }

    #[cold]
    fn add_place(&mut self) {
        self.places.push(Line(Place::Free(0)));
        self.left_last = number_of(self.places.len().wrapping_sub(1));
    }

    /// Takes a record out, if it is one that is `wanted`.
    #[inline(always)]
    pub(super) fn take(
        &mut self,
        key: Key,
        wanted: impl FnOnce(&Record) -> bool,
    ) -> Option<Record> {
        let (at, cell) = self.cell_of(key, key.tag())?;
        let Line(place) = self.places.get_mut(index_of(cell.place)?)?;
        let record = match place {
            Place::Taken(_, record) if wanted(record) => *record,
            _ => return None,
        };
        *place = Place::Free(self.left_last);
        self.left_last = cell.place;
        self.empty(at);
        if self.taken < self.index.len() / LEAST_PART && self.index.len() > CELLS_MIN {
            self.make_anew();
        }
        Some(record)
    }

    /// Empties a cell, and moves there what would not be found behind it.
    #[inline]
    fn empty(&mut self, at: usize) {
        self.taken = self.taken.saturating_sub(1);
        let last = self.index.len().wrapping_sub(1);
        let (mut free, mut next) = (at, self.after(at));
        while let Some(cell) = self.index.get(next).copied()
            && cell.place != 0
        {
            let from_home = next.wrapping_sub(self.home(cell.tag)) & last;
            if from_home >= next.wrapping_sub(free) & last {
                self.set(free, cell);
                free = next;
            }
            next = self.after(next);
        }
        self.set(free, Cell::default());
    }

    #[inline]
    fn set(&mut self, at: usize, cell: Cell) {
        if let Some(place) = self.index.get_mut(at) {
            *place = cell;
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Record)> {
        self.places.iter().filter_map(|Line(place)| match place {
            Place::Taken(key, record) => Some((*key, record)),
            Place::Free(_) => None,
        })
    }

    /// Takes out all that are `wanted`.
    pub(super) fn take_all(
        &mut self,
        mut wanted: impl FnMut(&Record) -> bool,
    ) -> Vec<(Key, Record)> {
        let gone = self.iter().filter(|(_, record)| wanted(record));
        let gone: Vec<_> = gone.map(|(key, record)| (key, *record)).collect();
        for (key, _) in &gone {
            self.take(*key, |_| true);
        }
        gone
    }

    /// An index with at least so many cells, of the same places.
    #[cold]
    fn make_index(&mut self, cells: usize) {
        let cells = cells.max(CELLS_MIN).next_power_of_two();
        self.bits = cells.trailing_zeros();
        let taken = std::mem::replace(&mut self.index, vec![Cell::default(); cells]);
        for cell in taken.into_iter().filter(|cell| cell.place != 0) {
            let mut at = self.home(cell.tag);
            while self.index.get(at).is_some_and(|other| other.place != 0) {
                at = self.after(at);
            }
            self.set(at, cell);
        }
    }

    /// With as much room as its records need.
    #[cold]
    fn make_anew(&mut self) {
        let mut fresh = Self::default();
        fresh.make_index(self.taken.saturating_mul(CELLS_PER_RECORD));
        fresh.places.reserve(self.taken);
        for (key, record) in self.iter() {
            fresh.insert(key, || *record);
        }
        *self = fresh;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use limiter::ledger::Residence;
    use limiter::units::Bytes;

    use super::*;
    use crate::ends::Moment;
    use crate::live::{Block, Number, Owner};

    fn record(number: u64) -> Record {
        Record {
            block: Block {
                bytes: Bytes::new(number),
                device_index: 0,
                residence: Residence::Device,
                owner: Owner {
                    context: 1,
                    since: Moment::default(),
                },
            },
            number: Number(number),
        }
    }

    /// xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
    fn next(random: &mut u64) -> u64 {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random
    }

    fn assert_same(table: &Table, model: &HashMap<u64, u64>) {
        assert_eq!(table.len(), model.len());
        let all: HashMap<_, _> = table.iter().map(|(key, it)| (key, it.number.0)).collect();
        assert_eq!(all.len(), model.len(), "each of them once");
        for (address, number) in model {
            let key = Key::Pointer(*address);
            assert_eq!(table.get(key).map(|it| it.number.0), Some(*number));
            assert_eq!(all.get(&key), Some(number));
        }
    }

    /// Of few addresses many are asked for again; some are so alike that they are looked for in one place.
    #[test]
    fn any_sequence_of_inserts_and_takes_leaves_what_a_map_has() {
        let mut random = 0x9e37_79b9_7f4a_7c15;
        for (addresses, stride) in [(40, 512), (3_000, 1 << 40), (3_000, 4096)] {
            let (mut table, mut model) = (Table::default(), HashMap::new());
            for number in 0..20_000 {
                let address = next(&mut random) % addresses * stride;
                let key = Key::Pointer(address);
                if next(&mut random).is_multiple_of(2) {
                    let replaced = put(&mut table, key, record(number));
                    assert_eq!(
                        replaced.map(|it| it.number.0),
                        model.insert(address, number)
                    );
                } else {
                    let taken = table.take(key, |_| true);
                    assert_eq!(taken.map(|it| it.number.0), model.remove(&address));
                }
                if number % 1_000 == 0 {
                    assert_same(&table, &model);
                }
            }
            assert_same(&table, &model);
        }
    }

    /// What the key had.
    fn put(table: &mut Table, key: Key, record: Record) -> Option<Record> {
        match table.insert(key, || record) {
            Inserted::Yes => None,
            Inserted::No => table.replace(key, record),
        }
    }

    #[test]
    fn what_is_not_wanted_stays() {
        let mut table = Table::default();
        put(&mut table, Key::Pointer(16), record(1));
        assert!(table.take(Key::Pointer(16), |_| false).is_none());
        table.get_mut(Key::Pointer(16)).unwrap().number = Number(2);
        assert_eq!(table.get(Key::Pointer(16)).unwrap().number, Number(2));
        let key = Key::Pointer(16);
        assert_eq!(
            table.take_all(|it| it.number == Number(2)),
            [(key, record(1))].map(|(key, it)| (
                key,
                Record {
                    number: Number(2),
                    ..it
                }
            ))
        );
        assert_eq!(table.len(), 0);
    }

    /// What a table with room for all that ever were is, is slow.
    #[test]
    fn of_many_records_that_are_gone_no_room_is_left() {
        let mut table = Table::default();
        let keys = || (0..100_000).map(|number| Key::Pointer(number << 12));
        keys().for_each(|key| assert!(put(&mut table, key, record(1)).is_none()));
        assert!(table.index.len() >= 200_000);
        keys()
            .skip(10)
            .for_each(|key| assert!(table.take(key, |_| true).is_some()));
        assert!(
            table.index.len() <= 10 * LEAST_PART * 2,
            "{}",
            table.index.len()
        );
        assert!(
            table.places.len() <= 10 * LEAST_PART,
            "{}",
            table.places.len()
        );
        assert_eq!(table.len(), 10);
        assert!(keys().take(10).all(|key| table.get(key).is_some()));
    }

    #[test]
    fn a_place_that_was_left_is_the_next_one_taken() {
        let mut table = Table::default();
        (0..20).for_each(|number| {
            assert!(put(&mut table, Key::Pointer(number), record(number)).is_none())
        });
        for number in 0..1_000 {
            table.take(Key::Pointer(number), |_| true).unwrap();
            put(&mut table, Key::Pointer(number + 20), record(number));
        }
        assert_eq!(table.places.len(), 20);
    }
}
