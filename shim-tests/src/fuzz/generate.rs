//! From a seed to a sequence.

use super::limited::is_left_out;
use super::{Mode, Sequence, Step};
use crate::calls::{Call, Handles, Word, calls};
use crate::random::Random;

/// Threads of the player: the first two use the first device, the third the second, the last none until it takes one.
const THREADS: u64 = 4;
const DEVICES: u64 = 2;

/// Device memory comes in pages: only what is made of whole pages can be compared to the byte.
const PAGE_BYTES: u64 = 2 << 20;
const ROW_BYTES: u64 = 2048;

/// How far a call's needs are followed: a launch needs a function, which needs a module.
const NEEDS_MAX: usize = 4;

/// What ends handles of a kind, in the order in which everything is freed at the end.
const ENDS: [(&str, &str); 13] = [
    ("range", "cuMemUnmap $ 2097152"),
    ("range", "cuMemUnmap $ 4194304"),
    ("range", "cuMemUnmap $ 8388608"),
    ("team", "cuMemRelease $"),
    ("physical", "cuMemRelease $"),
    ("shared_physical", "cuMemRelease $"),
    ("tile_pool", "cuMemRelease $"),
    ("imported", "cuMemRelease $"),
    ("green", "cuGreenCtxDestroy $"),
    ("own_context", "cuCtxDestroy_v2 $"),
    ("own_pool", "cuMemPoolDestroy $"),
    ("shared_pool", "cuMemPoolDestroy $"),
    ("imported_pool", "cuMemPoolDestroy $"),
];

/// Blocks of pools, which outlive every context.
const POOLED: [&str; 2] = ["pooled", "shared_block"];

/// How every device comes to have a context, without which its reset does nothing; in variables that no handle has.
const BEGINS_AGAIN: [&str; 3] = [
    "cuDevicePrimaryCtxRetain &8 1",
    "cuDevicePrimaryCtxRetain &7 0",
    "cuCtxSetCurrent $7",
];

/// What changes the ground under all that follows is called more rarely than the rest.
const RARE: [&str; 5] = [
    "cuDevicePrimaryCtxRe",
    "cuCtxPopCurrent",
    "cuCtxDestroy",
    "cuThreadExchangeStreamCaptureMode",
    "cuCtxSetCurrent",
];

/// Whose answer depends on how far the device is, and so differs from run to run: not to be compared with another's.
pub const TIMELY: [&str; 4] = [
    "nvmlDeviceGetSamples",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetProcessUtilization",
    "nvmlDeviceGetProcessesUtilizationInfo",
];

/// What several threads do at once: what charges and gives back, looks, and launches. Contexts are not among them: what the first
/// ones take is measured, which allocations beside it disturb, and what another thread allocates in one that is being destroyed
/// stays charged until the process ends. Either charges too much, never too little. Nor is the first launch of a kernel, whose image
/// is not measured while other threads allocate; nor two threads' frees of one block, of which the refused one may put the record back.
const AT_ONCE: [&str; 12] = [
    "cuMemAlloc_v2",
    "cuMemAllocPitch_v2",
    "cuMemAllocAsync",
    "cuMemFree_v2",
    "cuMemFreeAsync",
    "cuMemCreate",
    "cuMemRelease",
    "cuArrayCreate_v2",
    "cuArrayDestroy",
    "cuMemGetInfo_v2",
    "cuLaunchKernel",
    "cuLaunchKernel_ptsz",
];
const CALLS_AT_ONCE_MAX: u64 = 24;

struct Generator {
    random: Random,
    calls: Vec<Call>,
    handles: Handles,
    steps: Vec<Step>,
    /// Streams that may be capturing, as arguments, and by which thread.
    capturing: Vec<(u64, String)>,
}

/// The sequence of a seed: start-up, `steps` random calls and what those needed, and the end of everything.
pub fn sequence(mode: Mode, seed: u64, steps: usize) -> Sequence {
    let mut calls = calls();
    calls.retain(|call| match mode {
        Mode::Unlimited => !TIMELY.contains(&call.symbol.as_str()),
        Mode::Limited => !is_left_out(&call.symbol, seed),
    });
    let mut generator = Generator {
        random: Random::of(seed),
        calls,
        handles: Handles::default(),
        steps: Vec::new(),
        capturing: Vec::new(),
    };
    generator.begin();
    while generator.steps.len() < steps {
        // How threads' calls interleave does not follow from a seed: only what holds however they do is checked of them.
        if mode == Mode::Limited && generator.random.once_in(25) {
            generator.calls_at_once();
        } else {
            generator.any_call();
        }
    }
    Sequence {
        end: generator.end(mode),
        body: generator.steps,
    }
}

impl Generator {
    fn push(&mut self, thread: u64, call: &str) {
        self.steps.push(Step::one(thread, call));
    }

    fn begin(&mut self) {
        self.push(0, "cuInit 0");
        self.push(0, "nvmlInit_v2");
        for (thread, device) in [(0, 0), (1, 0), (2, 1)] {
            let context = self.handles.make("context", thread);
            let retain = format!("cuDevicePrimaryCtxRetain &{context} {device}");
            self.push(thread, &retain);
            self.push(thread, &format!("cuCtxSetCurrent ${context}"));
        }
    }

    fn any_call(&mut self) {
        if !self.capturing.is_empty() && self.random.once_in(6) {
            let (thread, stream) = self.capturing.remove(0);
            let graph = self.handles.make("graph", thread);
            return self.push(thread, &format!("cuStreamEndCapture {stream} &{graph}"));
        }
        let thread = self.random.below(THREADS);
        let Some(call) = self.random.choose(&self.calls).cloned() else {
            return;
        };
        let is_rare = RARE.iter().any(|start| call.symbol.starts_with(start));
        if !is_rare || self.random.once_in(6) {
            self.call(thread, &call, NEEDS_MAX);
        }
    }

    fn calls_at_once(&mut self) {
        let before = self.steps.len();
        self.handles.keep_apart(true);
        let kernel = "kernel".to_owned();
        let is_at_once = |call: &&Call| {
            let loads = call.needs().any(|kinds| kinds.contains(&kernel));
            AT_ONCE.contains(&call.symbol.as_str()) && !loads
        };
        let at_once: Vec<Call> = self.calls.iter().filter(is_at_once).cloned().collect();
        for _ in 0..2 + self.random.below(CALLS_AT_ONCE_MAX) {
            let thread = self.random.below(THREADS);
            if let Some(call) = self.random.choose(&at_once).cloned() {
                self.call(thread, &call, 0);
            }
        }
        self.handles.keep_apart(false);
        let calls = self.steps.drain(before..).flat_map(|step| step.0).collect();
        self.steps.push(Step(calls));
    }

    /// A call, after those that make what it needs.
    fn call(&mut self, thread: u64, call: &Call, needs_max: usize) {
        // What has to come before it in that order is made anew.
        let after = call
            .after()
            .iter()
            .map(|kind| (std::slice::from_ref(kind), true));
        for (kinds, anew) in after.chain(call.needs().map(|kinds| (kinds, false))) {
            let is_wanted = anew || !self.handles.has_own(kinds, thread);
            if needs_max > 0 && is_wanted && !self.random.once_in(8) {
                self.make(thread, kinds, needs_max - 1);
            }
        }
        let (handles, random) = (&mut self.handles, &mut self.random);
        let mut text = call.written(|words| {
            let word = random.choose(words).expect("a word has an alternative");
            value(handles, random, thread, word)
        });
        if random.once_in(30) {
            text = with_a_null(random, &text);
        }
        let begins = ["cuStreamBeginCapture", "cuStreamBeginRecapture"];
        if begins.iter().any(|begin| call.symbol.starts_with(begin)) {
            let stream = text.split(' ').nth(1).unwrap_or_default();
            self.capturing.push((thread, stream.to_owned()));
        }
        self.push(thread, &text);
        if call.symbol == "cuMulticastCreate" {
            // Whoever binds or maps an object waits for its team, and of other processes that might complete it there are none.
            let team = text.split(' ').nth(1).unwrap_or_default();
            self.push(
                thread,
                &format!("cuMulticastAddDevice {} 0", team.replace('&', "$")),
            );
        }
    }

    fn make(&mut self, thread: u64, kinds: &[String], needs_max: usize) {
        let makers: Vec<&Call> = self
            .calls
            .iter()
            .filter(|call| kinds.iter().any(|kind| call.makes(kind)))
            .collect();
        if let Some(maker) = self.random.choose(&makers).copied().cloned() {
            self.call(thread, &maker, needs_max);
        }
    }

    /// Whatever may still hold memory lets go of it.
    fn end(&self, mode: Mode) -> Vec<Step> {
        let ends = ENDS.iter().flat_map(|(kind, end)| {
            let handles = self.handles.all(kind);
            handles.map(|handle| end.replace('$', &format!("${handle}")))
        });
        let resets = (0..DEVICES).map(|device| format!("cuDevicePrimaryCtxReset_v2 {device}"));
        let ends = ends.chain(resets).map(|call| Step::one(0, &call));
        match mode {
            // Whether the address of a block that was freed in stream order is another's by now is a matter of time.
            Mode::Unlimited => ends.collect(),
            Mode::Limited => self.free_pooled().chain(ends).collect(),
        }
    }

    /// Frees all blocks of pools. Where no context is current, there may be no room for one before another thread has freed some.
    fn free_pooled(&self) -> impl Iterator<Item = Step> {
        let freed = |thread| {
            let blocks = POOLED.iter().flat_map(|kind| self.handles.all(kind));
            blocks.map(move |block| Step::one(thread, &format!("cuMemFree_v2 ${block}")))
        };
        let begins_again = BEGINS_AGAIN.map(|call| Step::one(0, call));
        freed(2).chain(begins_again).chain(freed(0))
    }
}

/// What a word stands for; now and then something that it must not stand for.
fn value(handles: &mut Handles, random: &mut Random, thread: u64, word: &Word) -> String {
    match word {
        Word::Literal(text) => text.clone(),
        Word::Makes(kind) => format!("&{}", handles.make(kind, thread)),
        Word::Fetches(kind, offset) => format!(">{}@{offset}", handles.make(kind, thread)),
        Word::Becomes(kinds, other) => {
            let chosen = handles.choose(random, kinds, thread).unwrap_or_default();
            handles.become_one_of(other, chosen, thread);
            format!("${chosen}")
        }
        Word::Quantity(name) => quantity(random, name),
        Word::Takes(sigil, kinds) => handle(handles, random, thread, *sigil, kinds),
    }
}

fn quantity(random: &mut Random, name: &str) -> String {
    let usual = !random.once_in(20);
    let number = match (name, usual) {
        ("SIZE", true) => PAGE_BYTES * (1 + random.below(16)),
        ("ROWS", true) => PAGE_BYTES / ROW_BYTES * (1 + random.below(4)),
        ("SMALL", true) => 1 + random.below(100_000),
        ("GRID", true) => 1 + random.below(64),
        ("DEVICE", true) => random.below(DEVICES),
        ("DEVICE" | "GRID", false) => *random.choose(&[7, 4_294_967_295]).expect("one of two"),
        // Without rows an array is a line: legal, and less than a page.
        ("ROWS", false) => *random.choose(&[1 << 33, u64::MAX]).expect("one of two"),
        (_, false) => *random
            .choose(&[0, 1 << 33, 1 << 45, u64::MAX])
            .expect("one of four"),
        (_, true) => panic!("no quantity is called {name}"),
    };
    number.to_string()
}

fn handle(
    handles: &mut Handles,
    random: &mut Random,
    thread: u64,
    sigil: char,
    kinds: &[String],
) -> String {
    if sigil == '?' && random.once_in(3) {
        return "0".to_owned();
    }
    let wrong = sigil != '!' && random.once_in(16);
    let chosen = match random.below(4) {
        0 if wrong => handles.choose_ended(random),
        1 if wrong => handles.choose_any(random, |_| true),
        2 if wrong && sigil != '*' => {
            return random
                .choose(&["0", "1", "2", "4660"])
                .expect("one")
                .to_string();
        }
        _ => handles.choose(random, kinds, thread),
    };
    let Some(chosen) = chosen else {
        return "0".to_owned();
    };
    if sigil == '-' {
        handles.end(kinds, chosen);
    }
    let address = if sigil == '*' { '&' } else { '$' };
    format!("{address}{chosen}")
}

/// The same call with null for one of its arguments.
fn with_a_null(random: &mut Random, call: &str) -> String {
    let mut words: Vec<&str> = call.split(' ').collect();
    let at = random.below(words.len() as u64);
    if at > 0 {
        words[usize::try_from(at).expect("it is an index")] = "0";
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_of_a_seed_is_always_the_same() {
        for mode in Mode::ALL {
            assert_eq!(sequence(mode, 7, 100), sequence(mode, 7, 100));
            assert_ne!(sequence(mode, 7, 100), sequence(mode, 8, 100));
        }
    }

    #[test]
    fn threads_play_at_once_only_where_their_order_does_not_matter() {
        let at_once = |mode| {
            let steps = sequence(mode, 7, 300).body;
            steps.iter().filter(|step| step.0.len() > 1).count()
        };
        assert_eq!(at_once(Mode::Unlimited), 0);
        assert_ne!(at_once(Mode::Limited), 0);
    }
}
