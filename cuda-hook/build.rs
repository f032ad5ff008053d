//! Link arguments of the preload.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Set by the build script of `second-door`, which builds the same source.
    println!("cargo:rustc-check-cfg=cfg(second_door)");
    // Our functions are ours in here, whoever stands before us in the program: a tracer that asks for the next function
    // must not get itself.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    // The driver's exit handlers may still call us after a `dlclose`: once loaded, stay.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // Every missing symbol is known at load time, never at a first call inside somebody's launch.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,now");
}
