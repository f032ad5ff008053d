//! Panics on purpose, so that tests can see what a panic in any hook leads to. Only where debug assertions are on: a release
//! has nothing of it.
//!
//! `PANIC_IN_HOOK=cuMemAlloc_v2:before` panics in the hook of that symbol before it has done anything, `:after` when the driver has
//! returned and nothing is on the books yet.

/// When a hook panics.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The driver was not called.
    Before,
    /// The driver has returned.
    After,
}

/// Panics, if it is the wanted moment in the wanted symbol's hook.
#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "it is what this is for")]
pub(crate) fn point(symbol: &str, moment: Moment) {
    static WANTED: once_cell::race::OnceBox<Option<String>> = once_cell::race::OnceBox::new();
    let wanted = WANTED.get_or_init(|| Box::new(std::env::var("PANIC_IN_HOOK").ok()));
    let wanted = wanted.as_deref().and_then(|wanted| wanted.split_once(':'));
    let name = match moment {
        Moment::Before => "before",
        Moment::After => "after",
    };
    if wanted == Some((symbol, name)) {
        panic!("on purpose, {name} {symbol}");
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) fn point(_: &str, _: Moment) {}
