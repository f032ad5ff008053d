//! Which calls a context takes: where a function exists in both, those of its own API version.
//!
//! Before CUDA 3.2 device addresses and sizes had 32 bits. `cuCtxCreate` of that time still makes a context for the calls of that
//! time, API version 3010: its device addresses lie below 4 GiB. The functions that changed are there twice, and each context takes
//! its own; the other answers `CUDA_ERROR_INVALID_CONTEXT` (cuda.h of that error: "if a user mixes different API versions (i.e. 3010 context
//! with 3020 API calls)"). Seen on today's drivers: in a context of `cuCtxCreate`, `cuMemGetInfo` answers with 32 bits and
//! `cuMemGetInfo_v2` 201 (BOINC, pull requests 4757 and 6992); in one of `cuCtxCreate_v2`, `cuMemFree` answers 201 (MPICH, pull request 7091).

/// `cuCtxGetApiVersion` of contexts whose addresses have 32 bits.
pub(crate) const NARROW: u32 = 3010;

/// `cuCtxGetApiVersion` of all others (CUDA Driver API, `cuCtxGetApiVersion`).
pub(crate) const WIDE: u32 = 3020;

/// Functions of API version 3010 that have successors with addresses and sizes of 64 bits (`…_v2`).
const CHANGED: [&str; 39] = [
    "cuArray3DCreate",
    "cuArray3DGetDescriptor",
    "cuArrayCreate",
    "cuArrayGetDescriptor",
    "cuMemAlloc",
    "cuMemAllocHost",
    "cuMemAllocPitch",
    "cuMemFree",
    "cuMemGetAddressRange",
    "cuMemGetInfo",
    "cuMemHostGetDevicePointer",
    "cuMemcpy2D",
    "cuMemcpy2DAsync",
    "cuMemcpy2DUnaligned",
    "cuMemcpy3D",
    "cuMemcpy3DAsync",
    "cuMemcpyAtoA",
    "cuMemcpyAtoD",
    "cuMemcpyAtoH",
    "cuMemcpyAtoHAsync",
    "cuMemcpyDtoA",
    "cuMemcpyDtoD",
    "cuMemcpyDtoDAsync",
    "cuMemcpyDtoH",
    "cuMemcpyDtoHAsync",
    "cuMemcpyHtoA",
    "cuMemcpyHtoAAsync",
    "cuMemcpyHtoD",
    "cuMemcpyHtoDAsync",
    "cuMemsetD16",
    "cuMemsetD2D16",
    "cuMemsetD2D32",
    "cuMemsetD2D8",
    "cuMemsetD32",
    "cuMemsetD8",
    "cuModuleGetGlobal",
    "cuTexRefGetAddress",
    "cuTexRefSetAddress",
    "cuTexRefSetAddress2D",
];

/// The API version that a function belongs to; `None`: it is there for contexts of both.
pub(crate) const fn version(symbol: &str) -> Option<u32> {
    let mut at = 0;
    while at < CHANGED.len() {
        match rest(symbol.as_bytes(), CHANGED[at].as_bytes()) {
            Some([]) => return Some(NARROW),
            Some([b'_', b'v', ..]) => return Some(WIDE),
            _ => at += 1,
        }
    }
    None
}

/// What follows a prefix.
const fn rest<'a>(mut name: &'a [u8], mut prefix: &[u8]) -> Option<&'a [u8]> {
    while let [wanted, others @ ..] = prefix {
        match name {
            [first, rest @ ..] if *first == *wanted => (name, prefix) = (rest, others),
            _ => return None,
        }
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_changed_belongs_to_one_version_and_its_twins_to_the_same() {
        assert_eq!(version("cuMemcpy2D"), Some(NARROW));
        for wide in [
            "cuMemcpy2D_v2",
            "cuMemcpy2D_v2_ptds",
            "cuTexRefSetAddress2D_v3",
        ] {
            assert_eq!(version(wide), Some(WIDE), "{wide}");
        }
        for both in [
            "cuMemcpy",
            "cuMemAllocManaged",
            "cuMemsetD8Async",
            "cuCtxDestroy_v2",
        ] {
            assert_eq!(version(both), None, "{both}");
        }
    }

    #[test]
    fn every_function_that_changed_has_both_forms() {
        for name in CHANGED {
            let successor = format!("{name}_v2");
            for form in [name, &successor] {
                assert!(cuda_sys_stubs::symbols::driver(form).is_some(), "{form}");
            }
        }
    }
}
