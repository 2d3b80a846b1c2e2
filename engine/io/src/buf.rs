//! Aligned buffers for direct I/O, with a pool per thread.
//!
//! Invariants: a buffer's address and length are multiples of [`BLOCK`]; its memory is that of a
//! size class, also when less of it is used, so that it fits its class when it comes back; the pool
//! of a thread never holds more than [`POOL_BYTES_MAX`].

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;

/// The unit of direct I/O: positions and lengths of direct writes are multiples of it (bytes).
pub const BLOCK: usize = 4096;

/// What a thread keeps of buffers that are not in use (bytes).
pub const POOL_BYTES_MAX: usize = 32 << 20;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool::new()) };
}

/// Buffers of this size and larger are mapped: their pages are touched when they are used, not all
/// at once, which would hold the shard for milliseconds (bytes).
const MAPPED_FROM: usize = 1 << 20;
/// A huge page (bytes).
const HUGE: usize = 2 << 20;

/// Initialised memory.
struct Memory {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its memory, like a `Box<[u8]>`.
unsafe impl Send for Memory {}
// SAFETY: shared access only reads.
unsafe impl Sync for Memory {}

impl Memory {
    /// `len` is a multiple of `BLOCK`, and not 0.
    fn new(len: usize) -> Memory {
        if len >= MAPPED_FROM {
            return Memory::map(len);
        }
        let layout = Memory::layout(len);
        // SAFETY: the layout is not empty.
        let Some(at) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout)
        };
        // SAFETY: `at` owns `len` bytes. Writing touches its pages now and not in the middle of
        // a write to the disk.
        unsafe { std::ptr::write_bytes(at.as_ptr(), 0, len) };
        Memory { at, len }
    }

    /// Maps memory, of huge pages where the system has them: the kernel then pins and describes a
    /// few large pages for each direct write, and not hundreds of small ones.
    fn map(len: usize) -> Memory {
        let (access, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        let spare = if len.is_multiple_of(HUGE) { HUGE } else { 0 };
        let whole = len + spare;
        // SAFETY: a new mapping, of zeros; the result is checked.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), whole, access, flags, -1, 0) };
        let Some(at) = NonNull::new(at.cast::<u8>()).filter(|_| at != libc::MAP_FAILED) else {
            handle_alloc_error(Memory::layout(len));
        };
        if spare == 0 {
            return Memory { at, len };
        }
        let before = at.as_ptr().align_offset(HUGE);
        // SAFETY: `before` is less than `HUGE`, so all addresses lie in the mapping of `whole`
        // bytes; what is unmapped was never used. Advice that is not taken does no harm.
        unsafe {
            let start = at.add(before);
            if before > 0 {
                libc::munmap(at.as_ptr().cast(), before);
            }
            libc::munmap(start.add(len).as_ptr().cast(), spare - before);
            libc::madvise(start.as_ptr().cast(), len, libc::MADV_HUGEPAGE);
            Memory { at: start, len }
        }
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, BLOCK).expect("a buffer is smaller than the address space")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.len >= MAPPED_FROM {
            // SAFETY: mapped with this length, and unmapped once.
            unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
        } else {
            // SAFETY: allocated with this layout, and freed once.
            unsafe { dealloc(self.at.as_ptr(), Memory::layout(self.len)) };
        }
    }
}

/// Memory that goes back to a pool when its last user is gone.
struct Pooled(Option<Memory>);

impl Pooled {
    fn memory(&self) -> &Memory {
        self.0.as_ref().expect("taken only when it is dropped")
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        // On a thread that is ending the pool is gone: then the memory is freed.
        let memory = &mut self.0;
        let _ = POOL.try_with(|p| {
            if let Some(memory) = memory.take() {
                p.borrow_mut().put(memory);
            }
        });
    }
}

struct Pool {
    /// Free buffers by their length.
    free: BTreeMap<usize, Vec<Memory>>,
    bytes: usize,
}

impl Pool {
    const fn new() -> Pool {
        Pool {
            free: BTreeMap::new(),
            bytes: 0,
        }
    }

    fn take(&mut self, len: usize) -> Option<Memory> {
        let buf = self.free.get_mut(&len)?.pop()?;
        self.bytes -= len;
        Some(buf)
    }

    fn put(&mut self, buf: Memory) {
        let len = buf.len;
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
///
/// Parts of one piece of memory never overlap, so each is written through its own buffer alone.
pub struct AlignedBuf {
    memory: Arc<Pooled>,
    /// Where it begins in the memory.
    from: usize,
    /// A multiple of `BLOCK`.
    used: usize,
}

impl AlignedBuf {
    /// A buffer of at least `len` bytes (see [`class_len`]). Aborts when memory is exhausted, as
    /// every allocation does.
    pub fn new(len: usize) -> AlignedBuf {
        let len = class_len(len);
        let pooled = POOL.try_with(|p| p.borrow_mut().take(len)).ok().flatten();
        let memory = pooled.unwrap_or_else(|| Memory::new(len));
        AlignedBuf {
            memory: Arc::new(Pooled(Some(memory))),
            from: 0,
            used: len,
        }
    }

    /// Shortens the buffer to `len` bytes, rounded up to whole blocks; no more than that is
    /// written. Its memory stays as it is. Longer than it is: nothing happens.
    pub fn truncate(&mut self, len: usize) {
        self.used = self.used.min(len.next_multiple_of(BLOCK));
    }

    /// Takes `len` bytes, rounded up to whole blocks, off the front as a buffer of its own; `None`
    /// when there are not so many. The memory goes back to the pool when all its parts are gone.
    pub fn split_front(&mut self, len: usize) -> Option<AlignedBuf> {
        let len = len.next_multiple_of(BLOCK);
        if len > self.used {
            return None;
        }
        let front = AlignedBuf {
            memory: self.memory.clone(),
            from: self.from,
            used: len,
        };
        self.from += len;
        self.used -= len;
        Some(front)
    }

    /// Ends writing: the same memory as shared bytes. It returns to a pool when the last clone is
    /// dropped, on whichever thread that happens.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: `from + used` is at most the memory's length.
        unsafe { self.memory.memory().at.as_ptr().add(self.from) }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `used` initialised bytes, which are this buffer's alone, borrowed as long as
        // `self` is.
        unsafe { std::slice::from_raw_parts(self.start(), self.used) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.used) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
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
    fn a_shortened_buffer_returns_to_its_class() {
        std::thread::spawn(|| {
            let mut buf = AlignedBuf::new(10_000);
            buf.truncate(5000);
            assert_eq!(buf.len(), 8192);
            buf.truncate(9000);
            assert_eq!(buf.len(), 8192);
            drop(buf);
            assert_eq!(AlignedBuf::new(10_000).len(), 12_288);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn parts_are_apart_and_return_together() {
        std::thread::spawn(|| {
            let mut rest = AlignedBuf::new(2 << 20);
            let mut a = rest.split_front(5000).unwrap();
            let mut b = rest.split_front(1).unwrap();
            assert_eq!((a.len(), b.len()), (8192, 4096));
            assert!(rest.split_front(2 << 20).is_none());
            assert_eq!(rest.len(), (2 << 20) - 12_288);
            a.fill(1);
            b.fill(2);
            rest.fill(3);
            assert!(a.iter().all(|&x| x == 1) && b.iter().all(|&x| x == 2));
            drop((rest, a.freeze()));
            assert_eq!(pooled_bytes(), 0);
            assert!(b.iter().all(|&x| x == 2));
            drop(b);
            assert_eq!(pooled_bytes(), 2 << 20);
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
