//! The loaded objects of this process, read as the ELF images that they are.
//!
//! We export `dlsym` and `dlvsym`, so inside this library those names mean ourselves: the real ones cannot be asked
//! for by name. They are read out of glibc's own symbol table, once. The same reader tells which object defines an
//! address, by which `dlsym` knows the driver from a library that merely has functions of the driver's names.
//!
//! Sources: ELF-64 object file format (dynamic section, symbol table), the GNU hash section as glibc's `dl-lookup.c`
//! reads it, `dl_iterate_phdr(3)`, `dladdr1(3)`.
#![expect(
    unsafe_code,
    reason = "reads the loader's structures and ELF tables in place"
)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::{mem, ptr, slice};

const DT_NULL: i64 = 0;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_SONAME: i64 = 14;
const DT_GNU_HASH: i64 = 0x6fff_fef5;
const DT_VERSYM: i64 = 0x6fff_fff0;
/// Of a version index (`elf.h`, `VERSYM_HIDDEN`): only who asks for this version finds the symbol.
const HIDDEN_VERSION: u16 = 0x8000;
/// Of a symbol's `st_shndx` (`elf.h`): from here on it is no section's number, and the value need not be an offset in the object.
const SHN_LORESERVE: u16 = 0xff00;
/// Of a symbol's `st_info` (`elf.h`, `ELF64_ST_TYPE`).
const TYPE_BITS: u8 = 0xf;
/// Its value is an offset in a thread's own memory.
const STT_TLS: u8 = 6;
/// Its value is the address of a function that answers with the address.
const STT_GNU_IFUNC: u8 = 10;
/// `dladdr1`'s request for the object's [`LinkMap`] (`dlfcn.h`).
const RTLD_DL_LINKMAP: c_int = 2;

/// `Elf64_Dyn`.
#[repr(C)]
struct DynamicEntry {
    tag: i64,
    value: u64,
}

/// The public head of glibc's `struct link_map` (`link.h`).
#[repr(C)]
struct LinkMap {
    base: usize,
    name: *const c_char,
    dynamic: *const DynamicEntry,
}

/// The fixed head of a GNU hash section.
#[repr(C)]
struct GnuHash {
    buckets: u32,
    first_symbol: u32,
    bloom_words: u32,
    bloom_shift: u32,
}

/// An object that the loader has mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    base: usize,
    dynamic: *const DynamicEntry,
}

impl Object {
    /// The object that defines the function at `address`; `None` for an address in no object.
    pub(crate) fn defining(address: *const c_void) -> Option<Self> {
        let mut map: *const LinkMap = ptr::null();
        // SAFETY: all bytes zero are a valid `Dl_info`; it is written before it is read, and not read at all.
        let mut info: libc::Dl_info = unsafe { mem::zeroed() };
        // SAFETY: `dladdr1` takes any address; both out-pointers are live, the second typed as the flag demands.
        let found = unsafe {
            libc::dladdr1(
                address,
                &raw mut info,
                (&raw mut map).cast::<*mut c_void>(),
                RTLD_DL_LINKMAP,
            )
        };
        if found == 0 {
            return None;
        }
        // SAFETY: the loader's promise: on success the map is that of a loaded object, and lives as long as it does.
        let map = unsafe { map.as_ref() }?;
        Some(Self::of_map(map))
    }

    /// The object that this code is part of.
    pub(crate) fn ours() -> Option<Self> {
        Self::defining(Self::ours as *const c_void)
    }

    /// The first loaded object that answers `wanted` with a value.
    pub(crate) fn find_map<T>(mut wanted: impl FnMut(Self) -> Option<T>) -> Option<T> {
        let mut found = None;
        let mut visit = |object| {
            found = wanted(object);
            found.is_some()
        };
        let mut visit: &mut dyn FnMut(Self) -> bool = &mut visit;
        // SAFETY: the callback gets back the pointer given here, while `visit` is alive.
        unsafe { libc::dl_iterate_phdr(Some(visit_object), (&raw mut visit).cast()) };
        found
    }

    /// The name under which other objects need this one (`DT_SONAME`).
    pub(crate) fn soname(&self) -> Option<&CStr> {
        let offset = usize::try_from(self.value_of(DT_SONAME)?).ok()?;
        let strings = self.address_of(DT_STRTAB)? as *const c_char;
        // SAFETY: the object's promise: the name is a terminated string inside its string table.
        Some(unsafe { CStr::from_ptr(strings.add(offset)) })
    }

    /// The object of a handle of `dlopen`'s.
    pub(crate) fn of_handle(library: *mut c_void) -> Option<Self> {
        let mut map: *const LinkMap = ptr::null();
        // SAFETY: a handle, which `dlinfo` looks at; the out-pointer is live and of the request's type.
        let status = unsafe {
            libc::dlinfo(
                library,
                libc::RTLD_DI_LINKMAP,
                (&raw mut map).cast::<c_void>(),
            )
        };
        if status != 0 {
            return None;
        }
        // SAFETY: the loader's promise: on success the map is that of a loaded object, and lives as long as it does.
        unsafe { map.as_ref() }.map(Self::of_map)
    }

    fn of_map(map: &LinkMap) -> Self {
        Self {
            base: map.base,
            dynamic: map.dynamic,
        }
    }

    /// The address of the function `name` that this object itself defines, in its default version: the one that a lookup without a
    /// version finds.
    pub(crate) fn function(&self, name: &CStr) -> Option<*mut c_void> {
        self.symbols()?.function(&SymbolName::new(name))
    }

    /// Where its symbols stand; `None` where they have no GNU hash section.
    pub(crate) fn symbols(&self) -> Option<Symbols> {
        let (mut symbols, mut strings, mut versions, mut hash) = (None, None, None, None);
        for DynamicEntry { tag, value } in self.entries() {
            match *tag {
                DT_SYMTAB => symbols = self.address_in(*value),
                DT_STRTAB => strings = self.address_in(*value),
                DT_VERSYM => versions = self.address_in(*value),
                DT_GNU_HASH => hash = self.address_in(*value),
                _ => {}
            }
        }
        Some(Symbols {
            base: self.base,
            symbols: symbols? as *const libc::Elf64_Sym,
            strings: strings? as *const c_char,
            versions: versions.map(|at| at as *const u16),
            hash: hash? as *const GnuHash,
        })
    }

    /// The address that a dynamic entry holds: glibc stores it relocated, other loaders (and the vDSO) as an offset.
    fn address_in(&self, value: u64) -> Option<usize> {
        let value = usize::try_from(value).ok()?;
        if value < self.base {
            self.base.checked_add(value)
        } else {
            Some(value)
        }
    }

    fn address_of(&self, tag: i64) -> Option<usize> {
        self.address_in(self.value_of(tag)?)
    }

    fn value_of(&self, tag: i64) -> Option<u64> {
        let entry = self.entries().find(|entry| entry.tag == tag)?;
        Some(entry.value)
    }

    /// Its dynamic section, without the null entry at its end.
    fn entries<'a>(&self) -> impl Iterator<Item = &'a DynamicEntry> + use<'a> {
        let mut next = self.dynamic;
        std::iter::from_fn(move || {
            // SAFETY: the object's promise: its dynamic section ends with a null entry, and is not read past it.
            let entry = unsafe { next.as_ref() }?;
            if entry.tag == DT_NULL {
                return None;
            }
            // SAFETY: as above: this was not the last entry.
            next = unsafe { next.add(1) };
            Some(entry)
        })
    }
}

/// A name that symbols are looked for by, and its hash in a GNU hash section.
pub(crate) struct SymbolName<'a> {
    name: &'a CStr,
    hash: u32,
}

impl<'a> SymbolName<'a> {
    pub(crate) fn new(name: &'a CStr) -> Self {
        Self {
            name,
            hash: gnu_hash(name),
        }
    }
}

/// The symbols of a loaded object, for who looks up many.
#[derive(Clone, Copy)]
pub(crate) struct Symbols {
    base: usize,
    symbols: *const libc::Elf64_Sym,
    strings: *const c_char,
    versions: Option<*const u16>,
    hash: *const GnuHash,
}

impl Symbols {
    /// As [`Object::function`].
    pub(crate) fn function(&self, wanted: &SymbolName<'_>) -> Option<*mut c_void> {
        self.hash_chain(wanted.hash)?.find_map(|index| {
            let index = usize::try_from(index).ok()?;
            // SAFETY: the object's promise: where it has versions, each symbol has one.
            let version = self
                .versions
                .map_or(0, |versions| unsafe { *versions.add(index) });
            // SAFETY: the object's promise: what its hash section names is in its symbol table.
            let symbol = unsafe { &*self.symbols.add(index) };
            // SAFETY: as above, for the string table.
            let name =
                unsafe { CStr::from_ptr(self.strings.add(usize::try_from(symbol.st_name).ok()?)) };
            let is_address = !matches!(symbol.st_info & TYPE_BITS, STT_TLS | STT_GNU_IFUNC);
            let defined = (1..SHN_LORESERVE).contains(&symbol.st_shndx)
                && symbol.st_value != 0
                && is_address
                && version & HIDDEN_VERSION == 0;
            let address = self
                .base
                .checked_add(usize::try_from(symbol.st_value).ok()?)?;
            (defined && name == wanted.name).then_some(address as *mut c_void)
        })
    }

    /// The symbol indices whose names have this hash; `None`: there are none, as nearly always where the object lacks the name.
    fn hash_chain(&self, hash: u32) -> Option<impl Iterator<Item = u32>> {
        // SAFETY: the object's promise: its hash section starts with this head.
        let head = unsafe { &*self.hash };
        let bloom_words = usize::try_from(head.bloom_words).ok()?;
        let place = usize::try_from(hash / u64::BITS)
            .ok()?
            .checked_rem(bloom_words)?;
        // SAFETY: the Bloom filter follows the head, one machine word each; the buckets follow it.
        let (bloom, bucket_table) = unsafe {
            let bloom = self.hash.add(1).cast::<u64>();
            (bloom, bloom.add(bloom_words).cast::<u32>())
        };
        // SAFETY: as above: the remainder is that of one of them. Wherever a foreign linker put the section.
        let word = unsafe { bloom.add(place).read_unaligned() };
        let bit = |hash: u32| 1_u64.wrapping_shl(hash % u64::BITS);
        let wanted = bit(hash) | bit(hash.wrapping_shr(head.bloom_shift));
        if word & wanted != wanted {
            return None;
        }
        let bucket_count = usize::try_from(head.buckets).ok()?;
        // SAFETY: as many buckets as the head says.
        let buckets = unsafe { slice::from_raw_parts(bucket_table, bucket_count) };
        let start = *buckets.get(usize::try_from(hash.checked_rem(head.buckets)?).ok()?)?;
        // SAFETY: the chain, one word for each hashed symbol, follows the buckets.
        let chain = unsafe { bucket_table.add(bucket_count) };
        let mut next = (start >= head.first_symbol).then_some(start);
        let hashes = std::iter::from_fn(move || {
            let index = next?;
            let position = usize::try_from(index.checked_sub(head.first_symbol)?).ok()?;
            // SAFETY: the object's promise: a chain ends with a word whose lowest bit is set, and is not read past it.
            let word = unsafe { *chain.add(position) };
            next = if word & 1 == 0 {
                index.checked_add(1)
            } else {
                None
            };
            Some((index, word))
        });
        Some(
            hashes
                .filter(move |(_, word)| word | 1 == hash | 1)
                .map(|(index, _)| index),
        )
    }
}

/// The hash of a GNU hash section (Bernstein's, 5381 and times 33).
fn gnu_hash(name: &CStr) -> u32 {
    name.to_bytes().iter().fold(5381_u32, |hash, &byte| {
        hash.wrapping_mul(33).wrapping_add(u32::from(byte))
    })
}

/// # Safety
/// `info` as `dl_iterate_phdr` gives it; `visit` a live `&mut dyn FnMut(Object) -> bool`.
unsafe extern "C" fn visit_object(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    visit: *mut c_void,
) -> c_int {
    // SAFETY: the loader's promise: `info` is valid during the callback.
    let Some(info) = (unsafe { info.as_ref() }) else {
        return 0;
    };
    // SAFETY: the caller's promise.
    let visit = unsafe { &mut *visit.cast::<&mut dyn FnMut(Object) -> bool>() };
    // SAFETY: the loader's promise: that many program headers.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let dynamic = headers
        .iter()
        .find(|header| header.p_type == libc::PT_DYNAMIC);
    let found = dynamic.and_then(|header| {
        let base = usize::try_from(info.dlpi_addr).ok()?;
        let dynamic = base.wrapping_add(usize::try_from(header.p_vaddr).ok()?);
        Some(Object {
            base,
            dynamic: dynamic as *const DynamicEntry,
        })
    });
    c_int::from(found.is_some_and(visit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup;

    fn libc_object() -> Object {
        Object::find_map(|object| (object.soname() == Some(c"libc.so.6")).then_some(object))
            .unwrap()
    }

    #[test]
    fn a_function_is_found_where_the_loader_finds_it() {
        for (name, address) in [
            (c"dlsym", libc::dlsym as *mut c_void),
            (c"dlvsym", libc::dlvsym as *mut c_void),
            (c"malloc", libc::malloc as *mut c_void),
            // Of two versions.
            (
                c"realpath",
                lookup::real_dlsym(libc::RTLD_DEFAULT, c"realpath"),
            ),
        ] {
            let found = libc_object().function(name);
            assert_eq!(found, Some(address), "{name:?}");
        }
    }

    #[test]
    fn a_function_that_is_not_there_is_not_found() {
        assert_eq!(libc_object().function(c"cuInit"), None);
        // Only for who asks for its version, if at all.
        assert_eq!(libc_object().function(c"pthread_atfork"), None);
    }

    /// `strlen` is chosen for the processor: its symbol leads to who chooses.
    #[test]
    fn what_is_no_address_is_left_to_the_loader() {
        for name in [c"strlen", c"errno"] {
            assert_eq!(libc_object().function(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_handle_leads_to_its_object() {
        // SAFETY: a name of a library that is loaded already.
        let handle = unsafe { libc::dlopen(c"libc.so.6".as_ptr(), libc::RTLD_LAZY) };
        assert_eq!(Object::of_handle(handle), Some(libc_object()));
    }

    #[test]
    fn an_address_leads_back_to_its_object() {
        let object = Object::defining(libc::malloc as *const c_void).unwrap();
        assert_eq!(object.soname(), Some(c"libc.so.6"));
        assert!(Object::defining(ptr::without_provenance(16)).is_none());
    }
}
