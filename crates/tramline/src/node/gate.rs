//! The database as the gateway itself uses it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tramline_gateway::control::ControlError;
use tramline_gateway::{
    AnswerClaim, AnswerEnd, AnswerState, Delivery, GateStore, Kept, KeptAnswer, LinkKey, NewLink, Secret,
};
use tramline_store::gate::DeliveryState;
use tramline_store::{Db, answers, gate};

use super::control::convert;

/// Keys of links, deliveries of webhooks and answers by idempotency key, in the database that all nodes share.
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

    fn begin_answer(&self, claim: &AnswerClaim, lease: Duration) -> Kept<AnswerState> {
        let (db, claim) = (self.0.clone(), stored(claim));
        async move {
            let state = answers::begin(&db, &claim, lease).await;
            Ok(match state.map_err(convert::error)? {
                answers::AnswerState::New => AnswerState::New,
                answers::AnswerState::Running => AnswerState::Running,
                answers::AnswerState::Other => AnswerState::Other,
                answers::AnswerState::TooLarge => AnswerState::TooLarge,
                answers::AnswerState::Kept(row) => AnswerState::Kept(kept(row)?),
            })
        }
        .boxed()
    }

    fn renew_answer(&self, claim: &AnswerClaim, lease: Duration) -> Kept<bool> {
        let (db, claim) = (self.0.clone(), stored(claim));
        async move { answers::renew(&db, &claim, lease).await.map_err(convert::error) }.boxed()
    }

    fn end_answer(&self, claim: &AnswerClaim, end: AnswerEnd) -> Kept<bool> {
        let (db, claim) = (self.0.clone(), stored(claim));
        async move {
            match end {
                AnswerEnd::Free => answers::free(&db, &claim).await.map(|()| true),
                AnswerEnd::TooLarge => answers::end(&db, &claim, None).await,
                AnswerEnd::Keep(answer) => answers::end(&db, &claim, Some(&row(answer))).await,
            }
            .map_err(convert::error)
        }
        .boxed()
    }
}

fn stored(claim: &AnswerClaim) -> answers::AnswerClaim {
    answers::AnswerClaim {
        key: claim.key,
        function: claim.function.clone(),
        fingerprint: claim.fingerprint,
        holder: claim.holder,
        retention: claim.retention,
    }
}

fn row(answer: KeptAnswer) -> answers::KeptAnswer {
    let headers = answer.headers.iter();
    answers::KeptAnswer {
        status: answer.status.as_u16(),
        headers: headers
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
            .collect(),
        body: answer.body.to_vec(),
    }
}

fn kept(row: answers::KeptAnswer) -> Result<KeptAnswer, ControlError> {
    let broken = |reason: String| ControlError::Internal {
        reason: format!("kept answer: {reason}"),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in row.headers {
        headers.append(
            name.parse::<HeaderName>()
                .map_err(|error| broken(error.to_string()))?,
            HeaderValue::from_bytes(&value).map_err(|error| broken(error.to_string()))?,
        );
    }
    Ok(KeptAnswer {
        status: StatusCode::from_u16(row.status).map_err(|error| broken(error.to_string()))?,
        headers,
        body: Bytes::from(row.body),
    })
}
