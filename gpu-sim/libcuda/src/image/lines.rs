//! What PTX text says line by line: comments, and the directives at its head.

fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('/') {
        let (before, comment) = rest.split_at(start);
        out.push_str(before);
        rest = if comment.starts_with("//") {
            comment.find('\n').map_or("", |end| &comment[end..])
        } else if comment.starts_with("/*") {
            comment.find("*/").map_or("", |end| &comment[end + 2..])
        } else {
            out.push('/');
            &comment[1..]
        };
    }
    out + rest
}

/// The directives that end with their line instead of a semicolon.
#[derive(Default)]
pub(super) struct Header {
    /// Version of the language × 10.
    pub(super) version: Option<u32>,
    /// Compute capability × 10 that it was written for.
    pub(super) target: Option<u32>,
}

impl Header {
    /// Takes them out of a text, with the comments; gives what is left.
    pub(super) fn take(text: &str) -> (Self, String) {
        let mut header = Self::default();
        let mut rest = String::with_capacity(text.len());
        for line in without_comments(text).lines() {
            let mut words = line.split([' ', '\t', ',']).filter(|word| !word.is_empty());
            match words.next() {
                Some(".version") => header.version = words.next().and_then(version),
                Some(".target") => header.target = words.next().and_then(target),
                Some(".address_size" | ".file" | ".loc") => {}
                _ => {
                    rest.push_str(line);
                    rest.push('\n');
                }
            }
        }
        (header, rest)
    }
}

/// `8.4` → 84.
fn version(word: &str) -> Option<u32> {
    let (major, minor) = word.trim().split_once('.')?;
    let tens = major.parse::<u32>().ok()?.checked_mul(10)?;
    tens.checked_add(minor.parse().ok()?)
}

/// `sm_75`, `sm_90a` → 75, 90.
fn target(word: &str) -> Option<u32> {
    let digits = word.trim().strip_prefix("sm_")?;
    digits
        .trim_end_matches(|letter: char| letter.is_ascii_alphabetic())
        .parse()
        .ok()
}
