//! What the preload costs a process that does not use CUDA: a program that does nothing is started and waited for, bare
//! and with libraries before it, in turn.
//!
//! Rounds alternate, so that a machine whose speed drifts drifts for all. Nothing is asserted: benches measure, tests
//! decide.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;
use std::{fs, io, iter};

use benches::table::Table;
use clap::Parser;
use serde::Serialize;

/// Measure what starting a program takes with libraries preloaded, over starting it bare.
#[derive(Parser)]
struct Arguments {
    /// A library to preload; several are measured beside each other.
    #[arg(long, value_name = "PATH", required = true)]
    preload: Vec<PathBuf>,
    /// The program, which is given no arguments.
    #[arg(long, value_name = "PATH", default_value = "/bin/true")]
    program: PathBuf,
    /// Starts of each.
    #[arg(long, default_value_t = 1000)]
    rounds: usize,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// What starting with one library, or with none, took.
#[derive(Default)]
struct Starts {
    preload: Option<PathBuf>,
    /// Of each start.
    microseconds: Vec<f64>,
    /// The fewest of a start.
    page_faults: Option<u64>,
    /// In the process itself, the loader's work above all; `None` where valgrind is not installed.
    instructions: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(starts) => {
            #[expect(clippy::print_stdout, reason = "the table is what this program is for")]
            {
                let rows = rows(starts);
                match arguments.json {
                    true => println!("{}", serde_json::json!({ "rows": rows })),
                    false => print!("{}", table(&rows)),
                }
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a program says why it fails")]
            {
                eprintln!("start-cost: {}: {error}", arguments.program.display());
            }
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> io::Result<Vec<Starts>> {
    let preloads = arguments.preload.iter().cloned().map(Some);
    let mut starts: Vec<Starts> = iter::once(None)
        .chain(preloads)
        .map(|preload| Starts {
            instructions: instructions(&arguments.program, preload.as_deref()),
            preload,
            ..Starts::default()
        })
        .collect();
    for _ in 0..arguments.rounds {
        for starts in &mut starts {
            starts.add(&arguments.program)?;
        }
    }
    Ok(starts)
}

impl Starts {
    /// Starts the program once more, until it has been waited for.
    fn add(&mut self, program: &Path) -> io::Result<()> {
        let faults_before = childrens_page_faults()?;
        let mut command = with_preload(program, self.preload.as_deref());
        let began = Instant::now();
        command.status()?;
        self.microseconds.push(began.elapsed().as_secs_f64() * 1e6);
        let faults = childrens_page_faults()?.saturating_sub(faults_before);
        self.page_faults = Some(self.page_faults.map_or(faults, |least| least.min(faults)));
        Ok(())
    }
}

fn with_preload(program: &Path, preload: Option<&Path>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null());
    command.envs(preload.map(|preload| ("LD_PRELOAD", preload)));
    command
}

/// Page faults, without input or output, of the children that were waited for: `cminflt` of `/proc/self/stat` (`proc(5)`).
fn childrens_page_faults() -> io::Result<u64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let behind_the_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let faults = behind_the_name.split_whitespace().nth(8);
    faults
        .and_then(|faults| faults.parse().ok())
        .ok_or_else(|| io::Error::other("/proc/self/stat has no cminflt"))
}

/// Instructions of one start outside the kernel: the same on a busy machine as on an idle one.
fn instructions(program: &Path, preload: Option<&Path>) -> Option<u64> {
    let mut valgrind = with_preload(Path::new("valgrind"), preload);
    let counting = ["--tool=callgrind", "--callgrind-out-file=/dev/null"];
    valgrind.args(counting).arg(program);
    valgrind.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    let said = valgrind.output().ok()?.stderr;
    let said = String::from_utf8_lossy(&said).into_owned();
    let count = said.split("Collected : ").nth(1)?.split_whitespace().next();
    count?.parse().ok()
}

/// Starts with one library, or with none.
#[derive(Debug, Serialize)]
struct Row {
    preloaded: String,
    fastest_us: f64,
    /// What a tenth of the starts do not exceed.
    tenth_us: f64,
    median_us: f64,
    page_faults: Option<u64>,
    instructions: Option<u64>,
}

fn rows(starts: Vec<Starts>) -> Vec<Row> {
    let row = |mut starts: Starts| {
        starts.microseconds.sort_by(f64::total_cmp);
        let at = |part: usize| {
            let index = starts.microseconds.len().saturating_mul(part) / 10;
            starts.microseconds.get(index).copied().unwrap_or(f64::NAN)
        };
        let name = starts.preload.as_ref().and_then(|path| path.file_name());
        Row {
            preloaded: name.map_or_else(|| "nothing".to_owned(), |name| name.display().to_string()),
            fastest_us: at(0),
            tenth_us: at(1),
            median_us: at(5),
            page_faults: starts.page_faults,
            instructions: starts.instructions,
        }
    };
    starts.into_iter().map(row).collect()
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new(&[
        "preloaded",
        "fastest, µs",
        "a tenth, µs",
        "median, µs",
        "page faults",
        "instructions",
    ]);
    let count = |count: Option<u64>| count.map_or_else(|| "–".to_owned(), |n| n.to_string());
    for row in rows {
        let [fastest, tenth, median] =
            [row.fastest_us, row.tenth_us, row.median_us].map(|us| format!("{us:.0}"));
        table.row(&[
            row.preloaded.clone(),
            fastest,
            tenth,
            median,
            count(row.page_faults),
            count(row.instructions),
        ]);
    }
    table.into_text()
}
