//! Symbols with an effect on a quota that no row hooks yet, each with what is missed by that.
