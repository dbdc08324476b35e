//! What the code under test did: a counter for each edge, and the numbers it compared.
//!
//! rustc puts both in when it is told to (`-Cpasses=sancov-module`, see `cargo xtask fuzz`) and calls the functions
//! below, whose names and forms LLVM's SanitizerCoverage dictates. Without those flags there are no counters.

#![allow(unsafe_code, reason = "the counters are memory that instrumented code writes to without telling us")]

use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

/// Where the counters of one object file lie. The linker makes one range of all of them, and every object file
/// announces it.
static START: AtomicPtr<u8> = AtomicPtr::new(null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Called once per object file before `main`, always with the bounds of the whole section.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    START.store(start, Relaxed);
    LENGTH.store(stop as usize - start as usize, Relaxed);
}

/// Pairs of numbers that were compared and differed: the last ones.
const PAIRS: usize = 64;

thread_local! {
    static COMPARED: [Cell<(u64, u64, u8)>; PAIRS] = const { [const { Cell::new((0, 0, 0)) }; PAIRS] };
    static NEXT: Cell<usize> = const { Cell::new(0) };
    /// Only while the code under test runs.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

fn compared(left: u64, right: u64, bytes: u8) {
    if left == right || !WATCHED.get() {
        return;
    }
    let next = NEXT.get();
    NEXT.set(next.wrapping_add(1));
    COMPARED.with(|pairs| pairs[next % PAIRS].set((left, right, bytes)));
}

macro_rules! comparisons {
    ($($name:ident($number:ty, $bytes:literal);)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name(left: $number, right: $number) {
            compared(left.into(), right.into(), $bytes);
        }
    )*};
}

comparisons! {
    __sanitizer_cov_trace_cmp1(u8, 1);
    __sanitizer_cov_trace_cmp2(u16, 2);
    __sanitizer_cov_trace_cmp4(u32, 4);
    __sanitizer_cov_trace_cmp8(u64, 8);
    __sanitizer_cov_trace_const_cmp1(u8, 1);
    __sanitizer_cov_trace_const_cmp2(u16, 2);
    __sanitizer_cov_trace_const_cmp4(u32, 4);
    __sanitizer_cov_trace_const_cmp8(u64, 8);
}

/// A `match` on numbers. The first word is how many there are, the second how wide they are.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_trace_switch(value: u64, cases: *const u64) {
    if !WATCHED.get() {
        return;
    }
    // SAFETY: LLVM hands over an array of two words and as many numbers as the first word says.
    let (count, bits) = unsafe { (*cases as usize, *cases.add(1)) };
    let bytes = (bits / 8).clamp(1, 8) as u8;
    // One of them will do; another call brings another.
    let chosen = NEXT.get() % count.max(1);
    if count > 0 {
        // SAFETY: as above; `chosen` is below `count`.
        compared(value, unsafe { *cases.add(2 + chosen) }, bytes);
    }
}

/// The counters of this process.
pub struct Coverage {
    start: *mut u8,
    /// As they were when the code under test returned: what looks at them is counted, too.
    taken: Vec<u8>,
}

/// Most counters are 0; they are passed over in pieces of this size.
const PIECE: usize = 256;

impl Coverage {
    /// `None` if the code was built without counters. Used by one thread: the one that runs the code under test.
    pub fn of_this_process() -> Option<Self> {
        let (start, length) = (START.load(Relaxed), LENGTH.load(Relaxed));
        (!start.is_null() && length > 0).then(|| Self { start, taken: vec![0; length] })
    }

    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// Runs `code` with counters that begin at 0.
    pub fn watch<T>(&mut self, code: impl FnOnce() -> T) -> T {
        let length = self.taken.len();
        // SAFETY: the range is a section of this program, there for as long as it runs, and may be written to.
        // Instrumented code of other threads writes there too; a lost count does no harm, and no value is invalid.
        unsafe { self.start.write_bytes(0, length) };
        NEXT.set(0);
        WATCHED.set(true);
        let outcome = code();
        WATCHED.set(false);
        // SAFETY: as above; `taken` has as many bytes and is our own.
        unsafe { self.start.copy_to_nonoverlapping(self.taken.as_mut_ptr(), length) };
        outcome
    }

    /// Every edge that was taken, and how often, by powers of two.
    pub fn taken(&self) -> impl Iterator<Item = (usize, u8)> {
        let pieces = self.taken.chunks(PIECE).enumerate();
        let busy = pieces.filter(|(_, piece)| **piece != [0; PIECE][..piece.len()]);
        busy.flat_map(|(at, piece)| {
            let counters = piece.iter().enumerate().filter(|(_, count)| **count != 0);
            counters.map(move |(within, count)| (at * PIECE + within, bucket(*count)))
        })
    }

    /// Numbers that were compared, with how many bytes wide they are.
    pub fn compared(&self) -> Vec<(u64, u64, u8)> {
        let count = NEXT.get().min(PAIRS);
        COMPARED.with(|pairs| pairs[..count].iter().map(Cell::get).collect())
    }
}

/// One bit for each power of two: 1, 2, 3, 4-7, 8-15, 16-31, 32-127, 128 and more.
fn bucket(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        128..=255 => 128,
    }
}
