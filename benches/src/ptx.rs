//! The text of kernels that take time: each thread runs a stated number of instructions, one depending on the other.
//!
//! The loop's bound stands in the text, so that the hardware runs it as the simulation counts it. The result is stored
//! only if a parameter says so, which no compiler can know it never does.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Multiply-adds of a trip, so many that the loop's own instructions weigh little.
const TRIP_MULTIPLY_ADDS: u64 = 64;
/// Instructions of a trip: those, an addition, a comparison and a branch.
pub const TRIP_INSTRUCTIONS: u64 = TRIP_MULTIPLY_ADDS + 3;
/// Most instructions of a kernel: 2^20 trips, as many as the simulation counts.
pub const INSTRUCTIONS_MAX: u64 = TRIP_INSTRUCTIONS << 20;

/// The dependent multiply-add, which takes the same time whatever the values are.
const MULTIPLY_ADD: &str = "\tfma.rn.f32 %f1, %f1, %f2, %f2;\n";

/// The name of the kernel that runs `instructions`.
pub fn kernel_name(instructions: u64) -> String {
    format!("spin_{instructions}")
}

/// A module with one kernel for each number of instructions, none of which may be above [`INSTRUCTIONS_MAX`]. The few
/// instructions with which every kernel begins and ends are not in the number.
pub fn module(instructions: &BTreeSet<u64>) -> String {
    let mut text = String::from(".version 7.0\n.target sm_52\n.address_size 64\n");
    for count in instructions {
        text.push_str(&kernel(*count));
    }
    text
}

fn kernel(instructions: u64) -> String {
    let (trips, rest) = (
        instructions / TRIP_INSTRUCTIONS,
        instructions % TRIP_INSTRUCTIONS,
    );
    let mut text = format!(
        ".visible .entry {name}(.param .u64 sink, .param .u32 keep)\n{{\n\
         \t.reg .pred %p<3>;\n\t.reg .f32 %f<3>;\n\t.reg .b32 %r<3>;\n\t.reg .b64 %rd<2>;\n\
         \tld.param.u64 %rd1, [sink];\n\tld.param.u32 %r1, [keep];\n\
         \tcvt.rn.f32.u32 %f1, %r1;\n\tadd.f32 %f2, %f1, 0f3F000000;\n\tmov.u32 %r2, 0;\n",
        name = kernel_name(instructions)
    );
    if trips > 0 {
        // Unrolled, the loop's own instructions would weigh less in some kernels than in others.
        text.push_str("$again:\n\t.pragma \"nounroll\";\n");
        (0..TRIP_MULTIPLY_ADDS).for_each(|_| text.push_str(MULTIPLY_ADD));
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\tadd.u32 %r2, %r2, 1;\n\tsetp.lt.u32 %p1, %r2, {trips};\n\t@%p1 bra $again;\n"
        );
    }
    (0..rest).for_each(|_| text.push_str(MULTIPLY_ADD));
    text.push_str("\tsetp.ne.u32 %p2, %r1, 0;\n\t@%p2 st.global.f32 [%rd1], %f1;\n\tret;\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Instructions that a thread executes, by walking through the text as a thread does.
    fn executed(text: &str) -> u64 {
        let body: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with(['\t', '$']))
            .collect();
        let is_instruction = |line: &&&str| line.starts_with('\t') && !line.starts_with("\t.");
        let count = |lines: &[&str]| lines.iter().filter(is_instruction).count() as u64;
        let Some(head) = body.iter().position(|line| line.starts_with("$again")) else {
            return count(&body);
        };
        let tail = body
            .iter()
            .position(|line| line.contains("bra $again"))
            .unwrap();
        let bound = body.iter().find(|line| line.contains("setp.lt")).unwrap();
        let trips: u64 = bound
            .rsplit([' ', ';'])
            .find_map(|word| word.parse().ok())
            .unwrap();
        count(&body[..head]) + trips * count(&body[head..=tail]) + count(&body[tail + 1..])
    }

    #[test]
    fn a_kernel_runs_as_many_instructions_as_it_is_named_for() {
        let fixed = executed(&kernel(0));
        for count in [1, 66, 67, 68, 133, 134, 10_000, 1_000_003] {
            assert_eq!(executed(&kernel(count)) - fixed, count, "{count}");
        }
    }

    #[test]
    fn a_module_has_each_kernel_once() {
        let text = module(&BTreeSet::from([5, 500, 5]));
        assert_eq!(text.matches(".entry spin_5(").count(), 1);
        assert_eq!(text.matches(".entry").count(), 2);
    }
}
