//! What a process may ask of the machine, and what it gets.

use super::peer::Leave;
use crate::clock;
use crate::command::UtilizationSample;
use crate::model::{Model, ProcessId};
use crate::wire::{Refusal, Reply, Request, Submission, USAGE_ROWS_PER_MESSAGE};

/// Whether device memory is asked for.
pub(super) fn takes_memory(request: &Request) -> bool {
    matches!(
        request,
        Request::Alloc { .. } | Request::CreateContext { .. }
    )
}

/// Does what a process asks. Submissions carry their own time; for all else it is now.
pub(super) fn handle(
    model: &mut Model,
    process: ProcessId,
    request: Request,
) -> Result<Option<Reply>, Leave> {
    let now_ns = clock::monotonic_ns();
    if let Request::Submit(submission) = request {
        // A process cannot put its commands into the future.
        let submitted_ns = submission.submitted_ns.min(now_ns);
        model.submit(
            process,
            Submission {
                submitted_ns,
                ..submission
            },
        )?;
        return Ok(None);
    }
    model.advance_to(now_ns);
    match one_way(model, process, request)? {
        None => Ok(None),
        Some(request) => Ok(Some(
            answer(model, process, request).unwrap_or_else(Reply::Refused),
        )),
    }
}

/// Does what is not answered, and gives back what is.
fn one_way(
    model: &mut Model,
    process: ProcessId,
    request: Request,
) -> Result<Option<Request>, Leave> {
    match request {
        Request::LimitSms {
            stream,
            sm_count_max,
        } => {
            // The stream may have gone with its context while the message was under way.
            let _ = model.limit_sms(process, stream, sm_count_max);
        }
        Request::DestroyStream { stream } => model.destroy_stream(process, stream)?,
        Request::GraphNodes { graph, nodes } => model.append_to_graph(process, graph, nodes)?,
        Request::GraphUpdate {
            graph,
            index,
            command,
            enabled,
        } => {
            model.update_graph(process, graph, index, command, enabled)?;
        }
        Request::DestroyGraph { graph } => model.destroy_graph(process, graph)?,
        Request::DropSharedSemaphore { semaphore } => {
            model.drop_shared_semaphore(process, semaphore)?
        }
        Request::DropMulticast { object } => model.drop_multicast(process, object)?,
        Request::HostCallDone { token } => model.host_call_done(process, token)?,
        Request::Signal { semaphore, payload } => model.signal(process, semaphore, payload),
        Request::Hello { .. } => return Err(Leave::BrokeProtocol("second hello".to_owned())),
        answered => return Ok(Some(answered)),
    }
    Ok(None)
}

fn answer(model: &mut Model, process: ProcessId, request: Request) -> Result<Reply, Refusal> {
    Ok(match request {
        Request::Memory { device } => Reply::Memory(model.memory(device)?),
        Request::Alloc {
            device,
            bytes,
            kind,
        } => Reply::Block(model.alloc(process, device, bytes, kind)?),
        Request::Free { block } => {
            model.free(process, block)?;
            Reply::Done
        }
        Request::Open { block } => Reply::Block(model.open(process, block)?),
        Request::CreateMulticast { team } => Reply::Multicast {
            object: model.create_multicast(process, team)?,
            team,
        },
        Request::AddToMulticast { object, device } => {
            model.add_to_multicast(process, object, device)?;
            Reply::Done
        }
        Request::BindMulticast {
            object,
            part,
            block,
        } => {
            model.bind_multicast(process, object, part, block)?;
            Reply::Done
        }
        Request::UnbindMulticast { object, part } => {
            model.unbind_multicast(process, object, part)?;
            Reply::Done
        }
        Request::CreateSharedSemaphore => {
            Reply::SharedSemaphore(model.create_shared_semaphore(process)?)
        }
        Request::OpenSharedSemaphore { semaphore } => {
            model.open_shared_semaphore(process, semaphore)?;
            Reply::Done
        }
        Request::CreateContext { device } => Reply::Context(model.create_context(process, device)?),
        Request::DestroyContext { context } => {
            model.destroy_context(process, context)?;
            Reply::Done
        }
        Request::CreateStream {
            context,
            priority,
            semaphore,
            base,
        } => Reply::Stream(model.create_stream(process, context, priority, semaphore, base)?),
        Request::Usage { first } => {
            let (rows, more) = page(model.usage(), first);
            Reply::Usage { rows, more }
        }
        Request::Containers { first } => {
            let (rows, more) = page(model.container_usage(), first);
            Reply::Containers { rows, more }
        }
        Request::Engine { device } => Reply::Engine(model.engine_usage(device)?),
        Request::Utilization { device } => Reply::Utilization(utilization(model, device)?),
        _ => return Err(Refusal::Unknown),
    })
}

/// A message's worth of rows from the `first` on, and whether more follow.
fn page<Row>(rows: Vec<Row>, first: u32) -> (Vec<Row>, bool) {
    let mut rows = rows.into_iter().skip(first as usize);
    let page = rows.by_ref().take(USAGE_ROWS_PER_MESSAGE).collect();
    (page, rows.next().is_some())
}

fn utilization(model: &Model, device: u32) -> Result<Vec<UtilizationSample>, Refusal> {
    let samples = model.samples(device)?.into_iter();
    let samples = samples.map(|sample| UtilizationSample {
        timestamp_us: clock::realtime_of(sample.end_ns) / 1_000,
        gpu_percent: sample.gpu_percent,
        memory_percent: sample.copy_percent,
        pid: sample.process.and_then(|process| model.pid(process)),
    });
    Ok(samples.collect())
}
