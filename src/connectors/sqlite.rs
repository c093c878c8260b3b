//! An action or a value as a row in a table of SQLite.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::connector::{Command, ConnectorError, Effector, SqliteEffector};

/// How long another program may keep the database locked.
const LOCKED: Duration = Duration::from_secs(4);

/// Writes the rows.
pub(super) struct Table {
    path: PathBuf,
    table: String,
}

impl Table {
    pub(super) fn new(spec: &SqliteEffector) -> Self {
        let table = spec.table.clone().unwrap_or_else(|| "measurements".into());
        Self { path: PathBuf::from(&spec.path), table }
    }
}

#[async_trait]
impl Effector for Table {
    async fn perform(&self, command: &Command) -> Result<String, ConnectorError> {
        let (path, table) = (self.path.clone(), self.table.clone());
        let (service, name) = (command.service.clone(), command.action.name().to_string());
        let arguments = command.action.arguments();
        let shown = self.path.display().to_string();
        let failed = move |why: String| ConnectorError::Unreachable(format!("`{shown}`: {why}"));
        let write = move || {
            let text = |name: &str| arguments.get(name).and_then(|v| v.as_str()).map(str::to_string);
            let value = arguments.get("value").and_then(serde_json::Value::as_f64);
            let row = (
                text("time"),
                service,
                name,
                text("metric"),
                value,
                serde_json::json!(arguments).to_string(),
            );
            let database = rusqlite::Connection::open(path)?;
            database.busy_timeout(LOCKED)?;
            database.execute_batch(&format!(
                "CREATE TABLE IF NOT EXISTS \"{table}\" (time TEXT, service TEXT, name TEXT, metric TEXT, value REAL, arguments TEXT)"
            ))?;
            let insert = format!(
                "INSERT INTO \"{table}\" VALUES (coalesce(?1, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')), ?2, ?3, ?4, ?5, ?6)"
            );
            database.execute(&insert, row)
        };
        let written: Result<Result<usize, rusqlite::Error>, _> = tokio::task::spawn_blocking(write).await;
        match written {
            Ok(Ok(_)) => Ok("written".into()),
            Ok(Err(why)) => Err(failed(why.to_string())),
            Err(why) => Err(failed(why.to_string())),
        }
    }
}
