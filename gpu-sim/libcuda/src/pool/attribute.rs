//! What a program asks and sets of a pool.

use cuda_sys_stubs::abi::*;

use super::Pool;
use crate::door::Answer;

/// A value of `cuMemPoolGetAttribute`.
pub(crate) enum PoolAttribute {
    Word(u32),
    Long(u64),
}

/// What a pool says of itself.
pub(crate) fn attribute(pool: &Pool, attribute: CUmemPool_attribute) -> Answer<PoolAttribute> {
    let [events, opportunistic, internal] = pool.reuse;
    Ok(match attribute {
        CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES => PoolAttribute::Word(events),
        CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC => PoolAttribute::Word(opportunistic),
        CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES => PoolAttribute::Word(internal),
        CU_MEMPOOL_ATTR_RELEASE_THRESHOLD => PoolAttribute::Long(pool.release_threshold),
        CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT => PoolAttribute::Long(pool.reserved.current),
        CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH => PoolAttribute::Long(pool.reserved.high),
        CU_MEMPOOL_ATTR_USED_MEM_CURRENT => PoolAttribute::Long(pool.used.current),
        CU_MEMPOOL_ATTR_USED_MEM_HIGH => PoolAttribute::Long(pool.used.high),
        _ => return Err(CUDA_ERROR_INVALID_VALUE),
    })
}

/// Sets a policy, the release threshold, or a high-water mark (to 0: to what there is).
pub(crate) fn set_attribute(pool: &mut Pool, attribute: CUmemPool_attribute, value: u64) -> Answer {
    let word = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
    let [events, opportunistic, internal] = &mut pool.reuse;
    match attribute {
        CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES => *events = word,
        CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC => *opportunistic = word,
        CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES => *internal = word,
        CU_MEMPOOL_ATTR_RELEASE_THRESHOLD => pool.release_threshold = value,
        CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH if value == 0 => {
            pool.reserved.high = pool.reserved.current
        }
        CU_MEMPOOL_ATTR_USED_MEM_HIGH if value == 0 => pool.used.high = pool.used.current,
        _ => return Err(CUDA_ERROR_INVALID_VALUE),
    }
    Ok(())
}
