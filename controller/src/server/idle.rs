//! Connections that end by themselves where nothing moves on them.
//!
//! Wraps what HTTP reads from and writes to: a peer that connects and says nothing, or asks for much and takes nothing,
//! holds its place for a minute and a half and not for ever. Every byte in either direction starts the time anew.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Longer than a question may wait for news, 60 s, and than the pause between two signs of life of a feed.
const IDLE: Duration = Duration::from_secs(90);

/// A connection that has so little time before its first byte: whoever opens one has something to say.
const FIRST: Duration = Duration::from_secs(10);

/// See the module.
pub struct Idle<S> {
    stream: S,
    ends: Pin<Box<Sleep>>,
}

impl<S> Idle<S> {
    /// Begins to count.
    pub fn new(stream: S) -> Self {
        Self { stream, ends: Box::pin(sleep(FIRST)) }
    }

    /// What came of an operation: its result, or the end where it waits for too long.
    fn judge<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.ends.as_mut().reset(Instant::now() + IDLE);
            return polled;
        }
        ready!(self.ends.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Idle<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.judge(cx, polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Idle<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // Flushing and ending move no bytes of the peer's: they are no sign of life, and hang with the writes.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn timed_out<T: std::fmt::Debug>(result: io::Result<T>) -> bool {
        matches!(result, Err(error) if error.kind() == io::ErrorKind::TimedOut)
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_is_given_up() {
        let (here, _there) = duplex(64);
        assert!(timed_out(Idle::new(here).read_u8().await));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (here, mut there) = duplex(64);
        let mut here = Idle::new(here);
        there.write_u8(7).await.expect("written");
        assert_eq!(here.read_u8().await.expect("read"), 7);
        assert!(timed_out(here.write_all(&[0; 65]).await));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_says_something_in_time_stays() {
        let (here, mut there) = duplex(64);
        let mut here = Idle::new(here);
        for second in 0..10 {
            tokio::time::advance(if second == 0 { FIRST / 2 } else { IDLE / 2 }).await;
            there.write_u8(second).await.expect("written");
            assert_eq!(here.read_u8().await.expect("read"), second);
        }
    }
}
