//! The command line: what may be typed, and the help that teaches it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand, ValueEnum};

/// Share one NVIDIA GPU between programs: a memory quota and an SM share for each of them.
///
/// The program is started with libcuda_hook.so preloaded. It needs no change, no rebuild and no root.
#[derive(Debug, Parser)]
#[command(name = "cuda-hook", version, arg_required_else_help = true, after_help = COMMAND_EXAMPLES)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(RunArgs),
    Status(StatusArgs),
    Top(TopArgs),
    Set(SetArgs),
    Doctor(DoctorArgs),
    /// Look at the simulated GPU
    #[command(subcommand)]
    Sim(SimCommand),
    /// Describe slices of a GPU to container runtimes, by the Container Device Interface
    #[command(subcommand)]
    Cdi(CdiCommand),
    OciHook(OciHookArgs),
}

impl Command {
    /// How to write this command: the line that follows a complaint about its arguments.
    pub(crate) fn usage(&self) -> String {
        let name = match self {
            Self::Run(_) => "run",
            Self::Status(_) => "status",
            Self::Top(_) => "top",
            Self::Set(_) => "set",
            Self::Doctor(_) => "doctor",
            Self::Sim(_) => "sim",
            Self::Cdi(_) => "cdi",
            Self::OciHook(_) => "oci-hook",
        };
        let mut all = CommandLine::command();
        all.build();
        all.find_subcommand_mut(name)
            .map(|one| one.render_usage().to_string())
            .unwrap_or_default()
    }
}

/// Start a program under limits
///
/// The program replaces this command: its process id, its exit status and the signals it gets are its own.
/// Without a limit the library is preloaded all the same and changes nothing.
#[derive(Args, Debug)]
#[command(after_help = RUN_EXAMPLES, override_usage = "cuda-hook run [OPTIONS] [--] PROGRAM [ARGUMENTS]...")]
pub(crate) struct RunArgs {
    /// Device memory that the container may hold, on each GPU
    ///
    /// Bytes, or a number with KiB, MiB, GiB, TiB (K, M, G, T are the same) or KB, MB, GB, TB (decimal);
    /// "max" = no limit, 0 = none at all. GPU-UUID=SIZE,SIZE gives one GPU its own. Sets CUDA_HOOK_MEMORY.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,

    /// What of --memory is guaranteed; the rest is borrowed while the GPU has room for it; sets CUDA_HOOK_MEMORY_SOFT
    ///
    /// Default: all of it. 0 = nothing is guaranteed.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory_soft: Option<String>,

    /// Allocations of cuMemAlloc past --memory-soft become managed memory on the host, up to --memory; sets CUDA_HOOK_SPILL
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) spill: Option<String>,

    /// Share of the GPU's SM time that is guaranteed, in percent (1-100); sets CUDA_HOOK_SM
    #[arg(long, value_name = "PCT", allow_hyphen_values = true)]
    pub(crate) sm: Option<String>,

    /// Share it may reach while the others are idle, in percent; sets CUDA_HOOK_SM_MAX
    ///
    /// Default: the same as --sm, which makes that a hard cap.
    #[arg(long, value_name = "PCT", allow_hyphen_values = true)]
    pub(crate) sm_max: Option<String>,

    /// Whose limits these are: programs of one container share them
    ///
    /// Default where a limit is given and nothing names the container: a name of this run's own, run-PID-xxxxxx, as
    /// `cuda-hook status` lists it. Sets CUDA_HOOK_CONTAINER.
    #[arg(long, value_name = "NAME")]
    pub(crate) container: Option<String>,

    /// Run on a simulated GPU: a profile (see `cuda-hook sim profiles`), several (2xa100,t4) or the path of a TOML file
    #[arg(long, value_name = "GPU")]
    pub(crate) sim: Option<String>,

    /// The program and its arguments, passed on untouched
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    pub(crate) program: Vec<OsString>,
}

/// Show what every container may use, uses and waited for
///
/// Reads the folder of the shared state ($CUDA_HOOK_DIR, else /run/cuda-hook, else /dev/shm/cuda-hook-UID), and asks NVML, or the
/// simulated machine that runs here, what it lists of each process. Says what was refused to whom and why, what is on nobody's books,
/// and which processes use a GPU without any limit.
#[derive(Args, Debug)]
#[command(after_help = STATUS_EXAMPLES)]
pub(crate) struct StatusArgs {
    /// Print JSON, for scripts; "schema" says which
    #[arg(long)]
    pub(crate) json: bool,
}

/// What every container uses of its limits, live
///
/// As `cuda-hook status`, again and again, with bars, the share of GPU time that each had since the frame before, and the part of that
/// time in which its launches waited. Keys: m memory, g GPU time, w waiting, r refusals, n name: what to sort by; up and down to scroll;
/// q to quit. Where standard output is no terminal one frame is printed.
#[derive(Args, Debug)]
#[command(after_help = TOP_EXAMPLES)]
pub(crate) struct TopArgs {
    /// Print one frame as text and end
    #[arg(long)]
    pub(crate) once: bool,

    /// Time between two frames: 1ms to 3600s
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = crate::ticks::period)]
    pub(crate) every: Duration,

    /// What stands first
    #[arg(long, value_enum, default_value_t)]
    pub(crate) sort: Sort,
}

/// What `top` sorts by: the most comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// Memory in use.
    #[default]
    Memory,
    /// Share of GPU time.
    Gpu,
    /// Time for which launches waited.
    Waiting,
    /// Refused calls.
    Refusals,
    /// The container's name, from a to z.
    Name,
}

/// Change a container's limits while its programs run
///
/// Takes effect at the next allocation and the next launch; what waits looks again at once. A quota below what is in use
/// takes nothing away and grants nothing more. What is not named stays. A change ends with the container's last
/// program: the next start takes its own limits, so change the config file too if it is to last.
#[derive(Args, Debug)]
#[command(after_help = SET_EXAMPLES)]
#[command(group(ArgGroup::new("limit").required(true).multiple(true).args(["memory", "memory_soft", "spill", "sm", "sm_max"])))]
pub(crate) struct SetArgs {
    /// The container, as `cuda-hook status` lists it
    pub(crate) container: String,

    /// Device memory that the container may hold, on each GPU; GPU-UUID=SIZE for one of them; "max" = no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,

    /// What of it is guaranteed, on each GPU; GPU-UUID=SIZE for one of them; "max" = all of it
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory_soft: Option<String>,

    /// Whether allocations past what is guaranteed become managed memory on the host; what is spilled already stays there
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) spill: Option<String>,

    /// Share of the GPU's SM time that is guaranteed, in percent (1-100); without --sm-max a hard cap
    #[arg(long, value_name = "PCT", allow_hyphen_values = true)]
    pub(crate) sm: Option<String>,

    /// Share it may reach while the others are idle, in percent; 100 = no cap
    #[arg(long, value_name = "PCT", allow_hyphen_values = true)]
    pub(crate) sm_max: Option<String>,

    /// Print JSON, for scripts; "schema" says which
    #[arg(long)]
    pub(crate) json: bool,
}

/// Say whether limits can be enforced on this machine, and if not, why and what to do
///
/// Exit status 0: able. 1: a problem was found.
#[derive(Args, Debug)]
#[command(after_help = DOCTOR_EXAMPLES)]
pub(crate) struct DoctorArgs {
    /// Print JSON, for scripts; "schema" says which
    #[arg(long)]
    pub(crate) json: bool,

    /// Look at the simulated driver instead of the machine's own
    #[arg(long, value_name = "GPU")]
    pub(crate) sim: Option<String>,

    /// Also say whether this program can be limited
    pub(crate) program: Option<OsString>,
}

/// Look at the simulated GPU
#[derive(Debug, Subcommand)]
pub(crate) enum SimCommand {
    /// What the simulated machine itself measured: its GPUs and the processes on them
    ///
    /// The device's own books, kept apart from the limiter's. Starts nothing: exit status 1 where no simulated
    /// machine is running. $GPU_SIM_PROFILE and $GPU_SIM_DIR say which machine.
    Status {
        /// Print JSON, for scripts; "schema" says which
        #[arg(long)]
        json: bool,
    },
    /// The same again and again, until the machine ends: a line of JSON each time, or what happened since the line before
    Watch(WatchArgs),
    /// The GPUs that can be simulated by name
    ///
    /// Several make one machine: `--sim 2xa100,t4` has three GPUs. A TOML file does the same and can change any figure:
    /// each `[[device]]` names the profile that it starts from and how many there are (profile = "a100", count = 2).
    Profiles,
}

/// Describe slices of a GPU to container runtimes, by the Container Device Interface
#[derive(Debug, Subcommand)]
pub(crate) enum CdiCommand {
    Generate(CdiGenerateArgs),
}

/// Write the description of one slice: what a container that asks for it gets
///
/// `--device cuda-hook/slice=NAME` gives a container the library, preloaded by /etc/ld.so.preload, which no program can clear, the
/// slice's limits under a name of the container's own, the folder of the shared state, and the GPU's device nodes where this machine has
/// them. The runtime calls `cuda-hook oci-hook` for each: a container that cannot be limited is not started.
#[derive(Args, Debug)]
#[command(after_help = CDI_EXAMPLES)]
pub(crate) struct CdiGenerateArgs {
    /// The config file with the slice's limits, as a container's /etc/cuda-hook/config.toml has them
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,

    /// Folder of the shared state on this machine; in a container it is always /run/cuda-hook
    #[arg(long, value_name = "DIR", default_value = "/run/cuda-hook")]
    pub(crate) dir: PathBuf,

    /// Where to write it; standard output where it is not said
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// The slice's name: letters, digits, dots, dashes and underscores
    #[arg(value_name = "NAME")]
    pub(crate) slice: String,
}

/// Be what a container runtime calls to limit a container before it runs
///
/// As a createContainer hook (OCI Runtime Specification) it reads the container's state on standard input. A container is limited by
/// its annotations cuda-hook.memory, cuda-hook.memory_soft, cuda-hook.spill, cuda-hook.sm and cuda-hook.sm_max, by the variables of
/// the same meaning in its environment where there are none, or by --config; without any of them it is left alone. The library, its
/// config file, the folder of the shared state (/run/cuda-hook) and /etc/ld.so.preload are mounted into it. Before that its image is
/// looked at: where the library cannot enter its program, as that is static, or musl's, or its glibc too old, the hook fails, and the
/// runtime starts no container. As a poststop hook it tidies up.
#[derive(Args, Debug)]
#[command(after_help = OCI_HOOK_EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct OciHookArgs {
    /// A config file that sets the container's limits; its annotations must set none then
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Folder of the shared state on this machine; in a container it is always /run/cuda-hook
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/cuda-hook",
        global = true
    )]
    pub(crate) dir: PathBuf,

    #[command(subcommand)]
    pub(crate) command: Option<OciHookCommand>,
}

/// Beside being called.
#[derive(Debug, Subcommand)]
pub(crate) enum OciHookCommand {
    /// Print the file by which podman and CRI-O learn of the hook: for /usr/share/containers/oci/hooks.d
    Config,
    /// Look at an image from inside
    #[command(hide = true)]
    Examine(ExamineArgs),
}

/// Look at an image from inside
#[derive(Args, Debug)]
pub(crate) struct ExamineArgs {
    pub(crate) root: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) program: OsString,
    #[arg(long)]
    pub(crate) glibc: Option<String>,
}

/// Print the simulated machine's books again and again, until it ends
///
/// The machine does not live on for it. Exit status 1 where none is running.
#[derive(Args, Debug)]
#[command(after_help = WATCH_EXAMPLES)]
pub(crate) struct WatchArgs {
    /// Print JSON, one line each time, in the form of `sim status --json`
    #[arg(long)]
    pub(crate) json: bool,

    /// Time between two lines: 1ms to 3600s
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = crate::ticks::period)]
    pub(crate) every: Duration,

    /// Wait for a machine to start where none is running
    #[arg(long)]
    pub(crate) wait: bool,
}

const WATCH_EXAMPLES: &str = "\
Examples:
  cuda-hook sim watch
  cuda-hook sim watch --wait --json --every 100ms > books.jsonl &
  cuda-hook run --sim t4 -- python3 train.py       and books.jsonl is whole when it ends

Totals count from the machine's start: what happened between two lines is their difference.";

const COMMAND_EXAMPLES: &str = "\
Examples:
  cuda-hook doctor                                       is this machine able to enforce?
  cuda-hook run --memory 4GiB --sm 30 -- python3 train.py
  cuda-hook run --memory 4GiB --sm 30 --sim t4 -- python3 train.py      without a GPU
  cuda-hook status                                       what every container has and uses
  cuda-hook top                                          the same, live
  cuda-hook set trainer-7 --memory 6GiB                  change it while it runs

Exit status: 0 done, 1 failed, 2 wrong usage; of `run`, the program's own.";

const RUN_EXAMPLES: &str = "\
Examples:
  cuda-hook run --memory 2GiB --sm 30 -- python3 train.py
      2 GiB of each GPU, 30 % of its SM time and never more
  cuda-hook run --sm 30 --sm-max 60 --container trainer-7 -- ./train --epochs 3
      30 % for sure, 60 % while the others are idle, under a name of your own
  cuda-hook run --memory 8GiB --memory-soft 4GiB -- python3 train.py
      4 GiB for sure, 4 GiB more while nobody else is guaranteed them
  cuda-hook run --memory GPU-7c6c3c6e=8GiB,4GiB -- ./infer
      8 GiB of the GPU whose UUID begins so, 4 GiB of every other
  cuda-hook run --memory 2GiB --sim t4 -- python3 train.py
      the same on a simulated T4
  cuda-hook run --memory 2GiB --sim 2xa100 -- python3 train.py
      on a machine with two simulated A100s

Limits may only lower what a configuration file sets ($CUDA_HOOK_CONFIG, else
/etc/cuda-hook/config.toml). What LD_PRELOAD names already stays, behind the library.
  CUDA_HOOK_DIR      folder of the shared state
  CUDA_HOOK_LOG      off, error, warn, info, debug, trace: what the library says on stderr
  CUDA_HOOK_LIBRARY  path of another libcuda_hook.so than the one beside this command

Exit status: the program's own; 2 wrong usage, 126 the program cannot be executed,
127 it was not found.";

const STATUS_EXAMPLES: &str = "\
Examples:
  cuda-hook status
  cuda-hook status --json
  CUDA_HOOK_DIR=/dev/shm/mine cuda-hook status";

const TOP_EXAMPLES: &str = "\
Examples:
  cuda-hook top
  cuda-hook top --sort gpu --every 250ms
  cuda-hook top --once > frame.txt";

const SET_EXAMPLES: &str = "\
Examples:
  cuda-hook set trainer-7 --memory 6GiB
  cuda-hook set trainer-7 --memory 8GiB --memory-soft 4GiB --spill
  cuda-hook set trainer-7 --sm 20 --sm-max 80
  cuda-hook set trainer-7 --memory GPU-7c6c3c6e=8GiB       one of its GPUs

Exit status: 0 changed, 1 no such container, or none of its programs runs, 2 wrong usage: then nothing was changed.";

const CDI_EXAMPLES: &str = "\
Examples:
  cuda-hook cdi generate small --config /etc/cuda-hook/slices/small.toml --output /etc/cdi/cuda-hook-small.json
  podman run --device cuda-hook/slice=small IMAGE python3 train.py";

const OCI_HOOK_EXAMPLES: &str = "\
Examples:
  cuda-hook oci-hook config > /usr/share/containers/oci/hooks.d/cuda-hook.json
  podman run --annotation cuda-hook.memory=4GiB --annotation cuda-hook.sm=30 IMAGE python3 train.py

Exit status: 0 the container may start, 1 it must not, 2 wrong usage.";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  cuda-hook doctor
  cuda-hook doctor ./train              is this program one that a preload can enter?
  cuda-hook doctor --sim t4 --json";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<RunArgs, clap::Error> {
        match CommandLine::try_parse_from(line)?.command {
            Command::Run(run) => Ok(run),
            other => panic!("not a run: {other:?}"),
        }
    }

    #[test]
    fn help_says_all_that_is_to_be_known() {
        let mut all = CommandLine::command();
        all.build();
        for (name, said) in [
            ("run", "The program replaces this command"),
            ("status", "asks NVML"),
            ("top", "Keys: m memory"),
            ("set", "Takes effect at the next allocation"),
            ("oci-hook", "createContainer"),
        ] {
            let one = all.find_subcommand_mut(name).unwrap();
            assert!(one.get_about().is_some(), "{name}");
            let help = one.render_long_help().to_string().replace('\n', " ");
            assert!(help.contains(said), "{name}: {help}");
        }
    }

    #[test]
    fn the_definitions_do_not_contradict_each_other() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_complaint_is_followed_by_the_usage_of_its_command() {
        let command = CommandLine::try_parse_from(["cuda-hook", "doctor"])
            .unwrap()
            .command;
        assert_eq!(
            command.usage(),
            "Usage: cuda-hook doctor [OPTIONS] [PROGRAM]"
        );
    }

    #[test]
    fn what_follows_the_program_belongs_to_it() {
        let run = parse(&[
            "cuda-hook",
            "run",
            "--sm",
            "30",
            "--",
            "prog",
            "--sm",
            "--",
            "-x",
        ])
        .unwrap();
        assert_eq!(run.program, ["prog", "--sm", "--", "-x"]);
        assert_eq!(run.sm.as_deref(), Some("30"));
    }

    #[test]
    fn the_two_dashes_may_be_left_out() {
        let run = parse(&["cuda-hook", "run", "prog", "--memory", "1G"]).unwrap();
        assert_eq!(run.program, ["prog", "--memory", "1G"]);
        assert_eq!(run.memory, None);
    }

    #[test]
    fn an_unknown_flag_before_the_program_is_refused() {
        let refused = parse(&["cuda-hook", "run", "--memroy", "1G", "--", "prog"]).unwrap_err();
        assert_eq!(refused.exit_code(), 2);
    }

    #[test]
    fn a_negative_value_reaches_its_own_check() {
        let run = parse(&["cuda-hook", "run", "--memory", "-1", "--", "prog"]).unwrap();
        assert_eq!(run.memory.as_deref(), Some("-1"));
    }
}
