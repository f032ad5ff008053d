//! Handles: what a program holds instead of an object.
//!
//! A handle is a number in pointer's clothing, never an address: using one that was never given out, or whose object is
//! gone, is a failed look-up instead of a fault. Numbers are unique over all kinds of objects and never used again.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Handles start here: above the special values of the API (null, 1, 2) and unlike any address of a process.
const HANDLE_FIRST: usize = 0x0010_0000_0040;
const HANDLE_STEP: usize = 0x40;

/// The handle of a `T`.
pub(crate) struct Key<T>(usize, PhantomData<fn() -> T>);

impl<T> Key<T> {
    /// The key behind a handle that a program passed; null is none.
    pub(crate) fn of<H>(handle: *mut H) -> Option<Self> {
        (!handle.is_null()).then(|| Self(handle.addr(), PhantomData))
    }

    /// What the program gets.
    pub(crate) fn handle<H>(self) -> *mut H {
        std::ptr::without_provenance_mut(self.0)
    }

    /// The number itself, for ids that are no handles.
    pub(crate) fn number(self) -> u64 {
        u64::try_from(self.0.saturating_sub(HANDLE_FIRST) / HANDLE_STEP)
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Key<T> {}
impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Key<T> {}
impl<T> PartialOrd for Key<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Key<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x}", self.0)
    }
}

/// All objects of one kind, oldest first.
pub(crate) struct Table<T>(BTreeMap<Key<T>, T>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Table<T> {
    pub(crate) fn insert(&mut self, object: T) -> Key<T> {
        static NEXT: AtomicUsize = AtomicUsize::new(HANDLE_FIRST);
        let key = Key(NEXT.fetch_add(HANDLE_STEP, Ordering::Relaxed), PhantomData);
        self.0.insert(key, object);
        key
    }

    /// A key that no object has.
    #[cfg(test)]
    pub(crate) fn reserve_for_test(&self) -> Key<T> {
        Key(HANDLE_FIRST - HANDLE_STEP, PhantomData)
    }

    pub(crate) fn get(&self, key: Key<T>) -> Option<&T> {
        self.0.get(&key)
    }

    pub(crate) fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        self.0.get_mut(&key)
    }

    pub(crate) fn remove(&mut self, key: Key<T>) -> Option<T> {
        self.0.remove(&key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key<T>, &T)> {
        self.0.iter().map(|(key, object)| (*key, object))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Key<T>, &mut T)> {
        self.0.iter_mut().map(|(key, object)| (*key, object))
    }

    /// Takes out every object that `unwanted` names.
    pub(crate) fn extract(&mut self, mut unwanted: impl FnMut(&T) -> bool) -> Vec<(Key<T>, T)> {
        self.0
            .extract_if(.., |_, object| unwanted(object))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_of_an_object_that_is_gone_finds_nothing_even_after_others_were_made() {
        let mut table = Table::default();
        let gone = table.insert("gone");
        table.remove(gone);
        table.insert("other");
        assert_eq!(table.get(gone), None);
    }

    #[test]
    fn handles_of_different_tables_differ() {
        let (mut numbers, mut words) = (Table::default(), Table::default());
        let number = numbers.insert(1).handle::<()>();
        assert_ne!(number, words.insert("one").handle::<()>());
    }
}
