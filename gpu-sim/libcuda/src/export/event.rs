//! Events.

use cuda_sys_stubs::abi::*;

use super::{put, wanted};
use crate::door::exports;
use crate::event;
use crate::process::process;

exports! {
    fn cuEventCreate(phEvent: *mut CUevent, Flags: u32) {
        let process = process()?;
        wanted(phEvent)?;
        put(phEvent, event::create(process, Flags)?.handle())
    }
    fn cuEventRecord / cuEventRecord_ptsz |null| (hEvent: CUevent, hStream: CUstream) {
        event::record(process()?, hEvent, hStream, null, CU_EVENT_RECORD_DEFAULT)
    }
    fn cuEventRecordWithFlags / cuEventRecordWithFlags_ptsz |null| (hEvent: CUevent, hStream: CUstream, flags: u32) {
        event::record(process()?, hEvent, hStream, null, flags)
    }
    fn cuEventQuery(hEvent: CUevent) {
        event::query(process()?, hEvent)
    }
    fn cuEventSynchronize(hEvent: CUevent) {
        event::synchronize(process()?, hEvent)
    }
    fn cuEventElapsedTime(pMilliseconds: *mut f32, hStart: CUevent, hEnd: CUevent) {
        let process = process()?;
        wanted(pMilliseconds)?;
        put(pMilliseconds, event::elapsed_ms(process, hStart, hEnd)?)
    }
    fn cuEventElapsedTime_v2(pMilliseconds: *mut f32, hStart: CUevent, hEnd: CUevent) {
        let process = process()?;
        wanted(pMilliseconds)?;
        put(pMilliseconds, event::elapsed_ms(process, hStart, hEnd)?)
    }
    fn cuEventDestroy(hEvent: CUevent) {
        event::destroy(process()?, hEvent)
    }
    fn cuEventDestroy_v2(hEvent: CUevent) {
        event::destroy(process()?, hEvent)
    }
}
