//! The CUDA driver API and NVML as data: ABI types, a function-pointer type per symbol, what each symbol does to a quota.
