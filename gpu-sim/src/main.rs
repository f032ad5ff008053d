//! The simulated device: one process that owns the memory and the timeline of one machine.

fn main() {}
