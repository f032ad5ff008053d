//! The command line.

use clap::{Args, Parser, Subcommand};

/// Play a GPU workload through the driver API: images or tokens a second, and latencies.
///
/// On whatever driver the loader finds: a real GPU, or a simulated one with `cuda-hook run --sim t4 -- workload …`.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Exit status: 0 played; 1 the driver or the device refused; 2 wrong usage or a wrong file; \
                  130 interrupted, after what was measured so far is printed."
)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) play: Play,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the shipped workloads, a line each
    List,
    /// Print a shipped workload's file, as a start for one of your own
    Show {
        /// The workload, or with --network the network
        name: String,
        /// Print a network's file instead
        #[arg(long)]
        network: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Play {
    /// A shipped workload (`workload list`), or the path of a .toml file
    #[arg(value_name = "NAME|FILE", required = true)]
    pub(crate) workload: Option<String>,
    /// Items of an iteration, one of those in the file [default: its first]
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<u32>,
    /// Length of the window
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Length of the window in iterations instead
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) iterations: Option<u64>,
    /// Let iterations arrive at random, so many a second, whatever the file says
    #[arg(long, value_name = "PER_S")]
    pub(crate) rate: Option<f64>,
    /// Seed of random arrivals [default: the file's, or 1]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// One line of JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// When ready, say so in a line of JSON, then play a window for each line on standard input, until its end:
    /// so that several programs can be started together
    #[arg(long)]
    pub(crate) gate: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    const MAX: f64 = 1e6;
    match text.parse() {
        Ok(value) if (0.001..=MAX).contains(&value) => Ok(value),
        _ => Err(format!("not a number of seconds from 0.001 to {MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_window_has_one_length_and_it_is_positive() {
        for wrong in [
            &["workload", "x", "--seconds", "0"][..],
            &["workload", "x", "--seconds", "nan"],
            &["workload", "x", "--iterations", "0"],
            &["workload", "x", "--iterations", "1", "--seconds", "1"],
            &["workload"],
            &["workload", "x", "list"],
        ] {
            assert!(CommandLine::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
        assert!(CommandLine::try_parse_from(["workload", "list"]).is_ok());
    }
}
