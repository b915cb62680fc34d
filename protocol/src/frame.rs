//! Frames: a length of four bytes (big endian, RFC 1700 network order), then one postcard value.
//!
//! One QUIC stream carries one request and its answer, so there is no stream id and no checksum here.
//! The limit of a message kind is checked before anything is allocated, and bytes left over after the value are an
//! error: postcard alone would ignore them, and a newer peer's fields with them.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes before each frame's value.
pub const HEADER: usize = 4;

/// A message that travels in a frame.
pub trait Message: Serialize + DeserializeOwned {
    /// The largest encoded value in bytes.
    const LIMIT: usize;
}

/// Why bytes are not a frame of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The peer announced, or we tried to send, more than the kind allows.
    #[error("a frame of {length} bytes is over this message kind's limit of {limit}")]
    TooLong {
        /// Announced length in bytes.
        length: usize,
        /// The kind's [`Message::LIMIT`].
        limit: usize,
    },
    /// The value does not decode.
    #[error("a frame of {length} bytes does not hold the expected message")]
    Malformed {
        /// Length of the value in bytes.
        length: usize,
    },
    /// The value decodes and something follows it.
    #[error("{count} bytes are left over after the message")]
    Leftover {
        /// How many bytes.
        count: usize,
    },
}

/// The whole frame of `message`, header included.
///
/// Errors: [`FrameError::TooLong`] where the value is over the kind's limit.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    let mut bytes = postcard::to_extend(message, vec![0; HEADER]).map_err(|_| FrameError::Malformed { length: 0 })?;
    let length = bytes.len() - HEADER;
    check_length::<M>(length)?;
    bytes[..HEADER].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(bytes)
}

/// How many bytes of value follow this header.
///
/// Errors: [`FrameError::TooLong`]; call this before allocating.
pub fn length<M: Message>(header: [u8; HEADER]) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(header) as usize;
    check_length::<M>(length)?;
    Ok(length)
}

/// The message in `value`, which is a frame without its header.
pub fn decode<M: Message>(value: &[u8]) -> Result<M, FrameError> {
    check_length::<M>(value.len())?;
    let (message, rest) =
        postcard::take_from_bytes(value).map_err(|_| FrameError::Malformed { length: value.len() })?;
    match rest.len() {
        0 => Ok(message),
        count => Err(FrameError::Leftover { count }),
    }
}

fn check_length<M: Message>(length: usize) -> Result<(), FrameError> {
    if length > M::LIMIT {
        return Err(FrameError::TooLong { length, limit: M::LIMIT });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Word(String);

    impl Message for Word {
        const LIMIT: usize = 8;
    }

    #[test]
    fn a_frame_reads_back() {
        let frame = encode(&Word("hello".into())).expect("fits");
        assert_eq!(frame, b"\0\0\0\x06\x05hello");
        let header = frame[..HEADER].try_into().expect("four bytes");
        assert_eq!(length::<Word>(header), Ok(6));
        assert_eq!(decode(&frame[HEADER..]), Ok(Word("hello".into())));
    }

    #[test]
    fn an_announced_length_over_the_limit_is_refused_before_it_is_read() {
        assert_eq!(length::<Word>([0xff; 4]), Err(FrameError::TooLong { length: 0xffff_ffff, limit: 8 }));
        assert!(encode(&Word("hello there".into())).is_err());
    }

    #[test]
    fn leftovers_are_refused() {
        assert_eq!(decode::<Word>(b"\x02hi!"), Err(FrameError::Leftover { count: 1 }));
    }

    #[test]
    fn a_length_inside_the_value_cannot_reach_past_it() {
        assert_eq!(decode::<Word>(b"\xff\xff\xff\x0fa"), Err(FrameError::Malformed { length: 5 }));
    }
}
