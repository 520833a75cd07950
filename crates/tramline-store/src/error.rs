//! What can go wrong between tramline and its database.

use serde_json::Value;

/// Failure of a store call.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("read the database settings: {reason}")]
    Config { reason: String },
    #[error("connect to the database")]
    Connect { source: tokio_postgres::Error },
    #[error("get a database connection")]
    Pool(#[from] deadpool_postgres::PoolError),
    /// A statement failed; `what` names it.
    #[error("run the statement \"{what}\"")]
    Query {
        what: &'static str,
        source: tokio_postgres::Error,
    },
    /// The caller asked for something that cannot be: the codes of the SQL surface (TL400, TL404, TL409, TL422).
    #[error("{message}")]
    Refused {
        code: String,
        message: String,
        detail: Option<Value>,
    },
    #[error("read {what} from the database: {reason}")]
    Decode { what: &'static str, reason: String },
    #[error(
        "use the database: it holds schema version {found}, this binary knows up to {known}; install a newer tramline or use another database"
    )]
    NewerSchema { found: i32, known: i32 },
    #[error(
        "use the database: a development version of tramline made it, whose migration {name} was another; start over with `tramline dev --reset`, or use the version that made it"
    )]
    ChangedSchema { name: String },
    #[error("apply migration {name}: {message}")]
    Migration { name: &'static str, message: String },
    #[error(
        "the database runs with {setting} = off; tramline promises that nothing accepted is lost, so turn it on"
    )]
    NotDurable { setting: String },
    /// The failure of a statement that several callers shared.
    #[error(transparent)]
    Shared(std::sync::Arc<StoreError>),
}

impl StoreError {
    /// Names the statement of a database error, or reads a refusal of the SQL surface out of it.
    pub fn query(what: &'static str, source: tokio_postgres::Error) -> Self {
        if let Some(db) = source.as_db_error()
            && db.code().code().starts_with("TL")
        {
            return StoreError::Refused {
                code: db.code().code().to_owned(),
                message: db.message().to_owned(),
                detail: db.detail().and_then(|d| serde_json::from_str(d).ok()),
            };
        }
        StoreError::Query { what, source }
    }

    /// The SQLSTATE, when the database answered with one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            StoreError::Query { source, .. } | StoreError::Connect { source } => {
                source.code().map(|c| c.code())
            }
            StoreError::Shared(error) => error.sqlstate(),
            _ => None,
        }
    }

    /// Whether the statement's outcome is unknown, because the connection broke before its answer.
    pub fn is_unknown_outcome(&self) -> bool {
        match self {
            StoreError::Query { source, .. } => source.as_db_error().is_none_or(|db| {
                // 57P0x: the server is going down; 08: the connection; 40001/40P01: rolled back, the same again may pass
                let code = db.code().code();
                code.starts_with("57")
                    || code.starts_with("53")
                    || code.starts_with("08")
                    || code.starts_with("40")
                    || code.starts_with("55")
            }),
            StoreError::Connect { .. } | StoreError::Pool(_) => true,
            StoreError::Shared(error) => error.is_unknown_outcome(),
            _ => false,
        }
    }

    /// A row with this key is there already; nothing was written.
    pub fn is_duplicate(&self) -> bool {
        self.sqlstate().is_some_and(|code| code == "23505")
    }

    /// Whether the data of the batch is at fault (SQLSTATE class 22 or 23): the same again fails alike.
    pub fn is_poison(&self) -> bool {
        self.sqlstate()
            .is_some_and(|code| code.starts_with("22") || code.starts_with("23") || code.starts_with("54"))
    }
}
