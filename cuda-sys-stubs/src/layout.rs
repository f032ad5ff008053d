//! Records whose exact layout the driver's ABI fixes, declared together with a description that
//! `scripts/check-layouts` compares with NVIDIA's own headers.

/// Size and field offsets of one `#[repr(C)]` record, as this crate lays it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The record's name, as cuda.h or nvml.h spells it.
    pub name: &'static str,
    /// `sizeof` in bytes.
    pub size: usize,
    /// `alignof` in bytes.
    pub align: usize,
    /// Fields in order of declaration: name and offset in bytes.
    pub fields: &'static [(&'static str, usize)],
}

/// Declares `#[repr(C)]` structs and unions, and `LAYOUTS`, their descriptions.
macro_rules! records {
    ($( $(#[$meta:meta])* $kind:ident $name:ident { $( $field:ident: $type:ty ),* $(,)? } )*) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            #[derive(Clone, Copy)]
            pub $kind $name { $( pub $field: $type, )* }
        )*

        /// Every record of this module, for comparison with the header.
        pub static LAYOUTS: &[crate::layout::Layout] = &[ $(
            crate::layout::Layout {
                name: stringify!($name),
                size: size_of::<$name>(),
                align: align_of::<$name>(),
                fields: &[ $( (stringify!($field), core::mem::offset_of!($name, $field)), )* ],
            },
        )* ];
    };
}

pub(crate) use records;
