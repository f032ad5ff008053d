//! What is made of the definition of the command line for others: completions for shells, and pages for `man`.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};

use crate::args::{CommandLine, CompletionsArgs, ManualArgs};
use crate::failure::Failure;
use crate::folders::failed;
use crate::output;

/// `cuda-hook completions`
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut command = shown(&CommandLine::command());
    clap_complete::generate(args.shell, &mut command, "cuda-hook", &mut script);
    output::print(String::from_utf8_lossy(&script).trim_end())
}

/// The same command, as far as a shell needs it, without the subcommands that help does not show: `clap_complete` would offer them.
fn shown(command: &Command) -> Command {
    let about = command.get_about().cloned().unwrap_or_default();
    let subcommands = command.get_subcommands();
    let subcommands = subcommands.filter(|subcommand| !subcommand.is_hide_set());
    let shown = Command::new(command.get_name().to_owned())
        .about(about)
        .args(command.get_arguments())
        .subcommands(subcommands.map(shown));
    match command.get_version() {
        Some(version) => shown.version(version.to_owned()),
        None => shown,
    }
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
    fn shells_complete_what_help_shows_and_nothing_else() {
        fn same(whole: &Command, shown: &Command) {
            let ids = |command: &Command| -> Vec<_> {
                let arguments = command.get_arguments();
                arguments.map(|one| one.get_id().to_string()).collect()
            };
            assert_eq!(ids(whole), ids(shown));
            for subcommand in whole.get_subcommands() {
                let name = subcommand.get_name();
                match shown.find_subcommand(name) {
                    Some(shown) => same(subcommand, shown),
                    None => assert!(subcommand.is_hide_set(), "{name}"),
                }
            }
        }
        let whole = CommandLine::command();
        let shown = shown(&whole);
        same(&whole, &shown);
        let agent = shown.find_subcommand("agent").unwrap();
        assert!(!agent.has_subcommands());
        let hook = shown.find_subcommand("oci-hook").unwrap();
        assert!(hook.find_subcommand("config").is_some());
        assert!(hook.find_subcommand("examine").is_none());
    }

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
