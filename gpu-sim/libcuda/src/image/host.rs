//! Device code in what a host's compiler and archiver wrote: fat binaries in sections of object files, and those in archives.
//!
//! Sections are named as `readelf` shows them of objects that nvcc wrote: `.nv_fatbin`, and `__nv_relfatbin` where device code is
//! relocatable; each holds fat binaries one after another. Archives: ar(5).

use super::{Bytes, Unreadable, elf, fatbin};

const SECTIONS: [&str; 2] = [".nv_fatbin", "__nv_relfatbin"];

const ARCHIVE_MAGIC: &[u8] = b"!<arch>\n";
const MEMBER_HEADER_BYTES: usize = 60;

/// The fat binaries of an object file, each whole. `Unreadable::Image`: it is none, or has none.
pub(crate) fn object(bytes: &[u8]) -> Result<Vec<&[u8]>, Unreadable> {
    let sections = elf::contents_of(bytes, &SECTIONS).ok_or(Unreadable::Image)?;
    let found: Vec<_> = sections.into_iter().flat_map(fatbins).collect();
    some(found)
}

/// Those of all objects in an archive.
pub(crate) fn archive(bytes: &[u8]) -> Result<Vec<&[u8]>, Unreadable> {
    let members = bytes.strip_prefix(ARCHIVE_MAGIC).and_then(members);
    let members = members.ok_or(Unreadable::Image)?;
    let of_objects = members.into_iter().filter_map(|member| object(member).ok());
    some(of_objects.flatten().collect())
}

fn some(found: Vec<&[u8]>) -> Result<Vec<&[u8]>, Unreadable> {
    if found.is_empty() {
        Err(Unreadable::Image)
    } else {
        Ok(found)
    }
}

/// Fat binaries one after another, each at a multiple of 8 bytes.
fn fatbins(mut section: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while section.starts_with(&fatbin::MAGIC.to_le_bytes()) {
        let Some(whole) = fatbin::extent(section).and_then(|end| section.get(..end)) else {
            break;
        };
        found.push(whole);
        section = section
            .get(whole.len().next_multiple_of(8)..)
            .unwrap_or(&[]);
    }
    found
}

/// What an archive holds, its index and table of names included.
fn members(mut rest: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let size = std::str::from_utf8(rest.part(48, 10)?).ok()?;
        let size: usize = size.trim_end().parse().ok()?;
        found.push(rest.part(MEMBER_HEADER_BYTES, size)?);
        let next = MEMBER_HEADER_BYTES
            .checked_add(size)?
            .checked_add(size % 2)?;
        rest = rest.get(next..).unwrap_or(&[]);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fat binary with nothing in it but these bytes.
    fn fat(body: &[u8]) -> Vec<u8> {
        let mut bytes = fatbin::MAGIC.to_le_bytes().to_vec();
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(16u16.to_le_bytes());
        bytes.extend((body.len() as u64).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    /// An object of x86-64 with one section of this name.
    fn with_section(name: &str, contents: &[u8]) -> Vec<u8> {
        let names = format!("\0{name}\0.names\0");
        let table = 64 + contents.len() + names.len();
        let mut bytes = elf::MAGIC.to_vec();
        bytes.extend([2, 1, 1]);
        bytes.resize(64, 0);
        let mut put = |at: usize, value: &[u8]| {
            bytes
                .get_mut(at..at + value.len())
                .unwrap()
                .copy_from_slice(value);
        };
        put(18, &62u16.to_le_bytes());
        put(40, &(table as u64).to_le_bytes());
        put(58, &64u16.to_le_bytes());
        put(60, &2u16.to_le_bytes());
        put(62, &1u16.to_le_bytes());
        bytes.extend(contents);
        bytes.extend(names.as_bytes());
        let sections = [
            (1u32, 64, contents.len()),
            (name.len() as u32 + 2, 64 + contents.len(), names.len()),
        ];
        for (name, offset, size) in sections {
            let start = bytes.len();
            bytes.extend(name.to_le_bytes());
            bytes.extend(1u32.to_le_bytes());
            bytes.resize(start + 24, 0);
            bytes.extend((offset as u64).to_le_bytes());
            bytes.extend((size as u64).to_le_bytes());
            bytes.resize(start + 64, 0);
        }
        bytes
    }

    fn member(contents: &[u8]) -> Vec<u8> {
        let header = format!("{:<48}{:<10}`\n", "name/", contents.len());
        let mut bytes = header.into_bytes();
        bytes.extend(contents);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
        bytes
    }

    #[test]
    fn an_objects_fat_binaries_are_found_one_after_another() {
        let (first, second) = (fat(b"abc"), fat(b"defgh"));
        let mut section = first.clone();
        section.resize(24, 0);
        section.extend(&second);
        for name in SECTIONS {
            let built = with_section(name, &section);
            assert_eq!(object(&built), Ok(vec![&first[..], &second[..]]));
        }
        let other = with_section(".text", &section);
        assert_eq!(object(&other), Err(Unreadable::Image));
        assert_eq!(object(b"no object"), Err(Unreadable::Image));
    }

    #[test]
    fn an_archives_objects_are_looked_through() {
        let (first, second) = (fat(b"abc"), fat(b"d"));
        let mut archive = ARCHIVE_MAGIC.to_vec();
        archive.extend(member(b"an index of odd length.."));
        archive.extend(member(b"odd"));
        archive.extend(member(&with_section(".nv_fatbin", &first)));
        archive.extend(member(&with_section("__nv_relfatbin", &second)));
        assert_eq!(super::archive(&archive), Ok(vec![&first[..], &second[..]]));
        archive.truncate(archive.len() - 1);
        assert_eq!(super::archive(&archive), Err(Unreadable::Image));
        assert_eq!(super::archive(ARCHIVE_MAGIC), Err(Unreadable::Image));
    }
}
