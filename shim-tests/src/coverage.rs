//! One case for each function that is hooked: the shortest program of legal calls that makes it, planned from `calls.tsv`.

use crate::accounts::{self, Accounts};
use crate::artefacts;
use crate::calls::{Call, Handles, Word, calls};
use crate::child::Outcome;
use crate::machine::Machine;
use crate::player::Player;
use crate::world::World;
use cuda_sys_stubs::Effect;
use cuda_sys_stubs::symbols::{self, DRIVER, NVML};
use object::{Object, ObjectSymbol};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long the device may take to finish what a case has submitted. What is wrong stays wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// The quota of every case.
pub const QUOTA_BYTES: u64 = 1 << 30;

/// What a function's symbol does to a quota.
pub fn effect(symbol: &str) -> Effect {
    symbols::driver(symbol)
        .map(|known| known.effect)
        .or_else(|| symbols::nvml(symbol).map(|known| known.effect))
        .unwrap_or(Effect::Unknown)
}

/// The functions of both libraries that the preload hooks: what it exports of their names.
pub fn hooked() -> BTreeSet<String> {
    let bytes = std::fs::read(&artefacts().hook).expect("the preload");
    let library = object::File::parse(&*bytes).expect("it is an ELF file");
    let exported: BTreeSet<&str> = library
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition())
        .filter_map(|symbol| symbol.name().ok())
        .collect();
    let names = DRIVER.iter().map(|symbol| symbol.name);
    let names = names.chain(NVML.iter().map(|symbol| symbol.name));
    names
        .filter(|name| exported.contains(name))
        .map(str::to_owned)
        .collect()
}

/// The functions that the simulated driver refuses, as on a device without the feature.
pub fn not_simulated() -> BTreeSet<&'static str> {
    let rows = include_str!("../../gpu-sim/libcuda/absent.tsv")
        .lines()
        .skip(1);
    rows.filter_map(|row| row.split('\t').nth(2))
        .flat_map(str::split_whitespace)
        .collect()
}

/// A function's case: calls that make what it needs, and its own.
#[derive(Clone, Debug)]
pub struct Case {
    /// The function.
    pub symbol: String,
    /// What is called before it.
    pub before: Vec<String>,
    /// Its call.
    pub call: String,
    /// The variables behind its out-pointers.
    pub answers: Vec<u32>,
}

/// The cases of all functions in `calls.tsv`, of the first row of each.
pub fn cases() -> Vec<Case> {
    let calls = calls();
    let mut planned = BTreeSet::new();
    let first_rows = calls.iter().filter(|call| planned.insert(&call.symbol));
    first_rows.map(|call| Case::planned(&calls, call)).collect()
}

struct Planner<'a> {
    calls: &'a [Call],
    handles: Handles,
    made: Vec<String>,
    answers: Vec<u32>,
}

impl Case {
    fn planned(calls: &[Call], call: &Call) -> Self {
        let mut planner = Planner {
            calls,
            handles: Handles::default(),
            made: Vec::new(),
            answers: Vec::new(),
        };
        planner.begin(call);
        planner.make(call);
        let call_made = planner.made.pop().expect("the call itself");
        Self {
            symbol: call.symbol.clone(),
            before: planner.made,
            call: call_made,
            answers: planner.answers,
        }
    }

    /// Plays what comes before the call; nothing of it may be refused.
    #[track_caller]
    pub fn begin(&self, player: &mut Player) {
        for call in &self.before {
            let status = player.make(call);
            assert_eq!(status, "0", "{}: before it, {call}", self.symbol);
        }
    }
}

/// Functions that need no context, or make one.
fn makes_do_without_context(symbol: &str) -> bool {
    let starts = [
        "cuInit",
        "cuDevicePrimaryCtxRetain",
        "cuGetProcAddress",
        "nvml",
    ];
    starts.iter().any(|start| symbol.starts_with(start))
}

/// Functions of before CUDA 3.2 with addresses and sizes of 32 bits: only contexts of that time take them.
fn is_for_old_contexts(symbol: &str) -> bool {
    const ADDRESSES_GREW: u32 = 3020;
    let successor = symbols::driver(&format!("{symbol}_v2"));
    let starts = ["cuArray", "cuMem", "cuModule"];
    starts.iter().any(|start| symbol.starts_with(start))
        && successor.is_some_and(|successor| successor.introduced == ADDRESSES_GREW)
}

impl Planner<'_> {
    fn begin(&mut self, call: &Call) {
        if call.symbol.starts_with("nvml") {
            return self.made.push("0 nvmlInit_v2".to_owned());
        }
        self.made.push("0 cuInit 0".to_owned());
        if !makes_do_without_context(&call.symbol) {
            let context = self.handles.make("context", 0);
            self.made.push(if is_for_old_contexts(&call.symbol) {
                format!("0 cuCtxCreate &{context} 0 0")
            } else {
                format!("0 cuDevicePrimaryCtxRetain &{context} 0")
            });
            self.made.push(format!("0 cuCtxSetCurrent ${context}"));
        }
    }

    /// The call, after those that make what it needs.
    fn make(&mut self, call: &Call) {
        for kind in call.after() {
            self.ensure(kind);
        }
        for kinds in call.needs() {
            self.ensure(kinds.first().expect("a kind"));
        }
        self.answers.clear();
        let (handles, answers) = (&mut self.handles, &mut self.answers);
        let text = call.written(|words| usual(handles, answers, words.first().expect("a word")));
        self.made.push(format!("0 {text}"));
    }

    fn ensure(&mut self, kind: &String) {
        if self.handles.has_own(std::slice::from_ref(kind), 0) {
            return;
        }
        let maker = self.calls.iter().find(|call| call.makes(kind));
        let maker = maker.unwrap_or_else(|| panic!("nothing makes a {kind}"));
        self.make(&maker.clone());
    }
}

/// What a word usually stands for.
fn usual(handles: &mut Handles, answers: &mut Vec<u32>, word: &Word) -> String {
    match word {
        Word::Literal(text) if text == "&" => {
            let answer = handles.make("answer", 0);
            answers.push(answer);
            format!("&{answer}")
        }
        Word::Literal(text) => text.clone(),
        Word::Makes(kind) => format!("&{}", handles.make(kind, 0)),
        Word::Fetches(kind, offset) => {
            let answer = handles.make(kind, 0);
            answers.push(answer);
            format!(">{answer}@{offset}")
        }
        Word::Quantity(name) => usual_quantity(name).to_owned(),
        Word::Takes('?', _) => "0".to_owned(),
        Word::Takes(sigil, kinds) => {
            let handle = handles.latest(kinds).unwrap_or_default();
            let address = if *sigil == '*' { '&' } else { '$' };
            format!("{address}{handle}")
        }
        Word::Becomes(kinds, other) => {
            let handle = handles.latest(kinds).unwrap_or_default();
            handles.become_one_of(other, handle, 0);
            format!("${handle}")
        }
    }
}

fn usual_quantity(name: &str) -> &'static str {
    match name {
        "SIZE" => "4194304",
        "SMALL" => "4096",
        "ROWS" => "2048",
        "GRID" => "4",
        _ => "0",
    }
}

/// A case being played, in a container of its own.
pub struct Stage<'a> {
    machine: &'a Machine,
    container: String,
    /// The program.
    pub player: Player,
}

impl<'a> Stage<'a> {
    /// Starts its program, with a quota and, for launches, a cap.
    pub fn of(machine: &'a Machine, case: &Case, purpose: &str) -> Self {
        Self::with(machine, case, purpose, None)
    }

    /// The same, with one more variable in its environment.
    pub fn with(
        machine: &'a Machine,
        case: &Case,
        purpose: &str,
        variable: Option<(&str, &str)>,
    ) -> Self {
        let container = format!("{purpose}-{}", case.symbol);
        let limits = [
            ("CUDA_HOOK_CONTAINER", container.as_str()),
            ("CUDA_HOOK_MEMORY", "1GiB"),
            ("CUDA_HOOK_SM", "50"),
        ];
        let world = World::limited(limits.into_iter().chain(variable));
        Self {
            player: Player::start(machine, &world),
            machine,
            container,
        }
    }

    /// The books of the first device.
    pub fn books_now(&self) -> Accounts {
        accounts::of(self.machine, &self.container)[0]
    }

    /// The books of the first device when all that was submitted is done: a pool gives back what it does not need then.
    /// As they are, when they have not agreed for long.
    #[track_caller]
    pub fn books(&mut self) -> Accounts {
        // Without a context there is nothing to wait for.
        let _status = self.player.make("0 cuCtxSynchronize");
        // What a pool has given back comes off the books when the process asks for its memory.
        let _status = self.player.make("0 cuMemGetInfo_v2 & &");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let books = self.books_now();
            if books.agree() || Instant::now() > deadline {
                return books;
            }
            std::thread::yield_now();
        }
    }

    /// Ends its program, and waits until the device has taken back what it held: nobody else's measurement is disturbed.
    #[track_caller]
    pub fn end(self) -> Outcome {
        let Self {
            machine,
            container,
            player,
        } = self;
        let outcome = player.end();
        let deadline = Instant::now() + PATIENCE;
        while accounts::of(machine, &container)[0].held_bytes > 0 {
            assert!(
                Instant::now() < deadline,
                "{container} holds memory for ever"
            );
            std::thread::yield_now();
        }
        outcome
    }

    /// Takes what is left of the quota: a context, and the rest in it. What was current is current again.
    #[track_caller]
    pub fn fill(&mut self) {
        // Variables of their own, which no handle of the case has.
        let _context = self.player.make("0 cuCtxCreate_v2 &16 0 0");
        let left_bytes = QUOTA_BYTES - self.books().charged_bytes;
        let status = self
            .player
            .make(&format!("0 cuMemAlloc_v2 &8 {left_bytes}"));
        assert_eq!(status, "0", "what is left of the quota, {left_bytes} bytes");
        let _popped = self.player.make("0 cuCtxPopCurrent_v2 &");
    }
}
