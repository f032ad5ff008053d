//! Streams that write words to memory.

use cuda_sys_stubs::abi::*;

use crate::door::{Answer, NullStream, exports};
use crate::fill::{FillParams, fill};
use crate::process::process;
