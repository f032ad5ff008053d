//! Green contexts and what they are made of; events of a whole context.

use cuda_sys_stubs::abi::*;

use super::{get, list, put, put_if, wanted, workqueue as queue_resource};
use crate::context::{self, Context};
use crate::door::{Answer, NullStream, exports};
use crate::event;
use crate::green::{self, Description, Grain, Group, Sms};
use crate::process::{Device, Process, process};
use crate::stream::{self, Kind};
use crate::table::Key;
use crate::workqueue;

/// What of a resource is ours to write: which device, and the first of its SMs. The device is counted from 1, so that a
/// resource that nobody made is none.
fn pad(sms: Sms) -> [u8; 92] {
    let mut padding = [0; 92];
    let words = [sms.device + 1, sms.first].map(u32::to_le_bytes);
    for (to, from) in padding.iter_mut().zip(words.into_iter().flatten()) {
        *to = from;
    }
    padding
}

fn sm(process: &Process, sms: Sms) -> Answer<CUdevSmResource> {
    let profile = &device_of(process, sms)?.profile;
    let grain = Grain::of(profile.compute_capability, false);
    Ok(CUdevSmResource {
        smCount: sms.count,
        minSmPartitionSize: grain.least,
        smCoscheduledAlignment: grain.alignment,
        flags: CU_DEV_SM_RESOURCE_GROUP_DEFAULT,
        localityDomainId: 0,
    })
}

fn resource(process: &Process, sms: Sms) -> Answer<CUdevResource> {
    let mut anonymous = anonymous_devResource { _oversize: [0; 40] };
    anonymous.sm = sm(process, sms)?;
    Ok(CUdevResource {
        type_: CU_DEV_RESOURCE_TYPE_SM,
        _internal_padding: pad(sms),
        anonymous,
        nextResource: std::ptr::null_mut(),
    })
}

/// The SMs that a resource is.
fn sms(resource: &CUdevResource) -> Answer<Sms> {
    if resource.type_ != CU_DEV_RESOURCE_TYPE_SM {
        return Err(CUDA_ERROR_INVALID_RESOURCE_TYPE);
    }
    let (device, rest) = resource
        ._internal_padding
        .split_first_chunk::<4>()
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let first = rest.first_chunk::<4>().ok_or(CUDA_ERROR_INVALID_VALUE)?;
    let device = u32::from_le_bytes(*device).checked_sub(1);
    Ok(Sms {
        device: device.ok_or(CUDA_ERROR_INVALID_VALUE)?,
        first: u32::from_le_bytes(*first),
        // SAFETY: the type says that it is SMs.
        count: unsafe { resource.anonymous.sm.smCount },
    })
}

/// What has resources.
#[derive(Clone, Copy)]
enum Owner {
    Device(usize),
    Context(Key<Context>),
    /// A stream of this context.
    Stream(Key<Context>),
}

/// A resource of this kind. `CUDA_ERROR_INVALID_RESOURCE_TYPE`: there is no such kind, or its owner has none: only contexts have work
/// queues (cuda.h 13.5, "Workqueues"), and a stream has but SMs (`cuStreamGetDevResource`).
fn resource_of(process: &Process, owner: Owner, kind: CUdevResourceType) -> Answer<CUdevResource> {
    let state = process.lock();
    match (kind, owner) {
        (CU_DEV_RESOURCE_TYPE_SM, Owner::Device(ordinal)) => {
            resource(process, green::whole(process, ordinal)?)
        }
        (CU_DEV_RESOURCE_TYPE_SM, Owner::Context(context) | Owner::Stream(context)) => {
            resource(process, green::of_context(process, &state, context)?)
        }
        (CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG, Owner::Device(ordinal)) => {
            let device = u32::try_from(ordinal).map_err(|_| CUDA_ERROR_INVALID_DEVICE)?;
            queue_resource::config(workqueue::of_device(process, device))
        }
        (CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG, Owner::Context(context)) => {
            queue_resource::config(workqueue::of_context(process, &state, context)?)
        }
        (CU_DEV_RESOURCE_TYPE_WORKQUEUE, Owner::Context(context)) => {
            let queue = workqueue::of_context(process, &state, context)?;
            Ok(queue_resource::name(queue))
        }
        _ => Err(CUDA_ERROR_INVALID_RESOURCE_TYPE),
    }
}

/// Writes a resource.
///
/// # Safety
/// `to` is null or can be written.
unsafe fn put_resource(to: *mut CUdevResource, owner: Owner, kind: CUdevResourceType) -> Answer {
    wanted(to)?;
    // SAFETY: the caller's promise.
    unsafe { put(to, resource_of(process()?, owner, kind)?) }
}

/// What a green context can be made of, by the resources that it is to have.
fn described(process: &Process, resources: &[CUdevResource]) -> Answer<Description> {
    let (mut parts, mut queues) = (Vec::new(), Vec::new());
    for resource in resources {
        match queue_resource::wanted(resource)? {
            Some(wanted) => queues.push(wanted),
            None => parts.push(sms(resource)?),
        }
    }
    Description::new(process, &parts, &queues)
}

fn green_context(handle: CUgreenCtx) -> Answer<Key<Context>> {
    let process = process()?;
    let state = process.lock();
    Ok(green::get(&state, green::find(&state, handle)?)?.context)
}

fn find_context(handle: CUcontext) -> Answer<Key<Context>> {
    context::find_or_current(&process()?.lock(), handle)
}

fn stream_context(stream: CUstream, null: NullStream) -> Answer<Key<Context>> {
    let process = process()?;
    let mut state = process.lock();
    let key = stream::resolve(process, &mut state, stream, null)?;
    Ok(stream::get(&state, key)?.context)
}

const SPLIT_FLAGS: u32 = CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING
    | CU_DEV_SM_RESOURCE_SPLIT_MAX_POTENTIAL_CLUSTER_SIZE;

const GROUP_FLAGS: u32 =
    CU_DEV_SM_RESOURCE_GROUP_BACKFILL | CU_DEV_SM_RESOURCE_GROUP_LOCALITY_DOMAIN_ID;

/// What a part is to be. No device here has locality domains, so there are no SMs in any.
fn group(params: &CU_DEV_SM_RESOURCE_GROUP_PARAMS) -> Answer<Group> {
    if params.flags & !GROUP_FLAGS != 0 || params.reserved != [0; 11] {
        return Err(CUDA_ERROR_INVALID_VALUE);
    }
    if params.flags & CU_DEV_SM_RESOURCE_GROUP_LOCALITY_DOMAIN_ID != 0 {
        return Err(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
    }
    Ok(Group {
        count: params.smCount,
        together: params.coscheduledSmCount,
        is_backfilled: params.flags & CU_DEV_SM_RESOURCE_GROUP_BACKFILL != 0,
    })
}

/// The device that a resource is of.
fn device_of(process: &Process, sms: Sms) -> Answer<&Device> {
    let device = usize::try_from(sms.device).ok();
    let device = device.and_then(|ordinal| process.devices.get(ordinal));
    device.ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// A part as a resource, whose SMs are scheduled together as its group says.
fn structured(process: &Process, part: Sms, together: u32, flags: u32) -> Answer<CUdevResource> {
    let mut made = resource(process, part)?;
    made.anonymous.sm = CUdevSmResource {
        smCoscheduledAlignment: together,
        flags,
        ..sm(process, part)?
    };
    Ok(made)
}

exports! {
    fn cuDeviceGetDevResource(device: CUdevice, resource: *mut CUdevResource, r#type: CUdevResourceType) {
        put_resource(resource, Owner::Device(process()?.device(device)?.0), r#type)
    }
    fn cuCtxGetDevResource(hCtx: CUcontext, resource: *mut CUdevResource, r#type: CUdevResourceType) {
        put_resource(resource, Owner::Context(find_context(hCtx)?), r#type)
    }
    fn cuGreenCtxGetDevResource(hCtx: CUgreenCtx, resource: *mut CUdevResource, r#type: CUdevResourceType) {
        put_resource(resource, Owner::Context(green_context(hCtx)?), r#type)
    }
    fn cuStreamGetDevResource / cuStreamGetDevResource_ptsz |null| (hStream: CUstream, resource: *mut CUdevResource, r#type: CUdevResourceType) {
        put_resource(resource, Owner::Stream(stream_context(hStream, null)?), r#type)
    }
    fn cuDevSmResourceSplitByCount(result: *mut CUdevResource, nbGroups: *mut u32, input: *const CUdevResource, remainder: *mut CUdevResource, flags: u32, minCount: u32) {
        let process = process()?;
        let (asked, whole) = (get(nbGroups.cast_const())?, sms(&get(input)?)?);
        if flags & !SPLIT_FLAGS != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let device = device_of(process, whole)?;
        let is_free = flags & CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING != 0;
        let grain = Grain::of(device.profile.compute_capability, is_free);
        let groups_max = if result.is_null() { u32::MAX } else { asked };
        let (parts, rest) = whole.split(grain, minCount, groups_max)?;
        put(nbGroups, u32::try_from(parts.len()).map_err(|_| CUDA_ERROR_INVALID_VALUE)?)?;
        if result.is_null() {
            return Ok(());
        }
        for (index, part) in parts.into_iter().enumerate() {
            put(result.wrapping_add(index), resource(process, part)?)?;
        }
        put_if(remainder, resource(process, rest)?);
        Ok(())
    }
    fn cuDevSmResourceSplit(result: *mut CUdevResource, nbGroups: u32, input: *const CUdevResource, remainder: *mut CUdevResource, flags: u32, groupParams: *mut CU_DEV_SM_RESOURCE_GROUP_PARAMS) {
        let process = process()?;
        let whole = sms(&get(input)?)?;
        let count = usize::try_from(nbGroups).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
        let params = list(groupParams.cast_const(), count)?.to_vec();
        if flags != 0 || params.is_empty() {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let groups = params.iter().map(group).collect::<Answer<Vec<_>>>()?;
        let capability = device_of(process, whole)?.profile.compute_capability;
        let (parts, rest) = whole.split_in_groups(capability, &groups)?;
        let wanted = groups.iter().map(|group| group.together(capability));
        if !result.is_null() && parts.iter().zip(wanted).any(|(part, together)| part.count < together) {
            return Err(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
        }
        for (index, ((part, group), params)) in parts.into_iter().zip(groups).zip(params).enumerate() {
            put(groupParams.wrapping_add(index), CU_DEV_SM_RESOURCE_GROUP_PARAMS { smCount: part.count, ..params })?;
            if !result.is_null() {
                put(result.wrapping_add(index), structured(process, part, group.together(capability), params.flags)?)?;
            }
        }
        let mut left = resource(process, rest)?;
        if rest.count == 0 {
            left.type_ = CU_DEV_RESOURCE_TYPE_INVALID;
        }
        if !result.is_null() {
            put_if(remainder, left);
        }
        Ok(())
    }
    fn cuDevResourceGenerateDesc(phDesc: *mut CUdevResourceDesc, resources: *mut CUdevResource, nbResources: u32) {
        let process = process()?;
        wanted(phDesc)?;
        let count = usize::try_from(nbResources).map_err(|_| CUDA_ERROR_INVALID_VALUE)?;
        let description = described(process, list(resources, count)?)?;
        put(phDesc, process.lock().descriptions.insert(description).handle())
    }
    fn cuGreenCtxCreate(phCtx: *mut CUgreenCtx, desc: CUdevResourceDesc, dev: CUdevice, flags: u32) {
        let process = process()?;
        wanted(phCtx)?;
        if flags & !CU_GREEN_CTX_DEFAULT_STREAM != 0 {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let key = Key::of(desc).ok_or(CUDA_ERROR_INVALID_VALUE)?;
        let description = process.lock().descriptions.get(key).copied().ok_or(CUDA_ERROR_INVALID_VALUE)?;
        put(phCtx, green::create(process, description, dev)?.handle())
    }
    fn cuGreenCtxDestroy(hCtx: CUgreenCtx) {
        green::destroy(process()?, hCtx)
    }
    fn cuGreenCtxGetId(greenCtx: CUgreenCtx, greenCtxId: *mut u64) {
        put(greenCtxId, green_context(greenCtx)?.number())
    }
    fn cuCtxFromGreenCtx(pContext: *mut CUcontext, hCtx: CUgreenCtx) {
        put(pContext, green_context(hCtx)?.handle())
    }
    fn cuGreenCtxStreamCreate(phStream: *mut CUstream, greenCtx: CUgreenCtx, flags: u32, priority: i32) {
        let process = process()?;
        wanted(phStream)?;
        // Only streams that are not ordered with the null stream (CUDA Driver API).
        if flags != CU_STREAM_NON_BLOCKING {
            return Err(CUDA_ERROR_INVALID_VALUE);
        }
        let context = green_context(greenCtx)?;
        put(phStream, stream::create(process, &mut process.lock(), context, Kind::Created, flags, priority)?.handle())
    }
    fn cuStreamGetGreenCtx(hStream: CUstream, phCtx: *mut CUgreenCtx) {
        let context = stream_context(hStream, NullStream::Legacy)?;
        put(phCtx, green::of(&process()?.lock(), context).map_or(std::ptr::null_mut(), Key::handle))
    }
    fn cuGreenCtxRecordEvent(hCtx: CUgreenCtx, hEvent: CUevent) {
        event::record_context(process()?, hEvent, green_context(hCtx)?)
    }
    fn cuGreenCtxWaitEvent(hCtx: CUgreenCtx, hEvent: CUevent) {
        event::wait_in_context(process()?, hEvent, green_context(hCtx)?)
    }
    fn cuCtxRecordEvent(hCtx: CUcontext, hEvent: CUevent) {
        event::record_context(process()?, hEvent, find_context(hCtx)?)
    }
    fn cuCtxWaitEvent(hCtx: CUcontext, hEvent: CUevent) {
        event::wait_in_context(process()?, hEvent, find_context(hCtx)?)
    }
}
