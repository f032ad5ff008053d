//! No controller: what the device itself does.

use crate::evaluator::{Admission, Controller, Launch, Policy, Seat, View, Watch};

/// Every launch goes to the driver at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Native;

impl Policy for Native {
    fn name(&self) -> String {
        "native".to_owned()
    }

    fn attach(&mut self, _seat: &Seat, _now_ns: u64) -> Box<dyn Controller> {
        Box::new(Self)
    }
}

impl Controller for Native {
    fn admit(&mut self, _launch: &Launch, _view: &mut View) -> Admission {
        Admission::Granted(Watch::No)
    }
}
