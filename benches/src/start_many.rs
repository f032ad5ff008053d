//! What `cuInit` takes where many processes call it at once: bare, and with the preload under a limit, in turn.
//!
//! Each process loads the driver and waits; when all do, they are let go together. Rounds alternate, so that a machine whose speed drifts
//! drifts for both. Nothing is asserted: benches measure, tests decide.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Instant;

use benches::table::Table;
use clap::Parser;
use cuda_sys_stubs::abi::CUDA_SUCCESS;
use cuda_sys_stubs::pfn;
use libloading::os::unix::Library;
use serde::Serialize;

/// Measure `cuInit` in many processes at once, bare and with the preload under a limit.
#[derive(Parser)]
struct Arguments {
    /// The preload.
    #[arg(long, value_name = "PATH")]
    hook: Option<PathBuf>,
    /// Processes that start at once; several are measured one after another.
    #[arg(long, default_values_t = [8, 300])]
    processes: Vec<usize>,
    /// Starts of each number of processes, bare and hooked each; fewer where they are many.
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Be one of the processes.
    #[arg(long, hide = true)]
    one: bool,
    /// And end after it. For a profiler, which does the counting.
    #[arg(long, hide = true, requires = "one")]
    leave: bool,
}

/// What of all starts in one round for 8 processes is in one for 300: rounds are fewer, so that each number takes about as long.
const PROCESSES_OF_ALL_ROUNDS: usize = 8;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.hook {
        _ if arguments.one => be_one(arguments.leave),
        Some(hook) => measure(&arguments, hook),
        None => Err(io::Error::other("--hook PATH names the preload")),
    };
    done.map_or_else(
        |error| {
            #[expect(clippy::print_stderr, reason = "a program says why it fails")]
            {
                eprintln!("start-many: {error}");
            }
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// Loads the driver, says so, waits for the end of the input, initialises, says what that took in ns, and waits to be killed, or ends.
fn be_one(leaves: bool) -> io::Result<()> {
    // SAFETY: the driver's library promises that loading runs nothing but the loader's own work.
    let library = unsafe { Library::new("libcuda.so.1") }.map_err(io::Error::other)?;
    // SAFETY: the function-pointer type of that very symbol.
    let init = unsafe { library.get::<pfn::cuInit>(b"cuInit") }.map_err(io::Error::other)?;
    let mut output = io::stdout();
    writeln!(output, "ready")?;
    io::stdin().read_to_end(&mut Vec::new())?;
    let began = Instant::now();
    // SAFETY: no arguments but a zero flag.
    let status = unsafe { init(0) };
    let took = began.elapsed();
    if status != CUDA_SUCCESS {
        return Err(io::Error::other(format!("cuInit answers {status:?}")));
    }
    writeln!(output, "{}", took.as_nanos())?;
    if leaves {
        return Ok(());
    }
    loop {
        std::thread::park();
    }
}

/// What starts of so many processes at once took, bare or hooked, in ms.
#[derive(Debug, Serialize)]
struct Row {
    processes: usize,
    hooked: bool,
    /// Starts of so many.
    rounds: usize,
    init_ms: Quantiles,
    /// From the making of a process to the end of its `cuInit`; of one that starts alone.
    whole_ms: Option<Quantiles>,
}

/// The fastest, the middle one, and the one that 1 % exceed.
#[derive(Debug, Serialize)]
struct Quantiles {
    fastest: f64,
    p50: f64,
    p99: f64,
}

fn measure(arguments: &Arguments, hook: &Path) -> io::Result<()> {
    let state = tempfile::tempdir()?;
    let mut rows = Vec::new();
    for &processes in &arguments.processes {
        rows.extend(measure_crowds(
            processes,
            arguments.rounds,
            hook,
            state.path(),
        )?);
    }
    #[expect(clippy::print_stdout, reason = "the table is what this program is for")]
    {
        if arguments.json {
            println!("{}", serde_json::json!({ "rows": rows }));
        } else {
            print!("{}", table(&rows));
        }
    }
    Ok(())
}

/// Crowds of that size, bare and hooked in turn.
fn measure_crowds(
    processes: usize,
    rounds: usize,
    hook: &Path,
    state: &Path,
) -> io::Result<[Row; 2]> {
    let rounds = rounds * PROCESSES_OF_ALL_ROUNDS / processes.max(PROCESSES_OF_ALL_ROUNDS);
    let rounds = rounds.max(1);
    let mut took: [(Vec<f64>, Vec<f64>); 2] = Default::default();
    for _ in 0..rounds {
        for ((init, whole), hook) in took.iter_mut().zip([None, Some(hook)]) {
            let began = Instant::now();
            init.extend(start_at_once(processes, hook, state)?);
            whole.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    let mut is_hooked = [false, true].into_iter();
    Ok(took.map(|(init, whole)| Row {
        processes,
        hooked: is_hooked.next().unwrap_or_default(),
        rounds,
        init_ms: Quantiles::of(init),
        whole_ms: (processes == 1).then(|| Quantiles::of(whole)),
    }))
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new(&["processes", "cuInit, ms", "fastest", "p50", "p99"]);
    let mut add = |processes: usize, what: &str, Quantiles { fastest, p50, p99 }: &Quantiles| {
        let [fastest, p50, p99] = [fastest, p50, p99].map(|ms| format!("{ms:.3}"));
        table.row(&[&processes.to_string(), what, &fastest, &p50, &p99]);
    };
    for row in rows {
        let side = ["bare", "hooked, under a limit"][usize::from(row.hooked)];
        add(row.processes, side, &row.init_ms);
        if let Some(whole) = &row.whole_ms {
            add(row.processes, &format!("{side}, from the start on"), whole);
        }
    }
    table.into_text()
}

/// What each process's `cuInit` took, in ms.
fn start_at_once(processes: usize, hook: Option<&Path>, state: &Path) -> io::Result<Vec<f64>> {
    let (gate, keeper) = io::pipe()?;
    let mut crowd = Vec::with_capacity(processes);
    for _ in 0..processes {
        crowd.push(One::start(hook, state, gate.try_clone()?)?);
    }
    for one in &mut crowd {
        one.line()?;
    }
    drop(keeper);
    let milliseconds = |line: String| {
        line.parse::<f64>()
            .map_err(io::Error::other)
            .map(|ns| ns / 1e6)
    };
    crowd
        .iter_mut()
        .map(|one| one.line().and_then(milliseconds))
        .collect()
}

/// One of the processes, killed when dropped.
struct One {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl One {
    fn start(hook: Option<&Path>, state: &Path, gate: io::PipeReader) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        if let Some(hook) = hook {
            command
                .env("LD_PRELOAD", hook)
                .env("CUDA_HOOK_DIR", state)
                .env("CUDA_HOOK_CONTAINER", "start-many")
                .env("CUDA_HOOK_MEMORY", "1GiB");
        }
        let mut child = command
            .arg("--one")
            .stdin(gate)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("it was piped"))?;
        Ok(Self {
            child,
            output: BufReader::new(output),
        })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err(io::Error::other("a process has ended")),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

impl Drop for One {
    fn drop(&mut self) {
        // Both fail for one that has ended and was waited for: then there is nothing to do.
        if self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}

impl Quantiles {
    fn of(mut milliseconds: Vec<f64>) -> Self {
        milliseconds.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let rank = (milliseconds.len() * percent).div_ceil(100);
            milliseconds
                .get(rank.saturating_sub(1))
                .copied()
                .unwrap_or(f64::NAN)
        };
        Self {
            fastest: at(0),
            p50: at(50),
            p99: at(99),
        }
    }
}
