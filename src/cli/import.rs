//! `homeostat import`: what rules and constraints of Tower 4Clouds are in the language of policies.

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Value, json};

use super::local::{render, tell_problems};
use super::options::{ImportFormat, ImportOptions};
use super::{Exit, Failure, Output, input};
use crate::dialects::tower::translate::to_json;
use crate::dialects::tower::xml::{self, Read, XmlError};
use crate::dialects::tower::{Rule, constraints, validate, write};
use crate::policy::Problem;
use crate::policy::load::{SourceFile, SourceKind, Sources};
use crate::policy::tree::Place;

/// Reads the file and prints it in the format asked for.
///
/// # Errors
/// The file cannot be read, or the output is gone.
pub(super) fn import(options: &ImportOptions, output: &mut Output) -> Result<Exit, Failure> {
    let text = input::text_of(&options.file)?;
    let file: Arc<str> = options.file.display().to_string().into();
    let source = SourceFile {
        path: file.clone(),
        root: "".into(),
        name: file.as_ref().into(),
        kind: SourceKind::Policy,
        text: text.as_str().into(),
    };
    let import = Import { file, text: &text, sources: Sources { files: vec![source], problems: Vec::new() } };
    match import.read() {
        Ok((rules, warnings)) => import.print(options.format, &rules, &warnings, output),
        Err(problems) => {
            tell_problems(output, &import.sources, &problems)?;
            Ok(Exit::Refused)
        }
    }
}

/// A file on its way.
struct Import<'a> {
    file: Arc<str>,
    text: &'a str,
    sources: Sources,
}

type Answer = Result<(Vec<Read<Rule>>, Vec<Problem>), Vec<Problem>>;

impl Import<'_> {
    fn problem(&self, code: &'static str, message: String, span: Option<Range<usize>>) -> Problem {
        let mut problem = Problem::error(code, Place::default(), message);
        problem.span = span;
        problem.locate(&self.file, self.text, None);
        problem
    }

    fn refused(&self, error: XmlError) -> Vec<Problem> {
        vec![self.problem("invalid-xml", error.message, Some(error.span))]
    }

    fn warning(&self, code: &'static str, message: String, span: Option<Range<usize>>) -> Problem {
        let severity = crate::policy::ProblemSeverity::Warning;
        Problem { severity, ..self.problem(code, message, span) }
    }

    fn warnings(&self, noted: Vec<XmlError>) -> Vec<Problem> {
        noted.into_iter().map(|w| self.warning("passed-over", w.message, Some(w.span))).collect()
    }

    /// The rules of the file, or of its constraints, when nothing is wrong with them.
    fn read(&self) -> Answer {
        let root = xml::root_name(self.text).map_err(|e| self.refused(e))?;
        let (rules, mut warnings) = match root.as_str() {
            "constraints" | "constraint" => self.derive()?,
            _ => {
                let batch = xml::rules(self.text).map_err(|e| self.refused(e))?;
                (batch.items, self.warnings(batch.warnings))
            }
        };
        let problems = validate(&rules, &[], Some(self.text));
        if !problems.is_empty() {
            let told = |p: &crate::dialects::tower::RuleProblem| {
                let message =
                    format!("the rule `{}`: {}: {}", p.rule.as_deref().unwrap_or("?"), p.position, p.details);
                self.problem(p.kind.code(), message, p.span.clone())
            };
            return Err(problems.iter().map(told).collect());
        }
        for (rule, unknown) in crate::dialects::tower::validate::unknown_rules(&rules, &[]) {
            let message = format!("the rule `{rule}` names the rule `{unknown}`, which is not in this file");
            warnings.push(self.warning("unknown-rule", message, None));
        }
        Ok((rules, warnings))
    }

    fn derive(&self) -> Answer {
        let batch = constraints::constraints(self.text).map_err(|e| self.refused(e))?;
        let warnings = self.warnings(batch.warnings);
        let derived = constraints::derive(&batch.items, &constraints::rule_id);
        let rules = derived.map_err(|errors| {
            let told = |e: &constraints::DeriveError| self.problem("no-rule", e.to_string(), e.span.clone());
            errors.iter().map(told).collect::<Vec<_>>()
        })?;
        Ok((rules, warnings))
    }

    fn print(
        &self,
        format: ImportFormat,
        rules: &[Read<Rule>],
        warnings: &[Problem],
        output: &mut Output,
    ) -> Result<Exit, Failure> {
        if !output.json {
            warnings.iter().for_each(|w| render(w, &self.sources, output.paint.on));
        }
        let values = || rules.iter().map(|r| &r.value);
        match format {
            ImportFormat::Xml => output.text(&write::rules(values()))?,
            ImportFormat::Collectors => output.value(&json!(constraints::collectors(values())))?,
            ImportFormat::Native => {
                let policies = self.policies(rules)?;
                if output.json {
                    output.value(&json!({ "policies": policies, "warnings": warnings }))?;
                } else {
                    output.text(&yaml(&policies)?)?;
                }
            }
        }
        Ok(Exit::Ok)
    }

    fn policies(&self, rules: &[Read<Rule>]) -> Result<Vec<Value>, Failure> {
        let metrics: std::collections::HashMap<&str, &str> =
            rules.iter().filter_map(|r| Some((r.value.id.as_deref()?, r.value.metric_name()?))).collect();
        let metric_of = |rule: &str| metrics.get(rule).map(|metric| (*metric).to_string());
        let translated = rules.iter().map(|rule| to_json(&rule.value, &metric_of));
        translated.collect::<Result<_, _>>().map_err(|e| Failure::new(Exit::Refused, e.to_string()))
    }
}

/// One document per policy, each under the name of its rule.
fn yaml(policies: &[Value]) -> Result<String, Failure> {
    let mut text = String::new();
    for policy in policies {
        let document =
            serde_saphyr::to_string(policy).map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
        let name = policy["service"].as_str().unwrap_or_default();
        text.push_str(&format!("---\n# The rule {name}\n{document}"));
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(text)
}
