//! `cuda-hook doctor`: is this machine able to enforce limits, and if not, why not.

mod driver;
mod elf;
mod finding;
mod loader;
mod machine;
mod preload;
pub(crate) mod program;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::args::DoctorArgs;
use crate::artefacts::Artefacts;
use crate::failure::Failure;
use crate::output;
use crate::run;
use crate::settings;
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
        output::print(text(&findings, able))?;
    }
    Ok(ExitCode::from(u8::from(!able)))
}

fn examine(args: &DoctorArgs) -> Result<Vec<Finding>, Failure> {
    let artefacts = Artefacts::locate()?;
    let mut findings = Vec::new();
    let mut driver = PathBuf::from("libcuda.so.1");
    match settings::of(&settings::environment()) {
        Ok(settings) => {
            findings.push(machine::configuration(&settings));
            findings.push(machine::state_folder(&settings.dir));
            driver = settings.driver.unwrap_or(driver);
        }
        Err(refusal) => findings.push(machine::refused(refusal)),
    }
    if let Some(profile) = &args.sim {
        let _: OsString = run::sim_profile(profile)?;
        driver = artefacts.sim_folder()?.join("libcuda.so.1");
    }
    let (of_preload, image) = preload::examine(&artefacts);
    findings.extend(of_preload);
    findings.extend(driver::examine(&driver, image.as_ref()));
    if let Some(program) = &args.program {
        findings.extend(program::examine(program));
    }
    Ok(findings)
}

/// One line a finding, its way out below it, and the verdict.
fn text(findings: &[Finding], able: bool) -> String {
    let mut lines = Vec::new();
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        lines.push(format!(
            "{level:<8} {:<14} {}",
            finding.check, finding.found
        ));
        lines.extend(
            finding
                .way_out
                .iter()
                .map(|way_out| format!("{:24}-> {way_out}", "")),
        );
    }
    let verdict = if able {
        "able to enforce limits"
    } else {
        "not able to enforce limits"
    };
    lines.push(format!("\nThis machine is {verdict}."));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_out_stands_below_its_problem() {
        let findings = [
            Finding::ok("glibc", "2.36"),
            Finding::problem("driver", "missing", "install it"),
        ];
        let lines = text(&findings, false);
        assert_eq!(
            lines,
            "ok       glibc          2.36\n\
             PROBLEM  driver         missing\n                        -> install it\n\n\
             This machine is not able to enforce limits."
        );
    }
}
