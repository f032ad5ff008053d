//! `CUDA_VISIBLE_DEVICES`: which devices a process sees, and in which order.
//!
//! CUDA C++ Programming Guide, "CUDA Environment Variables": a list of ordinals or of UUIDs (`GPU-…`, a unique beginning is enough).
//! The first entry that names no device ends the list; a device named twice makes the whole list void.

use gpu_sim::profile::Profile;

/// Numbers, at the machine, of the devices that `selection` shows; all of them when it is not set.
pub(crate) fn select(devices: &[Profile], selection: Option<&str>) -> Vec<u32> {
    let count = u32::try_from(devices.len()).unwrap_or(u32::MAX);
    let Some(selection) = selection else {
        return (0..count).collect();
    };
    let mut chosen = Vec::new();
    for entry in selection.split(',') {
        match find(devices, entry.trim()) {
            Some(index) if chosen.contains(&index) => return Vec::new(),
            Some(index) => chosen.push(index),
            None => break,
        }
    }
    chosen
}

fn find(devices: &[Profile], entry: &str) -> Option<u32> {
    let found = if entry.starts_with("GPU-") {
        let mut matching = devices.iter().enumerate().filter(|(_, device)| {
            device
                .uuid_text()
                .starts_with(&entry.to_ascii_lowercase().replacen("gpu-", "GPU-", 1))
        });
        let first = matching.next()?;
        matching.next().is_none().then_some(first.0)?
    } else {
        entry
            .parse::<usize>()
            .ok()
            .filter(|index| *index < devices.len())?
    };
    u32::try_from(found).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpu_sim::profile::MachineProfile;

    fn two() -> Vec<Profile> {
        let mut machine = MachineProfile::load("t4").unwrap();
        let mut second = machine.devices[0].clone();
        second.uuid[0] ^= 0xff;
        machine.devices.push(second);
        machine.devices
    }

    #[test]
    fn devices_come_in_the_order_that_they_are_named_in() {
        assert_eq!(select(&two(), Some("1,0")), [1, 0]);
        assert_eq!(select(&two(), None), [0, 1]);
    }

    #[test]
    fn the_first_unknown_entry_ends_the_list_and_a_repeated_one_voids_it() {
        assert_eq!(select(&two(), Some("0,7,1")), [0]);
        assert_eq!(select(&two(), Some("0,0")), [0u32; 0]);
        assert_eq!(select(&two(), Some("")), [0u32; 0]);
        assert_eq!(select(&two(), Some("-1")), [0u32; 0]);
    }

    #[test]
    fn a_device_is_found_by_the_beginning_of_its_uuid_unless_two_share_it() {
        let devices = two();
        assert_eq!(select(&devices, Some(&devices[1].uuid_text()[..8])), [1]);
        assert_eq!(select(&devices, Some("GPU-")), [0u32; 0]);
    }
}
