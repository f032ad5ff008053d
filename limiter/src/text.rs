//! Text that others wrote; names in shared memory, which are words, with zero bytes behind the text.

use crate::sync::{AtomicU64, Ordering};

/// Bytes as text. What is no UTF-8 among them is replaced, which is looked for only where there is any: that takes ten times as long.
pub(crate) fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// A name as so many words. What is longer is cut.
pub(crate) fn words_of<const WORDS: usize>(name: &str) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    let (whole, rest) = name.as_bytes().as_chunks::<8>();
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let all = whole.iter().chain([&last]);
    for (word, bytes) in words.iter_mut().zip(all) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// Writes a name; whoever reads meanwhile finds half of it.
pub(crate) fn write<const WORDS: usize>(place: &[AtomicU64; WORDS], words: &[u64; WORDS]) {
    for (to, from) in place.iter().zip(words) {
        to.store(*from, Ordering::Relaxed);
    }
}

/// What is written there.
pub(crate) fn read(place: &[AtomicU64]) -> String {
    let words = place.iter().map(|word| word.load(Ordering::Relaxed));
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    lossy(name.to_vec())
}
