//! A device that goes away.

mod support;

use cuda_sys_stubs::abi::*;
use gpu_sim::client::{Environment, Machine};
use rustix::process::{Pid, Signal, kill_process};
use support::{alloc, context, cu, ok};

#[test]
fn a_device_that_is_gone_is_gone_for_every_call_that_follows() {
    let own = context();
    let memory = alloc(16);
    let machine = Machine::connect_existing(&Environment::from_process());
    let machine = machine.expect("a machine").expect("it runs");
    let device = Pid::from_raw(machine.device_pid() as i32).expect("in our namespace");
    kill_process(device, Signal::KILL).expect("it is ours");
    while cu!(cuMemsetD8_v2(memory, 1, 16)) == CUDA_SUCCESS {
        std::thread::yield_now();
    }
    let gone = CUDA_ERROR_UNKNOWN;
    assert_eq!(cu!(cuMemsetD8_v2(memory, 1, 16)), gone);
    let (mut address, mut device) = (0, 0);
    assert_eq!(cu!(cuMemAlloc_v2(&mut address, 16)), gone);
    assert_eq!(cu!(cuCtxGetDevice(&mut device)), gone);
    assert_eq!(cu!(cuCtxDestroy_v2(own)), gone);
    let mut version = 0;
    ok!(cuDriverGetVersion(&mut version));
}
