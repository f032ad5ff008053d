//! What monitors and exporters ask, through the built library, in front of a machine that is used.
#![expect(unsafe_code, reason = "NVML is a C library")]
#![expect(clippy::unwrap_used, reason = "this is how a test fails")]

use std::ffi::{c_uint, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::ptr::null_mut;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use cuda_sys_stubs::nvml_abi::*;
use gpu_sim::client::{Machine, Stream};
use gpu_sim::command::{AllocKind, Command as GpuCommand, ContextId, CopyDirection, KernelCost};
use libloading::Library;

/// Devices of the machine: one that can be partitioned, one without fans and without that, one with fans and without ECC.
const PROFILE: &str = "a100,t4,rtx3090";
const A100: c_uint = 0;
const T4: c_uint = 1;
const RTX3090: c_uint = 2;

/// How long a condition may take to come true. Generous: the host may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// The library, and the machine that it shows: one for this test program. The machine removes its folder when we have gone.
struct Nvml {
    library: Library,
}

static NVML: LazyLock<Nvml> = LazyLock::new(|| {
    let folder = format!("/dev/shm/nvml-test-{}", std::process::id());
    let built = build();
    let variables = [
        ("GPU_SIM_DIR", folder.into()),
        ("GPU_SIM_DEVICE", built.join("gpu-sim-device")),
        ("GPU_SIM_PROFILE", PROFILE.into()),
        ("GPU_SIM_LINGER_MS", "0".into()),
    ];
    for (name, value) in variables {
        // SAFETY: every test comes here before it does anything else, and waits; nobody reads the environment now.
        unsafe { std::env::set_var(name, value) };
    }
    // SAFETY: the library runs nothing when it is loaded.
    let library = unsafe { Library::new(built.join("libgpu_sim_libnvidia_ml.so")) }.unwrap();
    let nvml = Nvml { library };
    // SAFETY: the symbol has this type, by the table that the library was built from.
    let init = unsafe {
        nvml.library
            .get::<cuda_sys_stubs::nvml_pfn::nvmlInit_v2>(b"nvmlInit_v2")
    };
    // SAFETY: it takes no arguments.
    assert_eq!(unsafe { init.unwrap()() }, NVML_SUCCESS);
    nvml
});

/// Builds library and device in the test's own profile; gives the folder that they lie in.
fn build() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.ancestors().nth(2).unwrap().to_owned(); // target/<profile>/deps/test
    let mut cargo = Command::new(env!("CARGO"));
    let packages = ["-p", "gpu-sim", "-p", "gpu-sim-libnvidia-ml"];
    cargo.args(["build", "--quiet"]).args(packages);
    cargo.arg("--target-dir").arg(built.parent().unwrap());
    if built.ends_with("release") {
        cargo.arg("--release");
    }
    let cargo = cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(cargo.status().unwrap().success());
    built
}

/// Calls a function of the library by its name, with the ABI's own type; gives its status.
macro_rules! nv {
    ($name:ident($($argument:expr),* $(,)?)) => {{
        let symbol = stringify!($name).as_bytes();
        // SAFETY: the symbol has this type, by the table that the library was built from.
        let function = unsafe { NVML.library.get::<cuda_sys_stubs::nvml_pfn::$name>(symbol) }.unwrap();
        // SAFETY: each test passes pointers that the call may use.
        unsafe { function($($argument),*) }
    }};
}

/// What a function writes to its last argument, or its status.
macro_rules! read {
    ($name:ident($($argument:expr),* $(,)?)) => {{
        let mut value = Default::default();
        match nv!($name($($argument,)* &raw mut value)) {
            NVML_SUCCESS => Ok(value),
            status => Err(status),
        }
    }};
}

fn device(index: c_uint) -> nvmlDevice_t {
    let mut device = null_mut();
    assert_eq!(
        nv!(nvmlDeviceGetHandleByIndex_v2(index, &raw mut device)),
        NVML_SUCCESS
    );
    device
}

/// This process as a tenant of one device.
struct Tenant {
    machine: Machine,
    context: ContextId,
    stream: Stream,
}

impl Tenant {
    fn on(index: c_uint) -> Self {
        LazyLock::force(&NVML);
        let machine = Machine::connect().unwrap();
        let context = machine.create_context(index).unwrap();
        let stream = machine.create_stream(context, 0).unwrap();
        Self {
            machine,
            context,
            stream,
        }
    }

    /// Keeps the device busy until `is_so`.
    fn works_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let kernel = KernelCost {
            grid: [1000, 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            registers_per_thread: 32,
            instructions_per_thread: 200_000,
        };
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
            for _ in 0..10 {
                self.machine
                    .submit(&self.stream, GpuCommand::Kernel(kernel))
                    .unwrap();
            }
        }
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.machine.destroy_context(self.context).unwrap();
    }
}

/// What `nvmlDeviceGetProcessUtilization` has on a device, newer than `last_seen_us`.
fn process_utilization(
    index: c_uint,
    last_seen_us: u64,
) -> Result<Vec<nvmlProcessUtilizationSample_t>, c_uint> {
    let ask = |rows: *mut nvmlProcessUtilizationSample_t, count: &mut c_uint| {
        nv!(nvmlDeviceGetProcessUtilization(
            device(index),
            rows,
            count,
            last_seen_us
        ))
    };
    let mut count = 0;
    match ask(null_mut(), &mut count) {
        NVML_ERROR_INSUFFICIENT_SIZE => {}
        status => return Err(status),
    }
    let none = nvmlProcessUtilizationSample_t {
        pid: 0,
        timeStamp: 0,
        smUtil: 0,
        memUtil: 0,
        encUtil: 0,
        decUtil: 0,
    };
    let mut rows = vec![none; count as usize + 8];
    count += 8;
    match ask(rows.as_mut_ptr(), &mut count) {
        NVML_SUCCESS => Ok(rows[..count as usize].to_vec()),
        status => Err(status),
    }
}

#[test]
fn utilization_of_processes_is_the_rings_and_not_found_where_nobody_was_caught() {
    let tenant = Tenant::on(A100);
    let mut rows = Vec::new();
    tenant.works_until("the ring catches the process", || {
        rows = process_utilization(A100, 0).unwrap_or_default();
        rows.first().is_some_and(|row| row.smUtil >= 30)
    });
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].pid, std::process::id());
    assert!(rows[0].smUtil <= 100 && rows[0].memUtil == 0);
    let in_future_us = rows[0].timeStamp + 3_600_000_000;
    assert_eq!(
        process_utilization(A100, in_future_us).err(),
        Some(NVML_ERROR_NOT_FOUND)
    );
    assert_eq!(
        process_utilization(T4, 0).err(),
        Some(NVML_ERROR_NOT_FOUND),
        "nobody is there"
    );
}

#[test]
fn the_ring_keeps_ten_seconds_as_samples() {
    let tenant = Tenant::on(A100);
    let (mut kind, mut most) = (0, 0);
    let mut ask = |last_seen_us, count: &mut c_uint, samples: *mut nvmlSample_t| {
        nv!(nvmlDeviceGetSamples(
            device(A100),
            NVML_GPU_UTILIZATION_SAMPLES,
            last_seen_us,
            &raw mut kind,
            count,
            samples
        ))
    };
    assert_eq!(ask(0, &mut most, null_mut()), NVML_SUCCESS);
    assert_eq!(most, 72);
    let mut times = Vec::new();
    tenant.works_until("three samples of a busy engine", || {
        let value = nvmlValue_t { uiVal: 0 };
        let none = nvmlSample_t {
            timeStamp: 0,
            sampleValue: value,
        };
        let (mut samples, mut count) = (vec![none; 72], 72);
        if ask(0, &mut count, samples.as_mut_ptr()) != NVML_SUCCESS {
            return false; // the machine is younger than a sample
        }
        samples.truncate(count as usize);
        // SAFETY: the library said that the values are unsigned numbers.
        samples.retain(|sample| unsafe { sample.sampleValue.uiVal } > 0);
        times = samples.iter().map(|sample| sample.timeStamp).collect();
        times.len() >= 3
    });
    let timing = &tenant.machine.profile().timing;
    let late_us = timing.sample_jitter_ns / 1_000 + 1;
    for pair in times.windows(2) {
        let apart_us = pair[1] - pair[0];
        assert!(
            apart_us.abs_diff(138_888) <= late_us,
            "{times:?}: one each 10 s / 72"
        );
    }
    let last = *times.last().unwrap();
    let in_future_us = last + 3_600_000_000;
    let mut count = 72;
    let mut sample = nvmlSample_t {
        timeStamp: 0,
        sampleValue: nvmlValue_t { uiVal: 0 },
    };
    assert_eq!(
        ask(in_future_us, &mut count, &raw mut sample),
        NVML_ERROR_NOT_FOUND
    );
    assert_eq!(kind, NVML_VALUE_TYPE_UNSIGNED_INT);
}

#[test]
fn every_version_of_the_list_of_processes_has_the_same_processes() {
    const HELD_BYTES: u64 = 100 << 20;
    let tenant = Tenant::on(RTX3090);
    let other = Machine::connect().unwrap(); // connected, and without a context: not a process of the device
    let ended = other.create_context(RTX3090).unwrap();
    other.destroy_context(ended).unwrap();
    tenant
        .machine
        .alloc(RTX3090, HELD_BYTES, AllocKind::Device)
        .unwrap();
    let usage = tenant.machine.usage().unwrap();
    let own = usage
        .iter()
        .find(|row| row.device == RTX3090 && row.contexts > 0)
        .unwrap();
    let wanted = (own.pid, own.memory_bytes_current);
    assert!(wanted.1 > HELD_BYTES);

    let mut first = [nvmlProcessInfo_v1_t {
        pid: 0,
        usedGpuMemory: 0,
    }; 4];
    let mut count = 4;
    let status = nv!(nvmlDeviceGetComputeRunningProcesses(
        device(RTX3090),
        &raw mut count,
        first.as_mut_ptr()
    ));
    assert_eq!((status, count), (NVML_SUCCESS, 1));
    assert_eq!((first[0].pid, first[0].usedGpuMemory), wanted);

    let none = nvmlProcessInfo_t {
        pid: 0,
        usedGpuMemory: 0,
        gpuInstanceId: 0,
        computeInstanceId: 0,
    };
    let mut later = [none; 4];
    for version in 2..=3 {
        count = 4;
        let status = match version {
            2 => nv!(nvmlDeviceGetComputeRunningProcesses_v2(
                device(RTX3090),
                &raw mut count,
                later.as_mut_ptr()
            )),
            _ => nv!(nvmlDeviceGetComputeRunningProcesses_v3(
                device(RTX3090),
                &raw mut count,
                later.as_mut_ptr()
            )),
        };
        assert_eq!((status, count), (NVML_SUCCESS, 1));
        assert_eq!((later[0].pid, later[0].usedGpuMemory), wanted);
        assert_eq!(later[0].gpuInstanceId, c_uint::MAX, "no partition");
    }
    count = 0;
    let status = nv!(nvmlDeviceGetComputeRunningProcesses_v3(
        device(RTX3090),
        &raw mut count,
        null_mut()
    ));
    assert_eq!((status, count), (NVML_ERROR_INSUFFICIENT_SIZE, 1));
}

#[test]
fn what_a_board_cannot_do_is_not_supported() {
    let (mut now, mut later) = (9, 9);
    assert_eq!(
        nv!(nvmlDeviceGetMigMode(
            device(A100),
            &raw mut now,
            &raw mut later
        )),
        NVML_SUCCESS
    );
    assert_eq!(
        (now, later),
        (NVML_DEVICE_MIG_DISABLE, NVML_DEVICE_MIG_DISABLE)
    );
    for index in [T4, RTX3090] {
        let status = nv!(nvmlDeviceGetMigMode(
            device(index),
            &raw mut now,
            &raw mut later
        ));
        assert_eq!(status, NVML_ERROR_NOT_SUPPORTED);
    }
    let fans = |index| -> Result<c_uint, _> { read!(nvmlDeviceGetFanSpeed(device(index))) };
    assert!((1..=100).contains(&fans(RTX3090).unwrap()));
    assert_eq!(fans(T4), Err(NVML_ERROR_NOT_SUPPORTED));
    let errors =
        |index| -> Result<u64, _> { read!(nvmlDeviceGetTotalEccErrors(device(index), 1, 0)) };
    assert_eq!(
        [A100, T4, RTX3090].map(errors),
        [Ok(0), Ok(0), Err(NVML_ERROR_NOT_SUPPORTED)]
    );
    let pending = |index| -> Result<c_uint, _> {
        read!(nvmlDeviceGetRetiredPagesPendingStatus(device(index)))
    };
    assert_eq!(
        [A100, T4].map(pending),
        [Err(NVML_ERROR_NOT_SUPPORTED), Ok(0)]
    );
}

#[test]
fn fields_are_answered_one_by_one() {
    let field = |number| nvmlFieldValue_t {
        fieldId: number,
        scopeId: 0,
        timestamp: 0,
        latencyUsec: 0,
        valueType: 0,
        nvmlReturn: 77,
        value: nvmlValue_t { ullVal: 0 },
    };
    let mut fields = [
        NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION,
        NVML_FI_DEV_ECC_CURRENT,
        NVML_FI_MAX,
    ]
    .map(field);
    assert_eq!(
        nv!(nvmlDeviceGetFieldValues(
            device(RTX3090),
            3,
            fields.as_mut_ptr()
        )),
        NVML_SUCCESS
    );
    let statuses = fields.map(|field| field.nvmlReturn);
    assert_eq!(
        statuses,
        [
            NVML_SUCCESS,
            NVML_ERROR_NOT_SUPPORTED,
            NVML_ERROR_NOT_SUPPORTED
        ]
    );
    assert_eq!(fields[0].valueType, NVML_VALUE_TYPE_UNSIGNED_LONG_LONG);
    // SAFETY: the library said that it is one.
    let before_mj = unsafe { fields[0].value.ullVal };
    let after_mj: u64 = read!(nvmlDeviceGetTotalEnergyConsumption(device(RTX3090))).unwrap();
    assert!(0 < before_mj && before_mj <= after_mj);
}

#[test]
fn the_links_throughput_is_what_was_copied_since_the_last_question() {
    const BYTES: u64 = 512 << 20;
    let tenant = Tenant::on(T4);
    let rate =
        |counter| -> c_uint { read!(nvmlDeviceGetPcieThroughput(device(T4), counter)).unwrap() };
    let both = || [NVML_PCIE_UTIL_RX_BYTES, NVML_PCIE_UTIL_TX_BYTES].map(rate);
    both();
    let direction = CopyDirection::HostToDevice;
    let copy = GpuCommand::Copy {
        direction,
        bytes: BYTES,
    };
    let last = tenant.machine.submit(&tenant.stream, copy).unwrap();
    tenant.machine.wait_stream(&tenant.stream, last).unwrap();
    let [received, sent] = both();
    assert!(
        received > 0 && u64::from(received) <= 12_000_000,
        "{received} KB/s over a link of 12 GB/s"
    );
    assert_eq!(sent, 0);
    assert_eq!(both(), [0, 0]);
}

#[test]
fn two_boards_are_found_by_all_their_names_and_have_no_way_to_each_other() {
    for index in [A100, T4, RTX3090] {
        let mut uuid = [0; 96];
        assert_eq!(
            nv!(nvmlDeviceGetUUID(device(index), uuid.as_mut_ptr(), 96)),
            NVML_SUCCESS
        );
        let mut found = null_mut();
        assert_eq!(
            nv!(nvmlDeviceGetHandleByUUID(uuid.as_ptr(), &raw mut found)),
            NVML_SUCCESS
        );
        assert_eq!(read!(nvmlDeviceGetIndex(found)), Ok(index));
    }
    let between = |other| -> Result<c_uint, _> {
        read!(nvmlDeviceGetTopologyCommonAncestor(
            device(A100),
            device(other)
        ))
    };
    assert_eq!(between(A100), Ok(NVML_TOPOLOGY_INTERNAL));
    assert_eq!(between(T4), Ok(NVML_TOPOLOGY_NODE));
    let peer: Result<c_uint, _> = read!(nvmlDeviceGetP2PStatus(device(A100), device(T4), 0));
    assert_eq!(peer, Ok(NVML_P2P_STATUS_NOT_SUPPORTED));
}

/// `requests.tsv` has the names that nvidia-ml-py looks up one by one, and those in the text of JAX and PyTorch (`strings`).
#[test]
fn every_name_that_programs_look_up_is_exported() {
    let names = || {
        let rows = include_str!("requests.tsv").lines().skip(1);
        rows.filter_map(|row| row.split('\t').nth(1))
    };
    // SAFETY: only whether it is there is looked at.
    let has = |name: &str| unsafe { NVML.library.get::<*mut c_void>(name.as_bytes()) }.is_ok();
    let missing: Vec<_> = names().filter(|name| !has(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(names().count(), 784, "the table was not read");
}
