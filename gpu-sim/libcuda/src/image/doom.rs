//! Whether every launch of a kernel must fault.
//!
//! Nothing is executed here, so only what the text shows is known: from the kernel's first instruction on, each step follows the one
//! before it until a branch or a return. A `trap` or a failed assertion on that way is one that every thread comes to
//! (PTX ISA, "Miscellaneous Instructions: trap"; `assert` becomes a call of `__assertfail`, as CUDA's and LLVM's headers declare it).
//! Of what happens on a condition nothing is assumed.

use super::Fault;
use super::ptx::{Instruction, Step};

/// Opcodes behind which the next step need not come.
const DEPARTURES: [&str; 4] = ["bra", "brx", "ret", "exit"];

/// The function that a failed assertion calls.
const ASSERTION: &str = "__assertfail";

/// The fault that a kernel of these steps ends with, if it must.
pub(super) fn of(steps: &[Step<'_>]) -> Option<Fault> {
    let instructions = steps.iter().filter_map(|step| match step {
        Step::Instruction(instruction) => Some(instruction),
        Step::Label(_) => None,
    });
    let mut straight = instructions.take_while(|instruction| !departs(instruction));
    straight.find_map(|instruction| match instruction.guard {
        None => fault(instruction),
        Some(_) => None,
    })
}

fn departs(instruction: &Instruction<'_>) -> bool {
    let name = instruction.opcode.split('.').next();
    name.is_some_and(|name| DEPARTURES.contains(&name))
}

fn fault(instruction: &Instruction<'_>) -> Option<Fault> {
    match instruction.opcode.split('.').next() {
        Some("trap") => Some(Fault::Trap),
        Some("call") if instruction.operands.contains(&ASSERTION) => Some(Fault::Assert),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, read};

    fn doom(body: &str) -> Option<Fault> {
        let text = format!(
            ".version 8.4\n.target sm_75\n.address_size 64\n\
             .extern .func __assertfail (.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, .param .b64 s);\n\
             .entry f(.param .u32 n) {{ .reg .pred %p<2>; .reg .b32 %r<3>; {body} }}"
        );
        read(text.as_bytes(), 75).unwrap().kernels[0].fault
    }

    #[test]
    fn a_trap_that_every_thread_comes_to_is_a_fault() {
        assert_eq!(doom("trap; ret;"), Some(Fault::Trap));
        let behind_a_label = "mov.u32 %r1, 1;\n$L: add.s32 %r1, %r1, 1; trap; bra $L;";
        assert_eq!(doom(behind_a_label), Some(Fault::Trap));
    }

    #[test]
    fn a_call_of_the_failed_assertion_is_a_fault() {
        let called = "{ .param .b64 p0; call.uni __assertfail, (p0, p0, p0, p0, p0); } ret;";
        assert_eq!(doom(called), Some(Fault::Assert));
    }

    #[test]
    fn of_what_happens_on_a_condition_nothing_is_assumed() {
        for body in [
            "ret;",
            "@%p1 trap; ret;",
            "@%p1 ret; trap;",
            "bra $E; trap; $E: ret;",
            "@%p1 bra.uni $E; trap; $E: ret;",
        ] {
            assert_eq!(doom(body), None, "{body}");
        }
    }
}
