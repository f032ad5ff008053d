//! Lookups: through each door a hooked name leads to our function and any other to the driver's, with the driver's own
//! versions, flags and refusals; and what `RTLD_NEXT` means for everybody else stays what it was.
#![cfg(test)]

use shim_tests::{Door, Machine, Tenant, World, child, program, shared_object};

/// Names that a quota or a share depends on, by the ABI name that a linker sees.
const HOOKED: [&str; 8] = [
    "cuInit",
    "cuMemAlloc_v2",
    "cuMemAllocAsync_ptsz",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuLaunchKernel",
    "cuGraphLaunch_ptsz",
    "cuGetProcAddress_v2",
];

/// Names that pass.
const NOT_HOOKED: [&str; 6] = [
    "cuDriverGetVersion",
    "cuDeviceGetName",
    "cuStreamCreate",
    "cuEventRecord_ptsz",
    "cuGetExportTable",
    "cuCtxGetCurrent",
];

fn limited() -> World {
    World::memory("lookup", "1GiB")
}

/// Asks the program `lookup`; the answers in order.
#[track_caller]
fn look_up(machine: &Machine, world: &World, requests: &[String]) -> Vec<String> {
    let outcome = child::run(
        machine
            .command(world, program("lookup", Door::Next))
            .args(requests),
    );
    let lines = outcome.lines();
    assert_eq!(lines.len(), requests.len(), "{lines:#?}");
    let answers = lines.iter().zip(requests);
    answers
        .map(|(line, request)| {
            line.strip_prefix(&format!("{request} "))
                .expect("answers in order")
                .to_owned()
        })
        .collect()
}

fn requests(doors: &[&str], names: &[&str]) -> Vec<String> {
    doors
        .iter()
        .flat_map(|door| names.iter().map(move |name| format!("{door}:{name}")))
        .collect()
}

/// Asserts that the answers in the limited world are the bare ones, our library standing for the driver where `hooked`.
#[track_caller]
fn assert_swapped(requests: &[String], provider: &str, hooked: impl Fn(&str) -> bool) {
    let machine = Machine::new();
    let bare = look_up(&machine, &World::Bare, requests);
    let under_limits = look_up(&machine, &limited(), requests);
    for ((request, bare), under_limits) in requests.iter().zip(&bare).zip(&under_limits) {
        let symbol = bare.rsplit(' ').next().expect("an answer");
        let ours = bare.contains(provider) && hooked(symbol);
        let expected = if ours {
            bare.replace(provider, "libcuda_hook.so")
        } else {
            bare.clone()
        };
        assert_eq!(&expected, under_limits, "{request}");
    }
}

#[test]
fn by_name_each_door_leads_where_it_should() {
    let mut names = [HOOKED.as_slice(), &NOT_HOOKED].concat();
    names.extend(["cuNoSuchFunction", "cu", "malloc", "cuMemAlloc"]);
    let requests = requests(&["handle", "default", "next", "dlvsym"], &names);
    let bare = look_up(&Machine::new(), &World::Bare, &requests[..1]);
    assert_eq!(
        bare,
        ["libcuda.so.1 cuInit"],
        "the program sees the simulated driver"
    );
    assert_swapped(&requests, "libcuda.so.1", |symbol| {
        HOOKED.contains(&symbol) || symbol == "cuMemAlloc"
    });
}

#[test]
fn get_proc_address_leads_where_the_drivers_would() {
    let mut requests = Vec::new();
    for api in ["gpa1", "gpa2", "self1", "self2"] {
        // Versions before, at and after an ABI began, one that is no release, and ones from the future.
        for version in [0, 1999, 2000, 3019, 3020, 12040, 13041, 99990] {
            requests.push(format!("{api}:cuMemAlloc@{version}/0"));
        }
        for flags in 0..=4 {
            requests.push(format!("{api}:cuLaunchKernel@12000/{flags}"));
            requests.push(format!("{api}:cuLaunchKernel@6999/{flags}"));
            requests.push(format!("{api}:cuStreamCreate@12000/{flags}"));
        }
        for version in [11029, 11030, 11999, 12000, 13041] {
            requests.push(format!("{api}:cuGetProcAddress@{version}/0"));
        }
        for name in [
            "cuMemAlloc_v2",
            "cuLaunchKernel_ptsz",
            "cuNoSuchFunction",
            "",
            "cuDriverGetVersion",
            "dlsym",
        ] {
            requests.push(format!("{api}:{name}@13000/0"));
        }
    }
    let hooked = [
        "cuMemAlloc",
        "cuMemAlloc_v2",
        "cuLaunchKernel",
        "cuLaunchKernel_ptsz",
        "cuGetProcAddress",
        "cuGetProcAddress_v2",
    ];
    assert_swapped(&requests, "libcuda.so.1", |symbol| hooked.contains(&symbol));
}

/// The driver's rules as they were measured on a real one; without this the two worlds could agree on nonsense.
#[test]
fn the_simulated_driver_answers_as_a_real_one() {
    let answers = [
        ("gpa2:cuMemAlloc@3020/0", "0 0 libcuda.so.1 cuMemAlloc_v2"),
        ("gpa2:cuMemAlloc@3019/0", "0 0 libcuda.so.1 cuMemAlloc"),
        ("gpa2:cuMemAlloc@1999/0", "0 2 null"),
        ("gpa2:cuMemAlloc_v2@13000/0", "0 1 null"),
        ("gpa2:@0/0", "0 1 null"),
        ("gpa1:cuMemAlloc_v2@13000/0", "500 untouched"),
        (
            "gpa2:cuLaunchKernel@12000/2",
            "0 0 libcuda.so.1 cuLaunchKernel_ptsz",
        ),
        ("gpa2:cuLaunchKernel@6999/2", "0 2 null"),
        (
            "gpa2:cuGetProcAddress@11999/0",
            "0 0 libcuda.so.1 cuGetProcAddress",
        ),
        (
            "gpa1:cuGetProcAddress@12000/0",
            "0 libcuda.so.1 cuGetProcAddress_v2",
        ),
    ];
    let requests = answers.map(|(request, _)| request.to_owned());
    assert_eq!(
        look_up(&Machine::new(), &World::Bare, &requests),
        answers.map(|(_, answer)| answer)
    );
}

#[test]
fn nvml_names_lead_where_they_should() {
    let hooked = ["nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2"];
    let names = [
        hooked.as_slice(),
        &["nvmlInit_v2", "nvmlDeviceGetName", "nvmlNoSuchFunction"],
    ]
    .concat();
    assert_swapped(
        &requests(&["nvml"], &names),
        "libnvidia-ml.so.1",
        |symbol| hooked.contains(&symbol),
    );
}

/// What the driver does not have, we do not have, though our library exports it.
#[test]
fn an_older_driver_stays_old() {
    let machine = Machine::new();
    let old = shared_object("old_driver", "libcuda.so.1");
    let library_path = format!(
        "{}:{}",
        old.parent().expect("a folder").display(),
        shim_tests::artefacts().sim.display()
    );
    let ask = |world: &World, request: &str| {
        let mut command = machine.command(world, program("lookup", Door::Next));
        let outcome = child::run(command.env("LD_LIBRARY_PATH", &library_path).arg(request));
        outcome.lines()[0].to_owned()
    };
    let doors = ["handle", "default", "next", "dlvsym"];
    let names = [
        "cuMemAlloc_v2",
        "cuMemAllocAsync",
        "cuLaunchKernel",
        "cuGetProcAddress",
        "cuGetProcAddress_v2",
        "cuDriverGetVersion",
    ];
    let by_pointer = [
        "gpa1:cuMemAlloc@3020/0",
        "gpa1:cuMemAlloc@3019/0",
        "gpa1:cuLaunchKernel@4000/0",
    ]
    .map(str::to_owned);
    for request in requests(&doors, &names).into_iter().chain(by_pointer) {
        let bare = ask(&World::Bare, &request);
        let has = ["cuMemAlloc_v2", "cuGetProcAddress"]
            .iter()
            .any(|name| bare.ends_with(&format!("libcuda.so.1 {name}")));
        let expected = if has {
            bare.replace("libcuda.so.1", "libcuda_hook.so")
        } else {
            bare
        };
        assert_eq!(ask(&limited(), &request), expected);
    }
}

/// A tracer preloaded before or behind us finds the next function, not itself, and is called once.
#[test]
fn rtld_next_means_the_same_to_other_preloads() {
    let machine = Machine::new();
    let other = shared_object("other_preload", "libother_preload.so");
    let hook = &shim_tests::artefacts().hook;
    for order in [[hook, &other], [&other, hook]] {
        let preload = order.map(|path| path.display().to_string()).join(":");
        let mut command = machine.command(&limited(), program("greeting", Door::Dlopen));
        let outcome = child::run(command.env("LD_PRELOAD", &preload));
        assert_eq!(outcome.lines(), ["traced: hello"], "{preload}");
    }
}

/// Programs that look up `dlsym` itself, by `dlsym`, get one that leads to us too.
#[test]
fn dlsym_itself_is_looked_up() {
    let answers = look_up(
        &Machine::new(),
        &limited(),
        &requests(&["default", "next"], &["dlsym", "dlvsym"]),
    );
    for answer in answers {
        assert!(answer.starts_with("libcuda_hook.so dl"), "{answer}");
    }
}

/// `CUDA_HOOK_DRIVER` counts, and not what the loader finds: here an old driver that sees no device.
#[test]
fn the_driver_may_be_named() {
    let machine = Machine::new();
    let old = shared_object("old_driver", "libcuda.so.1");
    let named = shim_tests::artefacts().sim.join("libcuda.so.1");
    let library_path = format!(
        "{}:{}",
        old.parent().expect("a folder").display(),
        shim_tests::artefacts().sim.display()
    );
    let status = |world: &World| {
        let mut command = machine.command(world, program("tenant", Door::Linked));
        command.env("LD_LIBRARY_PATH", &library_path).arg("linked");
        Tenant::spawn(&mut command).status("init")
    };
    const NO_DEVICE: u64 = 100;
    assert_eq!(status(&limited()), NO_DEVICE);
    let path = named.to_str().expect("a path in text");
    let by_name = World::limited([("CUDA_HOOK_MEMORY", "1GiB"), ("CUDA_HOOK_DRIVER", path)]);
    assert_eq!(status(&by_name), 0);
}
