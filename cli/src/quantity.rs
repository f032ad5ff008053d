//! Quantities as people read them in a table. Scripts read the JSON, which has them exact.

const KIB: f64 = 1024.0;

/// `1.25 GiB`, at most two decimals.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    scaled(bytes as f64, KIB, &units)
}

/// `1.25 s`, at most two decimals.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn nanoseconds(ns: u64) -> String {
    let units = ["ns", "us", "ms", "s"];
    scaled(ns as f64, 1000.0, &units)
}

/// `30 %`, at most two decimals.
pub(crate) fn percent(percent: f64) -> String {
    format!("{} %", two_decimals(percent))
}

/// In the largest of `units`, each `step` times the one before it, that leaves at least one.
fn scaled(mut amount: f64, step: f64, units: &[&str]) -> String {
    let mut units = units.iter().peekable();
    while let Some(unit) = units.next() {
        if amount < step || units.peek().is_none() {
            return format!("{} {unit}", two_decimals(amount));
        }
        amount /= step;
    }
    two_decimals(amount)
}

fn two_decimals(amount: f64) -> String {
    let text = format!("{amount:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_take_the_largest_unit_that_fits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(2 << 30), "2 GiB");
        assert_eq!(bytes((1 << 30) + (1 << 28)), "1.25 GiB");
        assert_eq!(bytes(1 << 54), "16384 TiB");
        assert_eq!(nanoseconds(1_500_000), "1.5 ms");
        assert_eq!(nanoseconds(90_000_000_000), "90 s");
        assert_eq!(percent(12.5), "12.5 %");
    }
}
