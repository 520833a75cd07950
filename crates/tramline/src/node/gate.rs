//! The database as the gateway itself uses it.

use std::time::Duration;

use futures_util::FutureExt as _;
use tramline_gateway::{Delivery, GateStore, Kept, LinkKey, NewLink, Secret};
use tramline_store::gate::DeliveryState;
use tramline_store::{Db, gate};

use super::control::convert;

/// Keys of links and deliveries of webhooks, in the database that all nodes share.
pub struct NodeGate(pub Db);

impl GateStore for NodeGate {
    fn link_keys(&self) -> Kept<Vec<LinkKey>> {
        let db = self.0.clone();
        async move {
            let rows = gate::link_keys(&db).await.map_err(convert::error)?;
            Ok(rows
                .into_iter()
                .map(|row| LinkKey {
                    id: row.key_id,
                    secret: Secret::new(row.secret),
                })
                .collect())
        }
        .boxed()
    }

    fn sign_link(&self, link: NewLink) -> Kept<String> {
        let db = self.0.clone();
        let link = gate::NewLink {
            function: link.function,
            path: link.path,
            query: link.query,
            method: link.method,
            expires_in_s: link.expires_in_s,
        };
        async move { gate::sign_link(&db, &link).await.map_err(convert::error) }.boxed()
    }

    fn begin_delivery(&self, function: &str, id: &str, lease: Duration) -> Kept<Delivery> {
        let (db, function, id) = (self.0.clone(), function.to_owned(), id.to_owned());
        async move {
            let state = gate::begin_delivery(&db, &function, &id, lease).await;
            Ok(match state.map_err(convert::error)? {
                DeliveryState::New => Delivery::New,
                DeliveryState::Running => Delivery::Running,
                DeliveryState::Accepted => Delivery::Accepted,
            })
        }
        .boxed()
    }

    fn end_delivery(&self, function: &str, id: &str, accepted: bool) -> Kept<()> {
        let (db, function, id) = (self.0.clone(), function.to_owned(), id.to_owned());
        async move {
            gate::end_delivery(&db, &function, &id, accepted)
                .await
                .map_err(convert::error)
        }
        .boxed()
    }
}
