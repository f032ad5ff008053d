//! Can a preloaded library enter this program?

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use object::elf::{EM_AARCH64, EM_X86_64, Machine};

use super::elf::{Class, ElfError, Image};
use super::finding::{Finding, Level};

/// Name of this check in reports.
const CHECK: &str = "program";

/// How many `#!` lines may lead to each other; Linux follows four (execve(2)).
const INTERPRETER_DEPTH_MAX: usize = 4;

/// The kernel reads this much of a `#!` line (execve(2), Linux 5.1 and newer).
const INTERPRETER_LINE_BYTES_MAX: u64 = 256;

/// Examines `program`, found as a shell finds it, and whatever interprets it.
pub(crate) fn examine(program: &OsStr) -> Vec<Finding> {
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let Some(path) = find(program, &search_path) else {
        let found = format!("{}: not found", program.display());
        return vec![Finding::problem(
            CHECK,
            found,
            "give its path, or a name that is in a folder of PATH",
        )];
    };
    let mut findings = Vec::new();
    follow(path, &search_path, &mut findings);
    findings
}

/// The first reason why no preload can enter `program`, if there is one.
pub(crate) fn obstacle(program: &OsStr) -> Option<Finding> {
    examine(program)
        .into_iter()
        .find(|finding| finding.level == Level::Problem)
}

/// Follows `#!` lines from `path` to the program that the kernel starts in the end.
fn follow(mut path: PathBuf, search_path: &OsStr, findings: &mut Vec<Finding>) {
    for _ in 0..=INTERPRETER_DEPTH_MAX {
        let metadata = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.mode() & 0o111 != 0 => metadata,
            Ok(_) => return findings.push(not_executable(&path)),
            Err(error) => return findings.push(unreadable(&path, &error)),
        };
        match interpreter_line(&path) {
            Err(error) => return findings.push(unreadable(&path, &error)),
            Ok(None) => return findings.extend(examine_binary(&path, &metadata)),
            Ok(Some(line)) => {
                let Some(interpreter) = interpreter_of(&line, search_path) else {
                    let found = format!(
                        "{}: its first line, #!{}, names no program that is there",
                        path.display(),
                        line.display()
                    );
                    return findings.push(Finding::problem(CHECK, found, "correct that line"));
                };
                let found = format!(
                    "{}: a script, run by {}",
                    path.display(),
                    interpreter.display()
                );
                findings.push(Finding::ok(CHECK, found));
                path = interpreter;
            }
        }
    }
    let found = format!(
        "{}: scripts that interpret each other without end",
        path.display()
    );
    findings.push(Finding::problem(CHECK, found, "correct their #! lines"));
}

/// Finds `program` in `search_path` unless it names a path.
fn find(program: &OsStr, search_path: &OsStr) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Path::new(program).exists().then(|| PathBuf::from(program));
    }
    let mut candidates = std::env::split_paths(search_path).map(|folder| folder.join(program));
    candidates.find(|candidate| {
        fs::metadata(candidate)
            .is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
    })
}

/// What follows `#!`, without blanks at either end; `None` for anything but a script.
fn interpreter_line(path: &Path) -> std::io::Result<Option<OsString>> {
    let mut head = Vec::new();
    File::open(path)?
        .take(INTERPRETER_LINE_BYTES_MAX)
        .read_to_end(&mut head)?;
    let Some(rest) = head.strip_prefix(b"#!") else {
        return Ok(None);
    };
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(Some(OsString::from_vec(line.trim_ascii().to_vec())))
}

/// The program that a `#!` line starts; `env NAME` is followed, as it is how most scripts find theirs.
fn interpreter_of(line: &OsStr, search_path: &OsStr) -> Option<PathBuf> {
    let words = line
        .as_bytes()
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    let mut words = words.map(OsStr::from_bytes);
    let interpreter = Path::new(words.next()?);
    if interpreter.file_name() == Some(OsStr::new("env"))
        && let Some(name) = words
            .find(|word| !word.as_bytes().starts_with(b"-") && !word.as_bytes().contains(&b'='))
    {
        return find(name, search_path);
    }
    interpreter.exists().then(|| interpreter.to_owned())
}

fn examine_binary(path: &Path, metadata: &Metadata) -> Vec<Finding> {
    let image = match Image::read(path) {
        Ok(image) => image,
        Err(ElfError::NotElf) => {
            let found = format!(
                "{}: neither an ELF file nor a script with a #! line",
                path.display()
            );
            return vec![Finding::problem(
                CHECK,
                found,
                "start it through the program that interprets it",
            )];
        }
        Err(error) => return vec![unreadable(path, &error)],
    };
    let mut findings: Vec<_> = [
        gains_privileges(path, metadata),
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
    let file = loader.rsplit('/').next().unwrap_or(loader);
    if !file.starts_with("ld-linux") {
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

fn not_executable(path: &Path) -> Finding {
    Finding::problem(
        CHECK,
        format!("{}: not an executable file", path.display()),
        "chmod +x it, or start it through its interpreter",
    )
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Finding {
    Finding::problem(
        CHECK,
        format!("{}: {error}", path.display()),
        "make it readable for this user, or ask doctor as one who may read it",
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_script_leads_to_its_interpreter() {
        let folder = tempfile::tempdir().unwrap();
        let path = script(folder.path(), "s", "#!/usr/bin/env -S sh -e\n");
        let findings = examine(path.as_os_str());
        assert!(
            findings[0].found.contains("a script, run by"),
            "{findings:?}"
        );
        assert!(
            findings[1].found.contains("a preload can enter it"),
            "{findings:?}"
        );
    }

    #[test]
    fn scripts_that_interpret_each_other_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let path = script(folder.path(), "s", &format!("#!{}\n", path.display()));
        assert_eq!(
            examine(path.as_os_str()).last().unwrap().level,
            Level::Problem
        );
    }

    #[test]
    fn a_file_without_the_executable_bit_is_a_problem() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(
            obstacle(file.path().as_os_str())
                .unwrap()
                .found
                .contains("not an executable file")
        );
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
