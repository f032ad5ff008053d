//! Names and descriptions of status codes, for `cuGetErrorName`, `cuGetErrorString` and `nvmlErrorString`.

use core::ffi::CStr;

/// One status code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StatusText {
    pub(crate) code: u32,
    pub(crate) name: &'static CStr,
    pub(crate) description: &'static CStr,
}

/// The entry of `code` in a table that is sorted by code.
pub(crate) fn find(table: &'static [StatusText], code: u32) -> Option<&'static StatusText> {
    let index = table.binary_search_by_key(&code, |text| text.code).ok()?;
    table.get(index)
}
