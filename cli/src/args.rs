//! The command line: what may be typed, and the help that teaches it.

mod examples;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use examples::*;
use limiter::config::ContainerName;

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
    Agent(AgentArgs),
    Completions(CompletionsArgs),
    Manual(ManualArgs),
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
            Self::Agent(_) => "agent",
            Self::Completions(_) => "completions",
            Self::Manual(_) => "manual",
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

/// By what a container's programs come to the library.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preload {
    /// /etc/ld.so.preload: whatever a program clears
    #[default]
    File,
    /// LD_PRELOAD: a program can do without it
    Environment,
}

/// Write the description of one slice: what a container that asks for it gets
///
/// `--device cuda-hook/slice=NAME` gives a container the library, preloaded by /etc/ld.so.preload, which no program can clear, the
/// slice's limits, the folder of the shared state, and the GPU's device nodes where this machine has them. The runtime calls
/// `cuda-hook oci-hook` for each: it gets a quota under a name of its own, and one that cannot be limited is not started. By a runtime
/// that calls no hooks it is limited all the same, under the name of its cgroup or the one in the config file.
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

    /// By what the container's programs come to the library
    #[arg(long, value_enum, default_value_t)]
    pub(crate) preload: Preload,

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

    /// By what the container's programs come to the library; a hook can set no variable: of `environment` it only sees to it that the
    /// container's description has it
    #[arg(long, value_enum, default_value_t)]
    pub(crate) preload: Preload,

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

/// Watch over the containers of a node: metrics for Prometheus, `status` and `set` for other programs
///
/// One process per node, or per folder of the shared state, which it makes where it is missing. It frees the places of processes that
/// have died, removes what containers have left that ended a while ago, answers /metrics (Prometheus text, or OpenMetrics where that is asked for) and /healthz on --listen, and on --socket these,
/// `GET /status`, which is `cuda-hook status --json`, and `POST /set` with {"container": "trainer-7", "memory": "6GiB", "sm": 30}, which is
/// `cuda-hook set --json`. Programs do not need it: it may end at any time, and nothing changes for them. It ends on SIGTERM and SIGINT,
/// and says what happens on standard error, a line an event.
#[derive(Args, Debug)]
#[command(after_help = AGENT_EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct AgentArgs {
    /// Folder of the shared state; default: $CUDA_HOOK_DIR, else /run/cuda-hook, else /dev/shm/cuda-hook-UID
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// Address and port for /metrics and /healthz, or none; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9402")]
    pub(crate) listen: Listen,

    /// The unix socket for `status` and `set`; only its owner and root may use it
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/cuda-hook-agent/socket"
    )]
    pub(crate) socket: PathBuf,

    /// How long a container that has ended stays in `status` and in the metrics: 1ms to 3600s
    #[arg(long, value_name = "TIME", default_value = "600s", value_parser = crate::ticks::period)]
    pub(crate) keep_ended: Duration,

    #[command(subcommand)]
    pub(crate) command: Option<AgentCommand>,
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    None,
    At(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        text.parse().map(Self::At).map_err(|_| {
            "allowed is an address with its port, as 127.0.0.1:9402 or [::1]:9402, or none"
                .to_owned()
        })
    }
}

/// What the agent has another process do.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Free the places of the dead in one file of the shared state
    #[command(hide = true)]
    Reap { file: PathBuf },
    /// Remove what a container has left that has ended
    #[command(hide = true)]
    Forget {
        dir: PathBuf,
        container: ContainerName,
        mark: String,
    },
}

/// Print what a shell completes this command's words by
#[derive(Args, Debug)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub(crate) struct CompletionsArgs {
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Write the manual's pages, one for each command, for `man` to show
#[derive(Args, Debug)]
#[command(after_help = MANUAL_EXAMPLES)]
pub(crate) struct ManualArgs {
    /// Where to write them; it is made where it is missing
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
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
