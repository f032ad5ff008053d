//! The preload that stands between a CUDA program and the driver.
