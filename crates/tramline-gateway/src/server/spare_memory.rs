//! What idle connections leave behind goes back to the system. The allocator (mimalloc) keeps what was freed for a second, and
//! after that returns it only when somebody asks for a page or gives one back: after many clients fell silent nobody might.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;

/// Longer than the allocator keeps what was freed.
const AFTER: Duration = Duration::from_millis(1_500);
/// So much at once is a page of its own.
const PAGE_BYTES: usize = 1 << 20;

/// Makes the allocator look, some time after connections were put aside. Ends with the stop.
pub(super) async fn give_back(shared: Arc<Shared>) {
    let looking = async {
        loop {
            shared.parked.notified().await;
            tokio::time::sleep(AFTER).await;
            // never written to, so it takes no memory
            drop(black_box(Vec::<u8>::with_capacity(PAGE_BYTES)));
        }
    };
    tokio::select! {
        () = shared.stop.cancelled() => {}
        () = looking => {}
    }
}
