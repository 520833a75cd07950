//! What idle connections leave behind goes back to the system: after many clients fell silent nobody might ask for a page.

use std::sync::Arc;

use tramline_core::spare_memory::{self, KEPT_FOR};

use super::Shared;

/// Makes the allocator look, some time after connections were put aside. Ends with the stop.
pub(super) async fn give_back(shared: Arc<Shared>) {
    let looking = async {
        loop {
            shared.parked.notified().await;
            tokio::time::sleep(KEPT_FOR).await;
            spare_memory::give_back();
        }
    };
    tokio::select! {
        () = shared.stop.cancelled() => {}
        () = looking => {}
    }
}
