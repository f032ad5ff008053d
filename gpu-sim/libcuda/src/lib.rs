//! `libcuda.so.1` in front of the simulated GPU: the driver API for programs on a machine without one.
//!
//! [`door`] is where every call comes in; `export` has a row for each function that is simulated, and follows its pointers;
//! the modules named by the nouns of the API do the work, in safe code; [`process`] holds the objects. Bytes are really
//! copied, in the order in which the simulated device completes commands. Kernels take modelled time ([`image`]) and
//! **compute nothing**. What is not simulated answers what `absent.tsv` decides for it ([`symbols`]).

mod abi;
mod address;
mod array;
mod bytes;
mod capture;
mod context;
mod copy;
mod device;
mod door;
mod event;
mod export;
mod fault;
mod fill;
mod graph;
mod green;
mod host_call;
mod host_memory;
mod image;
mod ipc;
mod launch;
mod library;
mod limit;
mod link;
mod location;
mod log;
mod managed;
mod memory;
mod module;
mod multicast;
mod occupancy;
mod pool;
mod process;
mod reduction;
mod staged_launch;
mod stream;
mod symbols;
mod table;
mod tensor_map;
mod texture;
mod texture_reference;
mod trace;
mod user_object;
mod virtual_memory;
mod visible;
mod watch;
mod window;
mod workqueue;
