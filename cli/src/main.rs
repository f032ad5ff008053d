//! The `cuda-hook` command.

fn main() {}
