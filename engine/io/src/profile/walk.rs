//! Walking a stack by frame pointers, from inside a signal handler.
//!
//! Invariants: nothing is read but words of the interrupted thread's own stack, between the stack
//! pointer and its end (see [`know_stack`]), and bytes of code that stay mapped as long as the
//! process lives; so a walk never faults, whatever the registers hold. It allocates nothing, takes
//! no lock and makes no system call. A thread whose stack is not known gives its innermost frame
//! only.
//!
//! All of Rust's code keeps frame pointers here, the standard library included; the C library
//! does not. From there the nearest return address into the program is looked for.

use std::cell::Cell;
use std::fs;
use std::sync::OnceLock;

/// The most frames of one stack.
pub(super) const DEPTH: usize = 96;

/// Stands for the kernel as the innermost frame; no code is there.
pub(super) const KERNEL: usize = 1;

/// How far the nearest return address is looked for (bytes).
const SCAN: usize = 16 << 10;

thread_local! {
    /// The lowest address of this thread's stack, and the first one beyond it; zeros: not known.
    static STACK: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Notes where the calling thread's stack lies, so that its samples have more than one frame.
pub fn know_stack() {
    // SAFETY: the attributes are filled by the first call, which is checked, and freed after use.
    let bounds = unsafe {
        let mut attr: libc::pthread_attr_t = std::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &mut attr) != 0 {
            return;
        }
        let (mut low, mut size) = (std::ptr::null_mut(), 0);
        let result = libc::pthread_attr_getstack(&attr, &mut low, &mut size);
        libc::pthread_attr_destroy(&mut attr);
        if result != 0 {
            return;
        }
        (low as usize, low as usize + size)
    };
    STACK.with(|s| s.set(bounds));
}

/// Code that stays mapped: the program itself, and libraries that it cannot unload.
#[derive(Clone, Copy, Debug)]
struct Code {
    start: usize,
    end: usize,
    /// Compiled with frame pointers.
    framed: bool,
}

static CODE: OnceLock<Vec<Code>> = OnceLock::new();

/// Reads once where the code is. Must come before the first [`walk`].
pub(super) fn know_code() {
    CODE.get_or_init(|| {
        let own = fs::read_link("/proc/self/exe").unwrap_or_default();
        let own = own.to_string_lossy();
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        maps.lines().filter_map(|line| code(line, &own)).collect()
    });
}

/// A line of /proc/self/maps, if code is there that stays.
fn code(line: &str, own: &str) -> Option<Code> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    if !words.next()?.starts_with("r-x") {
        return None;
    }
    let path = words.nth(3)?;
    let framed = path == own;
    let file = path.rsplit('/').next()?;
    if !framed && file != "[vdso]" && !file.starts_with("libc.so") {
        return None;
    }
    Some(Code {
        start: usize::from_str_radix(start, 16).ok()?,
        end: usize::from_str_radix(end, 16).ok()?,
        framed,
    })
}

fn code_at(address: usize) -> Option<Code> {
    let all = CODE.get()?;
    all.iter()
        .copied()
        .find(|c| (c.start + 8..c.end - 8).contains(&address))
}

/// The registers that a walk begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    pub(super) code: usize,
    pub(super) stack: usize,
    pub(super) frame: usize,
}

/// The stack of a thread above its stack pointer: the only memory that a walk reads.
struct Stack {
    low: usize,
    high: usize,
}

impl Stack {
    /// The word at `at`, if it is there.
    fn word(&self, at: usize) -> Option<usize> {
        let fits = at >= self.low && at < self.high && self.high - at >= size_of::<usize>();
        if !fits || !at.is_multiple_of(size_of::<usize>()) {
            return None;
        }
        // SAFETY: aligned, and within the live part of the stack of the calling thread, which
        // stays mapped while it runs. Volatile: other frames of this thread own what is there.
        Some(unsafe { (at as *const usize).read_volatile() })
    }

    /// The frame at `at`: the caller's frame pointer and the address of return.
    fn record(&self, at: usize) -> Option<(usize, usize)> {
        let (frame, back) = (self.word(at)?, self.word(at + size_of::<usize>())?);
        is_return(back).then_some((frame, back))
    }

    /// The first frame above `from` that looks whole.
    fn next_record(&self, from: usize) -> Option<usize> {
        let all = (from..from.saturating_add(SCAN)).step_by(size_of::<usize>());
        let mut all = all.take_while(|&at| at < self.high);
        all.find(|&at| {
            let frame = self.record(at).map_or(0, |(frame, _)| frame);
            frame > at && frame < self.high
        })
    }

    /// Where the nearest address of return into framed code is.
    fn next_return(&self) -> Option<usize> {
        let all = (self.low..self.low.saturating_add(SCAN)).step_by(size_of::<usize>());
        let mut all = all.take_while(|&at| at < self.high);
        all.find(|&at| {
            let word = self.word(at).unwrap_or(0);
            code_at(word).is_some_and(|c| c.framed) && is_return(word)
        })
    }
}

/// The bytes of code around an address that [`code_at`] knows.
fn bytes<const N: usize>(from: usize) -> [u8; N] {
    // SAFETY: `code_at` leaves 8 bytes on both sides of what it finds, and that code stays mapped.
    unsafe { (from as *const [u8; N]).read_unaligned() }
}

/// Whether a call stands right before `address`.
#[cfg(target_arch = "x86_64")]
fn is_return(address: usize) -> bool {
    if code_at(address).is_none() {
        return false;
    }
    let b: [u8; 7] = bytes(address - 7);
    let indirect = |back: usize| b[7 - back] == 0xff && b[8 - back] & 0x38 == 0x10;
    b[2] == 0xe8 || [2, 3, 4, 6, 7].into_iter().any(indirect)
}

/// Whether the thread was in the kernel at its own wish.
#[cfg(target_arch = "x86_64")]
fn in_call(address: usize) -> bool {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    // Behind it, or on it again when the call will be repeated.
    code_at(address).is_some() && (bytes(address - 2) == SYSCALL || bytes(address) == SYSCALL)
}

/// If the function has not made its frame yet, or has given it up: how many words above the stack
/// pointer its address of return is.
#[cfg(target_arch = "x86_64")]
fn unframed(address: usize) -> Option<usize> {
    code_at(address)?;
    match bytes::<3>(address) {
        // push rbp; ret
        [0x55, ..] | [0xc3, ..] => Some(0),
        // mov rbp, rsp
        [0x48, 0x89, 0xe5] => Some(1),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn unframed(_: usize) -> Option<usize> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn is_return(_: usize) -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn in_call(_: usize) -> bool {
    false
}

/// Writes the frames of the calling thread to `out`, innermost first, and returns how many there
/// are. Each is an address of return: one beyond an instruction of its function.
pub(super) fn walk(from: Registers, out: &mut [usize; DEPTH]) -> usize {
    let mut count = 0;
    let mut push = |frame| {
        out[count] = frame;
        count += 1;
        count < DEPTH
    };
    if in_call(from.code) {
        push(KERNEL);
    }
    push(from.code + 1);
    let (low, high) = STACK.with(Cell::get);
    let mut stack = Stack {
        low: from.stack,
        high,
    };
    if !(low..high).contains(&from.stack) {
        return count;
    }
    let mut frame = from.frame;
    let framed = code_at(from.code).is_some_and(|c| c.framed);
    let caller = match framed {
        true => unframed(from.code).map(|words| from.stack + words * size_of::<usize>()),
        false => stack.next_return(),
    };
    // A frame that is nearer than the caller's has its address too.
    let caller = caller.filter(|&at| frame > at || stack.record(frame).is_none());
    if let Some(at) = caller {
        if let Some(back) = stack.word(at).filter(|&word| is_return(word)) {
            push(back);
        }
        stack.low = at + size_of::<usize>();
        if frame < stack.low || stack.record(frame).is_none() {
            frame = stack.next_record(stack.low).unwrap_or(0);
        }
    }
    while let Some((next, back)) = stack.record(frame) {
        if !push(back) {
            break;
        }
        stack.low = frame + 2 * size_of::<usize>();
        frame = next;
    }
    count
}
