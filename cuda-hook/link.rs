//! How the library is linked, in either door.

/// Tells the linker; to be called by a build script.
pub(crate) fn arguments() {
    for argument in [
        // Our functions are ours in here, whoever stands before us in the program: a tracer that asks for the next function
        // must not get itself.
        "-Wl,-Bsymbolic",
        // The driver's exit handlers may still call us after a `dlclose`: once loaded, stay.
        "-Wl,-z,nodelete",
        // Every missing symbol is known at load time, never at a first call inside somebody's launch.
        "-Wl,-z,now",
    ] {
        println!("cargo:rustc-cdylib-link-arg={argument}");
    }
}
