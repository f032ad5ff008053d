//! Quotas and shares of a container: config, ledger, bucket, prices; knows nothing of CUDA.
