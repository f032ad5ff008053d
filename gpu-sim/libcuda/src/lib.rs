//! libcuda.so.1 in front of the simulated GPU.
