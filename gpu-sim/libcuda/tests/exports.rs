//! The library as a file, and names to addresses.
#![expect(clippy::expect_used, reason = "what goes wrong fails the test")]

mod support;

use std::collections::BTreeSet;
use std::ffi::{CString, c_char, c_void};
use std::process::Command;

use cuda_sys_stubs::abi::*;
use cuda_sys_stubs::get_proc_address::{Resolution, resolve};
use cuda_sys_stubs::symbols::DRIVER;
use support::{cu, driver, ok};

fn output(program: &str, arguments: &[&str]) -> String {
    let file = driver().folder.join("libcuda.so.1");
    let output = Command::new(program)
        .args(arguments)
        .arg(file)
        .output()
        .expect(program);
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_library_exports_the_drivers_symbols_and_nothing_else() {
    let listed = output("nm", &["-D", "--defined-only", "--format=posix"]);
    let exported: BTreeSet<&str> = listed
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let wanted: BTreeSet<&str> = DRIVER.iter().map(|symbol| symbol.name).collect();
    let difference: Vec<_> = exported.symmetric_difference(&wanted).collect();
    assert!(difference.is_empty(), "{difference:?}");
}

#[test]
fn the_loader_knows_it_as_the_driver() {
    assert!(output("readelf", &["-d"]).contains("soname: [libcuda.so.1]"));
}

#[test]
fn calls_inside_the_library_go_through_no_table_that_a_preload_could_fill() {
    let relocations = output("readelf", &["-rW"]);
    let own: Vec<_> = relocations
        .lines()
        .filter(|line| line.contains("JUMP_SLOT") || line.contains("GLOB_DAT"))
        .filter(|line| {
            DRIVER
                .iter()
                .any(|symbol| line.contains(&format!(" {} ", symbol.name)))
        })
        .collect();
    assert!(own.is_empty(), "{own:?}");
}

fn address(name: &str) -> *mut c_void {
    // SAFETY: only the address is looked at.
    let symbol = unsafe { driver().library.get::<*mut c_void>(name.as_bytes()) };
    let symbol = symbol.expect("exported");
    // SAFETY: as above.
    unsafe { symbol.try_as_raw_ptr() }.expect("an address")
}

fn ask(
    base: &str,
    version: i32,
    flags: u64,
) -> (CUresult, *mut c_void, CUdriverProcAddressQueryResult) {
    let (mut found, mut status) = (std::ptr::dangling_mut::<u64>().cast(), 99);
    let base = CString::new(base).expect("no NUL");
    let result = cu!(cuGetProcAddress_v2(
        base.as_ptr(),
        &mut found,
        version,
        flags,
        &mut status
    ));
    (result, found, status)
}

#[test]
fn every_name_version_and_flag_resolves_to_the_exported_address() {
    let bases: BTreeSet<&str> = DRIVER.iter().map(|symbol| symbol.base).collect();
    let mut found = 0;
    for base in bases {
        let introduced = DRIVER
            .iter()
            .filter(|symbol| symbol.base == base)
            .map(|symbol| i32::try_from(symbol.introduced).unwrap_or(0));
        for version in introduced.flat_map(|version| [version - 1, version, 99_990]) {
            for flags in 0..4 {
                let (result, pointer, status) = ask(base, version, flags);
                assert_eq!(result, CUDA_SUCCESS);
                match resolve(&|_| true, base, version, flags) {
                    Resolution::Found(symbol) => {
                        found += 1;
                        assert_eq!(
                            (pointer, status),
                            (address(symbol.name), CU_GET_PROC_ADDRESS_SUCCESS),
                            "{base} {version} {flags}"
                        );
                    }
                    Resolution::VersionNotSufficient => {
                        assert_eq!((pointer.is_null(), status), (true, 2), "{base} {version}")
                    }
                    _ => assert_eq!((pointer.is_null(), status), (true, 1), "{base} {version}"),
                }
            }
        }
    }
    assert!(found > 5_000, "{found}");
}

#[test]
fn what_is_not_found_answers_as_measured_on_real_drivers() {
    let untouched = std::ptr::dangling_mut::<u64>().cast();
    assert_eq!(ask("", 0, 0), (CUDA_SUCCESS, std::ptr::null_mut(), 1));
    assert_eq!(ask("cuMemAlloc_v2", 12000, 0).2, 1);
    assert_eq!(
        ask("cuLaunchKernel", 6000, 2),
        (CUDA_SUCCESS, std::ptr::null_mut(), 2)
    );
    assert_eq!(
        ask("cuInit", 12000, 4),
        (CUDA_ERROR_INVALID_VALUE, untouched, 99)
    );
    let mut found = untouched;
    let name: *const c_char = c"cuNothing".as_ptr();
    assert_eq!(
        cu!(cuGetProcAddress(name, &mut found, 12000, 0)),
        CUDA_ERROR_NOT_FOUND
    );
    assert_eq!(found, untouched);
}

#[test]
fn cuda_get_proc_address_itself_is_the_version_that_the_caller_can_call() {
    assert_eq!(
        ask("cuGetProcAddress", 11_999, 0).1,
        address("cuGetProcAddress")
    );
    assert_eq!(
        ask("cuGetProcAddress", 12_000, 0).1,
        address("cuGetProcAddress_v2")
    );
}

#[test]
fn what_is_not_simulated_answers_as_on_a_device_without_it() {
    ok!(cuInit(0));
    let mut descriptor = 0_i32;
    let to = (&raw mut descriptor).cast();
    let dma_buf = cu!(cuMemGetHandleForAddressRange(to, 0, 0, 1, 0));
    assert_eq!((dma_buf, descriptor), (CUDA_ERROR_NOT_SUPPORTED, 0));
    let mut supported = 9;
    ok!(cuDeviceGetAttribute(
        &mut supported,
        CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED,
        0
    ));
    assert_eq!(supported, 0);
    let nothing = cu!(cuDestroyExternalMemory(std::ptr::dangling_mut()));
    assert_eq!(nothing, CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn no_table_of_undocumented_functions_is_handed_out() {
    let mut table = std::ptr::dangling::<u64>().cast();
    let uuid = CUuuid { bytes: [1; 16] };
    assert_eq!(
        cu!(cuGetExportTable(&mut table, &uuid)),
        CUDA_ERROR_INVALID_VALUE
    );
    assert!(table.is_null());
}

#[test]
fn statuses_have_names_and_descriptions() {
    let mut text = std::ptr::null();
    ok!(cuGetErrorName(CUDA_ERROR_OUT_OF_MEMORY, &mut text));
    // SAFETY: the driver answered with a string that lives as long as it does.
    let name = unsafe { std::ffi::CStr::from_ptr(text) };
    assert_eq!(name, c"CUDA_ERROR_OUT_OF_MEMORY");
    assert_eq!(
        cu!(cuGetErrorString(123_456, &mut text)),
        CUDA_ERROR_INVALID_VALUE
    );
    assert!(text.is_null());
}
