//! Atomics that loom checks.
//!
//! Loom takes a `SeqCst` access for an `AcqRel` one, which would let it find orders that no machine has. Fences it takes for what they
//! are: with one before each, such accesses are in one order for all (as compilers have it on POWER).

use loom::sync::atomic::fence;
pub(crate) use loom::sync::atomic::{AtomicBool, Ordering};
pub(crate) use loom::thread::yield_now;

/// What has to come before an access of that ordering.
fn before(ordering: Ordering) {
    if ordering == Ordering::SeqCst {
        fence(Ordering::SeqCst);
    }
}

macro_rules! modelled {
    ($name:ident, $value:ty) => {
        #[derive(Debug, Default)]
        #[allow(unreachable_pub, reason = "as reachable as the real one")]
        pub struct $name(loom::sync::atomic::$name);

        #[allow(dead_code, reason = "nobody needs all of both")]
        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            pub(crate) fn load(&self, ordering: Ordering) -> $value {
                let as_load = match ordering {
                    Ordering::SeqCst => Ordering::Acquire,
                    other => other,
                };
                before(ordering);
                self.0.load(as_load)
            }

            pub(crate) fn store(&self, value: $value, ordering: Ordering) {
                let as_store = match ordering {
                    Ordering::SeqCst => Ordering::Release,
                    other => other,
                };
                before(ordering);
                self.0.store(value, as_store);
            }

            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                before(success);
                self.0.compare_exchange(current, new, success, failure)
            }

            pub(crate) fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                before(success);
                self.0.fetch_update(success, failure, update)
            }

            modelled!(@fetch $value, swap, fetch_add, fetch_sub, fetch_max, fetch_min);
        }
    };
    (@fetch $value:ty, $($method:ident),*) => { $(
        pub(crate) fn $method(&self, value: $value, ordering: Ordering) -> $value {
            before(ordering);
            self.0.$method(value, ordering)
        }
    )* };
}
modelled!(AtomicU32, u32);
modelled!(AtomicU64, u64);
