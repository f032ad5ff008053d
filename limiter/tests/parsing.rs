//! What the fuzzer (`scripts/fuzz-parsers`) starts from, and what it once found.
#![cfg(test)]

#[path = "../fuzz/properties.rs"]
mod properties;

use std::fs;
use std::path::Path;

/// The texts of a corpus.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let files = fs::read_dir(folder).unwrap();
    files
        .map(|file| fs::read(file.unwrap().path()).unwrap())
        .collect()
}

#[test]
fn every_quantity_of_the_corpus_is_read_exactly_or_refused() {
    let texts = corpus("quantity");
    assert!(texts.len() >= 10);
    for text in texts {
        properties::quantity(&String::from_utf8_lossy(&text));
    }
}

#[test]
fn every_configuration_of_the_corpus_is_refused_on_one_line_or_stays_within_its_file() {
    let inputs = corpus("configuration");
    assert!(inputs.len() >= 10);
    for input in inputs {
        properties::configuration(&input);
    }
}
