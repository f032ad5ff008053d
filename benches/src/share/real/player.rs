//! A process of a scenario, in real time: plays its program through the driver that the loader finds.
#![expect(unsafe_code, reason = "calls the driver API, which is C")]

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::CString;
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::ptr;

use benches::driver::checked;
use benches::driver_calls;
use benches::evaluation::PROFILE;
use benches::evaluator::{Kernel, OnOff, Operation, Pace, ProcessPlan, ProcessReport, Program};
use benches::ptx;
use cuda_sys_stubs::abi::*;
use gpu_sim::clock;
use gpu_sim::model::random::Random;
use gpu_sim::profile::MachineProfile;
use serde_json::json;

use crate::failed;

driver_calls! {
    cuInit, cuDeviceGet, cuDevicePrimaryCtxSetFlags_v2, cuDevicePrimaryCtxRetain, cuCtxSetCurrent, cuCtxSynchronize,
    cuModuleLoadData, cuModuleGetFunction, cuLaunchKernel, cuStreamCreateWithPriority,
    cuStreamBeginCapture_v2, cuStreamEndCapture, cuGraphInstantiateWithFlags, cuGraphLaunch,
    cuEventCreate, cuEventRecord, cuEventSynchronize,
}

/// Calls a function of [`Calls`] and gives its refusal the function's name.
macro_rules! call {
    ($calls:expr, $symbol:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: out-pointers lead to live variables of the right types; handles are this process's own and live as long as it.
        checked(stringify!($symbol), unsafe { ($calls.$symbol)($($argument),*) })
    };
}

/// What an operation is once the driver knows it.
#[derive(Clone, Copy)]
enum Ready {
    Kernel { function: CUfunction, blocks: u32 },
    Graph(CUgraphExec),
}

/// As the preload calls it.
const WATCHING_THREAD: &str = "cuda-hook";

/// Threads of every block, as the evaluation's kernels have.
const BLOCK_THREADS: u32 = 256;

/// Plays `plan` of a scenario that takes so long, when a line says when it begins; prints what came of it.
pub(crate) fn play(plan: &ProcessPlan, duration_ns: u64, seed: u64) -> Result<(), String> {
    let mut player = Player::new(&plan.program, seed)?;
    say("ready")?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(failed)?;
    let begin_ns: u64 = line.trim().parse().map_err(failed)?;
    let until_ns = begin_ns + plan.leaves_ns.unwrap_or(duration_ns).min(duration_ns);
    clock::sleep_until(begin_ns + plan.joins_ns).map_err(failed)?;
    player.run(begin_ns + plan.joins_ns, until_ns)?;
    if plan.leaves_ns.is_some() {
        player.synchronize()?;
    }
    let ProcessReport {
        launches,
        kernels,
        iterations,
        latencies_ns,
        held_ns_max,
        ..
    } = &player.report;
    let helper_cpu_ns = watching_ns()?;
    let report = json!({
        "launches": launches, "kernels": kernels, "iterations": iterations, "latencies_ns": latencies_ns,
        "held_ns_max": held_ns_max, "helper_cpu_ns": helper_cpu_ns,
    });
    say(&report.to_string())
}

/// What [`play`] printed.
pub(crate) fn report_of(line: &str) -> Result<ProcessReport, String> {
    let told: serde_json::Value = serde_json::from_str(line).map_err(failed)?;
    let number = |name: &str| told[name].as_u64().ok_or("a process's report has gaps");
    let latencies = told["latencies_ns"]
        .as_array()
        .ok_or("a process's report has gaps")?;
    Ok(ProcessReport {
        launches: number("launches")?,
        kernels: number("kernels")?,
        iterations: number("iterations")?,
        latencies_ns: latencies
            .iter()
            .filter_map(serde_json::Value::as_u64)
            .collect(),
        held_ns_max: number("held_ns_max")?,
        helper_cpu_ns: number("helper_cpu_ns")?,
        ..ProcessReport::default()
    })
}

/// Processor time that the preload's watching thread had, by the scheduler's account (`/proc/PID/task/TID/schedstat`), in ns; 0 without one.
fn watching_ns() -> Result<u64, String> {
    let threads = fs::read_dir("/proc/self/task").map_err(failed)?;
    let of_thread = |thread: PathBuf| {
        let name = fs::read_to_string(thread.join("comm")).ok()?;
        let account = fs::read_to_string(thread.join("schedstat")).ok()?;
        let ran_ns = account.split(' ').next()?.parse::<u64>().ok()?;
        (name.trim_end() == WATCHING_THREAD).then_some(ran_ns)
    };
    let threads = threads.filter_map(|thread| of_thread(thread.ok()?.path()));
    Ok(threads.sum())
}

fn say(line: &str) -> Result<(), String> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{line}").map_err(failed)?;
    stdout.flush().map_err(failed)
}

struct Player {
    calls: Calls,
    program: Program,
    operations: Vec<Ready>,
    /// How many kernels each operation is.
    kernels: Vec<u64>,
    streams: Vec<CUstream>,
    random: Random,
    spare: Vec<CUevent>,
    /// An event behind each iteration that is in flight, and how many kernels it has.
    in_flight: VecDeque<(CUevent, u64)>,
    report: ProcessReport,
}

impl Player {
    /// Everything loaded, nothing launched.
    fn new(program: &Program, seed: u64) -> Result<Self, String> {
        let calls = Calls::open()?;
        let (mut device, mut context) = (0, ptr::null_mut());
        call!(calls, cuInit(0))?;
        call!(calls, cuDeviceGet(&raw mut device, 0))?;
        // Who waits leaves the processors to the device and to the others.
        let flags = CU_CTX_SCHED_BLOCKING_SYNC;
        call!(calls, cuDevicePrimaryCtxSetFlags_v2(device, flags))?;
        call!(calls, cuDevicePrimaryCtxRetain(&raw mut context, device))?;
        call!(calls, cuCtxSetCurrent(context))?;
        let streams = (0..program.streams).map(|_| {
            let mut stream = ptr::null_mut();
            let flags = CU_STREAM_NON_BLOCKING;
            call!(
                calls,
                cuStreamCreateWithPriority(&raw mut stream, flags, program.priority)
            )?;
            Ok(stream)
        });
        let streams = streams.collect::<Result<Vec<_>, String>>()?;
        let operations = load(&calls, program, streams[0])?;
        Ok(Self {
            kernels: operations.iter().map(|(_, kernels)| *kernels).collect(),
            operations: operations.into_iter().map(|(ready, _)| ready).collect(),
            calls,
            program: program.clone(),
            streams,
            random: Random::new(seed),
            spare: Vec::new(),
            in_flight: VecDeque::new(),
            report: ProcessReport::default(),
        })
    }

    fn run(&mut self, from_ns: u64, until_ns: u64) -> Result<(), String> {
        let mut arrives_ns = from_ns;
        while clock::monotonic_ns() < until_ns
            && self.report.iterations < self.program.iterations_max
        {
            self.rest(from_ns, until_ns)?;
            if let Pace::Poisson { mean_pause_ns } = self.program.pace {
                arrives_ns += (-self.random.unit().ln() * mean_pause_ns as f64) as u64;
                if arrives_ns >= until_ns {
                    return Ok(());
                }
                clock::sleep_until(arrives_ns).map_err(failed)?;
            }
            self.iterate(arrives_ns)?;
        }
        Ok(())
    }

    /// Waits where the program does, between two phases of work.
    fn rest(&mut self, from_ns: u64, until_ns: u64) -> Result<(), String> {
        let Some(OnOff { on_ns, off_ns }) = self.program.phases else {
            return Ok(());
        };
        let now_ns = clock::monotonic_ns();
        let into_ns = (now_ns - from_ns) % (on_ns + off_ns);
        if into_ns < on_ns {
            return Ok(());
        }
        self.synchronize()?;
        clock::sleep_until((now_ns - into_ns + on_ns + off_ns).min(until_ns)).map_err(failed)
    }

    /// One iteration, of a request that came at `arrived_ns` where it is one.
    fn iterate(&mut self, arrived_ns: u64) -> Result<(), String> {
        let begun_ns = clock::monotonic_ns();
        while clock::monotonic_ns() < begun_ns + self.program.host_ns {
            std::hint::spin_loop();
        }
        let stream = self.streams[(self.report.iterations as usize) % self.streams.len()];
        let drawn = self.program.work.draw(&mut self.random);
        let kernels = drawn.clone().map(|index| self.kernels[index]).sum();
        for index in drawn {
            self.launch(self.operations[index], stream)?;
        }
        self.report.iterations += 1;
        match self.program.pace {
            Pace::Async => self.report.kernels += kernels,
            Pace::SyncEvery(every) => {
                self.report.kernels += kernels;
                if self.report.iterations.is_multiple_of(every) {
                    self.synchronize()?;
                }
            }
            Pace::Window(most) => {
                self.note(stream, kernels)?;
                while self.in_flight.len() as u64 >= most {
                    self.await_oldest()?;
                }
            }
            Pace::Poisson { .. } => {
                self.report.kernels += kernels;
                self.synchronize()?;
                let latency_ns = clock::monotonic_ns() - arrived_ns;
                self.report.latencies_ns.push(latency_ns);
            }
        }
        Ok(())
    }

    fn launch(&mut self, operation: Ready, stream: CUstream) -> Result<(), String> {
        let called_ns = clock::monotonic_ns();
        launch(&self.calls, operation, stream)?;
        let taken_ns = clock::monotonic_ns() - called_ns;
        self.report.held_ns_max = self.report.held_ns_max.max(taken_ns);
        self.report.launches += 1;
        Ok(())
    }

    /// Puts an event behind an iteration.
    fn note(&mut self, stream: CUstream, kernels: u64) -> Result<(), String> {
        let event = match self.spare.pop() {
            Some(event) => event,
            None => {
                let mut event = ptr::null_mut();
                let flags = CU_EVENT_DISABLE_TIMING | CU_EVENT_BLOCKING_SYNC;
                call!(self.calls, cuEventCreate(&raw mut event, flags))?;
                event
            }
        };
        call!(self.calls, cuEventRecord(event, stream))?;
        self.in_flight.push_back((event, kernels));
        Ok(())
    }

    fn await_oldest(&mut self) -> Result<(), String> {
        if let Some((event, kernels)) = self.in_flight.pop_front() {
            call!(self.calls, cuEventSynchronize(event))?;
            self.report.kernels += kernels;
            self.spare.push(event);
        }
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), String> {
        call!(self.calls, cuCtxSynchronize())?;
        for (event, kernels) in self.in_flight.drain(..) {
            self.report.kernels += kernels;
            self.spare.push(event);
        }
        Ok(())
    }
}

/// The program's operations, ready to be launched, and how many kernels each is.
fn load(calls: &Calls, program: &Program, stream: CUstream) -> Result<Vec<(Ready, u64)>, String> {
    let machine = MachineProfile::load(PROFILE).map_err(failed)?;
    let instructions = |kernel: &Kernel| kernel.cost(&machine).instructions_per_thread;
    let operations = program.work.operations();
    let kernels = operations.iter().flat_map(|operation| match operation {
        Operation::Kernel(kernel) => std::slice::from_ref(kernel),
        Operation::Graph(kernels) => kernels.as_slice(),
        Operation::Copy { .. } | Operation::HostCall => &[],
    });
    let functions = functions(calls, &kernels.map(instructions).collect())?;
    let ready = |kernel: &Kernel| Ready::Kernel {
        function: functions[&instructions(kernel)],
        blocks: kernel.blocks,
    };
    let made = operations.iter().map(|operation| match operation {
        Operation::Kernel(kernel) => Ok((ready(kernel), 1)),
        Operation::Graph(kernels) => {
            let nodes: Vec<Ready> = kernels.iter().map(ready).collect();
            Ok((graph(calls, &nodes, stream)?, nodes.len() as u64))
        }
        Operation::Copy { .. } | Operation::HostCall => {
            Err("copies and host functions are not played in real time".to_owned())
        }
    });
    made.collect()
}

/// A kernel for each number of instructions.
fn functions(
    calls: &Calls,
    instructions: &BTreeSet<u64>,
) -> Result<HashMap<u64, CUfunction>, String> {
    let text = CString::new(ptx::module(instructions)).map_err(failed)?;
    let mut module = ptr::null_mut();
    call!(
        calls,
        cuModuleLoadData(&raw mut module, text.as_ptr().cast())
    )?;
    let found = instructions.iter().map(|count| {
        let name = CString::new(ptx::kernel_name(*count)).map_err(failed)?;
        let mut function = ptr::null_mut();
        call!(
            calls,
            cuModuleGetFunction(&raw mut function, module, name.as_ptr())
        )?;
        Ok((*count, function))
    });
    found.collect()
}

/// A graph of these kernels, one after the other.
fn graph(calls: &Calls, nodes: &[Ready], stream: CUstream) -> Result<Ready, String> {
    let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
    let mode = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    call!(calls, cuStreamBeginCapture_v2(stream, mode))?;
    for node in nodes {
        launch(calls, *node, stream)?;
    }
    call!(calls, cuStreamEndCapture(stream, &raw mut graph))?;
    call!(
        calls,
        cuGraphInstantiateWithFlags(&raw mut executable, graph, 0)
    )?;
    Ok(Ready::Graph(executable))
}

fn launch(calls: &Calls, operation: Ready, stream: CUstream) -> Result<(), String> {
    match operation {
        Ready::Graph(executable) => call!(calls, cuGraphLaunch(executable, stream)),
        Ready::Kernel { function, blocks } => {
            // Nothing is kept of what the kernel computes: it stores nowhere.
            let (mut sink, mut keep) = (0_u64, 0_u32);
            let mut arguments = [(&raw mut sink).cast(), (&raw mut keep).cast()];
            call!(
                calls,
                cuLaunchKernel(
                    function,
                    blocks,
                    1,
                    1,
                    BLOCK_THREADS,
                    1,
                    1,
                    0,
                    stream,
                    arguments.as_mut_ptr(),
                    ptr::null_mut()
                )
            )
        }
    }
}
