//! An action as a line in the log, at the target `homeostat::action`.

use async_trait::async_trait;

use super::fill::{self, Arguments};
use super::text::shorten;
use crate::model::connector::{Command, ConnectorError, Effector, LogEffector};
use crate::model::template::{Holes, Template};

/// The longest line written, characters.
const LINE_LIMIT: usize = 2000;

/// Writes the line.
pub(super) struct Logger {
    text: Option<Template>,
}

impl Logger {
    pub(super) fn new(spec: &LogEffector) -> Result<Self, ConnectorError> {
        Ok(Self { text: spec.text.as_deref().map(|t| fill::parse(t, Holes::Arguments)).transpose()? })
    }
}

#[async_trait]
impl Effector for Logger {
    async fn perform(&self, command: &Command) -> Result<String, ConnectorError> {
        let line = match &self.text {
            Some(template) => fill::plain(template, &Arguments::of(command))?,
            None => command.action.to_string(),
        };
        let line = shorten(&line, LINE_LIMIT);
        tracing::info!(target: "homeostat::action", service = command.service, key = command.key, "{line}");
        Ok(line)
    }
}
