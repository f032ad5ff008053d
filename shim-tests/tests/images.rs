//! Memory that no allocator is asked for – images, greater limits, green contexts – is on the ledger as it is on the device.
#![cfg(test)]

use shim_tests::{Door, MIB, Machine, Tenant, World, accounts, child, program};

const OUT_OF_MEMORY: u64 = 2;

/// A quota that leaves room whatever a context takes, and is no multiple of anything.
const QUOTA_BYTES: u64 = 350 * MIB + 12_345;

/// What loads an image, at once or with the first use of something in it.
const IMAGES: [&str; 11] = [
    "cuModuleLoadData",
    "cuLibraryGetModule",
    "cuLibraryGetGlobal",
    "cuKernelGetFunction",
    "cuFuncGetAttribute",
    "cuKernelGetAttribute",
    "cuFuncLoad",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cuGraphAddKernelNode_v2",
    "cuGraphAddNode",
];

fn start(machine: &Machine, world: &World) -> Tenant {
    let mut command = machine.command(world, program("images", Door::Linked));
    Tenant::spawn(command.arg(Door::Linked.name()))
}

fn tenant(machine: &Machine) -> Tenant {
    let world = World::memory("one", &QUOTA_BYTES.to_string());
    let mut tenant = start(machine, &world);
    assert_eq!(tenant.status("context"), 0);
    tenant
}

/// Asserts that the container is charged what the device holds for it, and returns that.
#[track_caller]
fn assert_on_the_books(machine: &Machine, tenant: &mut Tenant, when: &str) -> u64 {
    let charged_bytes = QUOTA_BYTES - tenant.free_bytes();
    let held_bytes = machine.truth_of(tenant.pid()).memory_bytes;
    assert_eq!(charged_bytes, held_bytes, "{when}: charged, and held");
    held_bytes
}

/// Takes all of the quota but so much.
#[track_caller]
fn leave(tenant: &mut Tenant, bytes: u64) {
    let rest_bytes = (tenant.free_bytes() - bytes) / (2 * MIB) * (2 * MIB);
    assert_eq!(tenant.alloc("rest", "cuMemAlloc_v2", rest_bytes), 0);
}

#[test]
fn an_image_is_charged_when_it_is_loaded_and_given_back_with_it() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let idle_bytes = assert_on_the_books(&machine, &mut tenant, "a context");
    for kind in IMAGES {
        for (name, mib) in [("small", 0), ("large", 6)] {
            assert_eq!(tenant.alloc(name, kind, mib * MIB + 8), 0, "{kind}");
            let held_bytes = assert_on_the_books(&machine, &mut tenant, kind);
            assert!(held_bytes > idle_bytes + mib * MIB, "{kind}: {held_bytes}");
        }
        for name in ["small", "large"] {
            assert_eq!(tenant.status(&format!("free {name}")), 0, "{kind}");
            assert_on_the_books(&machine, &mut tenant, kind);
        }
        assert_eq!(
            assert_on_the_books(&machine, &mut tenant, kind),
            idle_bytes,
            "{kind}: nothing stays"
        );
    }
}

#[test]
fn a_graphs_node_that_is_given_another_kernel_is_charged_for_its_image() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let idle_bytes = assert_on_the_books(&machine, &mut tenant, "a context");
    assert_eq!(tenant.alloc("a", "cuGraphNodeSetParams", 6 * MIB), 0);
    let held_bytes = assert_on_the_books(&machine, &mut tenant, "another kernel");
    assert!(held_bytes >= idle_bytes + 6 * MIB, "{held_bytes}");
}

/// Loading a library takes nothing; using it does, in each context.
#[test]
fn a_library_is_charged_with_its_first_use() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let idle_bytes = assert_on_the_books(&machine, &mut tenant, "a context");
    assert_eq!(tenant.alloc("a", "cuLibraryLoadData", 6 * MIB), 0);
    assert_eq!(
        assert_on_the_books(&machine, &mut tenant, "not used"),
        idle_bytes
    );
    assert_eq!(tenant.alloc("b", "cuLibraryGetModule", 6 * MIB), 0);
    assert!(assert_on_the_books(&machine, &mut tenant, "used") >= idle_bytes + 6 * MIB);
}

#[test]
fn a_module_beyond_the_quota_is_unloaded_again() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    leave(&mut tenant, 6 * MIB);
    let before_bytes = assert_on_the_books(&machine, &mut tenant, "a context");
    let refused = tenant.alloc("a", "cuModuleLoadData", 10 * MIB);
    assert_eq!(refused, OUT_OF_MEMORY);
    let after_bytes = assert_on_the_books(&machine, &mut tenant, "refused");
    assert_eq!(after_bytes, before_bytes);
    assert_eq!(tenant.alloc("a", "cuModuleLoadData", 2 * MIB), 0);
    assert_on_the_books(&machine, &mut tenant, "granted");
}

/// What a library's first use has loaded cannot be taken out of the program's hands: it is charged, the program is told, and gets
/// nothing more until it has unloaded it.
#[test]
fn a_library_beyond_the_quota_is_charged_and_told() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    leave(&mut tenant, 6 * MIB);
    let before_bytes = assert_on_the_books(&machine, &mut tenant, "a context");
    let told = tenant.alloc("a", "cuLibraryGetModule", 10 * MIB);
    assert_eq!(told, OUT_OF_MEMORY);
    assert_eq!(tenant.free_bytes(), 0);
    assert_eq!(tenant.alloc("b", "cuMemAlloc_v2", 1), OUT_OF_MEMORY);
    assert_eq!(tenant.status("free a"), 0);
    let after_bytes = assert_on_the_books(&machine, &mut tenant, "unloaded");
    assert_eq!(after_bytes, before_bytes);
}

#[test]
fn greater_limits_are_charged_and_smaller_ones_give_back() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let idle_bytes = assert_on_the_books(&machine, &mut tenant, "a context");
    for (kind, value) in [
        ("cuCtxSetLimit-heap", 120 * MIB),
        ("cuCtxSetLimit-stack", 4096),
    ] {
        assert_eq!(tenant.alloc("limit", kind, value), 0, "{kind}");
        let held_bytes = assert_on_the_books(&machine, &mut tenant, kind);
        assert!(held_bytes > idle_bytes + 100 * MIB, "{kind}: {held_bytes}");
        assert_eq!(tenant.status("free limit"), 0, "{kind}");
        assert_eq!(
            assert_on_the_books(&machine, &mut tenant, kind),
            idle_bytes,
            "{kind}: back"
        );
    }
}

#[test]
fn a_limit_beyond_the_quota_stays_as_it_was() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let heap = "cuCtxSetLimit-heap";
    assert_eq!(tenant.alloc("a", heap, 100 * MIB), 0);
    let before_bytes = assert_on_the_books(&machine, &mut tenant, "a heap");
    assert_eq!(tenant.alloc("b", heap, 300 * MIB), OUT_OF_MEMORY);
    assert_eq!(
        assert_on_the_books(&machine, &mut tenant, "a heap too large"),
        before_bytes
    );
    assert_eq!(tenant.alloc("b", heap, 101 * MIB), 0);
    assert_on_the_books(&machine, &mut tenant, "a heap that fits");
}

/// A green context is the first to use the device, or one that shares its primary context.
#[test]
fn green_contexts_are_charged_for_the_primary_context_that_they_make() {
    let machine = Machine::new();
    let world = World::memory("green", &QUOTA_BYTES.to_string());
    let mut looker = tenant(&machine);
    let context_bytes = machine.truth_of(looker.pid()).memory_bytes;
    let mut tenant = start(&machine, &world);
    assert_eq!(tenant.alloc("first", "cuGreenCtxCreate", 0), 0);
    assert_eq!(tenant.alloc("second", "cuGreenCtxCreate", 0), 0);
    assert_eq!(machine.truth_of(tenant.pid()).memory_bytes, context_bytes);
    let used = |looker: &mut Tenant| looker.numbers("nvml")[3];
    let mut reader = start(&machine, &world);
    assert_eq!(used(&mut reader), context_bytes);
    assert_eq!(tenant.status("free first"), 0);
    assert_eq!(used(&mut reader), context_bytes, "another retains it");
    assert_eq!(tenant.status("context"), 0);
    assert_eq!(tenant.alloc("a", "cuModuleLoadData", 6 * MIB), 0);
    assert_on_the_books(&machine, &mut tenant, "an image");
    assert_eq!(tenant.status("free second"), 0);
    assert_on_the_books(&machine, &mut tenant, "the program retains it");
    assert_eq!(tenant.status("leave"), 0);
    assert_eq!(used(&mut reader), 0, "gone, with its image");
    assert_eq!(machine.truth_of(tenant.pid()).memory_bytes, 0);
    assert_eq!(used(&mut looker), context_bytes);
}

/// What is allocated while a green context is current lies in the primary one, and ends with it.
#[test]
fn the_end_of_the_last_green_context_gives_everything_back() {
    let machine = Machine::new();
    let world = World::memory("green", &QUOTA_BYTES.to_string());
    let mut tenant = start(&machine, &world);
    let mut reader = start(&machine, &world);
    assert_eq!(tenant.alloc("green", "cuCtxFromGreenCtx", 0), 0);
    assert_eq!(tenant.alloc("a", "cuMemAlloc_v2", 4 * MIB), 0);
    assert_eq!(tenant.alloc("b", "cuModuleLoadData", 6 * MIB), 0);
    let held_bytes = machine.truth_of(tenant.pid()).memory_bytes;
    assert!(held_bytes > 10 * MIB);
    assert_eq!(reader.numbers("nvml")[3], held_bytes);
    assert_eq!(tenant.status("free green"), 0);
    assert_eq!(machine.truth_of(tenant.pid()).memory_bytes, 0);
    assert_eq!(reader.numbers("nvml")[3], 0);
}

/// What others allocate meanwhile is theirs.
#[test]
fn an_image_is_charged_right_while_a_neighbour_allocates() {
    let machine = Machine::new();
    let mut neighbour = Tenant::with_context(&machine, &World::Bare);
    let mut tenant = tenant(&machine);
    neighbour.tell(&format!("churn 7 2000 {} 64", 4 * MIB));
    for round in 0..20 {
        assert_eq!(tenant.alloc("a", "cuModuleLoadData", 6 * MIB), 0);
        assert_on_the_books(&machine, &mut tenant, "loaded");
        assert_eq!(tenant.status("free a"), 0, "{round}");
    }
    assert_eq!(neighbour.hear(), "2000 0 0");
}

/// Also of the first one of a board, which nothing is known of.
#[test]
fn a_context_is_charged_right_while_a_neighbour_allocates() {
    for round in 0..5 {
        let machine = Machine::new();
        let mut neighbour = Tenant::with_context(&machine, &World::Bare);
        neighbour.tell(&format!("churn {round} 1000 {} 64", 4 * MIB));
        let mut tenant = tenant(&machine);
        assert_on_the_books(&machine, &mut tenant, "the first context");
        neighbour.kill();
    }
}

/// NVML lists a process from its first context on, whatever it holds before.
#[test]
fn a_context_is_charged_right_in_a_process_that_holds_memory_already() {
    let machine = Machine::new();
    let mut tenant = start(&machine, &World::memory("one", &QUOTA_BYTES.to_string()));
    assert_eq!(tenant.status("init"), 0);
    assert_eq!(tenant.alloc("a", "cuMemCreate", 2 * MIB), 0);
    assert_eq!(tenant.status("context"), 0);
    assert_on_the_books(&machine, &mut tenant, "a context beside memory");
}

/// Loads images with first launches while another thread's free waits for the work of a stream; calls `look` after each.
#[track_caller]
fn launch_while_a_free_waits(tenant: &mut Tenant, mut look: impl FnMut(&mut Tenant)) {
    assert_eq!(tenant.alloc("work", "cuLaunchHostFunc", 0), 0);
    assert_eq!(tenant.alloc("block", "cuMemFree_v2-behind", 2 * MIB), 0);
    for at in 0..6 {
        let library = format!("library-{at}");
        assert_eq!(tenant.alloc(&library, "cuLaunchKernel", 6 * MIB), 0);
        look(tenant);
    }
    tenant.ok("free work");
    tenant.ok("free block");
}

/// The thread leaves no moment at which the books and the device surely agree.
#[test]
fn what_launches_load_is_charged_while_another_thread_frees() {
    let machine = Machine::new();
    let mut tenant = tenant(&machine);
    let idle_bytes = assert_on_the_books(&machine, &mut tenant, "a context");
    launch_while_a_free_waits(&mut tenant, |tenant| {
        assert_on_the_books(&machine, tenant, "loaded");
    });
    assert_on_the_books(&machine, &mut tenant, "all at rest");
    for at in 0..6 {
        tenant.ok(&format!("free library-{at}"));
    }
    let left_bytes = assert_on_the_books(&machine, &mut tenant, "unloaded");
    assert_eq!(left_bytes, idle_bytes);
}

/// Where NVML knows a process by another number than it has itself, it does not tell what is certain: it is measured when
/// all is at rest.
#[test]
fn what_launches_load_unseen_is_charged_at_the_next_moment_of_rest() {
    if !child::can_number() {
        return;
    }
    let machine = Machine::new();
    // The simulated device is started outside: what is inside ends with the first process there.
    let _outside = Tenant::with_context(&machine, &World::Bare);
    let world = World::memory("one", &QUOTA_BYTES.to_string());
    let mut command = machine.command(&world, "unshare");
    command
        .args(["--pid", "--fork", "--kill-child"])
        .arg(program("images", Door::Linked))
        .arg(Door::Linked.name());
    let mut tenant = Tenant::spawn(&mut command);
    tenant.ok("context");
    let books = || accounts::of(&machine, "one")[0];
    let idle = books();
    assert!(idle.agree(), "{idle:?}");
    launch_while_a_free_waits(&mut tenant, |_| {});
    tenant.ok("info");
    let loaded = books();
    assert!(loaded.agree(), "{loaded:?}");
    assert!(loaded.held_bytes > idle.held_bytes + 6 * 6 * MIB);
    assert!(tenant.end().status.success());
}

/// A program without a quota is asked for nothing, and asks nothing.
#[test]
fn without_a_quota_nothing_is_measured() {
    let calls = |world: &World| {
        let machine = Machine::new();
        let mut tenant = start(&machine, world);
        assert_eq!(tenant.status("context"), 0);
        for kind in IMAGES {
            assert_eq!(tenant.alloc("a", kind, 8), 0, "{kind}");
            assert_eq!(tenant.status("free a"), 0, "{kind}");
        }
        assert!(tenant.end().status.success());
        machine.trace()
    };
    assert_eq!(calls(&World::Bare), calls(&World::Transparent));
}
