//! Which driver a program finds here, and whether we know everything that it exports.

use std::path::{Path, PathBuf};

use cuda_hook_libraries::{Driver, is_simulated};
use cuda_sys_stubs::Effect;
use cuda_sys_stubs::symbols;

use super::elf::Image;
use super::finding::{Finding, Level};
use super::loader::{self, NotOpened};

const DRIVER: &str = "driver";
const SYMBOLS: &str = "symbols";
const HOOKS: &str = "hooks";
const DEVICES: &str = "device nodes";
const SECOND_DOOR: &str = "second door";

/// What the loader finds when a program asks for the driver.
pub(crate) const SONAME: &str = "libcuda.so.1";

/// Whether look-ups of functions that nobody here knows are refused where their names sound like use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Newcomers {
    /// They pass.
    Pass,
    /// They are withheld (`strict`).
    AreWithheld,
}

/// Examines the driver `name` (a SONAME or a path), and its exports against those of the preload.
pub(crate) fn examine(name: &Path, preload: Option<&Image>, newcomers: Newcomers) -> Vec<Finding> {
    let driver = match loader::open_driver(name) {
        Ok(driver) => driver,
        Err(reason) => return vec![not_opened(name, &reason)],
    };
    let simulated = is_simulated(&driver.path);
    let image = Image::read(&driver.path);
    if image.as_ref().is_ok_and(is_second_door) {
        return vec![second_door(&driver.path)];
    }
    let mut findings = vec![found(&driver, simulated)];
    match image {
        Ok(image) => findings.extend(examine_symbols(&image, preload, newcomers)),
        Err(error) => {
            let found = format!("{}: {error}", driver.path.display());
            let way_out = "make the driver's file readable to have its symbols checked";
            findings.push(Finding::warning(SYMBOLS, found, way_out));
        }
    }
    if !simulated {
        findings.push(device_nodes(Path::new("/dev")));
    }
    findings
}

/// The library in the driver's place exports the look-ups that it stands before; no driver does.
fn is_second_door(driver: &Image) -> bool {
    ["dlsym", "cuInit"]
        .iter()
        .all(|name| driver.exports.contains(*name))
}

/// Whether programs find this library where they look for the driver, where the real one is named. `None`: they do not.
pub(crate) fn in_its_place(named: &Path) -> Option<Finding> {
    let found = loader::open_driver(Path::new(SONAME)).ok()?;
    let is_ours = Image::read(&found.path).is_ok_and(|image| is_second_door(&image));
    is_ours.then(|| {
        Finding::ok(
            SECOND_DOOR,
            format!(
                "{} is cuda-hook's own, in the driver's place; behind it is {}",
                found.path.display(),
                named.display()
            ),
        )
    })
}

fn second_door(path: &Path) -> Finding {
    Finding::problem(
        DRIVER,
        format!(
            "{} is cuda-hook's own, in the driver's place, and knows of no driver",
            path.display()
        ),
        "set CUDA_HOOK_DRIVER, or driver in the config file, to the path of the real one; until then cuInit fails in every program",
    )
}

fn not_opened(name: &Path, reason: &NotOpened) -> Finding {
    let name = name.display();
    match reason {
        NotOpened::Loader(reason) => Finding::problem(
            DRIVER,
            format!("{name} cannot be loaded: {reason}"),
            "install NVIDIA's driver, or in a container start it with the GPU (nvidia-container-toolkit); \
             CUDA_HOOK_DRIVER names a driver elsewhere; without a GPU: --sim t4",
        ),
        NotOpened::Unasked(failure) => Finding::problem(
            DRIVER,
            format!("{name} was not looked for: {failure}"),
            loader::WAY_OUT,
        ),
    }
}

fn found(driver: &Driver, simulated: bool) -> Finding {
    let kind = if simulated { "simulated" } else { "NVIDIA" };
    let version = driver_version(&driver.path)
        .map(|version| format!(" {version}"))
        .unwrap_or_default();
    let path = driver.path.display();
    match driver.cuda_version {
        Some(cuda) => Finding::ok(
            DRIVER,
            format!(
                "{kind} driver{version}, CUDA {}.{}: {path}",
                cuda / 1000,
                cuda % 1000 / 10
            ),
        ),
        None => Finding::warning(
            DRIVER,
            format!("{kind} driver{version}, which does not answer cuDriverGetVersion: {path}"),
            "try nvidia-smi; a driver whose two halves differ in version needs a reboot",
        ),
    }
}

/// A real driver's version stands in its file's name: `libcuda.so.535.183.01`.
fn driver_version(path: &Path) -> Option<&str> {
    let version = path.file_name()?.to_str()?.strip_prefix("libcuda.so.")?;
    version.contains('.').then_some(version)
}

fn examine_symbols(driver: &Image, preload: Option<&Image>, newcomers: Newcomers) -> Vec<Finding> {
    let unknown = unknown_symbols(driver);
    let preload = preload.filter(|_| unknown.level != Level::Problem);
    let suspects = suspects(driver, newcomers);
    let unhooked = preload
        .into_iter()
        .flat_map(|preload| unhooked_symbols(driver, preload));
    std::iter::once(unknown)
        .chain(suspects)
        .chain(unhooked)
        .collect()
}

/// Those of which nobody knows what they do and which sound like memory or launches.
fn suspects(driver: &Image, newcomers: Newcomers) -> Option<Finding> {
    let exported = driver.exports.iter().map(String::as_str);
    let names: Vec<_> = exported
        .filter(|name| symbols::sounds_like_use(name) && !symbols::is_understood(name))
        .collect();
    let count = names.len();
    let finding = match newcomers {
        _ if names.is_empty() => return None,
        Newcomers::AreWithheld => Finding::ok(
            SYMBOLS,
            format!(
                "strict: {count} exports that nobody knows and that sound like memory or launches are not handed out"
            ),
        ),
        Newcomers::Pass => Finding::warning(
            SYMBOLS,
            format!("{count} exports that nobody knows sound like memory or launches"),
            "strict = true in the config file (CUDA_HOOK_STRICT=true) refuses look-ups of these; update cuda-hook",
        ),
    };
    Some(finding.naming(&names))
}

/// A driver newer than our tables brings functions of which nobody here knows what they do.
fn unknown_symbols(driver: &Image) -> Finding {
    let exported = driver
        .exports
        .iter()
        .map(String::as_str)
        .filter(|name| name.starts_with("cu"));
    let (known, unknown): (Vec<_>, Vec<_>) =
        exported.partition(|name| symbols::driver(name).is_some());
    if known.is_empty() {
        return Finding::problem(
            SYMBOLS,
            "the driver exports no CUDA function",
            "that file is no driver; see CUDA_HOOK_DRIVER",
        );
    }
    if unknown.is_empty() {
        return Finding::ok(
            SYMBOLS,
            format!("all {} exports of the driver are known", known.len()),
        );
    }
    let found = format!(
        "{} exports of the driver are unknown to this version",
        unknown.len()
    );
    Finding::warning(
        SYMBOLS,
        found,
        "what they allocate or launch is not limited; update cuda-hook",
    )
    .naming(&unknown)
}

/// What the driver exports, changes how much memory or GPU time is used, and is not hooked.
fn unhooked_symbols(driver: &Image, preload: &Image) -> Vec<Finding> {
    let effects = [
        (Effect::Charge, "may take memory"),
        (Effect::Uncharge, "may give memory back"),
        (Effect::Throttle, "submit work to the GPU"),
    ];
    let finding = |(effect, what)| {
        let exported = driver
            .exports
            .iter()
            .filter_map(|name| symbols::driver(name));
        let of_effect = exported
            .filter(|symbol| symbol.effect == effect)
            .map(|symbol| symbol.name);
        let (hooked, open): (Vec<_>, Vec<_>) =
            of_effect.partition(|name| preload.exports.contains(*name));
        let all = hooked.len() + open.len();
        if open.is_empty() {
            return Finding::ok(HOOKS, format!("all {all} symbols that {what} are hooked"));
        }
        let found = format!(
            "{} of {all} symbols that {what} are not hooked yet",
            open.len()
        );
        Finding::warning(
            HOOKS,
            found,
            "what a program does by these is not counted against its limits",
        )
        .naming(&open)
    };
    effects.into_iter().map(finding).collect()
}

/// `nvidia0`, `nvidia1` …: without one, every cuInit of a real driver fails.
fn device_nodes(folder: &Path) -> Finding {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut nodes: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| is_device_node(path))
        .collect();
    nodes.sort();
    if nodes.is_empty() {
        return Finding::problem(
            DEVICES,
            format!("{}/nvidia0 and the like are not there", folder.display()),
            "in a container: start it with the GPU; else load the kernel module: modprobe nvidia; without a GPU: --sim t4",
        );
    }
    let nodes: Vec<_> = nodes
        .iter()
        .map(|node| node.display().to_string())
        .collect();
    Finding::ok(DEVICES, nodes.join(", "))
}

fn is_device_node(path: &Path) -> bool {
    let number = path
        .file_name()
        .and_then(|name| name.to_str()?.strip_prefix("nvidia"));
    number.is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(exports: &[&str]) -> Image {
        Image {
            exports: exports.iter().map(|name| (*name).to_owned()).collect(),
            ..Image::empty()
        }
    }

    #[test]
    fn an_export_that_no_table_knows_is_named() {
        let finding = unknown_symbols(&image(&["cuInit", "cuFromTheFuture", "_fini"]));
        assert_eq!(
            (finding.level, finding.names),
            (Level::Warning, vec!["cuFromTheFuture".to_owned()])
        );
        assert_eq!(unknown_symbols(&image(&["cuInit"])).level, Level::Ok);
    }

    #[test]
    fn what_sounds_like_use_is_named_apart_and_is_no_gap_under_strict() {
        let driver = image(&["cuInit", "cuMemAllocNew", "cuDeviceGetNews"]);
        let passing = suspects(&driver, Newcomers::Pass).unwrap();
        let withheld = suspects(&driver, Newcomers::AreWithheld).unwrap();
        assert_eq!((passing.level, withheld.level), (Level::Warning, Level::Ok));
        assert_eq!(passing.names, ["cuMemAllocNew"]);
        assert_eq!(withheld.names, ["cuMemAllocNew"]);
        assert!(suspects(&image(&["cuInit", "cuDeviceGetNews"]), Newcomers::Pass).is_none());
    }

    #[test]
    fn the_library_in_the_drivers_place_is_known() {
        assert!(is_second_door(&image(&["cuInit", "dlsym"])));
        assert!(!is_second_door(&image(&["cuInit"])));
    }

    #[test]
    fn a_library_without_a_cuda_function_is_no_driver() {
        assert_eq!(
            unknown_symbols(&image(&["main", "cuFromTheFuture"])).level,
            Level::Problem
        );
    }

    #[test]
    fn an_allocator_without_a_hook_is_named_and_a_query_is_not() {
        let driver = image(&["cuMemAlloc_v2", "cuLaunchKernel", "cuDeviceGetCount"]);
        let findings = unhooked_symbols(&driver, &image(&["cuMemAlloc_v2"]));
        let levels: Vec<_> = findings.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Ok, Level::Warning]);
        assert_eq!(findings[2].names, ["cuLaunchKernel"]);
    }

    #[test]
    fn the_version_of_a_real_driver_is_in_its_name() {
        assert_eq!(
            driver_version(Path::new("/lib/libcuda.so.535.183.01")),
            Some("535.183.01")
        );
        assert_eq!(driver_version(Path::new("/lib/libcuda.so.1")), None);
    }

    #[test]
    fn only_numbered_nodes_are_devices() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("nvidiactl"), "").unwrap();
        assert_eq!(device_nodes(folder.path()).level, Level::Problem);
        std::fs::write(folder.path().join("nvidia0"), "").unwrap();
        assert_eq!(device_nodes(folder.path()).level, Level::Ok);
    }
}
