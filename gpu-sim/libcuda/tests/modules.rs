//! Modules, libraries, functions: what an image is found to hold, and what a launch is refused for.

mod support;

use std::ffi::{CStr, c_void};

use cuda_sys_stubs::abi::*;
use support::{alloc, context, cu, launch, ok, read, spin, spin_ptx};

const NULL: CUstream = std::ptr::null_mut();

fn load(ptx: &str) -> CUmodule {
    let mut module = std::ptr::null_mut();
    ok!(cuModuleLoadData(&mut module, ptx.as_ptr().cast()));
    module
}

fn function(module: CUmodule, name: &CStr) -> CUfunction {
    let mut function = std::ptr::null_mut();
    ok!(cuModuleGetFunction(&mut function, module, name.as_ptr()));
    function
}

fn attribute(function: CUfunction, attribute: CUfunction_attribute) -> i32 {
    let mut value = -1;
    ok!(cuFuncGetAttribute(&mut value, attribute, function));
    value
}

fn launch_shape(function: CUfunction, grid: [u32; 3], block: [u32; 3], shared: u32) -> CUresult {
    let null = std::ptr::null_mut();
    cu!(cuLaunchKernel(
        function, grid[0], grid[1], grid[2], block[0], block[1], block[2], shared, NULL, null, null
    ))
}

#[test]
fn a_module_has_its_functions_and_variables_and_no_others() {
    context();
    let module = load(&spin_ptx(1000));
    let (mut nothing, mut count) = (std::ptr::null_mut(), 0);
    assert_eq!(
        cu!(cuModuleGetFunction(&mut nothing, module, c"spun".as_ptr())),
        CUDA_ERROR_NOT_FOUND
    );
    ok!(cuModuleGetFunctionCount(&mut count, module));
    assert_eq!(count, 2);
    let (mut variable, mut bytes) = (0, 0);
    ok!(cuModuleGetGlobal_v2(
        &mut variable,
        &mut bytes,
        module,
        c"counter".as_ptr()
    ));
    assert_eq!(
        (bytes, read(variable, 8)),
        (8, vec![7, 0, 0, 0, 9, 0, 0, 0])
    );
    assert_eq!(
        cu!(cuModuleGetGlobal_v2(
            &mut variable,
            &mut bytes,
            module,
            c"tile".as_ptr()
        )),
        CUDA_ERROR_NOT_FOUND
    );
    assert_eq!(cu!(cuMemFree_v2(variable)), CUDA_ERROR_INVALID_VALUE);
    let spin = function(module, c"spin");
    ok!(cuModuleUnload(module));
    assert_eq!(launch(spin, NULL), CUDA_ERROR_INVALID_HANDLE);
    assert_eq!(cu!(cuModuleUnload(module)), CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn an_image_that_is_none_is_refused_by_its_kind() {
    context();
    let refused = |text: &CStr| {
        cu!(cuModuleLoadData(
            &mut std::ptr::null_mut(),
            text.as_ptr().cast()
        ))
    };
    assert_eq!(refused(c""), CUDA_ERROR_INVALID_IMAGE);
    assert_eq!(refused(c"int main;"), CUDA_ERROR_INVALID_IMAGE);
    assert_eq!(
        refused(c".version 7.0\n.target sm_70\n.entry f("),
        CUDA_ERROR_INVALID_PTX
    );
    assert_eq!(
        cu!(cuModuleLoadData(
            &mut std::ptr::null_mut(),
            std::ptr::null()
        )),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        cu!(cuModuleLoad(
            &mut std::ptr::null_mut(),
            c"/nowhere".as_ptr()
        )),
        CUDA_ERROR_FILE_NOT_FOUND
    );
}

#[test]
fn a_function_tells_what_its_image_says() {
    context();
    let spin = spin(1000);
    assert_eq!(attribute(spin, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES), 256);
    assert_eq!(
        attribute(spin, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK),
        1024
    );
    assert_eq!(attribute(spin, CU_FUNC_ATTRIBUTE_BINARY_VERSION), 70);
    let (mut offset, mut size, mut count) = (0, 0, 0);
    ok!(cuFuncGetParamInfo(spin, 1, &mut offset, &mut size));
    ok!(cuFuncGetParamCount(spin, &mut count));
    assert_eq!((offset, size, count), (8, 4, 2));
    assert_eq!(
        cu!(cuFuncGetParamInfo(spin, 2, &mut offset, &mut size)),
        CUDA_ERROR_INVALID_VALUE
    );
    let mut blocks = 0;
    ok!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
        &mut blocks,
        spin,
        256,
        0
    ));
    assert_eq!(blocks, 4);
    let (mut grid, mut block) = (0, 0);
    ok!(cuOccupancyMaxPotentialBlockSize(
        &mut grid, &mut block, spin, None, 0, 0
    ));
    assert_eq!((grid, block), (40, 1024));
}

#[test]
fn a_launch_out_of_bounds_is_refused() {
    context();
    let spin = spin(1000);
    assert_eq!(launch_shape(spin, [1, 1, 1], [1024, 1, 1], 0), CUDA_SUCCESS);
    assert_eq!(
        launch_shape(spin, [1, 1, 1], [1025, 1, 1], 0),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        launch_shape(spin, [1, 1, 1], [32, 32, 2], 0),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        launch_shape(spin, [1, 1, 1], [1, 1, 65], 0),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        launch_shape(spin, [0, 1, 1], [1, 1, 1], 0),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        launch_shape(spin, [1, 65536, 1], [1, 1, 1], 0),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        launch_shape(spin, [1, 1, 1], [1, 1, 1], 48 << 10),
        CUDA_ERROR_INVALID_VALUE
    );
    let opt_in = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    ok!(cuFuncSetAttribute(spin, opt_in, 60 << 10));
    assert_eq!(
        launch_shape(spin, [1, 1, 1], [1, 1, 1], 60 << 10),
        CUDA_SUCCESS
    );
    assert_eq!(
        cu!(cuFuncSetAttribute(spin, opt_in, 64 << 10)),
        CUDA_ERROR_INVALID_VALUE
    );
    ok!(cuCtxSynchronize());
}

#[test]
fn a_cooperative_launch_has_to_fit_at_once() {
    context();
    let spin = spin(1000);
    let cooperative = |blocks| {
        cu!(cuLaunchCooperativeKernel(
            spin,
            blocks,
            1,
            1,
            1024,
            1,
            1,
            0,
            NULL,
            std::ptr::null_mut()
        ))
    };
    assert_eq!(cooperative(40), CUDA_SUCCESS);
    assert_eq!(cooperative(41), CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
}

#[test]
fn clusters_are_refused_where_there_are_none() {
    context();
    // SAFETY: records of plain numbers and pointers; zero is a value of each.
    let (mut config, mut attribute): (CUlaunchConfig, CUlaunchAttribute) =
        unsafe { std::mem::zeroed() };
    (config.gridDimX, config.gridDimY, config.gridDimZ) = (2, 1, 1);
    (config.blockDimX, config.blockDimY, config.blockDimZ) = (32, 1, 1);
    let (spin, null) = (spin(1000), std::ptr::null_mut());
    ok!(cuLaunchKernelEx(&config, spin, null, null));
    (attribute.id, attribute.value.clusterDim) = (CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, [2, 1, 1]);
    (config.attrs, config.numAttrs) = (&mut attribute, 1);
    assert_eq!(
        cu!(cuLaunchKernelEx(&config, spin, null, null)),
        CUDA_ERROR_INVALID_CLUSTER_SIZE
    );
}

#[test]
fn a_kernel_of_a_library_can_be_launched_in_any_context() {
    context();
    let (ptx, null) = (spin_ptx(1000), std::ptr::null_mut());
    let (mut library, mut kernel) = (std::ptr::null_mut(), std::ptr::null_mut());
    let none = std::ptr::null_mut();
    ok!(cuLibraryLoadData(
        &mut library,
        ptx.as_ptr().cast(),
        none,
        null,
        0,
        std::ptr::null_mut(),
        null,
        0
    ));
    ok!(cuLibraryGetKernel(&mut kernel, library, c"spin".as_ptr()));
    for _ in 0..2 {
        assert_eq!(launch(kernel.cast(), NULL), CUDA_SUCCESS);
        ok!(cuCtxSynchronize());
        context();
    }
    let (mut in_context, mut module) = (std::ptr::null_mut(), std::ptr::null_mut());
    ok!(cuKernelGetFunction(&mut in_context, kernel));
    ok!(cuLibraryGetModule(&mut module, library));
    assert_eq!(in_context, function(module, c"spin"));
    assert_eq!(cu!(cuModuleUnload(module)), CUDA_ERROR_NOT_PERMITTED);
    assert_eq!(
        cu!(cuLibraryGetKernel(&mut kernel, library, c"none".as_ptr())),
        CUDA_ERROR_NOT_FOUND
    );
    ok!(cuLibraryUnload(library));
    assert_eq!(launch(kernel.cast(), NULL), CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn texts_are_linked_into_one_image() {
    context();
    let (mut link, mut image, mut bytes) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
    ok!(cuLinkCreate_v2(
        0,
        std::ptr::null_mut(),
        std::ptr::null_mut(),
        &mut link
    ));
    for name in ["first", "second"] {
        let ptx =
            format!(".version 7.0\n.target sm_70\n.address_size 64\n.entry {name}() {{ ret; }}\0");
        let (data, none): (*mut c_void, _) = (ptx.as_ptr().cast_mut().cast(), std::ptr::null_mut());
        ok!(cuLinkAddData_v2(
            link,
            CU_JIT_INPUT_PTX,
            data,
            ptx.len(),
            c"x".as_ptr(),
            0,
            none,
            std::ptr::null_mut()
        ));
    }
    ok!(cuLinkComplete(link, &mut image, &mut bytes));
    let mut module = std::ptr::null_mut();
    ok!(cuModuleLoadData(&mut module, image));
    ok!(cuLinkDestroy(link));
    for name in [c"first", c"second"] {
        function(module, name);
    }
}

/// A fat binary whose one member is a PTX text.
fn fatbin(ptx: &str) -> Vec<u8> {
    let padded = ptx.len().next_multiple_of(8);
    let words = |words: &[u32]| -> Vec<u8> {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        bytes.collect()
    };
    let length = u32::try_from(64 + padded).unwrap_or(0);
    let mut bytes = words(&[0xBA55_ED50, 0x0010_0001, length, 0]);
    let member = [0x0101_0001, 64, length - 64, 0, 0, 0, 0, 70];
    bytes.extend(words(&member));
    bytes.extend(words(&[0; 8]));
    bytes.extend(ptx.as_bytes());
    bytes.resize(80 + padded, 0);
    bytes
}

#[test]
fn texts_and_binaries_are_linked_into_one_image_and_what_cannot_be_read_is_refused() {
    context();
    let none: *mut c_void = std::ptr::null_mut();
    let (mut link, mut image, mut bytes) = (none.cast(), none, 0);
    ok!(cuLinkCreate_v2(0, none.cast(), none.cast(), &mut link));
    let add = |kind, data: &[u8]| {
        let (start, name) = (data.as_ptr().cast_mut().cast(), c"x".as_ptr());
        cu!(cuLinkAddData_v2(
            link,
            kind,
            start,
            data.len(),
            name,
            0,
            none.cast(),
            none.cast()
        ))
    };
    let text = |name| {
        format!(".version 7.0\n.target sm_70\n.address_size 64\n.entry {name}() {{ ret; }}\0")
    };
    for (kind, name) in [
        (CU_JIT_INPUT_FATBINARY, "first"),
        (CU_JIT_INPUT_FATBINARY, "second"),
    ] {
        assert_eq!(add(kind, &fatbin(&text(name))), 0);
    }
    assert_eq!(add(CU_JIT_INPUT_PTX, text("third").as_bytes()), 0);
    for kind in [
        CU_JIT_INPUT_CUBIN,
        CU_JIT_INPUT_FATBINARY,
        CU_JIT_INPUT_OBJECT,
        CU_JIT_INPUT_LIBRARY,
    ] {
        let nothing = add(kind, b"\x7fELF that is none, of some length");
        assert_eq!(nothing, CUDA_ERROR_INVALID_IMAGE, "{kind}");
    }
    let bitcode = add(CU_JIT_INPUT_NVVM, b"BC\xc0\xde");
    assert_eq!(bitcode, CUDA_ERROR_NOT_SUPPORTED);
    ok!(cuLinkComplete(link, &mut image, &mut bytes));
    let mut module = std::ptr::null_mut();
    ok!(cuModuleLoadData(&mut module, image));
    ok!(cuLinkDestroy(link));
    for name in [c"first", c"second", c"third"] {
        function(module, name);
    }
}

#[test]
fn a_context_takes_everything_in_it_along() {
    let first = context();
    let (device, spin, mut current) = (alloc(1 << 20), spin(1000), std::ptr::null_mut());
    let stream = support::stream();
    ok!(cuCtxDestroy_v2(first));
    ok!(cuCtxGetCurrent(&mut current));
    assert_ne!(current, first);
    context();
    assert_eq!(cu!(cuMemFree_v2(device)), CUDA_ERROR_INVALID_VALUE);
    assert_eq!(cu!(cuStreamQuery(stream)), CUDA_ERROR_INVALID_HANDLE);
    assert_eq!(launch(spin, NULL), CUDA_ERROR_INVALID_HANDLE);
    assert_eq!(cu!(cuCtxDestroy_v2(first)), CUDA_ERROR_INVALID_CONTEXT);
}

#[test]
fn a_destroyed_context_that_is_current_elsewhere_says_so() {
    let first = context();
    ok!(cuCtxPushCurrent_v2(first));
    ok!(cuCtxDestroy_v2(first));
    assert_eq!(cu!(cuCtxSynchronize()), CUDA_ERROR_CONTEXT_IS_DESTROYED);
}

#[test]
fn a_thread_without_a_context_is_told() {
    ok!(cuInit(0));
    ok!(cuCtxSetCurrent(std::ptr::null_mut()));
    assert_eq!(cu!(cuMemAlloc_v2(&mut 0, 4)), CUDA_ERROR_INVALID_CONTEXT);
    assert_eq!(cu!(cuCtxSynchronize()), CUDA_ERROR_INVALID_CONTEXT);
    assert_eq!(cu!(cuStreamSynchronize(NULL)), CUDA_ERROR_INVALID_CONTEXT);
    assert_eq!(
        cu!(cuCtxPopCurrent_v2(&mut std::ptr::null_mut())),
        CUDA_ERROR_INVALID_CONTEXT
    );
}
