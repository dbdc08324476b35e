//! The allocator of a plugin, whose first memory is what the instance begins with.
//!
//! The standard library's asks for more memory at its first allocation. For the broker that means changing which pages of the
//! process may be used, twice for each instance, and all processors have to be told: an eighth of what a decision on an instance
//! of its own costs. What an instance begins with and never touches costs nothing.
//!
//! A plugin that brings an allocator of its own switches the feature `allocator` off.

use core::alloc::{GlobalAlloc, Layout};
use core::arch::wasm32;
use core::mem::MaybeUninit;
use core::ptr;

use talc::base::Talc;
use talc::base::binning::Binning;
use talc::cell::TalcSyncCell;
use talc::source::Source;
use talc::wasm::WasmBinning;

use crate::shelves::Shelves;

#[global_allocator]
static ALLOCATOR: Shelves<TalcSyncCell<FirstThenMore, WasmBinning>> =
    Shelves::new(TalcSyncCell::new_wasm(FirstThenMore { begun: false }));

/// Where the broker puts each string of a question. In place of the one that comes with `wit-bindgen` (there it is weak), which is
/// three calls deep; there are a hundred strings.
///
/// # Safety
///
/// `old` is a piece of `old_size` bytes with this alignment and `new_size` is not 0, or `old_size` is 0.
#[unsafe(no_mangle)]
unsafe extern "C" fn cabi_realloc(old: *mut u8, old_size: usize, align: usize, new_size: usize) -> *mut u8 {
    if old_size == 0 && new_size == 0 {
        return ptr::without_provenance_mut(align);
    }
    // SAFETY: alignments of the canonical ABI are powers of two, and what is larger than a memory is refused by whoever has it.
    let piece = unsafe {
        match old_size {
            0 => ALLOCATOR.alloc(Layout::from_size_align_unchecked(new_size, align)),
            _ => ALLOCATOR.realloc(old, Layout::from_size_align_unchecked(old_size, align), new_size),
        }
    };
    if piece.is_null() {
        wasm32::unreachable();
    }
    piece
}

/// What an instance begins with; a decision on a certificate needs some 20 KiB.
static mut FIRST: [MaybeUninit<u8>; FIRST_BYTES] = [MaybeUninit::uninit(); FIRST_BYTES];
const FIRST_BYTES: usize = 128 << 10;
const PAGE: usize = 64 << 10;
/// More than what the allocator writes into a piece of memory for itself.
const OWN: usize = 64;

/// Where the allocator takes memory from.
#[derive(Debug)]
struct FirstThenMore {
    /// What the instance began with is taken.
    begun: bool,
}

// SAFETY: it allocates nothing itself.
unsafe impl Source for FirstThenMore {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, wanted: Layout) -> Result<(), ()> {
        let (base, size) = if core::mem::replace(&mut talc.source.begun, true) {
            let pages = (wanted.size() + wanted.align() + OWN).div_ceil(PAGE);
            let before = wasm32::memory_grow::<0>(pages);
            if before == usize::MAX {
                return Err(());
            }
            (ptr::with_exposed_provenance_mut(before * PAGE), pages * PAGE)
        } else {
            ((&raw mut FIRST).cast(), FIRST_BYTES)
        };
        // SAFETY: each piece is handed over once and is nobody else's: `FIRST` is named only here, and pages that were added are new.
        unsafe { talc.claim(base, size) }.map(|_| ()).ok_or(())
    }
}
