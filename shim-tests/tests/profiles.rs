//! Every profile as a program sees it: through the driver API, and through NVML.
#![cfg(test)]

use gpu_sim::profile::{BUILT_IN, MachineProfile, Profile};
use shim_tests::{Door, Machine, World, child, program};

fn cuda_line(device: &Profile) -> String {
    let (major, minor) = device.compute_capability;
    format!(
        "cuda major={major} minor={minor} sm_count={} threads_per_sm_max={} blocks_per_sm_max={} registers_per_sm={} \
         shared_bytes_per_sm={} shared_bytes_per_block_max={} sm_clock_khz={} memory_clock_khz={} memory_bus_bits={} \
         l2_bytes={} memory_bytes={} pci=0000:{:02x}:{:02x}.0 uuid={} name={}",
        device.sm_count,
        device.threads_per_sm_max,
        device.blocks_per_sm_max,
        device.registers_per_sm,
        device.shared_bytes_per_sm,
        device.shared_bytes_per_block_max,
        device.sm_clock_mhz * 1000,
        device.memory_clock_mhz * 1000,
        device.memory_bus_bits,
        device.l2_bytes,
        device.memory_bytes,
        device.pci_bus,
        device.pci_device,
        device.uuid_text(),
        device.name
    )
}

fn nvml_line(device: &Profile) -> String {
    let (major, minor) = device.compute_capability;
    format!(
        "nvml major={major} minor={minor} cores={} sm_clock_mhz={} memory_clock_mhz={} memory_bus_bits={} pcie={}x{} \
         power_limit_mw={} memory_bytes_in_all={} uuid={} name={}",
        device.sm_count * device.cores_per_sm,
        device.sm_clock_mhz,
        device.memory_clock_mhz,
        device.memory_bus_bits,
        device.pcie_generation,
        device.pcie_lanes,
        device.power_limit_mw,
        device.memory_bytes + device.memory_reserved_bytes,
        device.uuid_text(),
        device.name
    )
}

/// What the program `board` says on a machine of this profile; `visible` is what CUDA is to show, if that is said.
fn seen(profile: &str, visible: Option<&str>) -> Vec<String> {
    let machine = Machine::with_profile(profile);
    let mut command = machine.command(&World::Bare, program("board", Door::Linked));
    command.envs(visible.map(|list| ("CUDA_VISIBLE_DEVICES", list)));
    let lines = child::run(&mut command);
    lines.lines().into_iter().map(str::to_owned).collect()
}

fn expected(cuda: &[&Profile], nvml: &[Profile]) -> Vec<String> {
    let cuda = cuda.iter().map(|device| cuda_line(device));
    cuda.chain(nvml.iter().map(nvml_line)).collect()
}

#[test]
fn a_program_sees_every_board_as_its_profile_has_it() {
    let built_in = BUILT_IN.iter().map(|(name, _)| *name);
    for name in built_in.chain(["2xa100,t4"]) {
        let devices = MachineProfile::load(name).unwrap().devices;
        let all: Vec<_> = devices.iter().collect();
        assert_eq!(seen(name, None), expected(&all, &devices), "{name}");
    }
}

#[test]
fn cuda_shows_the_devices_that_are_named_and_nvml_all_of_them() {
    let machine = "2xa100,t4";
    let devices = MachineProfile::load(machine).unwrap().devices;
    let [first, second, t4] = &devices[..] else {
        panic!("three devices");
    };
    let uuid = t4.uuid_text();
    for (visible, shown) in [
        ("1", vec![second]),
        ("2,0", vec![t4, first]),
        (uuid.as_str(), vec![t4]),
        (&uuid[..12], vec![t4]),
        (&format!("{uuid},1"), vec![t4, second]),
        ("0,7,1", vec![first]),
    ] {
        let seen = seen(machine, Some(visible));
        assert_eq!(seen, expected(&shown, &devices), "{visible}");
    }
}

#[test]
fn a_file_of_ones_own_is_seen_as_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let text = "[[device]]\nprofile = \"h100\"\nname = \"Half an H100\"\nsm_count = 66\n\n\
                [[device]]\nprofile = \"rtx3090\"\ncount = 2\nmemory_bytes = 1073741824\n";
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    let devices = MachineProfile::load(path).unwrap().devices;
    let all: Vec<_> = devices.iter().collect();
    let seen = seen(path, None);
    assert_eq!(seen, expected(&all, &devices));
    assert!(seen[0].contains(" sm_count=66 ") && seen[0].ends_with("name=Half an H100"));
    assert!(seen[2].contains(" memory_bytes=1073741824 "));
}
