//! Fat binaries: several images of one program, for several devices.
//!
//! The container is in no public header. Its layout is known from what the public tools write (`fatbinary`, `cuobjdump
//! --dump-…`): a 16-byte header (magic, version, header size, bytes that follow), then members, each with a header that says
//! its kind (1 PTX, 2 ELF), its payload's size, the compute capability, and whether the payload is compressed.
//! LZ4 is read here; a member compressed otherwise (zstd, the default from CUDA 12.8 on) is passed over, and an image with
//! nothing else is `CUDA_ERROR_NO_BINARY_FOR_GPU`.

use super::{Bytes, Image, Unreadable, elf, ptx};

pub(super) const MAGIC: u32 = 0xBA55_ED50;
pub(super) const HEADER_BYTES: usize = 16;

const KIND_PTX: u16 = 1;
const KIND_ELF: u16 = 2;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;

/// Length of the container, from its header.
pub(super) fn extent(header: &[u8]) -> Option<usize> {
    let header_bytes = usize::from(header.u16_at(6)?);
    header_bytes.checked_add(header.size_at(8)?)
}

/// Reads the member that a device of `capability` would run: the newest machine code that fits, else PTX.
pub(super) fn read(bytes: &[u8], capability: u32) -> Result<Image, Unreadable> {
    let mut members = members(bytes).ok_or(Unreadable::Image)?;
    members.sort_by_key(|member| (member.kind == KIND_ELF, member.capability));
    members
        .iter()
        .rev()
        .find_map(|member| member.image(capability))
        .ok_or(Unreadable::NoBinary)
}

struct Member<'a> {
    kind: u16,
    capability: u32,
    flags: u64,
    unpacked_bytes: usize,
    payload: &'a [u8],
}

fn members(bytes: &[u8]) -> Option<Vec<Member<'_>>> {
    let end = extent(bytes)?.min(bytes.len());
    let mut offset = usize::from(bytes.u16_at(6)?);
    let mut found = Vec::new();
    while offset < end {
        let header_bytes: usize = bytes.u32_at(offset.checked_add(4)?)?.try_into().ok()?;
        let header = bytes.part(offset, header_bytes)?;
        let padded_bytes = header.size_at(8)?;
        let packed_bytes: usize = header.u32_at(16)?.try_into().ok()?;
        let payload = bytes.part(offset.checked_add(header_bytes)?, padded_bytes)?;
        let payload = payload
            .get(..packed_bytes)
            .filter(|packed| !packed.is_empty())
            .unwrap_or(payload);
        found.push(Member {
            kind: header.u16_at(0)?,
            capability: header.u32_at(28)?,
            flags: header.u64_at(40)?,
            unpacked_bytes: header.size_at(56).unwrap_or(0),
            payload,
        });
        offset = offset
            .checked_add(header_bytes)?
            .checked_add(padded_bytes)?;
    }
    Some(found)
}

impl Member<'_> {
    fn image(&self, capability: u32) -> Option<Image> {
        let unpacked;
        let payload = match self.flags & (FLAG_LZ4 | FLAG_ZSTD) {
            0 => self.payload,
            FLAG_LZ4 => {
                unpacked = unpack_lz4(self.payload, self.unpacked_bytes)?;
                &unpacked
            }
            _ => return None,
        };
        match self.kind {
            KIND_PTX => ptx::read(payload, capability).ok(),
            KIND_ELF => elf::read(payload, capability).ok(),
            _ => None,
        }
    }
}

/// Unpacks one LZ4 block (lz4_Block_format.md of the LZ4 project): runs of literals, each followed by a copy from what
/// was unpacked before.
fn unpack_lz4(packed: &[u8], unpacked_bytes: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut input = packed.iter().copied();
    while let Some(token) = input.next() {
        let literals = run_length(usize::from(token >> 4), &mut input)?;
        for _ in 0..literals {
            out.push(input.next()?);
        }
        let Some(low) = input.next() else { break };
        let distance = usize::from(u16::from_le_bytes([low, input.next()?]));
        let copied = run_length(usize::from(token & 15), &mut input)?.checked_add(4)?;
        let start = out.len().checked_sub(distance).filter(|_| distance > 0)?;
        if out.len().checked_add(copied)? > unpacked_bytes {
            return None;
        }
        for index in start..start + copied {
            out.push(*out.get(index)?);
        }
    }
    (out.len() == unpacked_bytes).then_some(out)
}

/// A length whose four bits are 15 goes on in the following bytes, up to one below 255.
fn run_length(nibble: usize, input: &mut impl Iterator<Item = u8>) -> Option<usize> {
    let mut length = nibble;
    if nibble == 15 {
        loop {
            let more = input.next()?;
            length = length.checked_add(usize::from(more))?;
            if more != 255 {
                break;
            }
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(kind: u16, capability: u32, flags: u64, unpacked: u64, payload: &[u8]) -> Vec<u8> {
        let padded = payload.len().next_multiple_of(8);
        let mut bytes = Vec::new();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(0x101u16.to_le_bytes());
        bytes.extend(64u32.to_le_bytes());
        bytes.extend((padded as u64).to_le_bytes());
        bytes.extend((if flags == 0 { 0 } else { payload.len() as u32 }).to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(capability.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(flags.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(unpacked.to_le_bytes());
        bytes.extend(payload);
        bytes.resize(64 + padded, 0);
        bytes
    }

    fn container(members: &[Vec<u8>]) -> Vec<u8> {
        let body = members.concat();
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(16u16.to_le_bytes());
        bytes.extend((body.len() as u64).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    const PTX: &[u8] = b".version 7.5\n.target sm_70\n.address_size 64\n.entry f() { ret; }\n\0";

    #[test]
    fn a_plain_ptx_member_is_read() {
        let image = read(&container(&[member(KIND_PTX, 70, 0, 0, PTX)]), 75).unwrap();
        assert_eq!(image.kernels[0].name, "f");
    }

    #[test]
    fn an_lz4_member_is_unpacked() {
        // One run of literals, a copy of six bytes from one byte back, and the rest as literals.
        let text = b".version 7.5\n.target sm_70\n//aaaaaaa\n.entry f() { ret; }\n\0";
        let split = 30;
        let mut packed = vec![0xF2, 15];
        packed.extend(&text[..split]);
        packed.extend([1, 0]);
        let rest = &text[split + 6..];
        packed.push(0xF0);
        packed.push((rest.len() - 15) as u8);
        packed.extend(rest);
        let image = read(
            &container(&[member(KIND_PTX, 70, FLAG_LZ4, text.len() as u64, &packed)]),
            75,
        )
        .unwrap();
        assert_eq!(image.kernels[0].name, "f");
    }

    #[test]
    fn a_member_compressed_otherwise_is_passed_over() {
        let fat = container(&[member(KIND_PTX, 70, FLAG_ZSTD, 10, b"\x28\xb5\x2f\xfd")]);
        assert_eq!(read(&fat, 75), Err(Unreadable::NoBinary));
    }

    #[test]
    fn a_container_that_is_cut_short_is_refused() {
        let fat = container(&[member(KIND_PTX, 70, 0, 0, PTX)]);
        assert_eq!(read(&fat[..40], 75), Err(Unreadable::Image));
    }
}
