//! `make bench`: sizes, memory and times, each beside its floor or its budget, measured in this run.
//!
//! It asserts nothing about them: under emulation and beside other work, times say something only beside each other.
//! `muster-bench pushes` measures that part alone; there are `boots`, `pushes`, `fleet` and `ial`.
//! What controllers store, and what is written beside them, lies in the folder that `MUSTER_BENCH_FOLDER` names: so another
//! disk can be measured than the one that this is built on.

mod fleet;
mod floor;
mod ial;
mod pushes;
mod took;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use muster_tests::artifacts;
use muster_tests::lab::{self, BOOT, Lab};
use muster_tests::qemu::{Boot, Firmware, Machine, Spec};
use muster_tests::scratch;

/// Pairs of boots; the median of each side counts.
const PAIRS: usize = 3;

/// MiB that are tried, smallest first.
const SIZES: [u32; 10] = [64, 80, 96, 112, 128, 144, 160, 192, 224, 256];

/// How long a machine must stay online to count as one that works.
const STAYS: Duration = Duration::from_secs(15);

/// What the kernel says first.
const KERNEL_STARTS: &str = "Linux version";

/// What the agent says when its session is up.
const SESSION_IS_UP: &str = "in session with";

/// What the agent says of its own memory.
const RESIDENT: &str = "the agent takes ";

/// What measures something and prints its rows.
type Part = fn() -> Result<()>;

/// Each has a thread of its own, since each moves into a network namespace.
const PARTS: [(&str, Part); 4] =
    [("boots", boots), ("pushes", pushes::measure), ("fleet", fleet::measure), ("ial", ial::measure)];

fn main() -> Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if let Some(other) = asked.iter().find(|asked| PARTS.iter().all(|(name, _)| name != asked)) {
        bail!("there is no {other} to measure; there are {}", PARTS.map(|(name, _)| name).join(", "));
    }
    println!("| what | measured | beside |\n| --- | --- | --- |");
    for (name, measure) in PARTS.into_iter().filter(|(name, _)| asked.is_empty() || asked.iter().any(|a| a == name)) {
        let done = std::thread::spawn(measure).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.with_context(|| format!("measuring {name}"))?;
    }
    Ok(())
}

/// Sizes, and one machine's way into its first session.
fn boots() -> Result<()> {
    let lab = Lab::open("bench", &[])?;
    let image = artifacts::image()?;
    let (kernel, initramfs) = (image.join("kernel"), image.join("initramfs"));
    let empty = floor::empty_initramfs(&lab.folder)?;

    row("agent binary, static", &megabytes(&artifacts::agent()?)?, "budget 2.5 MB");
    let (kernel_size, initramfs_size) = (size(&kernel)?, size(&initramfs)?);
    let both = format!(
        "{:.2} MB + {:.2} MB = {:.2} MB",
        mb(kernel_size),
        mb(initramfs_size),
        mb(kernel_size + initramfs_size)
    );
    row("kernel + initramfs", &both, "budget 18 MB");

    let mut sessions = Vec::new();
    let mut floors = Vec::new();
    let mut resident = None;
    for _ in 0..PAIRS {
        floors.push(empty_boot(&lab, &kernel, &empty)?);
        let (times, memory) = agent_boot(&lab, &kernel, &initramfs)?;
        sessions.push(times);
        resident = memory.or(resident);
    }
    let (session, floor) = (median(&sessions, |t| t.1), median(&floors, |t| t.1));
    row("kernel start to session", &seconds(session), &format!("the same kernel to an empty init {}", seconds(floor)));
    let (session, floor) = (median(&sessions, |t| t.0), median(&floors, |t| t.0));
    row("power-on to session", &seconds(session), &format!("the same kernel to an empty init {}", seconds(floor)));
    row("agent resident memory, online", &resident.unwrap_or_else(|| "not said".into()), "budget 4 MB");
    let smallest = smallest_memory(&lab, &kernel, &initramfs)?;
    row("machine memory to boot and stay online", &smallest, "budget 192 MB");
    Ok(())
}

/// An empty folder called `name`, on the disk that is measured.
fn folder(name: &str) -> Result<PathBuf> {
    match std::env::var_os("MUSTER_BENCH_FOLDER") {
        Some(disk) => scratch::scratch_in(Path::new(&disk), name),
        None => scratch::scratch(name),
    }
}

fn row(what: &str, measured: &str, beside: &str) {
    println!("| {what} | {measured} | {beside} |");
}

/// From power-on, and from the kernel's first word.
type Times = (Duration, Duration);

fn empty_boot(lab: &Lab, kernel: &Path, initramfs: &Path) -> Result<Times> {
    let spec = spec(kernel, initramfs, "console=ttyS0".into(), 512)?;
    let began = Instant::now();
    let machine = Machine::start(&spec, &lab.folder.join("empty"))?;
    times(&machine, began, floor::SAYS)
}

fn agent_boot(lab: &Lab, kernel: &Path, initramfs: &Path) -> Result<(Times, Option<String>)> {
    let spec = spec(kernel, initramfs, lab.command_line(&lab::machine(Firmware::Bios, Boot::Network)?)?, 512)?;
    let began = Instant::now();
    let machine = Machine::start(&spec, &lab.folder.join("agent"))?;
    let times = times(&machine, began, SESSION_IS_UP)?;
    let said = machine.console.wait_for(RESIDENT, 0, Duration::from_secs(60)).ok();
    let figure = said.and_then(|line| {
        let figure = line.text.split_once(RESIDENT)?.1.trim().replace(" of memory", "");
        Some(figure)
    });
    Ok((times, figure))
}

fn times(machine: &Machine, began: Instant, end: &str) -> Result<Times> {
    let start = machine.console.wait_for(KERNEL_STARTS, 0, BOOT)?;
    let end = machine.console.wait_for(end, 0, BOOT)?;
    Ok((end.at - began, end.at - start.at))
}

fn smallest_memory(lab: &Lab, kernel: &Path, initramfs: &Path) -> Result<String> {
    // Sizes that are too small fail in many ways, all of them slow: halve the range.
    let (mut fails, mut works) = (None, None);
    let (mut low, mut high) = (0, SIZES.len());
    while low < high {
        let middle = (low + high) / 2;
        if stays_online(lab, kernel, initramfs, SIZES[middle])? {
            works = Some(SIZES[middle]);
            high = middle;
        } else {
            fails = Some(SIZES[middle]);
            low = middle + 1;
        }
    }
    let works = works.map_or("none works".into(), |size| format!("{size} MiB"));
    Ok(fails.map_or(works.clone(), |size| format!("{works} ({size} fails)")))
}

fn stays_online(lab: &Lab, kernel: &Path, initramfs: &Path, memory_mib: u32) -> Result<bool> {
    let spec = spec(kernel, initramfs, lab.command_line(&lab::machine(Firmware::Bios, Boot::Network)?)?, memory_mib)?;
    let mut machine = Machine::start(&spec, &lab.folder.join(format!("memory-{memory_mib}")))?;
    if machine.console.wait_for(SESSION_IS_UP, 0, Duration::from_secs(90)).is_err() {
        return Ok(false);
    }
    let panicked = machine.console.wait_for("Out of memory", 0, STAYS).is_ok();
    let online = lab.machine()?["presence"]["state"] == "online";
    Ok(!panicked && online && machine.is_on()?)
}

fn spec(kernel: &Path, initramfs: &Path, cmdline: String, memory_mib: u32) -> Result<Spec> {
    let boot = Boot::Kernel { kernel: kernel.to_owned(), initramfs: initramfs.to_owned(), cmdline };
    Ok(Spec { memory_mib, ..lab::machine(Firmware::Bios, boot)? })
}

fn median(all: &[Times], which: impl Fn(&Times) -> Duration) -> Duration {
    let mut sorted: Vec<_> = all.iter().map(which).collect();
    sorted.sort();
    sorted[sorted.len() / 2]
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f32())
}

fn size(path: &Path) -> Result<u64> {
    Ok(path.metadata().with_context(|| path.display().to_string())?.len())
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn megabytes(path: &Path) -> Result<String> {
    Ok(format!("{:.2} MB", mb(size(path)?)))
}
