//! Multicast objects.

use cuda_sys_stubs::abi::*;

use super::virtual_memory::number;
use super::{get, put, wanted, wide};
use crate::door::{Answer, exports};
use crate::multicast::{self, Bound};
use crate::process::process;

/// Flags of the calls that bind, which have none yet.
fn no_flags(flags: u64) -> Answer {
    if flags == 0 {
        Ok(())
    } else {
        Err(CUDA_ERROR_INVALID_VALUE)
    }
}

exports! {
    fn cuMulticastGetGranularity(granularity: *mut usize, prop: *const CUmulticastObjectProp, option: CUmulticastGranularity_flags) {
        let bytes = multicast::granularity(process()?, &get(prop)?)?;
        if option > CU_MULTICAST_GRANULARITY_RECOMMENDED {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        put(granularity, usize::try_from(bytes).map_err(|_| CUDA_ERROR_UNKNOWN)?)
    }
    fn cuMulticastCreate(mcHandle: *mut CUmemGenericAllocationHandle, prop: *const CUmulticastObjectProp) {
        let process = process()?;
        wanted(mcHandle)?;
        put(mcHandle, number(multicast::create(process, &get(prop)?)?.handle::<()>()))
    }
    fn cuMulticastAddDevice(mcHandle: CUmemGenericAllocationHandle, dev: CUdevice) {
        multicast::add_device(process()?, mcHandle, dev)
    }
    fn cuMulticastBindMem(mcHandle: CUmemGenericAllocationHandle, mcOffset: usize, memHandle: CUmemGenericAllocationHandle, memOffset: usize, size: usize, flags: u64) {
        no_flags(flags)?;
        multicast::bind(process()?, mcHandle, None, (wide(mcOffset), wide(size)), Bound::Handle(memHandle, wide(memOffset)))
    }
    fn cuMulticastBindMem_v2(mcHandle: CUmemGenericAllocationHandle, dev: CUdevice, mcOffset: usize, memHandle: CUmemGenericAllocationHandle, memOffset: usize, size: usize, flags: u64) {
        no_flags(flags)?;
        multicast::bind(process()?, mcHandle, Some(dev), (wide(mcOffset), wide(size)), Bound::Handle(memHandle, wide(memOffset)))
    }
    fn cuMulticastBindAddr(mcHandle: CUmemGenericAllocationHandle, mcOffset: usize, memptr: CUdeviceptr, size: usize, flags: u64) {
        no_flags(flags)?;
        multicast::bind(process()?, mcHandle, None, (wide(mcOffset), wide(size)), Bound::Address(memptr))
    }
    fn cuMulticastBindAddr_v2(mcHandle: CUmemGenericAllocationHandle, dev: CUdevice, mcOffset: usize, memptr: CUdeviceptr, size: usize, flags: u64) {
        no_flags(flags)?;
        multicast::bind(process()?, mcHandle, Some(dev), (wide(mcOffset), wide(size)), Bound::Address(memptr))
    }
    fn cuMulticastUnbind(mcHandle: CUmemGenericAllocationHandle, dev: CUdevice, mcOffset: usize, size: usize) {
        multicast::unbind(process()?, mcHandle, dev, (wide(mcOffset), wide(size)))
    }
}
