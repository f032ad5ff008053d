//! Whole programs in four worlds.
