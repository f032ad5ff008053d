//! The built library, opened as a program opens it, in front of a machine of the test's own.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test file is a crate of its own and uses a part"
)]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "what goes wrong here fails the test that asked for it"
)]

pub(crate) mod other;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cuda_sys_stubs::abi::*;
use libloading::Library;
use parking_lot::{Mutex, MutexGuard};

/// `libcuda.so.1` and `gpu-sim-device`, built and side by side in a folder that a loader can be pointed at.
pub(crate) struct Driver {
    pub(crate) library: Library,
    pub(crate) folder: PathBuf,
}

/// Where the driver lies, for a process that a test starts: see [`other`].
const FOLDER: &str = "TEST_DRIVER_FOLDER";

/// Opens the driver, once for a test program. The environment of the simulation is set before, by whichever test is first.
pub(crate) fn driver() -> &'static Driver {
    static DRIVER: OnceLock<Driver> = OnceLock::new();
    DRIVER.get_or_init(|| {
        let folder = match std::env::var_os(FOLDER) {
            Some(folder) => PathBuf::from(folder),
            None => {
                let folder = lay_out(Path::new(env!("CARGO_TARGET_TMPDIR")));
                // SAFETY: tests call nothing but this function before they have the driver, so nobody reads the environment now.
                unsafe {
                    std::env::set_var("GPU_SIM_DIR", machine_dir("tests"));
                    std::env::set_var(FOLDER, &folder);
                }
                folder
            }
        };
        // SAFETY: the library runs nothing when it is loaded.
        let library = unsafe { Library::new(folder.join("libcuda.so.1")) }.expect("the driver");
        Driver { library, folder }
    })
}

/// The folder of a machine of this test program's own, which the machine removes when its last user has gone.
pub(crate) fn machine_dir(name: &str) -> PathBuf {
    format!("/dev/shm/libcuda-{name}-{}", std::process::id()).into()
}

/// Links the artefacts under the names that a loader looks for, in `parent/driver`.
pub(crate) fn lay_out(parent: &Path) -> PathBuf {
    let built = build();
    let folder = parent.join("driver");
    std::fs::create_dir_all(&folder).expect("a folder");
    for (from, to) in [
        ("libgpu_sim_libcuda.so", "libcuda.so.1"),
        ("libgpu_sim_libcuda.so", "libcuda.so"),
        ("gpu-sim-device", "gpu-sim-device"),
    ] {
        // Under a name of our own first: another test program may lay out the same folder.
        let fresh = folder.join(format!("{to}.{}", std::process::id()));
        std::os::unix::fs::symlink(built.join(from), &fresh).expect("a link");
        std::fs::rename(&fresh, folder.join(to)).expect("a link in its place");
    }
    folder
}

/// Builds library and device in the test's own profile; gives the folder that they lie in.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let built = test
        .ancestors()
        .nth(2)
        .expect("target/<profile>/deps/test")
        .to_owned();
    let target = built.parent().expect("target");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([
            "build",
            "--quiet",
            "-p",
            "gpu-sim",
            "-p",
            "gpu-sim-libcuda",
            "--target-dir",
        ])
        .arg(target);
    if built.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo starts");
    assert!(status.success(), "{status}");
    built
}

/// Calls a function of the driver by its name, with the ABI's own type; gives its status.
macro_rules! cu {
    ($name:ident($($argument:expr),* $(,)?)) => {{
        let symbol = concat!(stringify!($name), "\0").as_bytes();
        // SAFETY: the type is the one that the symbol has, by the table that the library was built from.
        let function = unsafe { $crate::support::driver().library.get::<cuda_sys_stubs::pfn::$name>(symbol) }.expect(stringify!($name));
        // SAFETY: each test passes pointers that the call may use.
        unsafe { function($($argument),*) }
    }};
}

/// As `cu!`, for calls that must succeed.
macro_rules! ok {
    ($name:ident($($argument:expr),* $(,)?)) => {
        assert_eq!($crate::support::cu!($name($($argument),*)), 0, stringify!($name))
    };
}

/// Held by a test that looks at how much memory there is, while it does: tests of one program share their machine. The others
/// take no more than a context each.
pub(crate) fn measuring() -> MutexGuard<'static, ()> {
    static MEASURING: Mutex<()> = Mutex::new(());
    MEASURING.lock()
}

/// A fresh context, current for the calling thread.
pub(crate) fn context() -> CUcontext {
    ok!(cuInit(0));
    let mut context = std::ptr::null_mut();
    ok!(cuCtxCreate_v2(&mut context, 0, 0));
    context
}

/// Device memory of this size.
pub(crate) fn alloc(bytes: usize) -> CUdeviceptr {
    let mut address = 0;
    ok!(cuMemAlloc_v2(&mut address, bytes));
    address
}

/// Properties of a pool of this kind there, which may be given to other processes so.
pub(crate) fn pool_props(
    kind: CUmemAllocationType,
    location: CUmemLocation,
    handle_types: CUmemAllocationHandleType,
) -> CUmemPoolProps {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut props: CUmemPoolProps = unsafe { std::mem::zeroed() };
    (props.allocType, props.location) = (kind, location);
    props.handleTypes = handle_types;
    props
}

/// A blocking stream.
pub(crate) fn stream() -> CUstream {
    let mut stream = std::ptr::null_mut();
    ok!(cuStreamCreate(&mut stream, CU_STREAM_DEFAULT));
    stream
}

/// A stream that is not ordered with the null stream.
pub(crate) fn free_stream() -> CUstream {
    let mut stream = std::ptr::null_mut();
    ok!(cuStreamCreate(&mut stream, CU_STREAM_NON_BLOCKING));
    stream
}

/// An event.
pub(crate) fn event(flags: u32) -> CUevent {
    let mut event = std::ptr::null_mut();
    ok!(cuEventCreate(&mut event, flags));
    event
}

/// What device memory holds.
pub(crate) fn read(address: CUdeviceptr, bytes: usize) -> Vec<u8> {
    let mut host = vec![0u8; bytes];
    ok!(cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), address, bytes));
    host
}

/// PTX of a kernel `spin` whose threads execute about `instructions`, in thousands, with a parameter of each kind, shared
/// memory and a variable.
pub(crate) fn spin_ptx(instructions: u32) -> String {
    format!(
        ".version 7.5\n.target sm_70\n.address_size 64\n\
         .global .align 4 .u32 counter[2] = {{7, 9}};\n\
         .visible .entry spin(.param .u64 out, .param .u32 n) {{\n\
         .reg .pred %p<3>;\n.reg .b32 %r<4>;\n.shared .align 4 .b8 tile[256];\n\
         mov.u32 %r1, 0;\n\
         $outer: mov.u32 %r2, 0;\n\
         $inner: add.s32 %r2, %r2, 1;\nsetp.lt.u32 %p1, %r2, 333;\n@%p1 bra $inner;\n\
         add.s32 %r1, %r1, 1;\nsetp.lt.u32 %p2, %r1, {};\n@%p2 bra $outer;\nret;\n}}\n\
         .visible .entry other() {{ ret; }}\0",
        instructions / 1000
    )
}

/// The kernel `spin` of that many instructions, in the current context.
pub(crate) fn spin(instructions: u32) -> CUfunction {
    let ptx = spin_ptx(instructions);
    let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
    ok!(cuModuleLoadData(&mut module, ptx.as_ptr().cast()));
    ok!(cuModuleGetFunction(&mut function, module, c"spin".as_ptr()));
    function
}

/// Instructions of a kernel that takes about 40 ms on the simulated T4: what a test does meanwhile is faster.
pub(crate) const LONG: u32 = 60_000_000;

/// Launches one block a multiprocessor.
pub(crate) fn launch(function: CUfunction, stream: CUstream) -> CUresult {
    let (mut out, mut n) = (0u64, 0u32);
    let mut arguments = [(&raw mut out).cast(), (&raw mut n).cast()];
    cu!(cuLaunchKernel(
        function,
        40,
        1,
        1,
        128,
        1,
        1,
        0,
        stream,
        arguments.as_mut_ptr(),
        std::ptr::null_mut()
    ))
}

pub(crate) use {cu, ok};
