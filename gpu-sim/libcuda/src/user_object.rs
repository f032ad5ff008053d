//! User objects: what a program wants told of when the last graph that uses it is gone.

use std::collections::BTreeMap;

use cuda_sys_stubs::abi::*;

use crate::door::Answer;
use crate::host_call::HostCall;
use crate::process::{Process, State};
use crate::table::Key;

/// A user object.
pub(crate) struct UserObject {
    /// Called when nobody refers to it any more.
    destroy: HostCall,
    references: u32,
}

/// References that a graph holds, by object.
pub(crate) type References = BTreeMap<Key<UserObject>, u32>;

/// Makes an object with `references` of the program's own.
pub(crate) fn create(
    state: &mut State,
    destroy: HostCall,
    references: u32,
) -> Answer<Key<UserObject>> {
    check_count(references)?;
    Ok(state.user_objects.insert(UserObject {
        destroy,
        references,
    }))
}

fn check_count(count: u32) -> Answer {
    if (1..=i32::MAX.unsigned_abs()).contains(&count) {
        Ok(())
    } else {
        Err(CUDA_ERROR_INVALID_VALUE)
    }
}

/// The object behind a handle.
pub(crate) fn find(state: &State, handle: CUuserObject) -> Answer<Key<UserObject>> {
    let key = Key::of(handle).ok_or(CUDA_ERROR_INVALID_VALUE)?;
    state
        .user_objects
        .get(key)
        .map(|_| key)
        .ok_or(CUDA_ERROR_INVALID_VALUE)
}

/// Adds references.
pub(crate) fn retain(state: &mut State, key: Key<UserObject>, count: u32) -> Answer {
    check_count(count)?;
    let object = state
        .user_objects
        .get_mut(key)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    object.references = object
        .references
        .checked_add(count)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    Ok(())
}

/// Takes references away; with the last one the object ends.
pub(crate) fn release(state: &mut State, key: Key<UserObject>, count: u32) -> Answer {
    check_count(count)?;
    let object = state
        .user_objects
        .get_mut(key)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    object.references = object
        .references
        .checked_sub(count)
        .ok_or(CUDA_ERROR_INVALID_VALUE)?;
    if object.references == 0 {
        let ended = state.user_objects.remove(key).map(|object| object.destroy);
        state.to_call.extend(ended);
    }
    Ok(())
}

/// Adds the references of a copy of who holds these.
pub(crate) fn retain_all(state: &mut State, references: &References) -> Answer {
    references
        .iter()
        .try_for_each(|(key, count)| retain(state, *key, *count))
}

/// Takes away the references of who is gone.
pub(crate) fn release_all(state: &mut State, references: &References) -> Answer {
    references
        .iter()
        .try_for_each(|(key, count)| release(state, *key, *count))
}

/// Calls the functions of the objects that ended. The state must not be locked.
pub(crate) fn call_ended(process: &Process) {
    let calls = std::mem::take(&mut process.lock().to_call);
    calls.into_iter().for_each(HostCall::run);
}
