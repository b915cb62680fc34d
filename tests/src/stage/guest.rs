//! A guest: the kernel that images are made of, under QEMU, with test programs of this host in it.
//!
//! A host's kernel may lack what machines have (VLANs, bonds). In the guest there are the programs, the commands that they
//! run, their libraries, and modules of that kernel; what the programs write goes to the console.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use muster_ipxe::image::cpio::Archive;
use muster_ipxe::image::modules::Catalog;
use muster_ipxe::packages::{Freshness, Node, Packages};

use crate::artifacts::{self, output};
use crate::lab;
use crate::qemu::{Boot, Firmware, Machine};

/// What the guest is made of beside the kernel.
pub struct Guest<'a> {
    /// Test programs, run one after the other.
    pub programs: &'a [PathBuf],
    /// What each is started with.
    pub arguments: &'a str,
    /// Commands of this host that they run, by name.
    pub commands: &'a [&'a str],
    /// Kernel modules that are there when they start, by name.
    pub modules: &'a [&'a str],
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Files of this host, by where they are to be.
    pub files: &'a [(&'a Path, &'a Path)],
    /// Its only NIC, as QEMU calls the model; the driver is one of the modules.
    pub nic: &'static str,
}

/// How one program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// File name.
    pub program: String,
    /// Exit status, as the shell has it.
    pub status: u8,
    /// All that it wrote.
    pub output: Vec<String>,
}

/// What the guest's PID 1 itself needs.
const COMMANDS: [&str; 4] = ["sh", "mount", "insmod", "sleep"];

/// Written after each program, with its name and exit status.
const END_OF_ONE: &str = "=== ended:";

/// Written after the last one.
const END_OF_ALL: &str = "=== all have ended";

/// PID 1; what is in the file `/main`, where there is one, it does itself. In `modules.dep`, what a module needs stands behind it, last things first; what is loaded already is no matter.
const SCRIPT: &str = r#"#!/bin/sh
export PATH=/bin HOME=/
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t devtmpfs dev /dev
mount -t tmpfs run /run && mount -t tmpfs tmp /tmp
cd /lib/modules
for module in MODULES; do
    while IFS=: read -r path needs; do
        case $path in */$module.ko) ;; *) continue ;; esac
        all=$path
        for one in $needs; do all="$one $all"; done
        for one in $all; do insmod "$one" 2>/dev/null; done
        # The kernel writes a dash in a name as an underscore.
        case $module in *-*) ;; *) [ -d "/sys/module/$module" ] || echo "$module could not be loaded" ;; esac
    done <modules.dep
done
cd /tmp
[ ! -e /main ] || . /main
for program in /tests/*; do
    $program ARGUMENTS 2>&1
    status=$?
    echo
    echo "END_OF_ONE ${program##*/} $status"
done
echo "END_OF_ALL"
while :; do sleep 1000; done
"#;

impl Guest<'_> {
    /// Writes kernel and initramfs into `folder`; `rdinit=/guest` starts it.
    pub fn build(&self, folder: &Path) -> Result<[PathBuf; 2]> {
        std::fs::create_dir_all(folder)?;
        let mut archive = Archive::default();
        let [kernel, initramfs] = ["kernel", "initramfs"].map(|name| folder.join(name));
        std::fs::write(&kernel, self.add_modules(&mut archive)?)?;
        self.add_programs(&mut archive, folder)?;
        for (place, file) in self.files {
            archive.file(place.to_str().context("the path is UTF-8")?, 0o644, std::fs::read(file)?);
        }
        std::fs::write(&initramfs, archive.to_bytes())?;
        Ok([kernel, initramfs])
    }

    /// Boots it and waits until every program has ended; disks, console and log lie in `folder`.
    pub fn run(&self, folder: &Path, deadline: Duration) -> Result<Vec<Ended>> {
        let [kernel, initramfs] = self.build(folder)?;
        // What the kernel has to say would stand in the middle of the programs' lines.
        // An emulated processor's own clock is as good as the board's, and asking that is a request to the emulator.
        let cmdline = "console=ttyS0 rdinit=/guest loglevel=1 panic=0 tsc=reliable".to_owned();
        let boot = Boot::Kernel { kernel, initramfs, cmdline };
        let mut spec = lab::machine(Firmware::Bios, boot)?;
        spec.disks.clear();
        spec.memory_mib = self.memory_mib;
        spec.nics.truncate(1);
        spec.nics.iter_mut().for_each(|nic| nic.model = self.nic);
        let machine = Machine::start(&spec, folder)?;
        machine.console.wait_for(END_OF_ALL, 0, deadline)?;
        let lines: Vec<_> = machine.console.lines(0).into_iter().map(|line| line.text).collect();
        let ended = parse(&lines)?;
        ensure!(ended.len() == self.programs.len(), "of {} programs {} ended", self.programs.len(), ended.len());
        Ok(ended)
    }

    /// Adds the modules and all that they need, with `modules.dep`; answers the kernel that they are for.
    fn add_modules(&self, archive: &mut Archive) -> Result<Vec<u8>> {
        let mut packages = Packages::open(&artifacts::package_cache(), Freshness::Cached)?;
        let any = packages.get("linux-image-amd64", &mut |_| ())?;
        let kernels = packages.get_behind(&any, "linux-image-", &mut |_| ())?;
        let package = kernels.first().context("the package names its kernel")?;
        let release = package.name.trim_start_matches("linux-image-");
        let modules = format!("lib/modules/{release}/");

        let (mut kernel, mut catalog, mut added) = (None, Catalog::default(), Ok(()));
        package.visit(&mut |path, node| {
            let Node::File(bytes) = node else { return };
            if path == format!("boot/vmlinuz-{release}") {
                kernel = Some(bytes.to_vec());
            } else if let Some(path) = path.trim_start_matches("usr/").strip_prefix(&modules).filter(|_| added.is_ok())
            {
                added = catalog.add(path, bytes);
            }
        })?;
        added?;
        let choice = catalog.choose(self.modules.iter().copied())?;
        ensure!(choice.missing.is_empty(), "the kernel has no {:?}", choice.missing);
        let mut taken = Ok(());
        package.visit(&mut |path, node| {
            let (Some(path), Node::File(bytes)) = (path.trim_start_matches("usr/").strip_prefix(&modules), node) else {
                return;
            };
            match catalog.take(&choice, path, bytes) {
                Ok(None) => {}
                Ok(Some((path, bytes))) => archive.file(&format!("lib/modules/{path}"), 0o644, bytes),
                Err(error) => taken = Err(error),
            }
        })?;
        taken?;
        for (name, text) in catalog.index(&choice) {
            archive.file(&format!("lib/modules/{name}"), 0o644, text.into_bytes());
        }
        kernel.with_context(|| format!("{} has a kernel", package.name))
    }

    fn add_programs(&self, archive: &mut Archive, folder: &Path) -> Result<()> {
        for folder in ["dev", "proc", "run", "sys", "tmp"] {
            archive.folder(folder, 0o755);
        }
        // The kernel opens it for PID 1 before anything is mounted.
        archive.character_device("dev/console", 0o600, 5, 1);
        archive.file("guest", 0o755, self.script().into_bytes());
        // dnsmasq asks who root is.
        archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n".to_vec());
        archive.file("etc/group", 0o644, b"root:x:0:\n".to_vec());
        for &name in COMMANDS.iter().chain(self.commands) {
            let path = find(name)?;
            add_libraries(archive, &path)?;
            archive.file(&format!("bin/{name}"), 0o755, std::fs::read(path)?);
        }
        for path in self.programs {
            add_libraries(archive, path)?;
            // The guest unpacks all of them into its memory, and emulation makes that slow.
            let small = folder.join(name(path)?);
            output(Command::new("strip").arg("--strip-debug").arg("-o").args([&small, path]))?;
            archive.file(&format!("tests/{}", name(path)?), 0o755, std::fs::read(&small)?);
        }
        Ok(())
    }

    /// What PID 1 does.
    fn script(&self) -> String {
        let ends = SCRIPT.replace("END_OF_ONE", END_OF_ONE).replace("END_OF_ALL", END_OF_ALL);
        ends.replace("MODULES", &self.modules.join(" ")).replace("ARGUMENTS", self.arguments)
    }
}

/// What each program wrote and how it ended, in order.
fn parse(lines: &[String]) -> Result<Vec<Ended>> {
    let (mut all, mut output) = (vec![], vec![]);
    for line in lines {
        if let Some(words) = line.strip_prefix(END_OF_ONE) {
            let (program, status) = words.trim().split_once(' ').context("a program and its status")?;
            let (program, status) = (program.to_owned(), status.parse().context("a status")?);
            all.push(Ended { program, status, output: std::mem::take(&mut output) });
        } else {
            output.push(line.clone());
        }
    }
    Ok(all)
}

/// A command's file on this host.
fn find(name: &str) -> Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    // Debian keeps some of them out of an ordinary user's PATH.
    let folders = path.split(':').chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"]);
    let mut places = folders.map(|folder| Path::new(folder).join(name));
    places.find(|place| place.is_file()).with_context(|| format!("there is no {name}; run scripts/setup first"))
}

/// Adds the libraries of a program at the places where its loader finds them here.
fn add_libraries(archive: &mut Archive, program: &Path) -> Result<()> {
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, and the loader without an arrow.
    for line in output(Command::new("ldd").arg(program))?.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        ensure!(!line.contains("not found"), "{}: {line}", program.display());
        if let Some(path) = words.iter().find(|word| word.starts_with('/')) {
            archive.file(path, 0o755, std::fs::read(path)?);
        }
    }
    Ok(())
}

fn name(path: &Path) -> Result<&str> {
    path.file_name().and_then(|name| name.to_str()).with_context(|| format!("{} has no name", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_program_wrote_is_its_own() -> Result<()> {
        let lines = ["running 1 test", "", "=== ended: one-1f 0", "running 0 tests", "=== ended: two-2e 101"];
        let ended = parse(&lines.map(str::to_owned))?;
        assert_eq!(
            ended.iter().map(|e| (e.program.as_str(), e.status)).collect::<Vec<_>>(),
            [("one-1f", 0), ("two-2e", 101)]
        );
        assert_eq!(ended[1].output, ["running 0 tests"]);
        Ok(())
    }
}
