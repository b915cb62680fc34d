//! A child process that ends with its handle, and never outlives the program that started it.
//!
//! The kernel ties it to the thread that started it: start what must live longer from a thread that does.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::eventually;

/// See the module.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `command`; its standard error goes to `log`, and so does its standard output unless that is set already.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        command.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(file);
        Self::start_as_is(name, command)
    }

    /// Starts `command` with the standard streams that it has.
    pub fn start_as_is(name: &str, command: &mut Command) -> Result<Self> {
        end_with_parent(command);
        let child = command.spawn().with_context(|| format!("starting {:?}", command.get_program()))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// The child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until it is gone. Nothing happens where it has ended already.
    pub fn kill(&mut self) {
        // Both fail only where the child was waited for already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        eventually(deadline, &format!("{name} ends by itself"), || match self.child.try_wait()? {
            Some(status) => Ok(status),
            None => bail!("it still runs"),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Has the kernel kill the child when the thread that started it ends, however that happens.
#[allow(unsafe_code)]
fn end_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let prepare = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // The parent may have died before that.
        match rustix::process::getppid() {
            Some(pid) if pid.as_raw_nonzero().get() as u32 == parent => Ok(()),
            _ => Err(rustix::io::Errno::SRCH.into()),
        }
    };
    // SAFETY: between fork and exec only two system calls are made; nothing allocates or takes a lock.
    unsafe { command.pre_exec(prepare) };
}
