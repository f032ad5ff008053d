//! Cubins: ELF files with the machine code of one GPU architecture.
//!
//! The layout is in no public header; these facts are what `cuobjdump --dump-elf` and `readelf` show of cubins that NVRTC and
//! `ptxas` write: code of kernel `k` in `.text.k`, with the register count in the top byte of the section's `sh_info`; static
//! shared memory as the size of `.nv.shared.k`; attributes in `.nv.info.k` (of the kernel) and `.nv.info` (of all kernels, by
//! symbol), each four bytes `format, attribute, value` and, for format 4, `value` further bytes.
//!
//! Instructions of a thread are estimated from the size of the code: 16 bytes an instruction (8 before sm_70), times
//! [`EXECUTIONS_PER_INSTRUCTION`], because loops cannot be counted without decoding.

use super::{Bytes, GlobalImage, Image, KernelImage, Param, Unreadable};

pub(super) const MAGIC: &[u8] = b"\x7fELF";
pub(super) const HEADER_BYTES: usize = 64;

/// How often an instruction of machine code is taken to execute, on average: loops outweigh what branches skip. A guess,
/// fixed so that figures can be compared.
const EXECUTIONS_PER_INSTRUCTION: u64 = 4;

const MACHINE_CUDA: u16 = 190;
const SECTION_SYMBOLS: u32 = 2;
const SECTION_NOBITS: u32 = 8;
const SYMBOL_OBJECT: u8 = 1;

const INFO_SIZED: u8 = 4;
const INFO_MAX_THREADS: u8 = 0x05;
const INFO_FRAME_SIZE: u8 = 0x11;
const INFO_KPARAM: u8 = 0x17;
const INFO_REGISTERS: u8 = 0x2f;

/// End of the section table, from the file header.
pub(super) fn table_end(header: &[u8]) -> Option<usize> {
    let sections = usize::from(header.u16_at(60)?).checked_mul(usize::from(header.u16_at(58)?))?;
    header.size_at(40)?.checked_add(sections)
}

/// End of the furthest section or table.
pub(super) fn extent(bytes: &[u8]) -> Option<usize> {
    let sections = sections(bytes)?;
    let furthest = sections
        .iter()
        .filter(|section| section.kind != SECTION_NOBITS)
        .map(|section| section.offset.saturating_add(section.size))
        .max();
    let segments = usize::from(bytes.u16_at(56)?).checked_mul(usize::from(bytes.u16_at(54)?))?;
    let segments_end = bytes.size_at(32)?.checked_add(segments)?;
    Some(
        table_end(bytes)?
            .max(segments_end)
            .max(furthest.unwrap_or(0)),
    )
}

/// What sections of these names hold, of a file for whichever machine; `None`: it is no ELF file of 64 bits.
pub(super) fn contents_of<'a>(bytes: &'a [u8], names: &[&str]) -> Option<Vec<&'a [u8]>> {
    let elf = Elf::of_any_machine(bytes)?;
    let wanted = elf
        .sections
        .iter()
        .filter(|section| names.contains(&elf.name(section)));
    Some(wanted.filter_map(|section| elf.contents(section)).collect())
}

struct Section {
    name_offset: usize,
    kind: u32,
    offset: usize,
    size: usize,
    link: usize,
    info: u32,
}

fn sections(bytes: &[u8]) -> Option<Vec<Section>> {
    let start = bytes.size_at(40)?;
    let entry_bytes = usize::from(bytes.u16_at(58)?);
    (0..usize::from(bytes.u16_at(60)?))
        .map(|index| {
            let header = bytes.part(
                start.checked_add(index.checked_mul(entry_bytes)?)?,
                entry_bytes,
            )?;
            Some(Section {
                name_offset: header.u32_at(0)?.try_into().ok()?,
                kind: header.u32_at(4)?,
                offset: header.size_at(24)?,
                size: header.size_at(32)?,
                link: header.u32_at(40)?.try_into().ok()?,
                info: header.u32_at(44)?,
            })
        })
        .collect()
}

/// The file as this reader sees it.
struct Elf<'a> {
    bytes: &'a [u8],
    sections: Vec<Section>,
    names: usize,
}

impl<'a> Elf<'a> {
    fn open(bytes: &'a [u8]) -> Option<Self> {
        let is_cubin = bytes.u16_at(18)? == MACHINE_CUDA;
        Self::of_any_machine(bytes).filter(|_| is_cubin)
    }

    fn of_any_machine(bytes: &'a [u8]) -> Option<Self> {
        let known = bytes.starts_with(MAGIC) && bytes.get(4) == Some(&2);
        known.then_some(())?;
        Some(Self {
            bytes,
            sections: sections(bytes)?,
            names: usize::from(bytes.u16_at(62)?),
        })
    }

    fn contents(&self, section: &Section) -> Option<&'a [u8]> {
        match section.kind {
            SECTION_NOBITS => Some(&[]),
            _ => self.bytes.part(section.offset, section.size),
        }
    }

    fn text(&self, table: usize, offset: usize) -> Option<&'a str> {
        let tail = self.contents(self.sections.get(table)?)?.get(offset..)?;
        let end = tail.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(tail.get(..end)?).ok()
    }

    fn name(&self, section: &Section) -> &'a str {
        self.text(self.names, section.name_offset).unwrap_or("")
    }

    fn section(&self, name: &str) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| self.name(section) == name)
    }

    /// Compute capability × 10: `e_flags` has it in the low byte, or in the second one where the file follows the
    /// later ABI (`e_ident[EI_ABIVERSION]` 8).
    fn capability(&self) -> Option<u32> {
        let flags = self.bytes.u32_at(48)?;
        Some(if self.bytes.get(8) == Some(&8) {
            (flags >> 8) & 0xff
        } else {
            flags & 0xff
        })
    }

    /// Name and index of each symbol, with its type, section, value and size.
    fn symbols(&self) -> Vec<Symbol<'a>> {
        let Some(table) = self
            .sections
            .iter()
            .find(|section| section.kind == SECTION_SYMBOLS)
        else {
            return Vec::new();
        };
        let entries = self.contents(table).unwrap_or(&[]).chunks_exact(24);
        entries
            .filter_map(|entry| self.symbol(table.link, entry))
            .collect()
    }

    fn symbol(&self, strings: usize, entry: &[u8]) -> Option<Symbol<'a>> {
        Some(Symbol {
            name: self
                .text(strings, entry.u32_at(0)?.try_into().ok()?)
                .unwrap_or(""),
            kind: entry.get(4)? & 15,
            section: entry.u16_at(6)?.into(),
            value: entry.size_at(8)?,
            size: entry.size_at(16)?,
        })
    }
}

struct Symbol<'a> {
    name: &'a str,
    kind: u8,
    section: usize,
    value: usize,
    size: usize,
}

/// Reads a cubin for a device of `capability`: same major version, minor version not above the device's.
pub(super) fn read(bytes: &[u8], capability: u32) -> Result<Image, Unreadable> {
    let elf = Elf::open(bytes).ok_or(Unreadable::Image)?;
    let target = elf.capability().ok_or(Unreadable::Image)?;
    if target / 10 != capability / 10 || target > capability {
        return Err(Unreadable::NoBinary);
    }
    let symbols = elf.symbols();
    let shared_info = elf
        .section(".nv.info")
        .and_then(|section| elf.contents(section))
        .unwrap_or(&[]);
    let mut image = Image {
        target,
        globals: globals(&elf, &symbols),
        ..Image::default()
    };
    for section in &elf.sections {
        if let Some(name) = elf.name(section).strip_prefix(".text.") {
            image.code_bytes = image
                .code_bytes
                .saturating_add(u64::try_from(section.size).unwrap_or(u64::MAX));
            if elf.section(&format!(".nv.info.{name}")).is_some() {
                image
                    .kernels
                    .push(kernel(&elf, section, name, shared_info, &symbols));
            }
        }
    }
    Ok(image)
}

fn kernel(
    elf: &Elf<'_>,
    text: &Section,
    name: &str,
    shared_info: &[u8],
    symbols: &[Symbol<'_>],
) -> KernelImage {
    let symbol = symbols
        .iter()
        .position(|symbol| symbol.name == name && symbol.kind != SYMBOL_OBJECT);
    let of_symbol = |attribute| of_symbol(shared_info, attribute, symbol);
    let own = elf
        .section(&format!(".nv.info.{name}"))
        .and_then(|section| elf.contents(section))
        .unwrap_or(&[]);
    let shared_bytes = elf
        .section(&format!(".nv.shared.{name}"))
        .map_or(0, |section| section.size);
    let instruction_bytes = if elf.capability() < Some(70) { 8 } else { 16 };
    let instructions = u64::try_from(text.size / instruction_bytes).unwrap_or(u64::MAX);
    let registers = of_symbol(INFO_REGISTERS)
        .filter(|count| *count > 0)
        .unwrap_or(text.info >> 24);
    KernelImage {
        name: name.to_owned(),
        params: params(own),
        registers: registers.clamp(1, 255),
        shared_bytes: shared_bytes.try_into().unwrap_or(u32::MAX),
        local_bytes: of_symbol(INFO_FRAME_SIZE).unwrap_or(0),
        max_threads: max_threads(own),
        instructions: instructions
            .saturating_mul(EXECUTIONS_PER_INSTRUCTION)
            .max(1),
        fault: None,
    }
}

/// Records of an attribute section: attribute and payload (of the sized format only, the one read here).
fn records(mut info: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while let Some([format, attribute, low, high]) = info.first_chunk() {
        let sized = if *format == INFO_SIZED {
            usize::from(u16::from_le_bytes([*low, *high]))
        } else {
            0
        };
        let Some(payload) = info.part(4, sized) else {
            break;
        };
        if *format == INFO_SIZED {
            found.push((*attribute, payload));
        }
        info = info.get(4 + sized..).unwrap_or(&[]);
    }
    found
}

fn of_symbol(info: &[u8], attribute: u8, symbol: Option<usize>) -> Option<u32> {
    let symbol = u32::try_from(symbol?).ok()?;
    records(info)
        .into_iter()
        .find(|(kind, payload)| *kind == attribute && payload.u32_at(0) == Some(symbol))
        .and_then(|(_, payload)| payload.u32_at(4))
}

fn params(info: &[u8]) -> Vec<Param> {
    let mut ordered: Vec<(u16, Param)> = records(info)
        .into_iter()
        .filter(|(kind, _)| *kind == INFO_KPARAM)
        .filter_map(|(_, payload)| {
            let size = usize::try_from(payload.u32_at(8)? >> 18).ok()?;
            Some((
                payload.u16_at(4)?,
                Param {
                    offset: payload.u16_at(6)?.into(),
                    size,
                },
            ))
        })
        .collect();
    ordered.sort_by_key(|(ordinal, _)| *ordinal);
    ordered.into_iter().map(|(_, param)| param).collect()
}

fn max_threads(info: &[u8]) -> u32 {
    let dims = records(info)
        .into_iter()
        .find(|(kind, _)| *kind == INFO_MAX_THREADS)
        .map(|(_, payload)| payload);
    let dim = |offset| dims.and_then(|payload| payload.u32_at(offset)).unwrap_or(0);
    dim(0).saturating_mul(dim(4)).saturating_mul(dim(8))
}

fn globals(elf: &Elf<'_>, symbols: &[Symbol<'_>]) -> Vec<GlobalImage> {
    let variables = symbols
        .iter()
        .filter(|symbol| symbol.kind == SYMBOL_OBJECT && symbol.size > 0);
    variables
        .filter_map(|symbol| {
            let section = elf.sections.get(symbol.section)?;
            let name = elf.name(section);
            (name.starts_with(".nv.global") || name == ".nv.constant3").then_some(())?;
            let initial = elf
                .contents(section)?
                .part(symbol.value, symbol.size)
                .unwrap_or(&[])
                .to_vec();
            Some(GlobalImage {
                name: symbol.name.to_owned(),
                bytes: symbol.size,
                initial,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_starts_like_an_elf_file_is_refused() {
        assert_eq!(
            read(b"\x7fELF\x02\x01\x01 and nothing more", 75),
            Err(Unreadable::Image)
        );
    }

    #[test]
    fn records_of_other_formats_are_stepped_over() {
        let info = [
            0x03,
            0x1b,
            0xff,
            0x00,
            0x04,
            INFO_KPARAM,
            12,
            0,
            0,
            0,
            0,
            0,
            1,
            0,
            8,
            0,
            0,
            0xf0,
            0x11,
            0,
            0x04,
            INFO_KPARAM,
            12,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0xf0,
            0x21,
            0,
        ];
        assert_eq!(
            params(&info),
            [Param { offset: 0, size: 8 }, Param { offset: 8, size: 4 }]
        );
    }
}
