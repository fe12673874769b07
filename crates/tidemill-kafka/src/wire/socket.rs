//! A TCP connection that wakes its reader for much at a time.
//!
//! A response of megabytes arrives in pieces of some ten kilobytes. A reader that is woken for each of them spends more on
//! waking than on reading. While more is sure to come, the kernel is asked to stay silent until there is enough
//! (`SO_RCVLOWAT`, socket(7)).

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Fewer bytes than that are not waited for.
const LOW_WATER_MIN: u64 = 32 << 10;
/// More bytes than that are not waited for.
const LOW_WATER_MAX: u64 = 128 << 10;

/// How many bytes came in over a socket, and how many are sure to come.
#[derive(Debug, Default)]
pub(super) struct Due {
    received: AtomicU64,
    /// What `received` will reach at least.
    until: AtomicU64,
}

impl Due {
    /// Bytes that came in so far. What a layer above makes of them may be fewer, never more.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Says that [`Self::received`] will reach `total`, as long as the connection lasts.
    pub(super) fn expect(&self, total: u64) {
        self.until.store(total, Ordering::Relaxed);
    }

    fn left(&self) -> u64 {
        self.until.load(Ordering::Relaxed).saturating_sub(self.received())
    }
}

/// A TCP connection, and what is due on it.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    due: Arc<Due>,
    low_water: i32,
}

impl Socket {
    /// Over a new connection.
    pub(super) fn new(stream: TcpStream, due: Arc<Due>) -> Self {
        Self {
            stream,
            due,
            low_water: 1,
        }
    }

    /// Before a wait: wakes for what is worth it, but for no byte more than will come.
    fn set_low_water(&mut self) -> io::Result<()> {
        let low_water = match self.due.left() {
            left if left < LOW_WATER_MIN => 1,
            left => left.min(LOW_WATER_MAX) as i32,
        };
        if low_water != self.low_water {
            set_low_water(&self.stream, low_water)?;
            self.low_water = low_water;
        }
        Ok(())
    }
}

#[expect(unsafe_code, reason = "no crate at hand sets this option")]
fn set_low_water(stream: &TcpStream, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open while `stream` lives; the value is read during the call, and its size is given.
    let done = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buffer) else {
            this.set_low_water()?;
            return Poll::Pending;
        };
        let count = buffer.filled().len() - before;
        this.due.received.fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    /// A socket and its other side.
    async fn pair() -> (Socket, TcpStream, Arc<Due>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(connecting, listener.accept());
        let due = Arc::new(Due::default());
        (Socket::new(near.unwrap(), Arc::clone(&due)), far.unwrap().0, due)
    }

    #[tokio::test]
    async fn every_byte_comes_whatever_was_expected() {
        let (mut near, mut far, due) = pair().await;
        let data: Vec<u8> = (0..1_500_000_u32).map(|n| n as u8).collect();
        for (expected, bytes) in [
            (1_000_000, 1_000_000),
            (40_000, 1_200_000),
            (5, 5),
            (300_000, 300_000),
            (0, 70),
        ] {
            due.expect(due.received() + expected);
            let writing = async {
                for piece in data[..bytes].chunks(7_001) {
                    far.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let mut read = vec![0; bytes];
            let reading = timeout(Duration::from_secs(30), near.read_exact(&mut read));
            let (read_all, ()) = tokio::join!(reading, writing);
            read_all.expect("bytes wait in the socket").unwrap();
            assert!(read == data[..bytes]);
        }
        assert_eq!(due.received(), 2_500_075);
    }

    #[tokio::test]
    async fn a_connection_that_ends_too_early_is_noticed() {
        let (mut near, mut far, due) = pair().await;
        due.expect(1_000_000);
        let mut read = vec![0; 1_000_000];
        let reading = timeout(Duration::from_secs(30), near.read_exact(&mut read));
        let writing = async {
            far.write_all(&[1; 50_000]).await.unwrap();
            far.shutdown().await.unwrap();
        };
        let (read_all, ()) = tokio::join!(reading, writing);
        let error = read_all.expect("its end is not seen").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    /// The wakes are the kernel's: it is asked, as `tokio` asks it, whether there is anything to read.
    #[tokio::test]
    async fn the_kernel_stays_silent_until_there_is_enough() {
        let (mut near, mut far, due) = pair().await;
        due.expect(120_000);
        let mut byte = [0];
        assert!(near.read(&mut byte).now_or_never().is_none());
        for (bytes, is_ready) in [(60_000, false), (60_000, true)] {
            far.write_all(&vec![1; bytes]).await.unwrap();
            let waited = timeout(Duration::from_millis(200), near.stream.readable()).await;
            assert_eq!(waited.is_ok(), is_ready, "after {bytes} bytes more");
        }
    }
}
