//! What a piece of code asks of the allocator.
//!
//! A test binary that wants to know declares the allocator once:
//!
//! ```
//! use wireline_testkit::allocations::{self, CountingAllocator};
//!
//! #[global_allocator]
//! static ALLOCATOR: CountingAllocator = CountingAllocator;
//!
//! let (vec, cost) = allocations::of(|| vec![0_u8; 1000]);
//! assert_eq!((cost.count, cost.peak_bytes, cost.kept_bytes), (1, 1000, 1000));
//! # drop(vec);
//! ```
//!
//! Counts are per thread, so tests that run side by side do not see each other.

#![allow(
    unsafe_code,
    reason = "GlobalAlloc is an unsafe trait; every method only counts and hands on to the system's"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// What was asked for while something ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocations {
    /// Allocations and reallocations.
    pub count: usize,
    /// The most bytes held at a time, beyond those held before.
    pub peak_bytes: usize,
    /// Bytes held at the end, less those held before; negative if more was freed than allocated.
    pub kept_bytes: isize,
}

/// Runs `run` and counts what this thread asks of the [`CountingAllocator`] meanwhile. Not to be
/// nested.
///
/// # Panics
/// When the [`CountingAllocator`] is not the global one: counts would all be zero.
pub fn of<R>(run: impl FnOnce() -> R) -> (R, Allocations) {
    let before = COUNT.get();
    drop(std::hint::black_box(Box::new(0_u64)));
    assert!(COUNT.get() > before, "the CountingAllocator is not the global allocator");
    COUNT.set(0);
    LIVE.set(0);
    PEAK.set(0);
    let result = run();
    let cost =
        Allocations { count: COUNT.get(), peak_bytes: PEAK.get().unsigned_abs(), kept_bytes: LIVE.get() };
    (result, cost)
}

/// The system's allocator, counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct CountingAllocator;

thread_local! {
    // `const` and without a destructor: reading them allocates nothing, at any time in a thread's life.
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn grow(bytes: usize) {
    COUNT.set(COUNT.get() + 1);
    LIVE.set(LIVE.get().saturating_add_unsigned(bytes));
    PEAK.set(PEAK.get().max(LIVE.get()));
}

fn shrink(bytes: usize) {
    LIVE.set(LIVE.get().saturating_sub_unsigned(bytes));
}

// SAFETY: every method hands its arguments on to `System` unchanged and gives back what that gave, so
// the contract is `System`'s own. Counting allocates nothing and cannot unwind.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps `GlobalAlloc::alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps `GlobalAlloc::alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: the caller keeps `GlobalAlloc::dealloc`'s contract; `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        shrink(layout.size());
        grow(new_size);
        // SAFETY: the caller keeps `GlobalAlloc::realloc`'s contract; `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}
