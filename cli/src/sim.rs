//! `cuda-hook sim`: the simulated machine's own books, which know nothing of any limit.

mod report;
mod watch;

use std::ffi::OsString;

use gpu_sim::client::{Environment, Machine};
use gpu_sim::profile::{BUILT_IN, MachineProfile};

use crate::args::SimCommand;
use crate::failure::Failure;
use crate::output;
use crate::quantity;
use crate::table::{Align, Table};
use report::{Report, compute_capability};

/// Does what was asked of the simulated machine.
pub(crate) fn sim(command: &SimCommand) -> Result<(), Failure> {
    match command {
        SimCommand::Status { json } => status(*json),
        SimCommand::Watch(args) => watch::watch(args),
        SimCommand::Profiles => profiles(),
    }
}

/// Prints what the running machine has counted; starts none, and keeps none from ending.
fn status(json: bool) -> Result<(), Failure> {
    let environment = Environment::from_process();
    let existing = Machine::observe(&environment).map_err(Failure::failed)?;
    let machine = existing.ok_or_else(|| no_machine(&environment))?;
    let report = Report::of(&machine).map_err(Failure::failed)?;
    if json {
        output::print_json(&report)
    } else {
        output::print(report::text(&report))
    }
}

fn no_machine(environment: &Environment) -> Failure {
    Failure::failed(format_args!(
        "no simulated machine is running in {}; one starts with its first program (cuda-hook run --sim t4 -- PROGRAM) \
         and ends with its last; GPU_SIM_PROFILE and GPU_SIM_DIR say which is meant",
        environment.dir.display()
    ))
}

/// Prints the profiles that `--sim` takes by name.
fn profiles() -> Result<(), Failure> {
    let mut table = Table::new([
        ("PROFILE", Align::Left),
        ("GPU", Align::Left),
        ("MEMORY", Align::Right),
        ("SMS", Align::Right),
        ("COMPUTE CAPABILITY", Align::Right),
    ]);
    for (name, text) in BUILT_IN {
        for device in &MachineProfile::parse(name, text)
            .map_err(Failure::failed)?
            .devices
        {
            table.push([
                (*name).to_owned(),
                device.name.clone(),
                quantity::bytes(device.memory_bytes),
                device.sm_count.to_string(),
                compute_capability(device),
            ]);
        }
    }
    output::print(table)
}

/// The value of `GPU_SIM_PROFILE` for `--sim`: a built-in name, or the absolute path of a file, as programs change
/// their folder.
pub(crate) fn profile_variable(profile: &str) -> Result<OsString, Failure> {
    let is_file = profile.contains('/') || profile.ends_with(".toml");
    MachineProfile::load(profile)
        .map_err(|error| Failure::usage(format_args!("--sim {profile}: {error}")))?;
    if !is_file {
        return Ok(profile.into());
    }
    let path = std::path::absolute(profile);
    path.map(OsString::from)
        .map_err(|error| Failure::usage(format_args!("--sim {profile}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_profile_is_answered_with_the_known_ones() {
        let refused = profile_variable("t5").unwrap_err();
        assert_eq!(refused.exit_status, 2);
        assert!(refused.to_string().contains("a100, h100"), "{refused}");
    }

    #[test]
    fn a_file_that_is_no_profile_is_refused_with_its_line() {
        let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        std::fs::write(&file, "[[device]]\nprofile = \"t4\"\nsm_cuont = 4\n").unwrap();
        let refused = profile_variable(file.path().to_str().unwrap()).unwrap_err();
        assert_eq!(refused.exit_status, 2);
        assert!(
            refused
                .to_string()
                .contains("line 3, `sm_cuont = 4`: unknown field"),
            "{refused}"
        );
    }

    #[test]
    fn several_gpus_are_named_in_one_word() {
        assert_eq!(profile_variable("2xa100,t4").unwrap(), "2xa100,t4");
    }
}
