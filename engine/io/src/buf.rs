//! Aligned buffers for direct I/O, with a pool per thread.
//!
//! Invariants: a buffer's address and length are multiples of [`BLOCK`]; the length is the one of
//! its size class, never trimmed, so that a buffer always fits its class when it comes back; the
//! pool of a thread never holds more than [`POOL_BYTES_MAX`]. Memory comes from the global
//! allocator (never from a ring's registered memory), so a buffer may move between threads.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use bytes::Bytes;
use glommio::io::DmaBuffer;

/// The unit of direct I/O: positions and lengths of direct writes are multiples of it (bytes).
pub const BLOCK: usize = 4096;

/// What a thread keeps of buffers that are not in use (bytes).
pub const POOL_BYTES_MAX: usize = 32 << 20;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool::new()) };
}

struct Pool {
    /// Free buffers by their length.
    free: BTreeMap<usize, Vec<DmaBuffer>>,
    bytes: usize,
}

impl Pool {
    const fn new() -> Pool {
        Pool {
            free: BTreeMap::new(),
            bytes: 0,
        }
    }

    fn take(&mut self, len: usize) -> Option<DmaBuffer> {
        let buf = self.free.get_mut(&len)?.pop()?;
        self.bytes -= len;
        Some(buf)
    }

    fn put(&mut self, buf: DmaBuffer) {
        let len = buf.len();
        if self.bytes + len <= POOL_BYTES_MAX {
            self.bytes += len;
            self.free.entry(len).or_default().push(buf);
        }
    }
}

/// The length of the size class that serves `len` bytes: at most 12.5 % more than `len` rounded
/// up to whole blocks.
pub fn class_len(len: usize) -> usize {
    let blocks = len.div_ceil(BLOCK).max(1);
    if blocks <= 8 {
        return blocks * BLOCK;
    }
    let step = 1 << ((blocks - 1).ilog2() - 3);
    blocks.div_ceil(step) * step * BLOCK
}

/// Memory for direct I/O: address and length are multiples of [`BLOCK`]. Contents are unspecified
/// when it is new (zeros, or what an earlier user left).
pub struct AlignedBuf {
    buf: ManuallyDrop<DmaBuffer>,
}

// SAFETY: every `DmaBuffer` in here was made by `allocate_dma_buffer_global`, whose storage is
// plain memory of the global allocator: no thread-bound reference is inside.
unsafe impl Send for AlignedBuf {}

impl AlignedBuf {
    /// A buffer of at least `len` bytes (see [`class_len`]). Aborts when memory is exhausted, as
    /// every allocation does.
    pub fn new(len: usize) -> AlignedBuf {
        let len = class_len(len);
        let pooled = POOL.try_with(|p| p.borrow_mut().take(len)).ok().flatten();
        let buf = pooled.unwrap_or_else(|| {
            let mut fresh = glommio::allocate_dma_buffer_global(len);
            // SAFETY: `fresh` owns `len` bytes. Filling it makes the memory initialised, and
            // touches its pages now and not in the middle of a write.
            unsafe { std::ptr::write_bytes(fresh.as_mut_ptr(), 0, len) };
            fresh
        });
        AlignedBuf::from_dma(buf)
    }

    /// Ends writing: the same memory as shared bytes. It returns to a pool when the last clone is
    /// dropped, on whichever thread that happens.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    pub(crate) fn from_dma(buf: DmaBuffer) -> AlignedBuf {
        AlignedBuf {
            buf: ManuallyDrop::new(buf),
        }
    }

    /// Hands the memory to the kernel arm. The way back is [`AlignedBuf::from_rc`].
    pub(crate) fn into_rc(self) -> Rc<DmaBuffer> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped or used again, so the buffer is taken exactly once.
        Rc::new(unsafe { ManuallyDrop::take(&mut this.buf) })
    }

    /// Takes the memory back after the kernel is done with it; copies if somebody still has it.
    pub(crate) fn from_rc(rc: Rc<DmaBuffer>) -> AlignedBuf {
        match Rc::try_unwrap(rc) {
            Ok(buf) => AlignedBuf::from_dma(buf),
            Err(rc) => {
                let mut copy = AlignedBuf::new(rc.len());
                copy.copy_from_slice(rc.as_bytes());
                copy
            }
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.buf.as_bytes()
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buf.as_bytes_mut()
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: taken once; `into_rc` prevents this drop when it takes the buffer itself.
        let buf = unsafe { ManuallyDrop::take(&mut self.buf) };
        // On a thread that is ending the pool is gone: then the memory is freed.
        let mut buf = Some(buf);
        let _ = POOL.try_with(|p| {
            if let Some(b) = buf.take() {
                p.borrow_mut().put(b);
            }
        });
    }
}

/// Bytes that this thread's pool holds (for tests and metrics).
pub fn pooled_bytes() -> usize {
    POOL.try_with(|p| p.borrow().bytes).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_at_most_an_eighth() {
        for len in (1..5000)
            .map(|b| b * BLOCK)
            .chain([0, 1, 4095, 4097, 123_456_789])
        {
            let class = class_len(len);
            let asked = len.div_ceil(BLOCK).max(1) * BLOCK;
            assert_eq!(class % BLOCK, 0);
            assert!(class >= asked, "{len}");
            assert!(class - asked <= asked / 8, "{len} got {class}");
            assert_eq!(class_len(class), class, "a class is its own class");
        }
    }

    #[test]
    fn buffers_return_to_the_pool_of_the_thread_that_drops_them() {
        std::thread::spawn(|| {
            let mut a = AlignedBuf::new(10_000);
            assert_eq!(a.len(), 12_288);
            assert_eq!(a.as_ptr() as usize % BLOCK, 0);
            a.fill(7);
            let at = a.as_ptr() as usize;
            let bytes = a.freeze();
            let clone = bytes.clone();
            drop(bytes);
            assert_eq!(pooled_bytes(), 0);
            drop(clone);
            assert_eq!(pooled_bytes(), 12_288);
            let again = AlignedBuf::new(12_288);
            assert_eq!(again.as_ptr() as usize, at);
            let other = std::thread::spawn(move || {
                drop(again);
                pooled_bytes()
            });
            assert_eq!(other.join().unwrap(), 12_288);
            assert_eq!(pooled_bytes(), 0);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_pool_is_bounded() {
        std::thread::spawn(|| {
            let all: Vec<_> = (0..40).map(|_| AlignedBuf::new(1 << 20)).collect();
            drop(all);
            assert_eq!(pooled_bytes(), POOL_BYTES_MAX);
        })
        .join()
        .unwrap();
    }
}
