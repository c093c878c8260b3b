//! Programs: what one prints (sensor), and one that carries out an action (effector).

use async_trait::async_trait;

use super::check::Check;
use super::fill::Arguments;
use super::{program, text};
use crate::model::Measurement;
use crate::model::connector::{
    Command, ConnectorError, Effector, ExecEffector, ExecSensor, Sensor, TookPlace,
};
use crate::model::template::Template;

/// Runs a program and reads the number that it prints.
pub(super) struct ExecReader {
    command: Vec<String>,
    pointer: Option<String>,
}

impl ExecReader {
    pub(super) fn new(spec: &ExecSensor) -> Self {
        Self { command: spec.command.clone(), pointer: spec.pointer.clone() }
    }
}

#[async_trait]
impl Sensor for ExecReader {
    async fn read(&mut self) -> Result<Vec<Measurement>, ConnectorError> {
        let output = program::run(&self.command, &[]).await?;
        if output.code != Some(0) {
            return Err(output.failure());
        }
        let source = format!("`{}`", output.program);
        let value = match &self.pointer {
            Some(pointer) => text::read(&output.stdout, Some(pointer), &source)?,
            None => {
                let printed = output.text();
                let line = printed.lines().next().unwrap_or_default();
                text::number(line).map_err(|e| {
                    ConnectorError::Answer(format!("the first line that {source} printed is no number: {e}"))
                })?
            }
        };
        Ok(vec![Measurement::value(value)])
    }
}

/// Carries out an action with a program.
pub(super) struct ExecCaller {
    command: Vec<Template>,
    check: Option<Check>,
}

impl ExecCaller {
    pub(super) fn new(spec: &ExecEffector, client: reqwest::Client) -> Result<Self, ConnectorError> {
        let check = spec.check.as_ref().map(|c| Check::new(c, client, Vec::new())).transpose()?;
        Ok(Self { command: program::templates(&spec.command)?, check })
    }
}

#[async_trait]
impl Effector for ExecCaller {
    async fn perform(&self, command: &Command) -> Result<String, ConnectorError> {
        let words = program::fill(&self.command, &Arguments::of(command))?;
        let environment = [
            ("HOMEOSTAT_SERVICE", command.service.as_str()),
            ("HOMEOSTAT_ACTION", command.action.name()),
            ("HOMEOSTAT_KEY", command.key.as_str()),
        ];
        let output = program::run(&words, &environment).await?;
        match output.code {
            Some(0) => Ok(text::shorten(output.text().lines().next().unwrap_or_default(), 200)),
            _ => Err(output.failure()),
        }
    }

    async fn took_place(&self, command: &Command) -> Result<TookPlace, ConnectorError> {
        match &self.check {
            Some(check) => check.ask(command).await,
            None => Ok(TookPlace::Unknown),
        }
    }
}
