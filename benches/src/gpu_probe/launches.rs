//! What launches, events and written words take the host.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::gpu::{Gpu, Kernel, Stream};
use crate::slices::kernel_of;
use crate::statistics::{quantile, sorted, summary};

/// Calls of a batch: far fewer than a queue takes.
const CALLS: u32 = 100;
const BATCHES: u32 = 50;

/// ns a call, batch by batch, the device idle before each.
fn batches(gpu: &Gpu, call: impl Fn() -> Result<(), String>) -> Result<Value, String> {
    let mut batches = Vec::new();
    for _ in 0..BATCHES {
        gpu.synchronize()?;
        let began = Instant::now();
        (0..CALLS).try_for_each(|_| call())?;
        batches.push(began.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }
    gpu.synchronize()?;
    Ok(summary(batches))
}

/// One answer, or what failed of it: the others are worth having.
fn answered(answer: Result<Value, String>) -> Value {
    answer.unwrap_or_else(|failure| json!({ "failed": failure }))
}

/// Of each call, in ns.
pub(crate) fn costs() -> Result<Value, String> {
    let gpu = Gpu::open()?;
    let (stream, empty) = (gpu.stream()?, gpu.spinning(0)?);
    let (timing, plain) = (gpu.event(true)?, gpu.event(false)?);
    let word = gpu.allocate(4)?;
    gpu.launch(empty, 1, stream)?; // its code is loaded now
    gpu.record(timing, stream)?;
    gpu.record(plain, stream)?;
    gpu.synchronize()?;
    let graph = gpu.capture(stream, || {
        (0..20).try_for_each(|_| gpu.launch(empty, 1, stream))
    });
    Ok(json!({
        "launch_ns": answered(batches(&gpu, || gpu.launch(empty, 1, stream))),
        "launch_and_synchronize_ns": answered(batches(&gpu, || {
            gpu.launch(empty, 1, stream).and_then(|()| gpu.wait(stream))
        })),
        "graph_of_20_launch_ns": answered(graph.and_then(|graph| {
            batches(&gpu, || gpu.launch_graph(graph, stream).and_then(|()| gpu.wait(stream)))
        })),
        "timing_event_record_ns": answered(batches(&gpu, || gpu.record(timing, stream))),
        "plain_event_record_ns": answered(batches(&gpu, || gpu.record(plain, stream))),
        "event_query_ns": answered(batches(&gpu, || gpu.query(plain).map(drop))),
        "write_word_ns": answered(batches(&gpu, || gpu.write_word(stream, word))),
        "memory_info_ns": answered(batches(&gpu, || gpu.memory_info().map(drop))),
        "allocate_and_free_ns": answered(batches(&gpu, || gpu.free(gpu.allocate(1 << 16)?))),
        "event_steps_us": answered(event_steps(&gpu, empty, stream)),
        "empty_kernel_us": answered(empty_kernel(&gpu, empty, stream)),
    }))
}

/// The times between events behind single empty kernels that differ: how finely they are told.
fn event_steps(gpu: &Gpu, empty: Kernel, stream: Stream) -> Result<Value, String> {
    const KERNELS: usize = 400;
    let events: Vec<_> = (0..=KERNELS)
        .map(|_| gpu.event(true))
        .collect::<Result<_, _>>()?;
    for event in &events {
        gpu.launch(empty, 1, stream)?;
        gpu.record(*event, stream)?;
    }
    gpu.synchronize()?;
    let mut times = Vec::new();
    for event in events.iter().skip(1) {
        times.push(gpu.elapsed_us(events[0], *event)?);
    }
    let times = sorted(times);
    let steps = times.windows(2).map(|pair| pair[1] - pair[0]);
    // What is smaller is the rounding of a float of milliseconds.
    let steps = sorted(steps.filter(|step| *step > 0.005).collect());
    Ok(
        json!({ "least": quantile(&steps, 1), "p10": quantile(&steps, 100), "p50": quantile(&steps, 500) }),
    )
}

/// What an empty kernel takes the device, back to back.
fn empty_kernel(gpu: &Gpu, empty: Kernel, stream: Stream) -> Result<Value, String> {
    const KERNELS: u32 = 500;
    let (from, to) = (gpu.event(true)?, gpu.event(true)?);
    gpu.record(from, stream)?;
    (0..KERNELS).try_for_each(|_| gpu.launch(empty, 1, stream))?;
    gpu.record(to, stream)?;
    gpu.synchronize()?;
    Ok(json!(gpu.elapsed_us(from, to)? / f64::from(KERNELS)))
}

/// Launches of kernels of 200 µs until one waits: at most so many.
const LAUNCHES_MAX: u32 = 5_000;
/// Of a launch that waits for another to end, which takes the host a thousandth of that otherwise.
const WAITED: Duration = Duration::from_micros(100);

/// How many are taken before three in a row wait.
pub(crate) fn queue_depth() -> Result<Value, String> {
    const KERNEL_US: f64 = 200.0;
    let gpu = Gpu::open()?;
    let stream = gpu.stream()?;
    let (kernel, blocks) = kernel_of(&gpu, stream, KERNEL_US)?;
    let began = Instant::now();
    let (mut waited_in_a_row, mut launches) = (0, 0);
    while waited_in_a_row < 3 && launches < LAUNCHES_MAX {
        let before = Instant::now();
        gpu.launch(kernel, blocks, stream)?;
        launches += 1;
        let waited = before.elapsed() > WAITED;
        waited_in_a_row = if waited { waited_in_a_row + 1 } else { 0 };
    }
    let took = began.elapsed().as_secs_f64();
    gpu.synchronize()?;
    Ok(json!({
        "kernel_us": KERNEL_US,
        "launched": launches,
        "waited": waited_in_a_row == 3,
        // Those that had ended meanwhile were not in it any more.
        "queue_depth": (f64::from(launches) - took * 1e6 / KERNEL_US).max(0.0).round(),
        "seconds": took,
    }))
}
