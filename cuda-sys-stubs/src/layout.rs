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
    /// Fields in order of declaration.
    pub fields: &'static [Field],
}

/// One field of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name in this crate; `type_` and `fn_` are `type` and `fn` in C, `anonymous…` has no name there.
    pub name: &'static str,
    /// `offsetof` in bytes.
    pub offset: usize,
    /// `sizeof` in bytes.
    pub size: usize,
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
                fields: &[ $( crate::layout::Field {
                    name: stringify!($field),
                    offset: core::mem::offset_of!($name, $field),
                    size: size_of::<$type>(),
                }, )* ],
            },
        )* ];
    };
}

pub(crate) use records;
