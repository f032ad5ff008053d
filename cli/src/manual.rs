//! What is made of the definition of the command line for others: completions for shells, and pages for `man`.

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory;

use crate::args::{CommandLine, CompletionsArgs, ManualArgs};
use crate::failure::Failure;
use crate::folders::failed;
use crate::output;

/// `cuda-hook completions`
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut CommandLine::command(),
        "cuda-hook",
        &mut script,
    );
    output::print(String::from_utf8_lossy(&script).trim_end())
}

/// `cuda-hook manual`
pub(crate) fn manual(args: &ManualArgs) -> Result<(), Failure> {
    write_pages(&args.folder).map_err(failed(&args.folder))
}

/// Writes `cuda-hook.1`, `cuda-hook-run.1` and so on; commands that are hidden from the help have none.
fn write_pages(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(CommandLine::command(), folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_that_help_shows_has_a_page_of_the_manual() {
        let folder = tempfile::tempdir().unwrap();
        write_pages(folder.path()).unwrap();
        for command in CommandLine::command().get_subcommands() {
            let page = folder
                .path()
                .join(format!("cuda-hook-{}.1", command.get_name()));
            let text = fs::read_to_string(&page).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{page:?}");
        }
        assert!(!folder.path().join("cuda-hook-oci-hook-examine.1").exists());
    }
}
