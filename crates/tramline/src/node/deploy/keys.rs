//! Secrets and access tokens, behind the management API.

use sha2::{Digest as _, Sha256};
use tramline_core::deploy::{ACCESS_TOKEN_DIGITS, ACCESS_TOKEN_PREFIX, SECRETS_MAX};
use tramline_gateway::{AccessToken, SecretDigest};
use tramline_store::access_tokens::{self, TokenRow};
use tramline_store::function_secrets::{self, NewSecret};

use super::answers::refused;
use super::service::{Answered, Inner};
use crate::node::control::convert;
use crate::output::hex;

impl Inner {
    pub(super) async fn set_secrets(&self, secrets: Vec<(String, String)>, actor: &str) -> Answered<()> {
        let sealed: Vec<NewSecret> = secrets
            .into_iter()
            .map(|(name, value)| NewSecret {
                sealed: self.live.sealer.seal(&name, &value),
                digest: hex(&Sha256::digest(value.as_bytes())),
                name,
            })
            .collect();
        let max = i32::try_from(SECRETS_MAX).unwrap_or(i32::MAX);
        let set = function_secrets::set(&self.live.db, &sealed, actor, max).await;
        set.map_err(|error| match error {
            tramline_store::StoreError::Refused { message, .. } => refused("secrets", vec![message]),
            other => convert::error(other),
        })?;
        self.taken_in().await
    }

    pub(super) async fn secrets(&self) -> Answered<Vec<SecretDigest>> {
        let rows = function_secrets::list(&self.live.db)
            .await
            .map_err(convert::error)?;
        Ok(rows
            .into_iter()
            .map(|row| SecretDigest {
                name: row.name,
                value: row.digest,
                updated_at: row.updated_at.to_string(),
            })
            .collect())
    }

    pub(super) async fn create_token(
        &self,
        name: &str,
        expires_in_s: Option<i64>,
        actor: &str,
    ) -> Answered<(String, AccessToken)> {
        let bits: [u8; ACCESS_TOKEN_DIGITS / 2] = rand::random();
        let token = format!("{ACCESS_TOKEN_PREFIX}{}", hex(&bits));
        let sha256 = Sha256::digest(token.as_bytes()).into();
        let row = access_tokens::create(&self.live.db, name, &sha256, expires_in_s, actor)
            .await
            .map_err(convert::error)?;
        Ok((token, shown_token(row)))
    }

    pub(super) async fn tokens(&self) -> Answered<Vec<AccessToken>> {
        let rows = access_tokens::list(&self.live.db).await.map_err(convert::error)?;
        Ok(rows.into_iter().map(shown_token).collect())
    }
}

fn shown_token(row: TokenRow) -> AccessToken {
    AccessToken {
        id: row.token_id.to_string(),
        name: row.name,
        created_by: row.created_by,
        created_at: row.created_at.to_string(),
        expires_at: row.expires_at.map(|at| at.to_string()),
        revoked_at: row.revoked_at.map(|at| at.to_string()),
    }
}
