//! The floor under every boot time: the same kernel, and an init that says one line and does nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use muster_tests::artifacts::output;

/// What the empty init says.
pub const SAYS: &str = "the empty init runs";

/// The empty init. A plain Rust program, so that it is linked and started the way the agent is.
const PROGRAM: &str = r#"fn main() {
    println!("the empty init runs");
    loop {
        std::thread::park();
    }
}
"#;

/// Builds an initramfs with nothing but the empty init in `folder`.
///
/// `/dev/console` is there all the same: the kernel carries it in the archive that it unpacks first
/// (usr/default_cpio_list).
pub fn empty_initramfs(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("empty-init");
    std::fs::create_dir_all(&root)?;
    std::fs::write(folder.join("init.rs"), PROGRAM)?;
    output(
        Command::new("rustc")
            .args(["--edition", "2024", "--target", "x86_64-unknown-linux-musl"])
            .args(["-C", "opt-level=z", "-C", "strip=symbols", "-C", "panic=abort", "-o"])
            .arg(root.join("init"))
            .arg(folder.join("init.rs")),
    )?;
    let initramfs = folder.join("empty-init.zst");
    let pack = "cd \"$1\" && echo init | cpio --quiet -o -H newc | zstd -q -19 -f -o \"$2\"";
    output(Command::new("sh").args(["-c", pack, "sh"]).arg(&root).arg(&initramfs))?;
    Ok(initramfs)
}
