//! `cuda-hook run`: puts the preload, the limits and the simulation into the environment, and becomes the program.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::args::RunArgs;
use crate::artefacts::Artefacts;
use crate::doctor::program::{self, CLibrary};
use crate::failure::Failure;
use crate::inject::image;
use crate::output;
use crate::settings::{self, Environment};
use crate::sim;

const DRIVER_VARIABLE: &str = "CUDA_HOOK_DRIVER";
const CONTAINER_VARIABLE: &str = "CUDA_HOOK_CONTAINER";
const PROFILE_VARIABLE: &str = "GPU_SIM_PROFILE";

/// As shells have it: not found; found, but not to be started.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// Starts the program; returns only when it could not be started.
pub(crate) fn run(args: &RunArgs) -> Result<Infallible, Failure> {
    let artefacts = Artefacts::locate()?;
    let mut environment = settings::environment();
    if let Some(profile) = &args.sim {
        simulate(&mut environment, profile, &artefacts.sim_folder()?)?;
    }
    let limits_given = limit(&mut environment, args);
    let settings = settings::of(&environment).map_err(Failure::usage)?;
    if limits_given && settings.container_is_default {
        environment.insert(CONTAINER_VARIABLE.into(), own_name().into());
    }
    let preload = artefacts.preload()?;
    prepend(&mut environment, "LD_PRELOAD", preload.as_os_str());
    let Some((program, arguments)) = args.program.split_first() else {
        return Err(Failure::usage("no program to run"));
    };
    judge(program, settings.limits.is_some(), &preload)?;
    let error = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .exec();
    Err(not_started(program, &error))
}

/// Lets the program find the simulated driver and NVML before any other, and says which GPU they simulate.
fn simulate(environment: &mut Environment, profile: &str, folder: &Path) -> Result<(), Failure> {
    if let Some(driver) = environment.get(OsStr::new(DRIVER_VARIABLE)) {
        let driver = driver.display();
        return Err(Failure::usage(format_args!(
            "--sim {profile} and {DRIVER_VARIABLE}={driver} name two drivers; unset {DRIVER_VARIABLE}"
        )));
    }
    environment.insert(PROFILE_VARIABLE.into(), sim::profile_variable(profile)?);
    prepend(environment, "LD_LIBRARY_PATH", folder.as_os_str());
    Ok(())
}

/// Writes what the command line says where the library reads it; tells whether a limit is among it.
fn limit(environment: &mut Environment, args: &RunArgs) -> bool {
    let limits = [
        ("CUDA_HOOK_MEMORY", &args.memory),
        ("CUDA_HOOK_MEMORY_SOFT", &args.memory_soft),
        ("CUDA_HOOK_SPILL", &args.spill),
        ("CUDA_HOOK_SM", &args.sm),
        ("CUDA_HOOK_SM_MAX", &args.sm_max),
    ];
    for (variable, value) in limits
        .into_iter()
        .chain([(CONTAINER_VARIABLE, &args.container)])
    {
        if let Some(value) = value {
            environment.insert(variable.into(), value.into());
        }
    }
    limits.iter().any(|(_, value)| value.is_some())
}

/// A container name for this run alone. The process id is the program's, as `exec` keeps it; what follows keeps
/// apart runs of one id in two pid namespaces, or one after the other.
fn own_name() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "run-{}-{:06x}",
        std::process::id(),
        since.as_micros() & 0xff_ffff
    )
}

/// Puts `first` before what the list of paths in `variable` already holds.
fn prepend(environment: &mut Environment, variable: &str, first: &OsStr) {
    let value = environment.entry(variable.into()).or_default();
    let mut list = first.to_owned();
    if !value.is_empty() {
        list.push(":");
        list.push(&value);
    }
    *value = list;
}

/// A program that no preload can enter would run without its limits, and nobody would hear of it. It may still be
/// a mere launcher of one that a preload does enter: so it is started, where there can be such a one.
fn judge(program: &OsStr, is_limited: bool, preload: &Path) -> Result<(), Failure> {
    let Some(obstacle) = program::obstacle(program) else {
        return Ok(());
    };
    let (found, way_out) = (obstacle.found, obstacle.way_out.unwrap_or_default());
    let refused = |why| Failure::with_status(NOT_RUN, format_args!("{found}; {why}"));
    match program::c_library(program) {
        Some(CLibrary::Other) => return Err(refused(way_out)),
        Some(CLibrary::None) if is_limited => {
            let no_other = image::check_here(preload);
            no_other.map_err(|reason| refused(reason.to_string()))?;
        }
        _ => {}
    }
    if is_limited {
        output::complain(format_args!(
            "warning: {found}; the limits do not hold for it ({way_out})"
        ));
    }
    Ok(())
}

fn not_started(program: &OsStr, error: &io::Error) -> Failure {
    let exit_status = match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_RUN,
    };
    let program = program.display();
    let message = format!("cannot run {program}: {error}; cuda-hook doctor {program} says more");
    Failure::with_status(exit_status, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(environment: &'a Environment, variable: &str) -> Option<&'a str> {
        environment
            .get(OsStr::new(variable))
            .map(|value| value.to_str().unwrap())
    }

    fn args(memory: Option<&str>, container: Option<&str>) -> RunArgs {
        RunArgs {
            memory: memory.map(str::to_owned),
            memory_soft: None,
            spill: None,
            sm: None,
            sm_max: None,
            container: container.map(str::to_owned),
            sim: None,
            program: vec!["true".into()],
        }
    }

    #[test]
    fn what_was_preloaded_stays_behind_us() {
        let mut environment = Environment::from([("LD_PRELOAD".into(), "/a.so /b.so".into())]);
        prepend(&mut environment, "LD_PRELOAD", OsStr::new("/ours.so"));
        assert_eq!(
            value(&environment, "LD_PRELOAD"),
            Some("/ours.so:/a.so /b.so")
        );
    }

    #[test]
    fn an_empty_list_gets_no_empty_element() {
        let mut environment = Environment::from([("LD_LIBRARY_PATH".into(), "".into())]);
        prepend(&mut environment, "LD_LIBRARY_PATH", OsStr::new("/sim"));
        assert_eq!(
            value(&environment, "LD_LIBRARY_PATH"),
            Some("/sim"),
            "an empty element would mean the current folder"
        );
    }

    #[test]
    fn what_the_command_line_says_is_where_the_library_reads_it() {
        let mut environment = Environment::from([("CUDA_HOOK_SM".into(), "50".into())]);
        assert!(limit(&mut environment, &args(Some("1GiB"), Some("mine"))));
        assert_eq!(value(&environment, "CUDA_HOOK_MEMORY"), Some("1GiB"));
        assert_eq!(value(&environment, CONTAINER_VARIABLE), Some("mine"));
        assert_eq!(
            value(&environment, "CUDA_HOOK_SM"),
            Some("50"),
            "what is not said stays"
        );
    }

    #[test]
    fn a_guarantee_and_a_spill_are_limits_as_any() {
        let mut environment = Environment::new();
        let limits = RunArgs {
            memory_soft: Some("1GiB".into()),
            spill: Some("true".into()),
            ..args(None, None)
        };
        assert!(limit(&mut environment, &limits));
        let soft = value(&environment, "CUDA_HOOK_MEMORY_SOFT");
        assert_eq!(
            (soft, value(&environment, "CUDA_HOOK_SPILL")),
            (Some("1GiB"), Some("true"))
        );
    }

    #[test]
    fn a_name_alone_is_no_limit() {
        assert!(!limit(&mut Environment::new(), &args(None, Some("mine"))));
    }

    #[test]
    fn the_name_of_a_run_is_one_that_a_container_may_have() {
        let name = own_name();
        assert!(
            name.starts_with(&format!("run-{}-", std::process::id())),
            "{name}"
        );
        assert!(
            name.parse::<limiter::config::ContainerName>().is_ok(),
            "{name}"
        );
    }
}
