//! The roles that requests may run as.

use std::collections::{BTreeSet, HashMap};

use postrust_core::config::RoleSettings;

use super::RestError;
use crate::connect::Session;

/// Roles that `authenticator` may become, read from the database.
pub(super) struct Roles {
    pub owner_is_superuser: bool,
    granted: BTreeSet<String>,
    /// Role and its `statement_timeout` in milliseconds.
    timeouts: Vec<(String, u64)>,
}

impl Roles {
    pub async fn load(db_url: &str) -> Result<Self, RestError> {
        let session = Session::open(db_url, "tramline rest roles")
            .await
            .map_err(RestError::Connect)?;
        // `set role` applies none of the role's own settings, so the time limit is read here and set per request.
        // Postgres itself turns '3s' into milliseconds.
        let statement = "
            select r.rolname::text,
                   (select extract(epoch from substr(s, length('statement_timeout=') + 1)::interval) * 1000
                    from unnest(r.rolconfig) as s where s ~ '^statement_timeout=[0-9]+ *(us|ms|s|min|h|d)$')::int8,
                   (select rolsuper from pg_catalog.pg_roles where rolname = session_user)
            from pg_catalog.pg_roles r
            where r.rolname in ('anon', 'authenticated', 'service_role')
               or exists (select from pg_catalog.pg_auth_members m
                          join pg_catalog.pg_roles a on a.oid = m.member
                          where a.rolname = 'authenticator' and m.roleid = r.oid)";
        let rows = session
            .client
            .query(statement, &[])
            .await
            .map_err(RestError::Roles)?;
        let mut roles = Self {
            owner_is_superuser: false,
            granted: BTreeSet::new(),
            timeouts: Vec::new(),
        };
        for row in rows {
            let name: String = row.get(0);
            if let Some(timeout) = row.get::<_, Option<i64>>(1).and_then(|ms| u64::try_from(ms).ok()) {
                roles.timeouts.push((name.clone(), timeout));
            }
            roles.owner_is_superuser = row.get(2);
            roles.granted.insert(name);
        }
        Ok(roles)
    }

    pub fn may_be(&self, role: &str) -> bool {
        self.granted.contains(role)
    }

    /// The time limits as `postrust` takes them.
    pub fn settings(&self) -> HashMap<String, RoleSettings> {
        self.timeouts
            .iter()
            .map(|(role, timeout)| {
                let mut settings = RoleSettings::default();
                settings.statement_timeout = Some(*timeout);
                (role.clone(), settings)
            })
            .collect()
    }
}
