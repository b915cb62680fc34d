//! Tells the linker what makes the static agent small. Nothing is generated.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=unwind.ld");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    // The profile `agent` is the only one that goes for size, and it aborts on panic. The others keep their backtraces.
    if variable("CARGO_CFG_TARGET_ENV") == "musl" && variable("OPT_LEVEL") == "z" {
        let script = format!("{}/unwind.ld", variable("CARGO_MANIFEST_DIR"));
        let mut arguments =
            vec![format!("-Wl,-T,{script}"), "-Wl,--no-eh-frame-hdr".into(), "-Wl,-z,pack-relative-relocs".into()];
        match linker(&variable("RUSTC"), &variable("HOST")) {
            Some(folder) => {
                let folder = folder.display();
                arguments.extend([format!("-B{folder}"), "-fuse-ld=lld".into(), "-Wl,--icf=all".into()]);
            }
            None => {
                println!("cargo::warning=this toolchain has no rust-lld: the agent becomes larger than it has to be")
            }
        }
        for argument in arguments {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}

/// Where the toolchain has its own linker, which keeps one of several functions whose code is the same.
fn linker(rustc: &str, host: &str) -> Option<PathBuf> {
    let said = Command::new(rustc).args(["--print", "sysroot"]).output().ok()?;
    let sysroot = PathBuf::from(String::from_utf8(said.stdout).ok()?.trim_end());
    let folder = sysroot.join("lib/rustlib").join(host).join("bin/gcc-ld");
    folder.join("ld.lld").exists().then_some(folder)
}
