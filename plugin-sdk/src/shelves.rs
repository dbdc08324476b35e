//! Small pieces of memory, each kind on a shelf of its own, in front of another allocator.
//!
//! A question of the broker is some hundred strings, and each is a piece that is taken by itself and given back by itself. What
//! looks for the piece that fits best, and joins neighbours when they come back, makes that a third of what a decision costs.
//! Here a piece is the first of its shelf, and goes back there. It is never joined with others: what an instance keeps for a
//! size is what it once needed of that size at the same time.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;

/// Pieces are multiples of this, and begin at one.
const STEP: usize = 16;
const SHELVES: usize = 32;
/// The largest piece. What is larger is the other allocator's.
const LARGEST: usize = STEP * SHELVES;
/// What is asked of the other allocator to cut pieces from.
const CHUNK: Layout = match Layout::from_size_align(4 << 10, STEP) {
    Ok(layout) => layout,
    Err(_) => panic!("the alignment is a power of two"),
};

/// An allocator for a single thread.
pub(crate) struct Shelves<A> {
    small: UnsafeCell<Small>,
    rest: A,
}

struct Small {
    /// The first piece of each shelf, which holds the address of the next.
    first: [*mut Piece; SHELVES],
    /// What is not cut yet.
    uncut: *mut u8,
    left: usize,
}

struct Piece {
    next: *mut Piece,
}

// SAFETY: without `atomics` there are no threads, and nothing interrupts an allocation.
#[cfg(all(target_arch = "wasm32", not(target_feature = "atomics")))]
unsafe impl<A: Sync> Sync for Shelves<A> {}

impl<A> Shelves<A> {
    pub(crate) const fn new(rest: A) -> Self {
        let small = Small { first: [ptr::null_mut(); SHELVES], uncut: ptr::null_mut(), left: 0 };
        Self { small: UnsafeCell::new(small), rest }
    }
}

/// The shelf for pieces of this kind. `None`: they are the other allocator's.
#[inline]
fn shelf(layout: Layout) -> Option<usize> {
    (layout.size().wrapping_sub(1) < LARGEST && layout.align() <= STEP).then(|| (layout.size() - 1) / STEP)
}

// SAFETY: a piece is on a shelf, or uncut, or somebody's, and as long as its shelf says; whose it is, is decided by its layout
// alone, which is the same when it is taken and when it is given back.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Shelves<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(shelf) = shelf(layout) else {
            // SAFETY: what is asked of this function is what is asked of that one.
            return unsafe { self.rest.alloc(layout) };
        };
        // SAFETY: one thread, and nothing in here allocates from `self`.
        let small = unsafe { &mut *self.small.get() };
        let first = small.first[shelf];
        if first.is_null() {
            return small.cut((shelf + 1) * STEP, &self.rest);
        }
        // SAFETY: it came back by `dealloc`, which wrote that.
        small.first[shelf] = unsafe { (*first).next };
        first.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        let Some(shelf) = shelf(layout) else {
            // SAFETY: as in `alloc`.
            return unsafe { self.rest.dealloc(piece, layout) };
        };
        // SAFETY: as in `alloc`.
        let small = unsafe { &mut *self.small.get() };
        let piece: *mut Piece = piece.cast();
        // SAFETY: it is nobody's any more, large enough, and begins at a multiple of `STEP`.
        unsafe { (*piece).next = small.first[shelf] };
        small.first[shelf] = piece;
    }

    #[inline]
    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that it is none too large.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (shelf(layout), shelf(wanted)) {
            // SAFETY: as in `alloc`.
            (None, None) => unsafe { self.rest.realloc(piece, layout, size) },
            (before, after) if before == after => piece,
            // SAFETY: the new piece is another one, and both are as long as what is copied.
            _ => unsafe {
                let moved = self.alloc(wanted);
                if !moved.is_null() {
                    ptr::copy_nonoverlapping(piece, moved, layout.size().min(size));
                    self.dealloc(piece, layout);
                }
                moved
            },
        }
    }
}

impl Small {
    /// Nothing is cut twice; so an instance that takes one call cuts all its pieces.
    #[inline]
    fn cut(&mut self, size: usize, rest: &impl GlobalAlloc) -> *mut u8 {
        if self.left < size && !self.refill(rest) {
            return ptr::null_mut();
        }
        let piece = self.uncut;
        // SAFETY: so much is left.
        self.uncut = unsafe { piece.add(size) };
        self.left -= size;
        piece
    }

    /// What was left is lost, less than the largest piece.
    #[cold]
    #[inline(never)]
    fn refill(&mut self, rest: &impl GlobalAlloc) -> bool {
        // SAFETY: its size is not zero.
        let chunk = unsafe { rest.alloc(CHUNK) };
        if chunk.is_null() {
            return false;
        }
        (self.uncut, self.left) = (chunk, CHUNK.size());
        true
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;
    use std::cell::Cell;

    use super::*;

    /// Counts, and has no more than so many pieces.
    struct Counted {
        taken: Cell<usize>,
        most: usize,
    }

    // SAFETY: the system's allocator does it.
    unsafe impl GlobalAlloc for Counted {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if self.taken.get() == self.most {
                return ptr::null_mut();
            }
            self.taken.set(self.taken.get() + 1);
            // SAFETY: as the caller's.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
            // SAFETY: as the caller's.
            unsafe { System.dealloc(piece, layout) }
        }
    }

    fn shelves(most: usize) -> Shelves<Counted> {
        Shelves::new(Counted { taken: Cell::new(0), most })
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).expect("a power of two")
    }

    /// A piece, which is filled.
    fn take(from: &Shelves<Counted>, of: Layout, with: u8) -> *mut u8 {
        // SAFETY: no size here is zero, and the piece is as long as its layout.
        unsafe {
            let piece = from.alloc(of);
            assert!(!piece.is_null());
            assert_eq!(piece as usize % of.align(), 0);
            piece.write_bytes(with, of.size());
            piece
        }
    }

    fn is_filled(piece: *const u8, size: usize, with: u8) -> bool {
        // SAFETY: it was filled by `take`.
        (0..size).all(|at| unsafe { *piece.add(at) } == with)
    }

    #[test]
    fn pieces_of_all_sizes_do_not_touch_each_other_and_are_used_again() {
        let shelves = shelves(usize::MAX);
        let mut taken_before = 0;
        for round in 0..3_u8 {
            let pieces: Vec<_> = (1..700_usize)
                .map(|size| {
                    let of = layout(size, 1 << (size % 6));
                    let with = (size as u8).wrapping_add(round);
                    (take(&shelves, of, with), of, with)
                })
                .collect();
            for &(piece, of, with) in &pieces {
                assert!(is_filled(piece, of.size(), with), "{of:?}");
                // SAFETY: it came from there.
                unsafe { shelves.dealloc(piece, of) };
            }
            let of_the_rest = pieces.iter().filter(|(_, of, _)| shelf(*of).is_none()).count();
            let taken = shelves.rest.taken.get() - taken_before;
            if round == 0 {
                assert!(taken > of_the_rest, "chunks");
            } else {
                assert_eq!(taken, of_the_rest, "no chunk is needed once more");
            }
            taken_before = shelves.rest.taken.get();
        }
    }

    #[test]
    fn the_largest_piece_is_on_a_shelf_and_no_larger_one() {
        assert_eq!(shelf(layout(1, 1)), Some(0));
        assert_eq!(shelf(layout(STEP, STEP)), Some(0));
        assert_eq!(shelf(layout(STEP + 1, 1)), Some(1));
        assert_eq!(shelf(layout(LARGEST, 1)), Some(SHELVES - 1));
        assert_eq!(shelf(layout(LARGEST + 1, 1)), None);
        assert_eq!(shelf(layout(8, 2 * STEP)), None);
        assert_eq!(shelf(layout(0, 1)), None);
    }

    #[test]
    fn what_grows_and_shrinks_keeps_what_is_in_it() {
        let shelves = shelves(usize::MAX);
        let sizes = [1, 15, 16, 17, 300, 512, 513, 5_000, 9_000, 600, 512, 40, 33, 3];
        let mut of = layout(sizes[0], 1);
        let mut piece = take(&shelves, of, 7);
        for size in sizes {
            // SAFETY: the piece is of that layout, and is filled as far as it is looked at.
            unsafe {
                let before = piece;
                piece = shelves.realloc(piece, of, size);
                assert!(is_filled(piece, of.size().min(size), 7), "{} to {size}", of.size());
                let stays = size <= LARGEST && shelf(of) == shelf(layout(size, 1));
                assert!(piece == before || !stays, "{} to {size}", of.size());
                of = layout(size, 1);
                piece.write_bytes(7, size);
            }
        }
        // SAFETY: it came from there.
        unsafe { shelves.dealloc(piece, of) };
    }

    #[test]
    fn what_is_refused_takes_nothing_away() {
        let shelves = shelves(1);
        let of = layout(LARGEST, 8);
        let pieces: Vec<_> = (0..CHUNK.size() / LARGEST).map(|at| take(&shelves, of, at as u8)).collect();
        // SAFETY: the pieces came from there and are of that layout.
        unsafe {
            assert!(shelves.alloc(of).is_null(), "the chunk is used up, and there is no other");
            assert!(shelves.realloc(pieces[0], of, LARGEST + 1).is_null());
            assert!(is_filled(pieces[0], LARGEST, 0), "it stays whose it was");
            shelves.dealloc(pieces[3], of);
            assert_eq!(shelves.alloc(of), pieces[3]);
        }
    }
}
