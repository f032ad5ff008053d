//! Kernels back to back, and what comes in between when somebody else has work: the device's time slices.

use std::io;
use std::time::{Duration, Instant};

use benches::ptx::{INSTRUCTIONS_MAX, TRIP_INSTRUCTIONS};
use clap::Args;
use cuda_sys_stubs::abi::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
use serde_json::{Value, json};

use crate::gpu::{Event, Gpu, Kernel, Stream};
use crate::statistics::{quantile, sorted, summary};

/// What is launched, and for how long.
#[derive(Args)]
pub(crate) struct Kernels {
    /// How long each kernel is to take, alone
    #[arg(long, default_value_t = 100.0)]
    kernel_us: f64,
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Streams, each with kernels of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=32))]
    streams: u16,
    /// Say {"ready":true} when prepared, and begin when standard input ends
    #[arg(long)]
    gate: bool,
}

/// A kernel that takes about so long in as many blocks as the device has SMs: by two measurements of shorter ones, as a line.
pub(crate) fn kernel_of(
    gpu: &Gpu,
    stream: Stream,
    wanted_us: f64,
) -> Result<(Kernel, u32), String> {
    let blocks = gpu.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let blocks = u32::try_from(blocks).map_err(|error| error.to_string())?;
    // Long enough that a slow host does not keep the device waiting between them.
    let [short, long] = [256 * TRIP_INSTRUCTIONS, 2_048 * TRIP_INSTRUCTIONS];
    let [short_us, long_us] = [
        alone_us(gpu, short, blocks, stream)?,
        alone_us(gpu, long, blocks, stream)?,
    ];
    let us_per_instruction = (long_us - short_us) / (long - short) as f64;
    if us_per_instruction <= 0.0 {
        return Err(format!(
            "kernels cannot be timed: one of {short} instructions took {short_us} µs, one of {long} {long_us} µs"
        ));
    }
    let instructions = short as f64 + (wanted_us - short_us) / us_per_instruction;
    let instructions = (instructions.max(0.0) as u64).min(INSTRUCTIONS_MAX);
    let kernel = gpu.spinning(instructions)?;
    gpu.launch(kernel, blocks, stream)?; // its code is loaded now
    gpu.synchronize()?;
    Ok((kernel, blocks))
}

/// What a kernel of so many instructions takes: the least of a few, as whatever comes in between only adds.
fn alone_us(gpu: &Gpu, instructions: u64, blocks: u32, stream: Stream) -> Result<f64, String> {
    const KERNELS: usize = 15;
    let kernel = gpu.spinning(instructions)?;
    gpu.launch(kernel, blocks, stream)?;
    let events = (0..=KERNELS).map(|_| gpu.event(true));
    let events: Vec<Event> = events.collect::<Result<_, _>>()?;
    gpu.record(events[0], stream)?;
    for event in &events[1..] {
        gpu.launch(kernel, blocks, stream)?;
        gpu.record(*event, stream)?;
    }
    gpu.synchronize()?;
    let times = events
        .windows(2)
        .map(|pair| gpu.elapsed_us(pair[0], pair[1]));
    let times: Vec<f64> = times.collect::<Result<_, _>>()?;
    Ok(times.into_iter().fold(f64::INFINITY, f64::min))
}

/// Work in flight on a stream: the device waits for the host once in so long, and then for as long as it takes to read events.
const IN_FLIGHT_US: f64 = 20_000.0;
/// What takes so many times the middle one had somebody else's work in it.
const FOREIGN: f64 = 1.6;

/// Plays them; how long each seemed to take, by its events, and what that says of slices.
pub(crate) fn kernels(options: &Kernels) -> Result<Value, String> {
    let gpu = Gpu::open()?;
    let streams: Vec<Stream> = (0..options.streams)
        .map(|_| gpu.stream())
        .collect::<Result<_, _>>()?;
    let (kernel, blocks) = kernel_of(&gpu, streams[0], options.kernel_us)?;
    let alone_us = alone(&gpu, kernel, blocks, streams[0])?;
    gate(options.gate)?;
    let began = Instant::now();
    let length = Duration::from_secs_f64(options.seconds);
    let mut ring = Ring::new(&gpu, &streams, options.kernel_us)?;
    while began.elapsed() < length {
        ring.turn(kernel, blocks)?;
    }
    gpu.synchronize()?;
    ring.end()?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(told(options, &ring.times_us, alone_us, seconds))
}

/// Says that all is prepared, and waits for the end of standard input, so that several programs can begin together.
fn gate(is_wanted: bool) -> Result<(), String> {
    if is_wanted {
        crate::say(&json!({ "ready": true }))?;
        io::copy(&mut io::stdin(), &mut io::sink()).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The least of a few: what it takes when nobody comes in between.
fn alone(gpu: &Gpu, kernel: Kernel, blocks: u32, stream: Stream) -> Result<f64, String> {
    let mut least_us = f64::INFINITY;
    let (from, to) = (gpu.event(true)?, gpu.event(true)?);
    for _ in 0..20 {
        gpu.record(from, stream)?;
        gpu.launch(kernel, blocks, stream)?;
        gpu.record(to, stream)?;
        gpu.wait(stream)?;
        least_us = least_us.min(gpu.elapsed_us(from, to)?);
    }
    Ok(least_us)
}

/// The kernels in flight, each with an event behind it.
struct Ring<'a> {
    gpu: &'a Gpu,
    streams: &'a [Stream],
    /// On each stream.
    kernels: usize,
    /// Of each stream.
    events: Vec<Vec<Event>>,
    turns: usize,
    /// Between an event and the next of the first stream.
    times_us: Vec<f64>,
}

impl<'a> Ring<'a> {
    fn new(gpu: &'a Gpu, streams: &'a [Stream], kernel_us: f64) -> Result<Self, String> {
        let kernels = (IN_FLIGHT_US / kernel_us).clamp(8.0, 256.0) as usize;
        let of_stream = |_| (0..kernels).map(|_| gpu.event(true)).collect();
        Ok(Self {
            gpu,
            streams,
            kernels,
            events: streams
                .iter()
                .map(of_stream)
                .collect::<Result<_, String>>()?,
            turns: 0,
            times_us: Vec::new(),
        })
    }

    /// A kernel on each stream; where the ring is full, it is read first.
    fn turn(&mut self, kernel: Kernel, blocks: u32) -> Result<(), String> {
        let place = self.turns % self.kernels;
        if place == 0 && self.turns > 0 {
            self.streams
                .iter()
                .try_for_each(|stream| self.gpu.wait(*stream))?;
            self.end()?;
        }
        for (stream, events) in self.streams.iter().zip(&self.events) {
            self.gpu.launch(kernel, blocks, *stream)?;
            self.gpu.record(events[place], *stream)?;
        }
        self.turns += 1;
        Ok(())
    }

    /// Reads what the last round of events of the first stream says, all of which have come.
    fn end(&mut self) -> Result<(), String> {
        let last = match self.turns % self.kernels {
            0 => self.kernels,
            part => part,
        };
        for pair in self.events[0][..last].windows(2) {
            self.times_us.push(self.gpu.elapsed_us(pair[0], pair[1])?);
        }
        Ok(())
    }
}

fn told(options: &Kernels, times_us: &[f64], alone_us: f64, seconds: f64) -> Value {
    // Others may have come in between even while it was to be alone.
    let alone_us = alone_us.min(quantile(&sorted(times_us.to_vec()), 100));
    let foreign = |time: &&f64| **time > FOREIGN * alone_us;
    let inserted: Vec<f64> = times_us
        .iter()
        .filter(foreign)
        .map(|time| time - alone_us)
        .collect();
    let inserted_sum: f64 = inserted.iter().sum();
    let runs = runs_us(times_us, FOREIGN * alone_us);
    json!({
        "kernel_us_wanted": options.kernel_us,
        "kernel_us_alone": alone_us,
        "streams": options.streams,
        "seconds": seconds,
        "kernels_timed": times_us.len(),
        "event_time_us": summary(times_us.to_vec()),
        "inflated": inserted.len(),
        "inserted_us": summary(inserted),
        "own_run_us": summary(runs),
        "share_percent": 100.0 * (1.0 - inserted_sum / times_us.iter().sum::<f64>().max(1e-9)),
    })
}

/// How long kernels ran between two that were held up, in µs.
fn runs_us(times_us: &[f64], held_up_us: f64) -> Vec<f64> {
    let mut runs = Vec::new();
    let mut run = None;
    for time in times_us {
        if *time > held_up_us {
            runs.extend(run.filter(|run| *run > 0.0));
            run = Some(0.0);
        } else {
            run = run.map(|run| run + time);
        }
    }
    runs
}

/// Copies of 64 MiB, one behind the other.
pub(crate) fn copies(seconds: f64, is_gated: bool) -> Result<Value, String> {
    const BYTES: usize = 64 << 20;
    let gpu = Gpu::open()?;
    let (stream, block, host) = (gpu.stream()?, gpu.allocate(BYTES)?, gpu.host_block(BYTES)?);
    gate(is_gated)?;
    let began = Instant::now();
    let mut copies = 0u32;
    while began.elapsed().as_secs_f64() < seconds {
        (0..2).try_for_each(|_| gpu.copy_to_device(block, host, BYTES, stream))?;
        gpu.wait(stream)?;
        copies += 2;
    }
    let bytes = f64::from(copies) * BYTES as f64;
    Ok(json!({ "gb_per_second": bytes / began.elapsed().as_secs_f64() / 1e9, "copies": copies }))
}

/// One thread that reads the device's clock on and on, and writes down when it did not run: where from, and where to.
const WATCH: &str = "\
.version 7.0
.target sm_52
.address_size 64
.visible .entry watch(.param .u64 out, .param .u64 capacity, .param .u64 lasting_ns, .param .u64 gap_ns)
{
	.reg .pred %p<5>;
	.reg .b64 %rd<14>;
	ld.param.u64 %rd1, [out];
	ld.param.u64 %rd2, [capacity];
	ld.param.u64 %rd3, [lasting_ns];
	ld.param.u64 %rd4, [gap_ns];
	mov.u64 %rd5, %globaltimer;
	mov.u64 %rd6, %rd5;
	mov.u64 %rd7, 0;
$again:
	mov.u64 %rd8, %globaltimer;
	sub.u64 %rd9, %rd8, %rd6;
	setp.lt.u64 %p1, %rd9, %rd4;
	@%p1 bra $next;
	setp.ge.u64 %p2, %rd7, %rd2;
	@%p2 bra $next;
	shl.b64 %rd10, %rd7, 4;
	add.u64 %rd10, %rd10, %rd1;
	st.global.u64 [%rd10+16], %rd6;
	st.global.u64 [%rd10+24], %rd8;
	add.u64 %rd7, %rd7, 1;
$next:
	mov.u64 %rd6, %rd8;
	sub.u64 %rd11, %rd8, %rd5;
	setp.lt.u64 %p3, %rd11, %rd3;
	@%p3 bra $again;
	st.global.u64 [%rd1], %rd7;
	st.global.u64 [%rd1+8], %rd11;
	ret;
}
";
/// Gaps that are written down.
const GAPS_MAX: usize = 10_000;
/// What a thread that runs takes between two looks at the clock is less, and so is the clock's own step (1 µs on some devices).
const GAP_NS: u64 = 10_000;

/// When a kernel did not run, by the device's clock: finer than events, as it is not held up by kernels' ends.
pub(crate) fn clock(seconds: f64) -> Result<Value, String> {
    let gpu = Gpu::open()?;
    let stream = gpu.stream()?;
    let words = 2 + 2 * GAPS_MAX;
    let block = gpu.allocate(8 * words)?;
    gpu.clear(block, 8 * words)?;
    let kernel = gpu.function(&gpu.load(WATCH)?, "watch")?;
    let lasting_ns = (seconds * 1e9) as u64;
    gpu.launch_on(kernel, block, [GAPS_MAX as u64, lasting_ns, GAP_NS], stream)?;
    let words = gpu.words(block, words)?;
    let [count, lasted_ns, gaps @ ..] = &*words else {
        return Err("no words".to_owned());
    };
    if *lasted_ns == 0 {
        return Err("the kernel wrote nothing: a simulated device computes nothing".to_owned());
    }
    let count = usize::try_from(*count).unwrap_or_default().min(GAPS_MAX);
    let gaps: Vec<(u64, u64)> = gaps
        .chunks_exact(2)
        .take(count)
        .map(|pair| (pair[0], pair[1]))
        .collect();
    let us = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e3;
    let held_up: Vec<f64> = gaps.iter().map(|(from, to)| us(*from, *to)).collect();
    let ran = gaps
        .windows(2)
        .map(|pair| us(pair[0].1, pair[1].0))
        .collect();
    Ok(json!({
        "lasted_ms": *lasted_ns as f64 / 1e6,
        "ran_percent": 100.0 * (1.0 - held_up.iter().sum::<f64>() * 1e3 / *lasted_ns as f64),
        "held_up_us": summary(held_up),
        "own_slice_us": summary(ran),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_lies_between_two_kernels_that_were_held_up() {
        let times = [1.0, 1.0, 9.0, 1.0, 1.0, 1.0, 9.0, 9.0, 1.0, 9.0, 1.0];
        assert_eq!(runs_us(&times, 2.0), [3.0, 1.0]);
        assert!(runs_us(&[1.0, 1.0], 2.0).is_empty());
    }
}
