//! Link arguments of the preload.

#[path = "link.rs"]
mod link;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=link.rs");
    // Set by the build script of `second-door`, which builds the same source.
    println!("cargo:rustc-check-cfg=cfg(second_door)");
    link::arguments();
}
