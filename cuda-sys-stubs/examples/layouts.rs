//! Prints what this crate believes of cuda.h and nvml.h, one fact a line, for `scripts/check-layouts` to compare with
//! the headers:
//!
//! ```text
//! cuda.h size CUuuid 16
//! cuda.h align CUuuid 1
//! cuda.h offset CUuuid.bytes 0
//! cuda.h size CUuuid.bytes 16
//! nvml.h value nvmlMemory_v2 33554472
//! cuda.h parameters cuGetErrorName CUresult;*mut *const c_char
//! ```

use std::io::{self, Write};

use cuda_sys_stubs::layout::Layout;
use cuda_sys_stubs::symbols::{DRIVER, NVML, Parameter};
use cuda_sys_stubs::{abi, nvml_abi};

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    write_layouts(&mut out, "cuda.h", abi::LAYOUTS)?;
    write_layouts(&mut out, "nvml.h", nvml_abi::LAYOUTS)?;
    write_nvml_versions(&mut out)?;
    for symbol in DRIVER {
        write_parameters(&mut out, "cuda.h", symbol.name, symbol.parameters)?;
    }
    for symbol in NVML {
        write_parameters(&mut out, "nvml.h", symbol.name, symbol.parameters)?;
    }
    Ok(())
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

fn write_nvml_versions(out: &mut impl Write) -> io::Result<()> {
    let versions = [
        ("nvmlMemory_v2", nvml_abi::nvmlMemory_v2),
        (
            "nvmlProcessDetailList_v1",
            nvml_abi::nvmlProcessDetailList_v1,
        ),
        (
            "nvmlProcessesUtilizationInfo_v1",
            nvml_abi::nvmlProcessesUtilizationInfo_v1,
        ),
        ("nvmlPciInfoExt_v1", nvml_abi::nvmlPciInfoExt_v1),
        ("nvmlTemperature_v1", nvml_abi::nvmlTemperature_v1),
    ];
    for (name, version) in versions {
        writeln!(out, "nvml.h value {name} {version}")?;
    }
    Ok(())
}

fn write_parameters(
    out: &mut impl Write,
    header: &str,
    name: &str,
    parameters: Option<&[Parameter]>,
) -> io::Result<()> {
    let Some(parameters) = parameters else {
        return Ok(());
    };
    let types: Vec<&str> = parameters.iter().map(|(_, rust_type)| *rust_type).collect();
    writeln!(out, "{header} parameters {name} {}", types.join(";"))
}
