//! `cuda-hook set`: other limits for a container while its programs run.

use std::process::ExitCode;

use limiter::config::{Change, ContainerName, Wanted};
use limiter::control::{self, Changed, ControlError};
use serde::Serialize;

use crate::args::SetArgs;
use crate::failure::Failure;
use crate::output;
use crate::quantity;
use crate::settings;
use crate::status::short_uuid;

/// Version of the JSON.
const SCHEMA: u32 = 1;

/// What was changed, for scripts.
#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    container: &'a str,
    devices: &'a [Changed],
}

/// Changes the limits and says what they were and what they are.
pub(crate) fn set(args: &SetArgs) -> Result<ExitCode, Failure> {
    let container: ContainerName = args.container.parse().map_err(|error| {
        let name = &args.container;
        Failure::usage(format_args!(
            "container {name:?}: {error}; allowed: {}",
            ContainerName::ALLOWED
        ))
    })?;
    let wanted = Wanted {
        memory: args.memory.as_deref(),
        memory_soft: args.memory_soft.as_deref(),
        spill: args.spill.as_deref(),
        sm: args.sm.as_deref(),
        sm_max: args.sm_max.as_deref(),
    };
    let change = Change::parse(wanted).map_err(Failure::usage)?;
    let dir = settings::of(&settings::environment())
        .map_err(Failure::failed)?
        .dir;
    let changed = control::change(&dir, &container, &change, limiter::clock::monotonic());
    let devices = changed.map_err(|error| match error {
        ControlError::Refused(refusal) => Failure::usage(refusal),
        ControlError::Unknown { .. } | ControlError::Idle(_) => Failure::failed(format_args!(
            "{error}; `cuda-hook status` lists containers and their processes"
        )),
        ControlError::Unusable(_) => Failure::failed(error),
    })?;
    if args.json {
        output::print_json(&Report {
            schema: SCHEMA,
            container: container.as_str(),
            devices: &devices,
        })?;
    } else {
        for device in &devices {
            output::print(line(container.as_str(), device))?;
        }
    }
    devices.iter().filter_map(excess).for_each(output::complain);
    Ok(ExitCode::SUCCESS)
}

/// `trainer-7 GPU-7c6c3c6e: memory 4 GiB -> 2 GiB, sm_max 60 % -> 80 %`.
fn line(container: &str, device: &Changed) -> String {
    let (before, after) = (&device.before, &device.after);
    let memory = |bytes: Option<u64>| bytes.map_or_else(|| "max".to_owned(), quantity::bytes);
    let soft = |bytes: Option<u64>| bytes.map_or_else(|| "all".to_owned(), quantity::bytes);
    let percent = |share: Option<f64>| share.map_or_else(|| "none".to_owned(), quantity::percent);
    let limits = [
        (
            "memory",
            memory(before.memory_bytes_max),
            memory(after.memory_bytes_max),
        ),
        (
            "memory_soft",
            soft(before.memory_bytes_soft),
            soft(after.memory_bytes_soft),
        ),
        ("spill", before.spill.to_string(), after.spill.to_string()),
        ("sm", percent(before.sm_percent), percent(after.sm_percent)),
        (
            "sm_max",
            percent(before.sm_percent_max),
            percent(after.sm_percent_max),
        ),
    ];
    let changes: Vec<String> = limits
        .iter()
        .filter(|(_, before, after)| before != after)
        .map(|(name, before, after)| format!("{name} {before} -> {after}"))
        .collect();
    let changes = if changes.is_empty() {
        "as it was".to_owned()
    } else {
        changes.join(", ")
    };
    format!("{container} {}: {changes}", short_uuid(&device.device_uuid))
}

/// What an operator who lowered a quota below what is in use has to know.
fn excess(device: &Changed) -> Option<String> {
    let max = device.after.memory_bytes_max?;
    let current = device.memory_bytes_current;
    (current > max).then(|| {
        format!(
            "warning: {}: {} in use, {} allowed: nothing is taken away, and nothing more is granted until it is below",
            short_uuid(&device.device_uuid),
            quantity::bytes(current),
            quantity::bytes(max)
        )
    })
}

#[cfg(test)]
mod tests {
    use limiter::control::LimitsSample;

    use super::*;

    fn changed(before: [Option<u64>; 3], after: [Option<u64>; 3], current: u64) -> Changed {
        let sample = |[memory, sm, sm_max]: [Option<u64>; 3]| LimitsSample {
            memory_bytes_max: memory,
            memory_bytes_soft: None,
            spill: false,
            sm_percent: sm.map(|share| share as f64),
            sm_percent_max: sm_max.map(|share| share as f64),
        };
        Changed {
            device_uuid: "GPU-7c6c3c6e-0000-0000-0000-000000000000".into(),
            before: sample(before),
            after: sample(after),
            memory_bytes_current: current,
        }
    }

    #[test]
    fn a_line_says_what_has_changed_and_nothing_else() {
        let before = [Some(4 << 30), Some(30), Some(60)];
        let cases = [
            (before, "as it was"),
            ([None, Some(30), Some(60)], "memory 4 GiB -> max"),
            (
                [Some(2 << 30), Some(40), Some(40)],
                "memory 4 GiB -> 2 GiB, sm 30 % -> 40 %, sm_max 60 % -> 40 %",
            ),
        ];
        for (after, expected) in cases {
            assert_eq!(
                line("a", &changed(before, after, 0)),
                format!("a GPU-7c6c3c6e: {expected}")
            );
        }
    }

    #[test]
    fn a_line_says_what_is_guaranteed_and_spilled() {
        let mut device = changed([Some(4 << 30), None, None], [Some(4 << 30), None, None], 0);
        device.after.memory_bytes_soft = Some(2 << 30);
        device.after.spill = true;
        let wanted = "a GPU-7c6c3c6e: memory_soft all -> 2 GiB, spill false -> true";
        assert_eq!(line("a", &device), wanted);
    }

    #[test]
    fn a_quota_below_what_is_in_use_is_told() {
        let lowered = |max, current| excess(&changed([None; 3], [max, None, None], current));
        assert_eq!(lowered(Some(10), 10), None);
        assert_eq!(lowered(None, 10), None);
        assert!(lowered(Some(9), 10).is_some_and(|told| told.contains("10 B in use, 9 B allowed")));
    }
}
