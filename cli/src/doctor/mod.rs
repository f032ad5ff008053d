//! `cuda-hook doctor`: is this machine able to enforce limits, and if not, why not.

mod driver;
pub(crate) mod elf;
mod finding;
mod loader;
mod machine;
mod preload;
pub(crate) mod program;
mod resolve;

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::args::DoctorArgs;
use crate::artefacts::Artefacts;
use crate::failure::Failure;
use crate::output;
use crate::settings;
use crate::sim;
use driver::Newcomers;
use finding::{Finding, Level};

/// Version of the JSON form.
const SCHEMA: u32 = 1;

/// What scripts read.
#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    /// Whether limits can be enforced: no finding is a problem.
    able: bool,
    findings: &'a [Finding],
}

/// Checks, prints, and answers with the exit status.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let findings = examine(args)?;
    let able = findings
        .iter()
        .all(|finding| finding.level != Level::Problem);
    if args.json {
        output::print_json(&Report {
            schema: SCHEMA,
            able,
            findings: &findings,
        })?;
    } else {
        let verdict = if able {
            "able to enforce limits"
        } else {
            "not able to enforce limits"
        };
        let lines: Vec<_> = findings.iter().map(ToString::to_string).collect();
        output::print(format_args!(
            "{}\n\nThis machine is {verdict}.",
            lines.join("\n")
        ))?;
    }
    Ok(ExitCode::from(u8::from(!able)))
}

fn examine(args: &DoctorArgs) -> Result<Vec<Finding>, Failure> {
    let artefacts = Artefacts::locate()?;
    let mut findings = Vec::new();
    let mut driver = PathBuf::from(driver::SONAME);
    let mut newcomers = Newcomers::Pass;
    match settings::of(&settings::environment()) {
        Ok(settings) => {
            findings.push(machine::configuration(&settings));
            findings.push(machine::state_folder(&settings.dir));
            findings.push(machine::contexts(&settings.dir));
            findings.extend(machine::guarantees(&settings.dir));
            if settings.strict {
                newcomers = Newcomers::AreWithheld;
            }
            if let Some(named) = settings.driver {
                findings.extend(driver::in_its_place(&named));
                driver = named;
            }
        }
        Err(refusal) => findings.push(machine::refused(refusal)),
    }
    if let Some(profile) = &args.sim {
        sim::profile_variable(profile)?;
        driver = artefacts.sim_folder()?.join(driver::SONAME);
    }
    let (of_preload, image) = preload::examine(&artefacts);
    findings.extend(of_preload);
    findings.extend(driver::examine(&driver, image.as_ref(), newcomers));
    if let Some(program) = &args.program {
        findings.extend(program::examine(program));
    }
    Ok(findings)
}
