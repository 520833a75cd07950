//! What was freed goes back to the system. The allocator of the binary (mimalloc) keeps it for a second, and after that returns
//! it only when somebody asks for a page or gives one back: after a rush nobody might.

use std::hint::black_box;
use std::time::Duration;

/// Longer than the allocator keeps what was freed.
pub const KEPT_FOR: Duration = Duration::from_millis(1_500);
/// So much at once is a page of its own.
const PAGE_BYTES: usize = 1 << 20;

/// Makes the allocator look for what it has kept for long enough. Costs some microseconds; with another allocator it does
/// nothing.
pub fn give_back() {
    // never written to, so it takes no memory
    drop(black_box(Vec::<u8>::with_capacity(PAGE_BYTES)));
}
