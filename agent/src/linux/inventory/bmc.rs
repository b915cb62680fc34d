//! A BMC as it looks from inside: by the kernel's IPMI driver, which asks it for its address on the network.
//!
//! Called by `inventory`. The message is IPMI 2.0's Get LAN Configuration Parameters (section 23.2); how it is handed over is
//! the Linux kernel's, include/uapi/linux/ipmi.h. Nothing is changed, and nobody signs in: from inside, nobody has to.

use std::ffi::c_void;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use muster_protocol::Mac;
use muster_protocol::inventory::Bmc;
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};

use crate::linux::modules;

/// `_IOR('i', 13, struct ipmi_req)`, and `_IOWR('i', 11, struct ipmi_recv)`, which cuts off what is too long.
const SEND: Opcode = 0x8028_690d;
const RECEIVE: Opcode = 0xc030_690b;

/// Transport, and Get LAN Configuration Parameters in it.
const TRANSPORT: u8 = 0x0c;
const GET_LAN: u8 = 0x02;
const IP_ADDRESS: u8 = 3;
const MAC_ADDRESS: u8 = 5;

/// Network channels that are tried: most BMCs have theirs at 1, some at 2, 3 or 8.
const CHANNELS: [u8; 4] = [1, 2, 3, 8];

/// A BMC that is busy with itself keeps nobody waiting for long.
const WITHIN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

/// Makes the device, where there is an IPMI driver at all: nothing asks for this part of it.
pub fn open() {
    if Path::new("/sys/module/ipmi_si").exists() {
        let _ = modules::load("ipmi_devintf");
    }
}

/// What the BMC behind this device says; `None` where there is no such device.
pub(super) fn read(device: &Path) -> Option<Bmc> {
    let device = File::options().read(true).write(true).open(device).ok()?;
    let until = Instant::now() + WITHIN;
    let ask = |channel, parameter| ask(&device, channel, parameter, until);
    for channel in CHANNELS {
        if let Some(address) = ask(channel, IP_ADDRESS).and_then(|data| address(&data)) {
            return Some(Bmc { address: Some(address), mac: ask(channel, MAC_ADDRESS).and_then(|data| mac(&data)) });
        }
    }
    Some(Bmc::default())
}

/// The data behind the completion code and the parameter's revision.
fn answered(data: &[u8]) -> Option<&[u8]> {
    data.strip_prefix(&[0])?.get(1..)
}

fn address(data: &[u8]) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = answered(data)?.get(..4)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes)).filter(|address| !address.is_unspecified() && !address.is_broadcast())
}

fn mac(data: &[u8]) -> Option<Mac> {
    let bytes: [u8; 6] = answered(data)?.get(..6)?.try_into().ok()?;
    (bytes != [0; 6] && bytes != [0xff; 6]).then(|| Mac::from_bytes(bytes))
}

/// Asks for one parameter of one channel.
fn ask(device: &File, channel: u8, parameter: u8, until: Instant) -> Option<Vec<u8>> {
    let mut body = [channel, parameter, 0, 0];
    // IPMI_SYSTEM_INTERFACE_ADDR_TYPE, and the channel of the BMC itself.
    let mut to = Address { kind: 0x0c, channel: 0x0f, lun: 0 };
    let message = Message { netfn: TRANSPORT, command: GET_LAN, length: 4, data: body.as_mut_ptr() };
    let id = (i64::from(channel) << 8) | i64::from(parameter);
    let bytes = size_of::<Address>() as u32;
    give(device, SEND, &mut Request { address: &raw mut to, address_bytes: bytes, id, message }).ok()?;
    loop {
        let (mut data, mut from) = ([0; 64], [0_u8; 64]);
        let message = Message { netfn: 0, command: 0, length: data.len() as u16, data: data.as_mut_ptr() };
        let address = (&raw mut from).cast();
        let mut answer = Answer { kind: 0, address, address_bytes: from.len() as u32, id: 0, message };
        match give(device, RECEIVE, &mut answer) {
            // Late answers to what was given up come first.
            Ok(()) if answer.id == id => {
                return Some(data[..usize::from(answer.message.length).min(data.len())].to_vec());
            }
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::INTR) => std::thread::sleep(PAUSE),
            Err(_) => return None,
        }
        if Instant::now() > until {
            return None;
        }
    }
}

#[repr(C)]
struct Address {
    kind: i32,
    channel: i16,
    lun: u8,
}

#[repr(C)]
struct Message {
    netfn: u8,
    command: u8,
    length: u16,
    data: *mut u8,
}

#[repr(C)]
struct Request {
    address: *mut Address,
    address_bytes: u32,
    id: i64,
    message: Message,
}

#[repr(C)]
struct Answer {
    kind: i32,
    address: *mut Address,
    address_bytes: u32,
    id: i64,
    message: Message,
}

/// A struct, and the opcode that takes it.
struct Passed<'a, T>(Opcode, &'a mut T);

#[allow(unsafe_code)]
fn give<T>(device: &File, opcode: Opcode, passed: &mut T) -> rustix::io::Result<()> {
    // SAFETY: the structs are laid out as the kernel's, each is given with its own opcode, and what they point to outlives
    // the call and has the lengths that they say.
    unsafe { ioctl(device, Passed(opcode, passed)) }
}

#[allow(unsafe_code)]
// SAFETY: the pointer is to the struct that the opcode takes; nothing is put out but that it went well.
unsafe impl<T> Ioctl for Passed<'_, T> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.0
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut *self.1).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structs_are_as_large_as_the_opcodes_say() {
        let said = |opcode: Opcode| (opcode as usize >> 16) & 0x3fff;
        assert_eq!((size_of::<Request>(), size_of::<Answer>()), (said(SEND), said(RECEIVE)));
        assert_eq!(size_of::<Address>(), 8);
    }

    #[test]
    fn an_answer_is_read_and_what_is_none_is_not() {
        assert_eq!(address(&[0, 0x11, 10, 0, 9, 7]), Some(Ipv4Addr::new(10, 0, 9, 7)));
        assert_eq!(mac(&[0, 0x11, 2, 0, 0, 0, 0, 7]), Some(Mac::from_bytes([2, 0, 0, 0, 0, 7])));
        for none in
            [&[][..], &[0], &[0, 0x11], &[0, 0x11, 10, 0, 9], &[0xc1, 0x11, 10, 0, 9, 7], &[0, 0x11, 0, 0, 0, 0]]
        {
            assert_eq!((address(none), mac(none)), (None, None), "{none:?}");
        }
    }

    #[test]
    fn a_machine_without_the_device_has_no_bmc_and_a_file_in_its_place_says_nothing() {
        let folder = std::env::temp_dir().join(format!("muster-bmc-{}", std::process::id()));
        assert_eq!(read(&folder), None);
        std::fs::write(&folder, "no device").expect("written");
        assert_eq!(read(&folder), Some(Bmc::default()));
        std::fs::remove_file(&folder).expect("removed");
    }
}
