//! Several built-in devices in one word, with nothing in it that a shell would touch: `2xa100`, `2xa100,t4`.

use super::{DEVICES_MAX, built_in};
use std::fmt::Write;

/// The TOML that a list of `[COUNTx]NAME` stands for; otherwise which part of it is wrong.
pub(super) fn expand(list: &str) -> Result<String, String> {
    let mut text = String::new();
    for part in list.split(',') {
        let (count, name) = counted(part);
        if built_in(name).is_none() {
            return Err(format!("no profile `{name}`"));
        }
        let count: usize = count.parse().unwrap_or(0);
        if !(1..=DEVICES_MAX).contains(&count) {
            return Err(format!("`{part}`: the count is 1 to {DEVICES_MAX}"));
        }
        // Writing to a string does not fail.
        let _ = writeln!(text, "[[device]]\nprofile = \"{name}\"\ncount = {count}");
    }
    Ok(text)
}

/// Splits `2xa100` into `2` and `a100`; without a count it is one.
fn counted(part: &str) -> (&str, &str) {
    match part.split_once('x') {
        Some((count, name))
            if !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            (count, name)
        }
        _ => ("1", part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_x_of_a_name_is_not_a_count() {
        assert_eq!(counted("rtx2080"), ("1", "rtx2080"));
        assert_eq!(counted("2xrtx2080"), ("2", "rtx2080"));
    }

    #[test]
    fn what_is_no_list_of_devices_is_refused_by_its_part() {
        for (list, part) in [
            ("2xa100,", "``"),
            ("t5", "`t5`"),
            ("0xt4", "`0xt4`"),
            ("17xt4", "`17xt4`"),
            ("a100*2", "`a100*2`"),
        ] {
            let refused = expand(list).unwrap_err();
            assert!(refused.contains(part), "{list}: {refused}");
        }
    }
}
