//! Tells the linker what makes the static agent small. Nothing is generated.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=unwind.ld");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    // The profile `agent` is the only one that goes for size, and it aborts on panic. The others keep their backtraces.
    if variable("CARGO_CFG_TARGET_ENV") == "musl" && variable("OPT_LEVEL") == "z" {
        let script = format!("{}/unwind.ld", variable("CARGO_MANIFEST_DIR"));
        for argument in
            [format!("-Wl,-T,{script}"), "-Wl,--no-eh-frame-hdr".into(), "-Wl,-z,pack-relative-relocs".into()]
        {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
