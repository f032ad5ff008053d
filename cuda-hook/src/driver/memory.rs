//! What we ask the driver about memory that it manages by itself: pools, and memory that graphs allocate.
#![expect(unsafe_code, reason = "calls the driver through its function pointers")]
#![expect(non_snake_case, reason = "fields are named as the driver's functions")]

use std::ffi::{CStr, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;

use cuda_sys_stubs::abi::*;
use cuda_sys_stubs::pfn;

use super::{Driver, Status, checked, functions};

functions! {
    /// What is asked about memory.
    pub(super) struct Questions from pfn {
        cuDeviceGetAttribute, cuDeviceGetDefaultMemPool, cuDeviceGetGraphMemAttribute, cuDeviceGetMemPool,
        cuGraphChildGraphNodeGetGraph, cuGraphGetNodes, cuGraphMemAllocNodeGetParams, cuGraphNodeGetType,
        cuMemAdvise,
        cuMemGetAddressRange_v2,
        cuMemGetDefaultMemPool, cuMemPoolGetAttribute,
        cuStreamSynchronize,
    }
}

/// Calls the driver's function, if it has it.
macro_rules! ask {
    ($driver:ident.$name:ident($($argument:expr),* $(,)?)) => {
        match $driver.memory.$name {
            // SAFETY: the driver's own function, called as its reference demands: see the caller.
            Some(function) => checked(unsafe { function($($argument),*) }),
            None => Err(CUDA_ERROR_NOT_FOUND),
        }
    };
}

/// What a pool, or the graphs of a device, have taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserved {
    /// Bytes taken of the device.
    pub(crate) reserved: u64,
    /// Bytes of these that allocations have, or have not given back yet in stream order.
    pub(crate) used: u64,
}

impl Reserved {
    /// Bytes for allocations to come.
    pub(crate) fn spare(self) -> u64 {
        self.reserved.saturating_sub(self.used)
    }
}

/// A node that allocates, in a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GraphAllocation {
    /// Where the memory is to be.
    pub(crate) location: CUmemLocation,
    /// Of which kind it is.
    pub(crate) kind: CUmemAllocationType,
    /// Its addresses, which are fixed: the start.
    pub(crate) start: CUdeviceptr,
    /// Its size in bytes, as asked for.
    pub(crate) bytes: u64,
}

/// Managed memory that need not lie on its device.
#[derive(Clone, Copy)]
pub(crate) struct Managed<'a> {
    driver: &'a Driver,
    allocate: pfn::cuMemAllocManaged,
    device: CUdevice,
}

impl Managed<'_> {
    /// The driver's `cuMemAllocManaged`.
    ///
    /// # Safety
    /// `dptr` is the caller's out-pointer, null or to be written.
    pub(crate) unsafe fn alloc(&self, dptr: *mut CUdeviceptr, bytes: usize) -> CUresult {
        // SAFETY: the driver's own function, and the caller's promise.
        unsafe { (self.allocate)(dptr, bytes, CU_MEM_ATTACH_GLOBAL) }
    }

    /// Has the driver keep a block of it on the host, mapped for the device, which then takes no memory of its own for it. A driver that
    /// will not moves its pages as it likes.
    pub(crate) fn keep_on_host(&self, pointer: CUdeviceptr, bytes: usize) -> Result<(), Status> {
        let driver = self.driver;
        let (prefer, access) = (
            CU_MEM_ADVISE_SET_PREFERRED_LOCATION,
            CU_MEM_ADVISE_SET_ACCESSED_BY,
        );
        ask!(driver.cuMemAdvise(pointer, bytes, prefer, CU_DEVICE_CPU))?;
        ask!(driver.cuMemAdvise(pointer, bytes, access, self.device))
    }
}

impl Driver {
    /// Managed memory for a device. `None` where it has none whose pages come and go as they are used: there it takes the device's
    /// memory as any other (CUDA C++ Programming Guide, "Unified Memory", `concurrentManagedAccess`).
    pub(crate) fn managed(&self, device: CUdevice) -> Option<Managed<'_>> {
        let mut comes_and_goes = 0;
        let attribute = CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS;
        ask!(self.cuDeviceGetAttribute(&raw mut comes_and_goes, attribute, device)).ok()?;
        let allocate = self.rows.cuMemAllocManaged?;
        (comes_and_goes != 0).then_some(Managed {
            driver: self,
            allocate,
            device,
        })
    }

    /// The pool that `cuMemAllocAsync` takes from on a device.
    pub(crate) fn current_pool(&self, device: CUdevice) -> Result<CUmemoryPool, Status> {
        let mut pool = ptr::null_mut();
        ask!(self.cuDeviceGetMemPool(&raw mut pool, device))?;
        Ok(pool)
    }

    /// The pool that the driver has made itself for memory of that kind at `location`.
    pub(crate) fn default_pool(
        &self,
        mut location: CUmemLocation,
        kind: CUmemAllocationType,
    ) -> Result<CUmemoryPool, Status> {
        let mut pool = ptr::null_mut();
        if (location.type_, kind) == (CU_MEM_LOCATION_TYPE_DEVICE, CU_MEM_ALLOCATION_TYPE_PINNED) {
            ask!(self.cuDeviceGetDefaultMemPool(&raw mut pool, location.id))?;
        } else {
            ask!(self.cuMemGetDefaultMemPool(&raw mut pool, &raw mut location, kind))?;
        }
        Ok(pool)
    }

    /// Where a pool lies. Drivers before CUDA 13 do not tell.
    pub(crate) fn pool_location(&self, pool: CUmemoryPool) -> Result<CUmemLocation, Status> {
        let number = |attribute| {
            let mut value: c_int = 0;
            ask!(self.cuMemPoolGetAttribute(pool, attribute, (&raw mut value).cast::<c_void>()))?;
            Ok::<c_int, Status>(value)
        };
        Ok(CUmemLocation {
            type_: number(CU_MEMPOOL_ATTR_LOCATION_TYPE)?.cast_unsigned(),
            id: number(CU_MEMPOOL_ATTR_LOCATION_ID)?,
        })
    }

    /// What a pool has taken.
    pub(crate) fn pool_memory(&self, pool: CUmemoryPool) -> Result<Reserved, Status> {
        let bytes = |attribute| {
            let mut bytes = 0_u64;
            ask!(self.cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast::<c_void>()))?;
            Ok::<u64, Status>(bytes)
        };
        Ok(Reserved {
            reserved: bytes(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?,
            used: bytes(CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?,
        })
    }

    /// Has a pool give back all that nobody uses.
    pub(crate) fn trim_pool(&self, pool: CUmemoryPool) -> Result<(), Status> {
        let trim = self.rows.cuMemPoolTrimTo.ok_or(CUDA_ERROR_NOT_FOUND)?;
        self.with_captures_left_alone(|| {
            // SAFETY: the driver's own function; the pool is one that it knows.
            checked(unsafe { trim(pool, 0) })
        })?
    }

    /// Frees, in the order of `stream`, memory that the program does not know of.
    pub(crate) fn free_in_order(&self, pointer: CUdeviceptr, stream: CUstream) -> CUresult {
        // SAFETY: the driver's own function; a pointer that is not its own is refused by it.
        self.rows
            .cuMemFreeAsync
            .map_or(CUDA_ERROR_NOT_FOUND, |free| unsafe {
                free(pointer, stream)
            })
    }

    /// Waits for everything that was submitted to `stream`, which must not be recording.
    pub(crate) fn wait_for(&self, stream: CUstream) -> Result<(), Status> {
        self.with_captures_left_alone(|| ask!(self.cuStreamSynchronize(stream)))?
    }

    /// Where the block of memory begins that an address lies in.
    pub(crate) fn block_at(&self, address: CUdeviceptr) -> Result<CUdeviceptr, Status> {
        let (mut start, mut bytes) = (0, 0);
        ask!(self.cuMemGetAddressRange_v2(&raw mut start, &raw mut bytes, address))?;
        Ok(start)
    }

    /// What the graphs of a device have taken.
    pub(crate) fn graph_memory(&self, device: CUdevice) -> Result<Reserved, Status> {
        let bytes = |attribute| {
            let mut bytes = 0_u64;
            let out = (&raw mut bytes).cast::<c_void>();
            ask!(self.cuDeviceGetGraphMemAttribute(device, attribute, out))?;
            Ok::<u64, Status>(bytes)
        };
        Ok(Reserved {
            reserved: bytes(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT)?,
            used: bytes(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT)?,
        })
    }

    /// Has the graphs of a device give back all that nobody uses.
    pub(crate) fn trim_graph_memory(&self, device: CUdevice) -> Result<(), Status> {
        let trim = self.rows.cuDeviceGraphMemTrim.ok_or(CUDA_ERROR_NOT_FOUND)?;
        self.with_captures_left_alone(|| {
            // SAFETY: the driver's own function; the device is one that it named.
            checked(unsafe { trim(device) })
        })?
    }

    /// The nodes that allocate in a graph and in its child graphs.
    pub(crate) fn graph_allocations(&self, graph: CUgraph) -> Result<Vec<GraphAllocation>, Status> {
        let mut found = Vec::new();
        for node in self.graph_nodes(graph)? {
            let mut kind = CU_GRAPH_NODE_TYPE_EMPTY;
            ask!(self.cuGraphNodeGetType(node, &raw mut kind))?;
            match kind {
                CU_GRAPH_NODE_TYPE_MEM_ALLOC => found.push(self.graph_allocation(node)?),
                CU_GRAPH_NODE_TYPE_GRAPH => {
                    let mut child = ptr::null_mut();
                    ask!(self.cuGraphChildGraphNodeGetGraph(node, &raw mut child))?;
                    found.extend(self.graph_allocations(child)?);
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn graph_nodes(&self, graph: CUgraph) -> Result<Vec<CUgraphNode>, Status> {
        let mut count = 0;
        ask!(self.cuGraphGetNodes(graph, ptr::null_mut(), &raw mut count))?;
        let mut nodes = vec![ptr::null_mut(); count];
        ask!(self.cuGraphGetNodes(graph, nodes.as_mut_ptr(), &raw mut count))?;
        nodes.truncate(count);
        Ok(nodes)
    }

    fn graph_allocation(&self, node: CUgraphNode) -> Result<GraphAllocation, Status> {
        let mut params = MaybeUninit::zeroed();
        ask!(self.cuGraphMemAllocNodeGetParams(node, params.as_mut_ptr()))?;
        // SAFETY: the driver's promise: after success it has written all of it.
        let params: CUDA_MEM_ALLOC_NODE_PARAMS = unsafe { params.assume_init() };
        Ok(GraphAllocation {
            location: params.poolProps.location,
            kind: params.poolProps.allocType,
            start: params.dptr,
            bytes: u64::try_from(params.bytesize).unwrap_or(u64::MAX),
        })
    }
}
