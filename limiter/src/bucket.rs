//! A hard cap on GPU time: the generic cell rate algorithm on one shared atomic.
