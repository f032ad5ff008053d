//! Green contexts: parts of a device.

mod support;

use cuda_sys_stubs::abi::*;
use support::{alloc, context, cu, event, free_stream, ok, read, spin};

fn device_resource() -> CUdevResource {
    // SAFETY: a record of plain numbers and pointers; zero is a value of each.
    let mut resource: CUdevResource = unsafe { std::mem::zeroed() };
    ok!(cuDeviceGetDevResource(
        0,
        &mut resource,
        CU_DEV_RESOURCE_TYPE_SM
    ));
    resource
}

fn sms(resource: &CUdevResource) -> u32 {
    assert_eq!(resource.type_, CU_DEV_RESOURCE_TYPE_SM);
    // SAFETY: the type says so.
    unsafe { resource.anonymous.sm.smCount }
}

/// Parts of at least so many SMs, and what is left.
fn split<const N: usize>(count: u32) -> ([CUdevResource; N], CUdevResource) {
    let whole = device_resource();
    let (mut parts, mut rest, mut groups) = ([whole; N], whole, N as u32);
    ok!(cuDevSmResourceSplitByCount(
        parts.as_mut_ptr(),
        &mut groups,
        &whole,
        &mut rest,
        0,
        count
    ));
    assert_eq!(groups as usize, N);
    (parts, rest)
}

fn green(mut part: CUdevResource) -> CUgreenCtx {
    let (mut description, mut green) = (std::ptr::null_mut(), std::ptr::null_mut());
    ok!(cuDevResourceGenerateDesc(&mut description, &mut part, 1));
    ok!(cuGreenCtxCreate(
        &mut green,
        description,
        0,
        CU_GREEN_CTX_DEFAULT_STREAM
    ));
    green
}

/// Time of a kernel that fills the whole T4 once, as events on the stream have it.
fn milliseconds(function: CUfunction, stream: CUstream) -> f32 {
    let (start, end, mut elapsed) = (event(0), event(0), 0.0);
    ok!(cuEventRecord(start, stream));
    let (mut out, mut n) = (0u64, 0u32);
    let mut arguments = [(&raw mut out).cast(), (&raw mut n).cast()];
    let (arguments, extra) = (arguments.as_mut_ptr(), std::ptr::null_mut());
    ok!(cuLaunchKernel(
        function, 160, 1, 1, 256, 1, 1, 0, stream, arguments, extra
    ));
    ok!(cuEventRecord(end, stream));
    ok!(cuEventSynchronize(end));
    ok!(cuEventElapsedTime(&mut elapsed, start, end));
    elapsed
}

#[test]
fn a_device_is_split_into_equal_parts_and_a_rest() {
    context();
    let whole = device_resource();
    assert_eq!(sms(&whole), 40);
    let (parts, rest) = split::<2>(15);
    assert_eq!((sms(&parts[0]), sms(&parts[1]), sms(&rest)), (16, 16, 8));
    let mut groups = 0;
    ok!(cuDevSmResourceSplitByCount(
        std::ptr::null_mut(),
        &mut groups,
        &whole,
        std::ptr::null_mut(),
        0,
        10
    ));
    assert_eq!(groups, 4);
    let too_much = cu!(cuDevSmResourceSplitByCount(
        std::ptr::null_mut(),
        &mut groups,
        &whole,
        std::ptr::null_mut(),
        0,
        41
    ));
    assert_eq!(too_much, CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
    let (mut twice, mut description) = ([parts[0], parts[0]], std::ptr::null_mut());
    assert_eq!(
        cu!(cuDevResourceGenerateDesc(
            &mut description,
            twice.as_mut_ptr(),
            2
        )),
        CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION
    );
    let mut invalid = whole;
    invalid.type_ = CU_DEV_RESOURCE_TYPE_INVALID;
    assert_eq!(
        cu!(cuDevResourceGenerateDesc(&mut description, &mut invalid, 1)),
        CUDA_ERROR_INVALID_RESOURCE_TYPE
    );
}

#[test]
fn a_kernel_on_a_quarter_of_the_sms_takes_four_times_as_long() {
    ok!(cuInit(0));
    let mut primary = std::ptr::null_mut();
    ok!(cuDevicePrimaryCtxRetain(&mut primary, 0));
    ok!(cuCtxSetCurrent(primary));
    let function = spin(1_000_000);
    let (green, mut stream) = (green(split::<1>(10).0[0]), std::ptr::null_mut());
    ok!(cuGreenCtxStreamCreate(
        &mut stream,
        green,
        CU_STREAM_NON_BLOCKING,
        0
    ));
    let ratio = milliseconds(function, stream) / milliseconds(function, free_stream());
    assert!((3.0..5.3).contains(&ratio), "{ratio}");
    let mut seen = device_resource();
    ok!(cuStreamGetDevResource(
        stream,
        &mut seen,
        CU_DEV_RESOURCE_TYPE_SM
    ));
    assert_eq!(sms(&seen), 10);
    let (mut of_stream, mut own) = (std::ptr::null_mut(), std::ptr::null_mut());
    ok!(cuStreamGetCtx_v2(stream, &mut own, &mut of_stream));
    assert!(of_stream == green && own.is_null());
    ok!(cuGreenCtxDestroy(green));
    assert_eq!(cu!(cuGreenCtxDestroy(green)), CUDA_ERROR_INVALID_HANDLE);
    assert_eq!(cu!(cuStreamQuery(stream)), CUDA_ERROR_STREAM_DETACHED);
    let late = cu!(cuMemsetD8Async(0, 0, 1, stream));
    assert_eq!(late, CUDA_ERROR_STREAM_DETACHED);
    ok!(cuStreamDestroy_v2(stream));
    assert_eq!(cu!(cuStreamQuery(stream)), CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn what_is_made_in_a_green_context_belongs_to_the_primary_context() {
    ok!(cuInit(0));
    let mut primary = std::ptr::null_mut();
    ok!(cuDevicePrimaryCtxRetain(&mut primary, 0));
    let (green, mut own) = (green(split::<1>(8).0[0]), std::ptr::null_mut());
    ok!(cuCtxFromGreenCtx(&mut own, green));
    ok!(cuCtxSetCurrent(own));
    assert_eq!(cu!(cuCtxDestroy_v2(own)), CUDA_ERROR_INVALID_CONTEXT);
    let (memory, done) = (alloc(16), event(0));
    ok!(cuMemsetD8_v2(memory, 7, 16));
    ok!(cuGreenCtxRecordEvent(green, done));
    ok!(cuGreenCtxWaitEvent(green, done));
    ok!(cuEventSynchronize(done));
    let (mut of_memory, which) = (
        std::ptr::null_mut::<CUctx_st>(),
        CU_POINTER_ATTRIBUTE_CONTEXT,
    );
    ok!(cuPointerGetAttribute(
        (&raw mut of_memory).cast(),
        which,
        memory
    ));
    assert_eq!(of_memory, primary);
    ok!(cuCtxSetCurrent(primary));
    ok!(cuGreenCtxDestroy(green));
    assert_eq!(read(memory, 2), [7, 7]);
    ok!(cuMemFree_v2(memory));
}

/// What a group is to be: SMs, how many of them scheduled together, flags.
fn wish(count: u32, together: u32, flags: u32) -> CU_DEV_SM_RESOURCE_GROUP_PARAMS {
    CU_DEV_SM_RESOURCE_GROUP_PARAMS {
        smCount: count,
        coscheduledSmCount: together,
        preferredCoscheduledSmCount: 0,
        flags,
        localityDomainId: 0,
        reserved: [0; 11],
    }
}

/// Groups cut from the whole device, and the rest.
fn cut<const N: usize>(
    wishes: &mut [CU_DEV_SM_RESOURCE_GROUP_PARAMS; N],
) -> (CUresult, [CUdevResource; N], CUdevResource) {
    let whole = device_resource();
    let (mut parts, mut rest) = ([whole; N], whole);
    let status = cu!(cuDevSmResourceSplit(
        parts.as_mut_ptr(),
        N as u32,
        &whole,
        &mut rest,
        0,
        wishes.as_mut_ptr()
    ));
    (status, parts, rest)
}

#[test]
fn a_device_is_split_into_groups_of_different_sizes() {
    context();
    let mut wishes = [wish(10, 2, 0), wish(16, 0, 0)];
    let (status, parts, rest) = cut(&mut wishes);
    assert_eq!((status, sms(&parts[0]), sms(&parts[1])), (0, 10, 16));
    assert_eq!(sms(&rest), 14);
    for part in parts {
        ok!(cuGreenCtxDestroy(green(part)));
    }
    let mut found = [
        wish(30, 0, 0),
        wish(0, 0, CU_DEV_SM_RESOURCE_GROUP_BACKFILL),
    ];
    let (status, parts, rest) = cut(&mut found);
    assert_eq!((status, found[1].smCount, sms(&parts[1])), (0, 10, 10));
    assert_eq!(rest.type_, CU_DEV_RESOURCE_TYPE_INVALID);
    let mut nothing_left = [wish(40, 0, 0), wish(0, 0, 0)];
    assert_eq!(
        cut(&mut nothing_left).0,
        CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION
    );
    let (none, whole) = (std::ptr::null_mut(), device_resource());
    let wishes = nothing_left.as_mut_ptr();
    ok!(cuDevSmResourceSplit(none, 2, &whole, none, 0, wishes));
    assert_eq!(nothing_left[1].smCount, 0);
    let odd = cu!(cuDevSmResourceSplit(
        none,
        1,
        &whole,
        none,
        0,
        &mut wish(3, 0, 0)
    ));
    assert_eq!(odd, CUDA_ERROR_INVALID_VALUE);
    let local = wish(0, 0, CU_DEV_SM_RESOURCE_GROUP_LOCALITY_DOMAIN_ID);
    let (status, ..) = cut(&mut [local]);
    assert_eq!(status, CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
}

/// Work queues as they are: of the device, or, if there is one, of this green context.
fn workqueues(of: Option<CUgreenCtx>, kind: CUdevResourceType) -> (CUresult, CUdevResource) {
    let mut resource = device_resource();
    let status = match of {
        None => cu!(cuDeviceGetDevResource(0, &mut resource, kind)),
        Some(green) => cu!(cuGreenCtxGetDevResource(green, &mut resource, kind)),
    };
    (status, resource)
}

/// How work queues are: device, limit, scope.
fn config(resource: &CUdevResource) -> (CUdevice, u32, CUdevWorkqueueConfigScope) {
    assert_eq!(resource.type_, CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG);
    // SAFETY: the type says so.
    let config = unsafe { resource.anonymous.wqConfig };
    let (device, limit) = (config.device, config.wqConcurrencyLimit);
    (device, limit, config.sharingScope)
}

fn described(resources: &mut [CUdevResource]) -> (CUresult, CUdevResourceDesc) {
    let mut description = std::ptr::null_mut();
    let (first, count) = (resources.as_mut_ptr(), resources.len() as u32);
    let status = cu!(cuDevResourceGenerateDesc(&mut description, first, count));
    (status, description)
}

fn green_of(resources: &mut [CUdevResource]) -> CUgreenCtx {
    let (mut green, flags) = (std::ptr::null_mut(), CU_GREEN_CTX_DEFAULT_STREAM);
    ok!(cuGreenCtxCreate(
        &mut green,
        described(resources).1,
        0,
        flags
    ));
    green
}

const CONFIG: CUdevResourceType = CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG;
const QUEUE: CUdevResourceType = CU_DEV_RESOURCE_TYPE_WORKQUEUE;
const SHARED: CUdevWorkqueueConfigScope = CU_WORKQUEUE_SCOPE_DEVICE_CTX;
const BALANCED: CUdevWorkqueueConfigScope = CU_WORKQUEUE_SCOPE_GREEN_CTX_BALANCED;

#[test]
fn work_queues_of_a_green_context_are_as_configured_and_can_be_anothers() {
    context();
    let mut wish = workqueues(None, CONFIG).1;
    assert_eq!(config(&wish), (0, 8, SHARED));
    let (parts, _) = split::<2>(8);
    let usual = green(parts[0]);
    assert_eq!(
        config(&workqueues(Some(usual), CONFIG).1),
        (0, 8, SHARED),
        "as any context's"
    );
    wish.anonymous.wqConfig.wqConcurrencyLimit = 3;
    wish.anonymous.wqConfig.sharingScope = BALANCED;
    let (first, other) = (
        green_of(&mut [wish, parts[0]]),
        green_of(&mut [parts[1], wish]),
    );
    let queue_of = |green| {
        assert_eq!(config(&workqueues(Some(green), CONFIG).1), (0, 3, BALANCED));
        let (status, queue) = workqueues(Some(green), QUEUE);
        assert_eq!(status, 0);
        // SAFETY: the kind that was asked for.
        (queue, unsafe { queue.anonymous.wq.reserved })
    };
    let (queue, name) = queue_of(first);
    assert_ne!(queue_of(other).1, name, "not the same ones");
    let same = green_of(&mut [parts[1], queue]);
    assert_eq!(queue_of(same).1, name);
    ok!(cuGreenCtxDestroy(first));
    ok!(cuGreenCtxDestroy(same));
    let (mut none, late) = (std::ptr::null_mut(), described(&mut [parts[1], queue]).1);
    let gone = cu!(cuGreenCtxCreate(&mut none, late, 0, 1));
    assert_eq!(gone, CUDA_ERROR_INVALID_VALUE, "nobody has them any more");
}

#[test]
fn work_queues_that_no_device_has_are_refused() {
    context();
    let (wish, part) = (workqueues(None, CONFIG).1, split::<1>(8).0[0]);
    assert_eq!(
        workqueues(None, QUEUE).0,
        CUDA_ERROR_INVALID_RESOURCE_TYPE,
        "a context has them"
    );
    let mut seen = wish;
    for kind in [CONFIG, QUEUE] {
        let of_stream = cu!(cuStreamGetDevResource(free_stream(), &mut seen, kind));
        assert_eq!(of_stream, CUDA_ERROR_INVALID_RESOURCE_TYPE);
    }
    let alone = green_of(&mut [wish]);
    let mut all = device_resource();
    ok!(cuGreenCtxGetDevResource(
        alone,
        &mut all,
        CU_DEV_RESOURCE_TYPE_SM
    ));
    assert_eq!(sms(&all), 40);
    let two = described(&mut [part, wish, wish]).0;
    assert_eq!(two, CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
    let (mut narrow, mut strange, mut elsewhere) = (wish, wish, wish);
    narrow.anonymous.wqConfig.wqConcurrencyLimit = 0;
    strange.anonymous.wqConfig.sharingScope = 7;
    elsewhere.anonymous.wqConfig.device = 1;
    for (wish, refused) in [
        (narrow, CUDA_ERROR_INVALID_VALUE),
        (strange, CUDA_ERROR_INVALID_VALUE),
        (elsewhere, CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION),
    ] {
        assert_eq!(described(&mut [part, wish]).0, refused);
    }
}
