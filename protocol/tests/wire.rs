//! Golden bytes of every released protocol version, and what decoders do with bytes that are none.

#[path = "wire/garbage.rs"]
mod garbage;
#[path = "wire/v1.rs"]
mod v1;
