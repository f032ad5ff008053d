//! Limits of a context, and the device memory that they take.

mod support;

use cuda_sys_stubs::abi::*;
use support::{alloc, context, cu, measuring, ok};

/// Threads that are resident on the T4 at once.
const THREADS: usize = 40 * 1024;

fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    free
}

fn limit(limit: CUlimit) -> usize {
    let mut value = 0;
    ok!(cuCtxGetLimit(&mut value, limit));
    value
}

#[test]
fn a_greater_limit_takes_memory_and_a_lower_one_gives_it_back() {
    let _measuring = measuring();
    context();
    let before = free_bytes();
    let grown = [
        (CU_LIMIT_STACK_SIZE, 4096, 3072 * THREADS),
        (CU_LIMIT_PRINTF_FIFO_SIZE, (64 << 20) + 1, 64 << 20),
        (CU_LIMIT_MALLOC_HEAP_SIZE, 1 << 30, (1 << 30) - (8 << 20)),
    ];
    for (kind, value, bytes) in grown {
        let default = limit(kind);
        ok!(cuCtxSetLimit(kind, value));
        assert_eq!((limit(kind), before - free_bytes()), (value, bytes));
        ok!(cuCtxSetLimit(kind, default));
        assert_eq!(free_bytes(), before);
    }
    ok!(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 256));
    assert_eq!((limit(CU_LIMIT_STACK_SIZE), free_bytes()), (256, before));
}

#[test]
fn what_limits_take_ends_with_the_context() {
    let _measuring = measuring();
    context();
    let before = free_bytes();
    let other = context();
    ok!(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 1 << 30));
    ok!(cuCtxDestroy_v2(other));
    assert_eq!(free_bytes(), before);
}

#[test]
fn a_limit_that_does_not_fit_stays_as_it_was() {
    let _measuring = measuring();
    context();
    let (heap, half) = (CU_LIMIT_MALLOC_HEAP_SIZE, free_bytes() / 2);
    ok!(cuCtxSetLimit(heap, 64 << 20));
    let memory = alloc(half);
    assert_eq!(cu!(cuCtxSetLimit(heap, half)), CUDA_ERROR_OUT_OF_MEMORY);
    assert_eq!(
        cu!(cuCtxSetLimit(heap, usize::MAX)),
        CUDA_ERROR_OUT_OF_MEMORY
    );
    assert_eq!(limit(heap), 64 << 20);
    ok!(cuMemFree_v2(memory));
    ok!(cuCtxSetLimit(heap, half));
    let stack = CU_LIMIT_STACK_SIZE;
    assert_eq!(
        cu!(cuCtxSetLimit(stack, (512 << 10) + 1)),
        CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        cu!(cuCtxSetLimit(stack, 256 << 10)),
        CUDA_ERROR_OUT_OF_MEMORY
    );
    assert_eq!(
        cu!(cuCtxSetLimit(CU_LIMIT_SHMEM_SIZE, 1)),
        CUDA_ERROR_UNSUPPORTED_LIMIT
    );
    assert_eq!(
        cu!(cuCtxSetLimit(CU_LIMIT_MAX, 1)),
        CUDA_ERROR_INVALID_VALUE
    );
}
