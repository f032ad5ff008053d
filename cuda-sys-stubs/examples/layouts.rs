//! Prints what this crate believes of cuda.h and nvml.h, one fact a line, for `scripts/check-layouts` to compare with
//! the headers: `cuda.h size CUuuid 16`, `cuda.h align CUuuid 1`, `cuda.h offset CUuuid.bytes 0`, `cuda.h size CUuuid.bytes 16`.

use std::io::{self, Write};

use cuda_sys_stubs::layout::Layout;
use cuda_sys_stubs::{abi, nvml_abi};

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    write_layouts(&mut out, "cuda.h", abi::LAYOUTS)?;
    write_layouts(&mut out, "nvml.h", nvml_abi::LAYOUTS)
}

fn write_layouts(out: &mut impl Write, header: &str, layouts: &[Layout]) -> io::Result<()> {
    for Layout {
        name,
        size,
        align,
        fields,
    } in layouts
    {
        writeln!(out, "{header} size {name} {size}")?;
        writeln!(out, "{header} align {name} {align}")?;
        for field in *fields {
            writeln!(
                out,
                "{header} offset {name}.{} {}",
                field.name, field.offset
            )?;
            writeln!(out, "{header} size {name}.{} {}", field.name, field.size)?;
        }
    }
    Ok(())
}
