//! Panics and dawdles on purpose, so that tests can see what a panic in any hook leads to, or another thread that comes first. Only
//! where debug assertions are on: a release has nothing of it.
//!
//! `PANIC_IN_HOOK=cuMemAlloc_v2:before` panics in the hook of that symbol before it has done anything, `:after` when the driver has
//! returned and nothing is on the books yet. `DAWDLE_IN_HOOK=cuMemAlloc_v2:after` lets others run there.

/// How often a hook that dawdles lets others run: longer than a call of another thread takes.
#[cfg(debug_assertions)]
const YIELDS: u32 = 10_000;

/// When a hook panics or dawdles.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The driver was not called.
    Before,
    /// The driver has returned.
    After,
}

/// Panics or dawdles, if it is the wanted moment in the wanted symbol's hook.
#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "it is what this is for")]
pub(crate) fn point(symbol: &str, moment: Moment) {
    static WANTED: once_cell::race::OnceBox<[Option<String>; 2]> = once_cell::race::OnceBox::new();
    let read = || ["PANIC_IN_HOOK", "DAWDLE_IN_HOOK"].map(|name| std::env::var(name).ok());
    let name = match moment {
        Moment::Before => "before",
        Moment::After => "after",
    };
    let [panics, dawdles] = WANTED
        .get_or_init(|| Box::new(read()))
        .each_ref()
        .map(|wanted| {
            wanted.as_deref().and_then(|wanted| wanted.split_once(':')) == Some((symbol, name))
        });
    if panics {
        panic!("on purpose, {name} {symbol}");
    }
    if dawdles {
        (0..YIELDS).for_each(|_| std::thread::yield_now());
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) fn point(_: &str, _: Moment) {}
