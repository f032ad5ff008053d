//! Can a preloaded library enter this program?

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use object::elf::{EM_AARCH64, EM_X86_64, Machine};

use super::elf::{Class, ElfError, Image};
use super::finding::{Finding, Level};
use super::resolve;

/// Name of this check in reports.
const CHECK: &str = "program";

/// Examines `program`, found as a shell finds it, and whatever interprets it.
pub(crate) fn examine(program: &OsStr) -> Vec<Finding> {
    let resolved = match resolve::resolve(program) {
        Ok(resolved) => resolved,
        Err(error) => return vec![Finding::problem(CHECK, error.to_string(), error.way_out())],
    };
    let script = |(script, interpreter): &(PathBuf, PathBuf)| {
        Finding::ok(
            CHECK,
            format!(
                "{}: a script, run by {}",
                script.display(),
                interpreter.display()
            ),
        )
    };
    let mut findings: Vec<_> = resolved.scripts.iter().map(script).collect();
    findings.extend(examine_binary(&resolved.binary));
    findings
}

/// Why no preload can enter `program`, if that is so. Says nothing of a program that cannot be started at all.
pub(crate) fn obstacle(program: &OsStr) -> Option<Finding> {
    let resolved = resolve::resolve(program).ok()?;
    let findings = examine_binary(&resolved.binary);
    findings
        .into_iter()
        .find(|finding| finding.level == Level::Problem)
}

/// The C library whose loader a program names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CLibrary {
    /// The one that the preload is made for.
    Glibc,
    /// Another: its loader would try to load the preload, and end the program for what that needs.
    Other,
    /// None: a static program.
    None,
}

/// Which one starts `program`, where that can be told.
pub(crate) fn c_library(program: &OsStr) -> Option<CLibrary> {
    let resolved = resolve::resolve(program).ok()?;
    let image = Image::read(&resolved.binary).ok()?;
    Some(match image.interpreter.as_deref() {
        Some(loader) if is_of_glibc(loader) => CLibrary::Glibc,
        Some(_) => CLibrary::Other,
        None => CLibrary::None,
    })
}

fn is_of_glibc(loader: &str) -> bool {
    let file = loader.rsplit('/').next().unwrap_or(loader);
    file.starts_with("ld-linux")
}

fn examine_binary(path: &Path) -> Vec<Finding> {
    let shown = path.display();
    let image = match Image::read(path) {
        Ok(image) => image,
        Err(ElfError::NotElf) => {
            let found = format!("{shown}: neither an ELF file nor a script with a #! line");
            return vec![Finding::warning(
                CHECK,
                found,
                "some shells take it for a script of theirs; give it a #! line",
            )];
        }
        Err(error) => {
            let found = format!("{shown}: cannot be examined: {error}");
            return vec![Finding::warning(
                CHECK,
                found,
                "ask doctor as a user who may read it",
            )];
        }
    };
    let mut findings: Vec<_> = [
        fs::metadata(path)
            .ok()
            .and_then(|metadata| gains_privileges(path, &metadata)),
        foreign_machine(path, &image),
        foreign_loader(path, &image),
    ]
    .into_iter()
    .flatten()
    .collect();
    if findings.is_empty() {
        let loader = image.interpreter.as_deref().unwrap_or_default();
        let found = format!(
            "{}: dynamically linked, {loader}: a preload can enter it",
            path.display()
        );
        findings.push(Finding::ok(CHECK, found));
    }
    findings.extend(driver_link(path, &image));
    findings
}

/// A program that starts with more rights than its caller runs in secure-execution mode, in which the loader
/// ignores preloads that are given by path (ld.so(8)).
fn gains_privileges(path: &Path, metadata: &Metadata) -> Option<Finding> {
    let user = rustix::process::geteuid();
    let set_user = metadata.mode() & 0o4000 != 0 && metadata.uid() != user.as_raw();
    let set_group =
        metadata.mode() & 0o2000 != 0 && metadata.gid() != rustix::process::getegid().as_raw();
    let capable = !user.is_root() && has_capabilities(path);
    let why = match (set_user, set_group, capable) {
        (true, _, _) => "set-user-ID",
        (_, true, _) => "set-group-ID",
        (_, _, true) => "given file capabilities",
        _ => return None,
    };
    Some(Finding::problem(
        CHECK,
        format!(
            "{}: {why}: the loader ignores LD_PRELOAD for it",
            path.display()
        ),
        "run a copy without these rights, or as the user who owns it",
    ))
}

/// Whether the file carries `security.capability` (capabilities(7)).
fn has_capabilities(path: &Path) -> bool {
    let mut nothing: [u8; 0] = [];
    rustix::fs::getxattr(path, "security.capability", &mut nothing).is_ok_and(|bytes| bytes > 0)
}

fn foreign_machine(path: &Path, image: &Image) -> Option<Finding> {
    let (class, machine) = (Class::Elf64, our_machine()?);
    if (image.class, image.machine) == (class, machine) {
        return None;
    }
    let what = match image.class {
        Class::Elf32 => "a 32-bit program",
        Class::Elf64 => "a program for another processor",
    };
    Some(Finding::problem(
        CHECK,
        format!(
            "{}: {what}: the loader cannot preload a 64-bit {} library into it",
            path.display(),
            std::env::consts::ARCH
        ),
        "use a build for this machine; CUDA programs exist for 64 bits only",
    ))
}

/// The ELF machine of this command and thus of the library that is built with it.
fn our_machine() -> Option<Machine> {
    match std::env::consts::ARCH {
        "x86_64" => Some(EM_X86_64),
        "aarch64" => Some(EM_AARCH64),
        _ => None,
    }
}

fn foreign_loader(path: &Path, image: &Image) -> Option<Finding> {
    let shown = path.display();
    let Some(loader) = image.interpreter.as_deref() else {
        return Some(Finding::problem(
            CHECK,
            format!("{shown}: statically linked: no loader runs, so no preload can enter it"),
            "use a dynamically linked build; a static launcher is fine where the CUDA program that it starts is not static",
        ));
    };
    if !is_of_glibc(loader) {
        return Some(Finding::problem(
            CHECK,
            format!(
                "{shown}: its loader {loader} is not glibc's, for which libcuda_hook.so is built"
            ),
            "use a build for glibc, as NVIDIA's own libcuda needs it too",
        ));
    }
    (!Path::new(loader).exists()).then(|| {
        Finding::problem(
            CHECK,
            format!("{shown}: its loader {loader} is not on this machine"),
            "run it in the image that it was built for",
        )
    })
}

/// How the program comes to its driver, where its file says so.
fn driver_link(path: &Path, image: &Image) -> Option<Finding> {
    let origin = path.canonicalize().ok()?.parent()?.to_owned();
    let overriding = if image.runpath.is_empty() {
        image.rpath.as_slice()
    } else {
        &[]
    };
    let own_driver = overriding
        .iter()
        .map(|folder| expand(folder, &origin).join("libcuda.so.1"))
        .find(|driver| driver.exists());
    if let Some(driver) = own_driver {
        return Some(Finding::warning(
            CHECK,
            format!(
                "{}: its DT_RPATH finds {} before LD_LIBRARY_PATH",
                path.display(),
                driver.display()
            ),
            "limits hold, but --sim does not reach it; remove the entry: patchelf --remove-rpath",
        ));
    }
    let linked = image.needed.iter().any(|library| library == "libcuda.so.1");
    linked.then(|| {
        Finding::ok(
            CHECK,
            format!("{}: links libcuda.so.1 itself", path.display()),
        )
    })
}

/// Replaces `$ORIGIN` in a folder of a run path (ld.so(8)).
fn expand(folder: &str, origin: &Path) -> PathBuf {
    let origin = origin.to_string_lossy();
    PathBuf::from(
        folder
            .replace("${ORIGIN}", &origin)
            .replace("$ORIGIN", &origin),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_is_neither_program_nor_script_is_warned_of() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let levels: Vec<_> = examine(file.path().as_os_str())
            .iter()
            .map(|finding| finding.level)
            .collect();
        assert_eq!(levels, [Level::Warning]);
    }

    #[test]
    fn the_shell_is_no_problem() {
        assert!(obstacle(OsStr::new("sh")).is_none());
    }

    #[test]
    fn a_program_of_another_user_with_the_set_user_id_bit_is_a_problem() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("copy");
        fs::copy("/proc/self/exe", &path).unwrap();
        let set_user_id =
            || fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
        set_user_id();
        assert!(
            obstacle(path.as_os_str()).is_none(),
            "one's own bit adds no right"
        );
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(1), None).unwrap();
            set_user_id();
            assert!(
                obstacle(path.as_os_str())
                    .unwrap()
                    .found
                    .contains("set-user-ID")
            );
        }
    }

    #[test]
    fn what_glibc_for_64_bits_does_not_start_is_foreign() {
        let path = Path::new("/x");
        let interpreter = |loader: &str| Image {
            interpreter: Some(loader.to_owned()),
            ..Image::empty()
        };
        let musl = foreign_loader(path, &interpreter("/lib/ld-musl-x86_64.so.1")).unwrap();
        assert!(musl.found.contains("is not glibc's"), "{musl:?}");
        let absent =
            foreign_loader(path, &interpreter("/nix/store/x/lib/ld-linux-x86-64.so.2")).unwrap();
        assert!(absent.found.contains("not on this machine"), "{absent:?}");
        let narrow = foreign_machine(
            path,
            &Image {
                class: Class::Elf32,
                ..Image::empty()
            },
        )
        .unwrap();
        assert!(narrow.found.contains("32-bit"), "{narrow:?}");
    }

    #[test]
    fn origin_is_the_folder_of_the_program() {
        assert_eq!(
            expand("$ORIGIN/../lib", Path::new("/opt/x/bin")),
            Path::new("/opt/x/bin/../lib")
        );
        assert_eq!(expand("${ORIGIN}", Path::new("/opt")), Path::new("/opt"));
    }
}
