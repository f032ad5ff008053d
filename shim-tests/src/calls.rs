//! `calls.tsv`: how each driver function can be called, as data for the fuzzer and for the proof that every symbol is covered.
//!
//! A row is a symbol and its arguments, in the words of `programs/player.c` and these, which stand for values:
//!
//! | word | value |
//! | --- | --- |
//! | `+kind` | the address of a variable that receives a new handle of that kind |
//! | `=kind`, `=one/other` | a handle of that kind, or of either |
//! | `-kind` | the same, and the call ends it |
//! | `!kind` | the same as `=kind`, and never anything else, which could be taken for the address of host memory, and end the program bare, too, or be cut to 32 bits, and differ from run to run |
//! | `?kind` | the same, or null |
//! | `*kind` | the address of the variable that holds it |
//! | `~kind~other` | a handle of that kind, which from now on is one of the other, too: a stream that captures |
//! | `}>kind@112` | after a record: the driver writes a handle there, at that offset |
//! | `SIZE`, `SMALL`, `ROWS`, `GRID`, `DEVICE` | bytes, few bytes, rows of 2 KiB, blocks of a grid, a device's ordinal |
//! | `a\|b` | one of them |
//!
//! A row stands for the symbol's twins of the per-thread default stream, too. Its third column names kinds that must be made before
//! what its arguments need, in that order.

use crate::random::Random;
use cuda_sys_stubs::symbols;
use std::collections::BTreeMap;

/// What a word that is no literal stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// As it is.
    Literal(String),
    /// `+kind`.
    Makes(String),
    /// `>kind@offset`: also makes a handle.
    Fetches(String, u32),
    /// `=kind`, `-kind`, `?kind`, `*kind`, `!kind`: the sigil and the kinds.
    Takes(char, Vec<String>),
    /// `~kind~other`: the kind, for its own, and the other.
    Becomes(Vec<String>, String),
    /// A quantity, by its name.
    Quantity(String),
}

/// One piece of a row's arguments: punctuation, or alternatives.
type Piece = Vec<Word>;

/// One way to call a function.
#[derive(Clone, Debug)]
pub struct Call {
    /// The exported name.
    pub symbol: String,
    pieces: Vec<Piece>,
    after: Vec<String>,
}

const QUANTITIES: [&str; 5] = ["SIZE", "SMALL", "ROWS", "GRID", "DEVICE"];

fn word(text: &str) -> Word {
    let kinds = || text[1..].split('/').map(str::to_owned).collect();
    match text.chars().next() {
        Some('+') => Word::Makes(text[1..].to_owned()),
        Some('>') => match text[1..].split_once('@') {
            Some((kind, offset)) => {
                Word::Fetches(kind.to_owned(), offset.parse().expect("an offset in bytes"))
            }
            None => panic!("{text}: a handle is fetched from an offset"),
        },
        Some('~') => match text[1..].split_once('~') {
            Some((kind, other)) => Word::Becomes(vec![kind.to_owned()], other.to_owned()),
            None => panic!("{text}: a handle becomes one of another kind"),
        },
        Some(sigil @ ('=' | '-' | '?' | '*' | '!')) => Word::Takes(sigil, kinds()),
        _ if QUANTITIES.contains(&text) => Word::Quantity(text.to_owned()),
        _ => Word::Literal(text.to_owned()),
    }
}

/// Cuts arguments into words and what stands between them.
fn pieces(arguments: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = arguments;
    while !rest.is_empty() {
        let is_between = |c: char| " {},:".contains(c);
        let length = match rest.find(is_between) {
            Some(0) => 1,
            Some(at) => at,
            None => rest.len(),
        };
        let (text, after) = rest.split_at(length);
        pieces.push(text.split('|').map(word).collect());
        rest = after;
    }
    pieces
}

fn is_known(symbol: &str) -> bool {
    symbols::driver(symbol).is_some() || symbols::nvml(symbol).is_some()
}

/// Every row, and for each the twins of its symbol.
pub fn calls() -> Vec<Call> {
    let rows = include_str!("../calls.tsv").lines().skip(1);
    rows.flat_map(|row| {
        let mut columns = row.split('\t');
        let symbol = columns.next().unwrap_or_default();
        let pieces = pieces(
            columns
                .next()
                .unwrap_or_else(|| panic!("{row}: no arguments")),
        );
        let after = columns.next().unwrap_or_default().split_whitespace();
        let after: Vec<String> = after.map(str::to_owned).collect();
        let names = ["", "_ptds", "_ptsz"].map(|suffix| format!("{symbol}{suffix}"));
        assert!(is_known(symbol), "{symbol} is no function");
        let known = names.into_iter().filter(|name| is_known(name));
        known.map(move |symbol| Call {
            symbol,
            pieces: pieces.clone(),
            after: after.clone(),
        })
    })
    .collect()
}

impl Call {
    fn words(&self) -> impl Iterator<Item = &Word> {
        self.pieces.iter().flatten()
    }

    /// Whether it makes a handle of `kind`.
    pub(crate) fn makes(&self, kind: &str) -> bool {
        self.words()
            .any(|word| matches!(word, Word::Makes(made) | Word::Fetches(made, _) | Word::Becomes(_, made) if made == kind))
    }

    /// The kinds to be made before those that it needs.
    pub(crate) fn after(&self) -> &[String] {
        &self.after
    }

    /// The kinds of which it cannot do without a handle, each with its alternatives.
    pub(crate) fn needs(&self) -> impl Iterator<Item = &[String]> {
        self.words().filter_map(|word| match word {
            Word::Takes('=' | '-' | '*' | '!', kinds) | Word::Becomes(kinds, _) => {
                Some(kinds.as_slice())
            }
            _ => None,
        })
    }

    /// Writes the call with what `value` says for each word, given its alternatives.
    pub(crate) fn written(&self, mut value: impl FnMut(&[Word]) -> String) -> String {
        let arguments: String = self.pieces.iter().map(|piece| value(piece)).collect();
        format!("{} {arguments}", self.symbol)
    }
}

/// A handle that a call made: its variable, and who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Handle {
    variable: u32,
    thread: u64,
}

/// The variables that hold live handles, by kind; what was ended is kept, to be used again where it should not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handles {
    live: BTreeMap<String, Vec<Handle>>,
    ended: Vec<u32>,
    made: Vec<String>,
    are_kept_apart: bool,
}

/// Variables between two handles: what a driver writes behind an out-pointer may be longer than a word.
const STRIDE: u32 = 32;

impl Handles {
    /// A variable for a new handle that a thread makes.
    pub(crate) fn make(&mut self, kind: &str, thread: u64) -> u32 {
        self.made.push(kind.to_owned());
        let variable = STRIDE * u32::try_from(self.made.len()).expect("there are few");
        let live = self.live.entry(kind.to_owned()).or_default();
        live.push(Handle { variable, thread });
        variable
    }

    /// Those of these kinds that a thread made.
    fn own<'a>(&'a self, kinds: &'a [String], thread: u64) -> impl Iterator<Item = u32> {
        let live = kinds
            .iter()
            .filter_map(|kind| self.live.get(kind))
            .flatten();
        live.filter(move |handle| handle.thread == thread)
            .map(|handle| handle.variable)
    }

    /// Whether a thread made one of these kinds.
    pub(crate) fn has_own(&self, kinds: &[String], thread: u64) -> bool {
        self.own(kinds, thread).next().is_some()
    }

    /// All of a kind, the ended too, in the order of their making.
    pub(crate) fn all(&self, kind: &str) -> impl Iterator<Item = u32> {
        let numbered = (STRIDE..).step_by(STRIDE as usize).zip(&self.made);
        numbered
            .filter(move |(_, made)| *made == kind)
            .map(|(variable, _)| variable)
    }

    /// Whether from now on a thread gets its own and no other.
    pub(crate) fn keep_apart(&mut self, are_kept_apart: bool) {
        self.are_kept_apart = are_kept_apart;
    }

    /// One of these kinds, by chance: often a late one of the thread's own, which may belong to its context.
    pub(crate) fn choose(&self, random: &mut Random, kinds: &[String], thread: u64) -> Option<u32> {
        let own: Vec<u32> = self.own(kinds, thread).collect();
        let late = &own[own.len().saturating_sub(2)..];
        let chosen = match random.below(8) {
            0 => None,
            1 | 2 => random.choose(&own),
            _ => random.choose(late),
        };
        chosen
            .copied()
            .or_else(|| self.choose_any(random, |kind| kinds.contains(kind)))
    }

    /// One that was ended, by chance.
    pub(crate) fn choose_ended(&self, random: &mut Random) -> Option<u32> {
        let ended = random.choose(&self.ended).copied();
        ended.filter(|_| !self.are_kept_apart)
    }

    /// One of the kinds that `wanted` says, whoever made it.
    pub(crate) fn choose_any(
        &self,
        random: &mut Random,
        wanted: impl Fn(&String) -> bool,
    ) -> Option<u32> {
        let live = self.live.iter().filter(|(kind, _)| wanted(kind));
        let all: Vec<Handle> = live.flat_map(|(_, handles)| handles).copied().collect();
        let chosen = random.choose(&all).filter(|_| !self.are_kept_apart);
        chosen.map(|handle| handle.variable)
    }

    /// The latest of the first of these kinds of which there is one.
    pub(crate) fn latest(&self, kinds: &[String]) -> Option<u32> {
        let mut live = kinds.iter().filter_map(|kind| self.live.get(kind)?.last());
        live.next().map(|handle| handle.variable)
    }

    /// It is now one of that kind, too.
    pub(crate) fn become_one_of(&mut self, kind: &str, variable: u32, thread: u64) {
        let live = self.live.entry(kind.to_owned()).or_default();
        live.push(Handle { variable, thread });
    }

    /// It is no longer one of these kinds. When the address of a block of a pool means another block again is a matter of time, so
    /// such a block is not kept to be used again.
    pub(crate) fn end(&mut self, kinds: &[String], variable: u32) {
        for (kind, handles) in &mut self.live {
            if kinds.contains(kind) {
                handles.retain(|live| live.variable != variable);
            }
        }
        if !kinds
            .iter()
            .any(|kind| kind == "pooled" || kind == "shared_block")
        {
            self.ended.push(variable);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_cut_into_words() {
        let row = pieces("{w:DEVICE,d:0|1}>block@8 ?stream");
        let words: Vec<&Word> = row.iter().flatten().collect();
        assert!(words.contains(&&Word::Quantity("DEVICE".to_owned())));
        assert!(words.contains(&&Word::Fetches("block".to_owned(), 8)));
        assert!(words.contains(&&Word::Takes('?', vec!["stream".to_owned()])));
        assert!(row.contains(&vec![
            Word::Literal("0".to_owned()),
            Word::Literal("1".to_owned())
        ]));
    }

    #[test]
    fn every_handle_that_a_call_needs_is_made_by_another() {
        let calls = calls();
        for call in &calls {
            for kinds in call.needs() {
                let is_made = |kind: &String| calls.iter().any(|maker| maker.makes(kind));
                assert!(kinds.iter().all(is_made), "{}: {kinds:?}", call.symbol);
            }
        }
    }

    #[test]
    fn a_row_stands_for_the_twins_of_its_symbol() {
        let names: Vec<String> = calls().into_iter().map(|call| call.symbol).collect();
        for name in ["cuLaunchKernel", "cuLaunchKernel_ptsz", "cuMemcpy_ptds"] {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
    }
}
