//! What a dynamic loader would read of an ELF file: its loader, what it needs, what it exports.
//!
//! Reads through the section table, which every linker writes and which `strip` keeps; a file
//! without one shows its program headers only.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;

use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionTable, Sym};
use object::read::{ReadCache, ReadRef};
use object::{Endianness, FileKind, StringTable};

/// Word size of an ELF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Elf32,
    Elf64,
}

/// One ELF file as its dynamic loader sees it.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) class: Class,
    pub(crate) machine: elf::Machine,
    /// `PT_INTERP`: the dynamic loader that the kernel starts; a static program names none.
    pub(crate) interpreter: Option<String>,
    /// `DT_NEEDED`, in order.
    pub(crate) needed: Vec<String>,
    /// Folders of `DT_RPATH`, which the loader searches before `LD_LIBRARY_PATH`.
    pub(crate) rpath: Vec<String>,
    /// Folders of `DT_RUNPATH`, searched after it; a file that has one makes its `DT_RPATH` void.
    pub(crate) runpath: Vec<String>,
    /// `(library, version)` pairs of the version needs, as `("libc.so.6", "GLIBC_2.34")`.
    pub(crate) versions_needed: Vec<(String, String)>,
    /// Names of the versions that the file defines, as "GLIBC_2.34" of glibc.
    pub(crate) versions_defined: Vec<String>,
    /// Names of the dynamic symbols that the file defines.
    pub(crate) exports: BTreeSet<String>,
}

/// Why a file could not be read as an ELF image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ElfError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not an ELF file")]
    NotElf,
    #[error("damaged ELF file: {0}")]
    Damaged(#[from] object::read::Error),
}

impl Image {
    /// Reads the image at `path`; only the parts that are asked for leave the disk.
    pub(crate) fn read(path: &Path) -> Result<Self, ElfError> {
        let cache = ReadCache::new(File::open(path)?);
        match FileKind::parse(&cache) {
            Ok(FileKind::Elf32) => Ok(parse::<FileHeader32<Endianness>, _>(&cache)?),
            Ok(FileKind::Elf64) => Ok(parse::<FileHeader64<Endianness>, _>(&cache)?),
            _ => Err(ElfError::NotElf),
        }
    }

    /// The newest `GLIBC_x.y` that the image needs, as `(x, y)`.
    pub(crate) fn glibc_needed(&self) -> Option<(u32, u32)> {
        let versions = self.versions_needed.iter();
        newest_glibc(versions.map(|(_, version)| version))
    }

    /// The newest `GLIBC_x.y` that the image, one of glibc, defines.
    pub(crate) fn glibc_defined(&self) -> Option<(u32, u32)> {
        newest_glibc(&self.versions_defined)
    }
}

#[cfg(test)]
impl Image {
    /// An image with nothing in it, to be filled in.
    pub(crate) fn empty() -> Self {
        Self {
            class: Class::Elf64,
            machine: elf::EM_X86_64,
            interpreter: None,
            needed: Vec::new(),
            rpath: Vec::new(),
            runpath: Vec::new(),
            versions_needed: Vec::new(),
            versions_defined: Vec::new(),
            exports: BTreeSet::new(),
        }
    }
}

fn newest_glibc<'a>(versions: impl IntoIterator<Item = &'a String>) -> Option<(u32, u32)> {
    let versions = versions.into_iter();
    versions
        .filter_map(|version| glibc_version(version.strip_prefix("GLIBC_")?))
        .max()
}

/// Reads `2.36` or `2.2.5` as its first two numbers.
pub(crate) fn glibc_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

fn parse<'data, Elf, R>(data: R) -> Result<Image, object::read::Error>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let header = Elf::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let mut image = Image {
        class: if header.is_type_64() {
            Class::Elf64
        } else {
            Class::Elf32
        },
        machine: header.e_machine(endian),
        interpreter: None,
        needed: Vec::new(),
        rpath: Vec::new(),
        runpath: Vec::new(),
        versions_needed: versions_needed(&sections, endian, data)?,
        versions_defined: versions_defined(&sections, endian, data)?,
        exports: exports(&sections, endian, data)?,
    };
    for segment in header.program_headers(endian, data)? {
        if let Some(loader) = segment.interpreter(endian, data)? {
            image.interpreter = Some(lossy(loader));
        }
    }
    if let Some((entries, link)) = sections.dynamic(endian, data)? {
        let strings = sections.strings(endian, data, link)?;
        read_dynamic::<Elf, R>(&mut image, entries, endian, strings)?;
    }
    Ok(image)
}

fn read_dynamic<'data, Elf, R>(
    image: &mut Image,
    entries: &[Elf::Dyn],
    endian: Endianness,
    strings: StringTable<'data, R>,
) -> Result<(), object::read::Error>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    for entry in entries {
        let into = match entry.d_tag(endian) {
            elf::DT_NULL => break,
            elf::DT_NEEDED => &mut image.needed,
            elf::DT_RPATH => &mut image.rpath,
            elf::DT_RUNPATH => &mut image.runpath,
            _ => continue,
        };
        let text = lossy(entry.string(endian, strings)?);
        into.extend(text.split(':').map(str::to_owned));
    }
    Ok(())
}

fn versions_needed<'data, Elf, R>(
    sections: &SectionTable<'data, Elf, R>,
    endian: Endianness,
    data: R,
) -> Result<Vec<(String, String)>, object::read::Error>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let Some((libraries, link)) = sections.gnu_verneed(endian, data)? else {
        return Ok(Vec::new());
    };
    let strings = sections.strings(endian, data, link)?;
    let mut found = Vec::new();
    for library in libraries {
        let (library, versions) = library?;
        let file = lossy(library.file(endian, strings)?);
        for version in versions {
            found.push((file.clone(), lossy(version?.name(endian, strings)?)));
        }
    }
    Ok(found)
}

fn versions_defined<'data, Elf, R>(
    sections: &SectionTable<'data, Elf, R>,
    endian: Endianness,
    data: R,
) -> Result<Vec<String>, object::read::Error>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let Some((versions, link)) = sections.gnu_verdef(endian, data)? else {
        return Ok(Vec::new());
    };
    let strings = sections.strings(endian, data, link)?;
    let mut found = Vec::new();
    for version in versions {
        let (_, mut names) = version?;
        // The first is the version's own; the others, which versions it follows.
        if let Some(name) = names.next()? {
            found.push(lossy(name.name(endian, strings)?));
        }
    }
    Ok(found)
}

fn exports<'data, Elf, R>(
    sections: &SectionTable<'data, Elf, R>,
    endian: Endianness,
    data: R,
) -> Result<BTreeSet<String>, object::read::Error>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let symbols = sections.symbols(endian, data, elf::SHT_DYNSYM)?;
    let strings = symbols.strings();
    let defined = symbols
        .iter()
        .filter(|symbol| !symbol.is_undefined(endian) && symbol.st_bind() != elf::STB_LOCAL);
    defined
        .map(|symbol| Ok(lossy(symbol.name(endian, strings)?)))
        .collect()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_test_program_itself_needs_glibc_and_names_a_loader() {
        let image = Image::read(Path::new("/proc/self/exe")).unwrap();
        assert_eq!(image.class, Class::Elf64);
        assert!(
            image.interpreter.is_some(),
            "a Rust test program is dynamically linked"
        );
        assert!(
            image.needed.iter().any(|library| library == "libc.so.6"),
            "{:?}",
            image.needed
        );
        assert!(
            image.glibc_needed() >= Some((2, 17)),
            "{:?}",
            image.versions_needed
        );
    }

    #[test]
    fn glibc_defines_what_it_says_it_is() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps
            .split_whitespace()
            .find(|word| word.ends_with("/libc.so.6"));
        let image = Image::read(Path::new(libc.unwrap())).unwrap();
        let (major, minor) = image.glibc_defined().unwrap();
        let asked = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
        let said = String::from_utf8(asked.unwrap().stdout).unwrap();
        let says = glibc_version(said.trim().trim_start_matches("glibc ")).unwrap();
        assert!((2, 17) <= (major, minor) && (major, minor) <= says);
    }

    #[test]
    fn what_a_program_takes_from_a_library_is_not_its_export() {
        let image = Image::read(Path::new("/proc/self/exe")).unwrap();
        assert!(
            !image.exports.contains("__libc_start_main"),
            "{:?}",
            image.exports
        );
    }

    #[test]
    fn a_text_file_is_not_elf() {
        assert!(matches!(
            Image::read(Path::new("/etc/passwd")),
            Err(ElfError::NotElf)
        ));
    }

    #[test]
    fn a_missing_file_is_an_io_error() {
        let error = Image::read(Path::new("/nonexistent/file")).unwrap_err();
        assert!(matches!(error, ElfError::Io(error) if error.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(glibc_version("2.2.5"), Some((2, 2)));
        assert!(glibc_version("2.34") > glibc_version("2.4"));
        assert_eq!(glibc_version("PRIVATE"), None);
    }
}
