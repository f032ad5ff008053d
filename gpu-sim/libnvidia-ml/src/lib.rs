//! `libnvidia-ml.so.1` in front of the simulated GPU. (The lead writes this folder.)
