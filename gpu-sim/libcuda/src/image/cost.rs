//! What a PTX function costs: estimated instructions of one thread, and registers.
//!
//! *Instructions*: every instruction counts once, times the trip count of each loop around it. A loop is a branch back to an
//! earlier label, with everything between. Its trip count is known where the predicate of that branch, or of a branch out of
//! the loop, comes from comparing an induction variable with an immediate: a register that the loop advances by an
//! immediate step, starting from the immediate that it was last set to before the loop (0 where it was set to something
//! else). Every other loop is taken to run [`TRIPS_DEFAULT`] times. Branches forward skip nothing: both sides of an `if`
//! count. A call counts what its function costs.
//!
//! *Registers*: the most 32-bit registers alive at once, on the straight line of the text with lifetimes stretched over loops,
//! plus [`REGISTERS_RESERVED`], rounded up to the allocation unit of the hardware.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::ptx::{Function, Instruction, Step, number};

/// Trips of a loop whose bound is not an immediate. A guess, fixed so that figures can be compared.
const TRIPS_DEFAULT: u64 = 16;
/// No loop counts for more trips than this, so that nests stay far from overflow.
const TRIPS_MAX: u64 = 1 << 20;
/// Registers that the machine code needs beside the text's own (stack pointer, address arithmetic).
const REGISTERS_RESERVED: u32 = 6;
/// Registers are allocated to threads in units of eight (CUDA C++ Programming Guide, "Occupancy Calculator").
const REGISTERS_UNIT: u32 = 8;
const REGISTERS_MAX: u32 = 255;
const CALL_DEPTH_MAX: u32 = 16;

/// Name of a register without its number: `%rd12` → `%rd`.
pub(super) fn prefix(name: &str) -> &str {
    name.trim_end_matches(|letter: char| letter.is_ascii_digit())
}

/// Steps `head..=tail` run `trips` times.
struct Loop {
    head: usize,
    tail: usize,
    trips: u64,
}

/// Cost of every function of a module.
pub(super) struct Weights<'a> {
    bodies: HashMap<&'a str, Body<'a>>,
}

#[derive(Default)]
struct Body<'a> {
    instructions: u64,
    /// Called functions, each with how often.
    calls: Vec<(&'a str, u64)>,
}

impl<'a> Weights<'a> {
    pub(super) fn of(functions: &[Function<'a>]) -> Self {
        let names: HashSet<&str> = functions.iter().map(|function| function.name).collect();
        let bodies = functions
            .iter()
            .map(|function| (function.name, body(&function.steps, &names)));
        Self {
            bodies: bodies.collect(),
        }
    }

    /// Instructions of one thread of `function`, calls included; at least 1.
    pub(super) fn instructions(&self, function: &str) -> u64 {
        self.descend(function, CALL_DEPTH_MAX).max(1)
    }

    fn descend(&self, function: &str, depth: u32) -> u64 {
        let Some(body) = self.bodies.get(function) else {
            return 0;
        };
        let Some(depth) = depth.checked_sub(1) else {
            return body.instructions;
        };
        let called = body
            .calls
            .iter()
            .map(|(callee, times)| self.descend(callee, depth).saturating_mul(*times));
        called.fold(body.instructions, u64::saturating_add)
    }
}

fn body<'a>(steps: &[Step<'a>], functions: &HashSet<&str>) -> Body<'a> {
    let loops = loops(steps);
    let mut body = Body::default();
    for (at, step) in steps.iter().enumerate() {
        let Step::Instruction(instruction) = step else {
            continue;
        };
        let around = loops
            .iter()
            .filter(|each| (each.head..=each.tail).contains(&at));
        let times = around.fold(1, |times: u64, each| times.saturating_mul(each.trips));
        body.instructions = body.instructions.saturating_add(times);
        if instruction.opcode.starts_with("call") {
            let callees = instruction
                .operands
                .iter()
                .filter(|name| functions.contains(*name));
            body.calls.extend(callees.map(|name| (*name, times)));
        }
    }
    body
}

fn branch_target<'a>(instruction: &Instruction<'a>) -> Option<&'a str> {
    instruction
        .opcode
        .starts_with("bra")
        .then(|| instruction.operands.first().copied())
        .flatten()
}

/// Every loop once, whichever number of branches leads back to its head.
fn loops(steps: &[Step<'_>]) -> Vec<Loop> {
    let labels: HashMap<&str, usize> = steps
        .iter()
        .enumerate()
        .filter_map(|(at, step)| match step {
            Step::Label(name) => Some((*name, at)),
            Step::Instruction(_) => None,
        })
        .collect();
    let mut tails: BTreeMap<usize, usize> = BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        let Step::Instruction(instruction) = step else {
            continue;
        };
        if let Some(head) = branch_target(instruction)
            .and_then(|label| labels.get(label))
            .filter(|head| **head < at)
        {
            tails.insert(*head, at);
        }
    }
    let trips = |head, tail| trips(steps, &labels, head, tail).unwrap_or(TRIPS_DEFAULT);
    tails
        .into_iter()
        .map(|(head, tail)| Loop {
            head,
            tail,
            trips: trips(head, tail),
        })
        .collect()
}

/// Trip count of `head..=tail` from the first predicate that tells: the one that leads back, or one that leads out.
fn trips(
    steps: &[Step<'_>],
    labels: &HashMap<&str, usize>,
    head: usize,
    tail: usize,
) -> Option<u64> {
    let inside: Vec<&Instruction<'_>> = instructions(steps.get(head..=tail)?).collect();
    let before = steps.get(..head)?;
    let decides = |instruction: &&&Instruction<'_>| {
        branch_target(instruction)
            .and_then(|label| labels.get(label))
            .is_some_and(|target| *target == head || *target > tail)
    };
    inside
        .iter()
        .rev()
        .filter(decides)
        .filter_map(|branch| branch.guard)
        .find_map(|guard| counted(guard, &inside, before))
}

fn instructions<'s, 'a>(
    steps: &'s [Step<'a>],
) -> impl DoubleEndedIterator<Item = &'s Instruction<'a>> {
    steps.iter().filter_map(|step| match step {
        Step::Instruction(instruction) => Some(instruction),
        Step::Label(_) => None,
    })
}

fn counted(guard: &str, inside: &[&Instruction<'_>], before: &[Step<'_>]) -> Option<u64> {
    let compare = inside
        .iter()
        .rev()
        .find(|each| each.opcode.starts_with("setp") && each.operands.first() == Some(&guard))?;
    let [_, variable, bound] = compare.operands.as_slice() else {
        return None;
    };
    let bound = number(bound)?;
    let (family, step) = induction(variable, inside);
    let step = step.filter(|step| *step != 0)?;
    let start = instructions(before).rev().find(|each| {
        each.opcode.starts_with("mov")
            && each
                .operands
                .first()
                .is_some_and(|name| family.contains(name))
    });
    let start = start
        .and_then(|each| number(each.operands.get(1)?))
        .unwrap_or(0);
    let distance = bound.checked_sub(start)?.unsigned_abs();
    let inclusive = [".le", ".ge", ".ls", ".hs"]
        .iter()
        .any(|relation| compare.opcode.contains(relation));
    let trips = distance
        .div_ceil(step.unsigned_abs())
        .saturating_add(u64::from(
            inclusive && distance.is_multiple_of(step.unsigned_abs()),
        ));
    Some(trips.clamp(1, TRIPS_MAX))
}

/// The registers that carry `variable` through the loop, and the immediate that a trip adds to it.
fn induction<'a>(
    variable: &'a str,
    inside: &[&Instruction<'a>],
) -> (HashSet<&'a str>, Option<i64>) {
    let mut family = HashSet::from([variable]);
    loop {
        let size = family.len();
        let mut step = None;
        for each in inside {
            let [to, from, rest @ ..] = each.operands.as_slice() else {
                continue;
            };
            if !family.contains(to) && !family.contains(from) {
                continue;
            }
            let advance = match rest.first().map(|word| number(word)) {
                None if each.opcode.starts_with("mov") => 0,
                Some(Some(value)) if each.opcode.starts_with("add") => value,
                Some(Some(value)) if each.opcode.starts_with("sub") => value.saturating_neg(),
                _ => continue,
            };
            family.extend([*to, *from]);
            step = Some(step.unwrap_or(0i64).saturating_add(advance));
        }
        if family.len() == size {
            return (family, step);
        }
    }
}

/// Estimated registers of one thread.
pub(super) fn registers(function: &Function<'_>) -> u32 {
    let mut lives: HashMap<&str, (usize, usize)> = HashMap::new();
    for (at, step) in function.steps.iter().enumerate() {
        let Step::Instruction(instruction) = step else {
            continue;
        };
        for name in instruction
            .operands
            .iter()
            .filter(|name| function.widths.contains_key(prefix(name)))
        {
            lives
                .entry(name)
                .and_modify(|life| life.1 = at)
                .or_insert((at, at));
        }
    }
    for each in loops(&function.steps) {
        for life in lives
            .values_mut()
            .filter(|life| life.0 < each.head && (each.head..=each.tail).contains(&life.1))
        {
            life.1 = each.tail;
        }
    }
    let most = most_alive(&lives, &function.widths)
        .saturating_add(REGISTERS_RESERVED)
        .next_multiple_of(REGISTERS_UNIT);
    most.min(function.registers_max.unwrap_or(REGISTERS_MAX))
        .clamp(REGISTERS_UNIT, REGISTERS_MAX)
}

fn most_alive(lives: &HashMap<&str, (usize, usize)>, widths: &HashMap<&str, u32>) -> u32 {
    let mut changes: BTreeMap<usize, i64> = BTreeMap::new();
    for (name, (from, to)) in lives {
        let width = i64::from(widths.get(prefix(name)).copied().unwrap_or(0));
        *changes.entry(*from).or_default() += width;
        *changes.entry(to.saturating_add(1)).or_default() -= width;
    }
    let mut alive = 0i64;
    let most = changes.values().map(|change| {
        alive = alive.saturating_add(*change);
        alive
    });
    most.max().unwrap_or(0).try_into().unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::super::read;

    fn kernel(body: &str) -> super::super::KernelImage {
        let text = format!(".version 8.4\n.target sm_75\n.address_size 64\n{body}");
        read(text.as_bytes(), 75).unwrap().kernels.remove(0)
    }

    #[test]
    fn a_straight_line_counts_each_instruction_once() {
        assert_eq!(
            kernel(".entry f() { mov.u32 %r1, 1; add.s32 %r2, %r1, 1; ret; }").instructions,
            3
        );
    }

    #[test]
    fn a_loop_to_an_immediate_counts_its_trips() {
        let counted = kernel(
            ".entry f() { mov.u32 %r1, 0;\n$L: add.s32 %r1, %r1, 4;\nsetp.ne.s32 %p1, %r1, 100;\n@%p1 bra $L;\nret; }",
        );
        assert_eq!(counted.instructions, 2 + 3 * 25);
    }

    #[test]
    fn a_while_loop_is_counted_by_the_branch_that_leaves_it() {
        let counted = kernel(
            ".entry f() { mov.u32 %r1, 10;\n$L: setp.eq.s32 %p1, %r1, 0;\n@%p1 bra $E;\nadd.s32 %r1, %r1, -1;\nbra.uni $L;\n$E: ret; }",
        );
        assert_eq!(counted.instructions, 2 + 4 * 10);
    }

    #[test]
    fn nested_loops_multiply() {
        let counted = kernel(
            ".entry f() { mov.u32 %r1, 0;\n$A: mov.u32 %r2, 0;\n$B: add.s32 %r2, %r2, 1;\nsetp.lt.u32 %p1, %r2, 8;\n@%p1 bra $B;\nadd.s32 %r1, %r1, 1;\nsetp.lt.u32 %p2, %r1, 5;\n@%p2 bra $A;\nret; }",
        );
        assert_eq!(counted.instructions, 1 + 5 * (1 + 8 * 3 + 3) + 1);
    }

    #[test]
    fn a_loop_to_a_register_runs_the_default_trips() {
        let counted = kernel(
            ".entry f() { mov.u32 %r1, 0;\n$L: add.s32 %r1, %r1, 1;\nsetp.lt.s32 %p1, %r1, %r9;\n@%p1 bra $L;\nret; }",
        );
        assert_eq!(counted.instructions, 2 + 3 * super::TRIPS_DEFAULT);
    }

    #[test]
    fn an_induction_variable_may_pass_through_a_move() {
        let counted = kernel(
            ".entry f() { mov.u32 %r1, 0;\n$L: add.s32 %r2, %r1, 2;\nsetp.lt.u32 %p1, %r1, 18;\nmov.u32 %r1, %r2;\n@%p1 bra $L;\nret; }",
        );
        assert_eq!(counted.instructions, 2 + 4 * 9);
    }

    #[test]
    fn a_call_costs_what_its_function_costs() {
        let counted =
            kernel(".func g() { add.s32 %r1, %r1, 1; ret; }\n.entry f() { { call.uni g; } ret; }");
        assert_eq!(counted.instructions, 4);
    }

    #[test]
    fn registers_follow_what_is_alive_at_once() {
        let few = kernel(
            ".entry f() { .reg .b32 %r<9>; mov.u32 %r1, 1; mov.u32 %r2, %r1; mov.u32 %r3, %r2; ret; }",
        );
        let mut body = String::from(".entry f() { .reg .f64 %fd<99>;");
        (1..=20).for_each(|n| body.push_str(&format!("mov.f64 %fd{n}, 0d0;")));
        (1..=20).for_each(|n| body.push_str(&format!("add.f64 %fd0, %fd0, %fd{n};")));
        let many = kernel(&(body + "ret; }"));
        assert_eq!((few.registers, many.registers), (8, 48));
    }
}
