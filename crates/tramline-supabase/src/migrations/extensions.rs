//! Statements about extensions in migrations.
//!
//! An extension is created when the server offers it, in schema `extensions` unless the statement says otherwise.
//! One that the server does not offer, or does not let this role create, is passed over with a note, so that a project's
//! migrations go on. Of those whose work tramline does in another way the note says what is missing and what to use
//! instead; so does the error of a statement that uses one of their objects.

use std::collections::BTreeMap;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::sql::ExtensionVerb;

/// An extension whose work is done in another way here. Its objects do not exist.
struct Replaced {
    name: &'static str,
    /// What people use of it.
    missing: &'static str,
    /// How its objects begin in the words of Postgres about what does not exist.
    begins: &'static [&'static str],
    instead: &'static str,
}

const REPLACED: [Replaced; 5] = [
    Replaced {
        name: "pg_cron",
        missing: "cron.schedule, cron.unschedule and cron.job",
        begins: &["\"cron\"", "cron.", "\"cron."],
        instead: "declare schedules in tramline/schedules",
    },
    Replaced {
        name: "pg_net",
        missing: "net.http_get and net.http_post",
        begins: &["\"net\"", "net.", "\"net."],
        instead: "start a function with ops.enqueue, or call it in a step of a workflow",
    },
    Replaced {
        name: "pgmq",
        missing: "pgmq.create, pgmq.send and pgmq.read",
        begins: &["\"pgmq\"", "pgmq.", "\"pgmq."],
        instead: "start runs with ops.enqueue",
    },
    Replaced {
        name: "supabase_vault",
        missing: "vault.create_secret and vault.decrypted_secrets",
        begins: &["\"vault\"", "vault.", "\"vault."],
        instead: "give secrets to functions in supabase/functions/.env",
    },
    Replaced {
        name: "http",
        missing: "http_get, http_post and http",
        begins: &["http_get(", "http_post(", "http(", "extensions.http"],
        instead: "call a function in a step of a workflow",
    },
];

/// What to do about an error that says that something of a replaced extension does not exist.
pub(super) fn hint_for(sqlstate: &SqlState, message: &str) -> Option<String> {
    let about_absence = [
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_OBJECT,
    ];
    if !about_absence.contains(sqlstate) {
        return None;
    }
    // `schema "cron" does not exist`, `function net.http_post(url => text) does not exist`, `relation "cron.job" does not exist`
    let (_, object) = message.split_once(' ')?;
    let replaced = REPLACED
        .iter()
        .find(|replaced| replaced.begins.iter().any(|begin| object.starts_with(begin)))?;
    Some(format!(
        "the extension {} does not exist here; {}",
        replaced.name, replaced.instead
    ))
}

/// Extensions of the platform that migrations name out of habit and that need server files or settings.
const PASSED_OVER: [&str; 5] = ["pgsodium", "pgjwt", "pg_graphql", "wrappers", "pg_tle"];

/// What `uuid-ossp` is used for nearly always; core Postgres makes the same values.
const UUID_SHIM: &str = "
create or replace function extensions.uuid_generate_v4() returns uuid
language sql volatile parallel safe set search_path = '' as 'select gen_random_uuid()'";

/// The extensions a server offers.
pub(crate) struct Extensions {
    offered: BTreeMap<String, Offered>,
}

struct Offered {
    installed: bool,
    /// The schema its control file insists on.
    fixed_schema: Option<String>,
}

impl Extensions {
    pub async fn load(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let statement = "select e.name::text, e.installed_version is not null, v.schema::text
            from pg_catalog.pg_available_extensions e
            left join pg_catalog.pg_available_extension_versions v
              on v.name = e.name and v.version = e.default_version";
        let rows = client.query(statement, &[]).await?;
        let offered = rows
            .iter()
            .map(|row| {
                (
                    row.get(0),
                    Offered {
                        installed: row.get(1),
                        fixed_schema: row.get(2),
                    },
                )
            })
            .collect();
        Ok(Self { offered })
    }

    pub fn is_installed(&self, name: &str) -> bool {
        self.offered.get(name).is_some_and(|offered| offered.installed)
    }

    /// Do what the statement means here. Answers with a note when that is nothing.
    pub async fn run(
        &mut self,
        client: &Client,
        verb: ExtensionVerb,
        name: &str,
        schema: Option<&str>,
        statement: &str,
    ) -> Result<Option<String>, tokio_postgres::Error> {
        let installed = self.is_installed(name);
        match verb {
            ExtensionVerb::Create if installed => Ok(None),
            ExtensionVerb::Create => self.create(client, name, schema).await,
            // About an extension that was passed over there is nothing to change.
            _ if !installed => Ok(None),
            ExtensionVerb::Drop => {
                client.batch_execute(statement).await?;
                self.mark(name, false);
                Ok(None)
            }
            ExtensionVerb::Alter | ExtensionVerb::Comment => {
                client.batch_execute(statement).await.map(|()| None)
            }
        }
    }

    /// Create an extension if this server and role can; else say why not.
    pub async fn create(
        &mut self,
        client: &Client,
        name: &str,
        schema: Option<&str>,
    ) -> Result<Option<String>, tokio_postgres::Error> {
        if let Some(replaced) = REPLACED.iter().find(|replaced| replaced.name == name) {
            return Ok(Some(format!(
                "the extension {name} is not created: {} do not exist here; {}",
                replaced.missing, replaced.instead
            )));
        }
        if PASSED_OVER.contains(&name) {
            return Ok(Some(format!(
                "the extension {name} is not created: it is not part of this surface"
            )));
        }
        let Some(offered) = self.offered.get(name) else {
            self.shim(client, name).await?;
            return Ok(Some(format!(
                "the extension {name} is not created: the database server does not offer it"
            )));
        };
        let place = match (&offered.fixed_schema, schema) {
            (Some(_), _) => String::new(),
            (None, schema) => format!(" with schema {}", quoted(schema.unwrap_or("extensions"))),
        };
        if name == "uuid-ossp" {
            client.batch_execute(DROP_UUID_SHIM).await?;
        }
        // A savepoint, so that a refusal does not end the file's transaction.
        client.batch_execute("savepoint tramline_extension").await?;
        let create = format!("create extension if not exists {}{place} cascade", quoted(name));
        match client.batch_execute(&create).await {
            Ok(()) => {
                client
                    .batch_execute("release savepoint tramline_extension")
                    .await?;
                self.mark(name, true);
                Ok(None)
            }
            Err(error) if cannot_be_had(&error) => {
                client
                    .batch_execute("rollback to savepoint tramline_extension")
                    .await?;
                self.shim(client, name).await?;
                let words = error
                    .as_db_error()
                    .map_or_else(|| error.to_string(), |db| db.message().to_owned());
                Ok(Some(format!("the extension {name} is not created: {words}")))
            }
            Err(error) => Err(error),
        }
    }

    async fn shim(&self, client: &Client, name: &str) -> Result<(), tokio_postgres::Error> {
        if name == "uuid-ossp" {
            client.batch_execute(UUID_SHIM).await?;
        }
        Ok(())
    }

    fn mark(&mut self, name: &str, installed: bool) {
        if let Some(offered) = self.offered.get_mut(name) {
            offered.installed = installed;
        }
    }
}

/// The shim of an earlier start, when it is ours and not the extension's.
const DROP_UUID_SHIM: &str = "do $$ begin
    if to_regprocedure('extensions.uuid_generate_v4()') is not null and not exists (
        select from pg_catalog.pg_depend d
        where d.objid = to_regprocedure('extensions.uuid_generate_v4()') and d.deptype = 'e') then
      drop function extensions.uuid_generate_v4();
    end if;
  exception when dependent_objects_still_exist then null; end $$";

/// Whether the server, not the statement, is the reason: no right, no file, not loaded at start, missing dependency.
fn cannot_be_had(error: &tokio_postgres::Error) -> bool {
    let refusals = [
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::UNDEFINED_FILE,
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        SqlState::DUPLICATE_FUNCTION,
        SqlState::CONFIG_FILE_ERROR,
    ];
    error.code().is_some_and(|code| refusals.contains(code))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
