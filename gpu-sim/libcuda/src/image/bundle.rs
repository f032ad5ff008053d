//! What the linker here gives for several images: a container of our own, which everything that loads an image takes. It stands for the
//! one cubin that the real linker would write.
//!
//! Sixteen bytes – magic, number of images, length of all – and then of each image its length, and itself.

use super::{Bytes, Image, Unreadable};

pub(super) const MAGIC: &[u8] = b"gsim";
pub(super) const HEADER_BYTES: usize = 16;
const LENGTH_BYTES: usize = 8;

/// Packs images.
pub(crate) fn write(images: &[&[u8]]) -> Vec<u8> {
    let lengths = images
        .iter()
        .map(|image| LENGTH_BYTES.saturating_add(image.len()));
    let bytes = lengths.fold(HEADER_BYTES, usize::saturating_add);
    let wide = |length: usize| u64::try_from(length).unwrap_or(u64::MAX).to_le_bytes();
    let mut bundle = Vec::with_capacity(bytes);
    bundle.extend(MAGIC);
    bundle.extend(
        u32::try_from(images.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    bundle.extend(wide(bytes));
    for image in images {
        bundle.extend(wide(image.len()));
        bundle.extend(*image);
    }
    bundle
}

/// Length of all, from the header.
pub(super) fn extent(header: &[u8]) -> Option<usize> {
    header.size_at(8)
}

fn images(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut at = HEADER_BYTES;
    let images = (0..bytes.u32_at(4)?).map(|_| {
        let length = bytes.size_at(at)?;
        let start = at.checked_add(LENGTH_BYTES)?;
        at = start.checked_add(length)?;
        bytes.part(start, length)
    });
    images.collect()
}

/// All images as one.
pub(super) fn read(bytes: &[u8], capability: u32) -> Result<Image, Unreadable> {
    let mut whole = Image::default();
    for image in images(bytes).ok_or(Unreadable::Image)? {
        let image = super::read(image, capability)?;
        whole.kernels.extend(image.kernels);
        whole.globals.extend(image.globals);
        whole.code_bytes = whole.code_bytes.saturating_add(image.code_bytes);
        whole.target = whole.target.max(image.target);
        whole.ptx_version = whole.ptx_version.max(image.ptx_version);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str) -> String {
        format!(".version 7.5\n.target sm_70\n.address_size 64\n.entry {name}() {{ ret; }}\n\0")
    }

    #[test]
    fn images_that_were_packed_are_read_as_one() {
        let (first, second) = (text("first"), text("second"));
        let bundle = write(&[first.as_bytes(), second.as_bytes()]);
        assert_eq!(extent(&bundle), Some(bundle.len()));
        let image = super::super::read(&bundle, 75).unwrap();
        let names: Vec<_> = image.kernels.iter().map(|kernel| &kernel.name).collect();
        assert_eq!(names, ["first", "second"]);
        let alone = super::super::read(first.as_bytes(), 75).unwrap();
        assert!(image.code_bytes > alone.code_bytes);
        let cut = &bundle[..bundle.len() - 1];
        assert_eq!(super::super::read(cut, 75), Err(Unreadable::Image));
    }
}
