//! What the model allocates when nothing but launches happens.
#![expect(unsafe_code, reason = "an allocator that counts has no safe form")]
#![expect(clippy::unwrap_used, reason = "this is how a test fails")]

use gpu_sim::command::{Command, KernelCost, SemaphoreId, StreamId};
use gpu_sim::model::{Model, ProcessId, ProcessInfo};
use gpu_sim::profile::MachineProfile;
use gpu_sim::wire::Submission;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    /// Allocations of this thread: the test harness has threads of its own.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands everything on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A process with a stream that it keeps full.
struct Tenant {
    process: ProcessId,
    stream: StreamId,
    submitted: u64,
}

impl Tenant {
    fn new(model: &mut Model) -> Self {
        let process = model.join(ProcessInfo::default());
        let context = model.create_context(process, 0).unwrap();
        let stream = model.create_stream(process, context, 0, SemaphoreId(0), 0);
        Self {
            process,
            stream: stream.unwrap(),
            submitted: 0,
        }
    }

    fn launch(&mut self, model: &mut Model) {
        self.submitted += 1;
        let kernel = KernelCost {
            grid: [1_024, 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            registers_per_thread: 32,
            instructions_per_thread: 500,
        };
        let submission = Submission {
            stream: self.stream,
            sequence: self.submitted,
            submitted_ns: model.now_ns(),
            token: 0,
            logged_nodes: Vec::new(),
            command: Command::Kernel(kernel),
        };
        model.submit(self.process, submission).unwrap();
    }
}

/// Lets so many launches complete, each followed by the next.
fn launches(model: &mut Model, tenants: &mut [Tenant; 2], count: u64) {
    let mut completed = 0;
    while completed < count {
        model.advance_to(model.next_event_ns().unwrap());
        while let Some(output) = model.take_output() {
            let gpu_sim::model::Output::Raise { process, .. } = output else {
                continue;
            };
            completed += 1;
            let of_process = |tenant: &&mut Tenant| tenant.process == process;
            let tenant = tenants.iter_mut().find(of_process).unwrap();
            tenant.launch(model);
        }
    }
}

#[test]
fn launches_in_a_steady_state_allocate_nothing() {
    let mut model = Model::new(MachineProfile::load("t4").unwrap(), 0);
    let mut tenants = [Tenant::new(&mut model), Tenant::new(&mut model)];
    for tenant in &mut tenants {
        (0..100).for_each(|_| tenant.launch(&mut model));
    }
    // The ring of samples fills up as well: it keeps what 17 s give.
    launches(&mut model, &mut tenants, 1_000_000);
    let before = COUNT.with(Cell::get);
    launches(&mut model, &mut tenants, 100_000);
    assert_eq!(COUNT.with(Cell::get) - before, 0);
}
