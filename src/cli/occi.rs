//! `homeostat occi`: what a server of OCCI has, any one.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value as Json, json};

use super::{Exit, Failure, Output};
use crate::model::error::chain;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// What is asked.
#[derive(Debug, Clone, Subcommand)]
pub enum OcciCommand {
    /// The entities, by kind
    List {
        /// The server
        #[arg(value_name = "URL", default_value = "http://127.0.0.1:6789/")]
        url: String,
    },
    /// Everything, in one document
    Export {
        /// The server
        #[arg(value_name = "URL", default_value = "http://127.0.0.1:6789/")]
        url: String,
        /// As XML; as JSON, when absent
        #[arg(long)]
        xml: bool,
    },
}

async fn get(url: &str, accept: &str) -> Result<String, Failure> {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER).build();
    let client = client.map_err(|why| Failure::new(Exit::Failed, chain(&why)))?;
    let unreachable = |why: reqwest::Error| match why.is_builder() {
        true => Failure::new(Exit::Usage, format!("`{url}` is no URL such as http://127.0.0.1:6789/")),
        false => Failure::new(Exit::Unreachable, chain(&why)),
    };
    let agent = concat!("homeostat/", env!("CARGO_PKG_VERSION"), " OCCI/1.2");
    let request = client.get(url).header("accept", accept).header("user-agent", agent);
    let answer = request.send().await.map_err(unreachable)?;
    let status = answer.status();
    let text = answer.text().await.map_err(unreachable)?;
    match status.is_success() {
        true => Ok(text),
        false => Err(Failure::new(Exit::Failed, format!("{url} is answered with {status}: {}", text.trim()))),
    }
}

/// Asks, and prints the answer.
///
/// # Errors
/// When the server cannot be reached, or answers with something else.
pub async fn ask(command: OcciCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        OcciCommand::Export { url, xml } => {
            let accept = if xml { "application/occi+xml" } else { "application/occi+json" };
            let text = get(&url, accept).await?;
            let wrong =
                |why: String| Failure::new(Exit::Failed, format!("{url} answers with no OCCI: {why}"));
            match xml {
                true => drop(roxmltree::Document::parse(&text).map_err(|why| wrong(why.to_string()))?),
                false => drop(model(&text).map_err(wrong)?),
            }
            output.text(text.trim_end())?;
        }
        OcciCommand::List { url } => {
            let text = get(&url, "application/occi+json").await?;
            let all = model(&text)
                .map_err(|why| Failure::new(Exit::Failed, format!("{url} answers with no OCCI: {why}")))?;
            list(&all, output)?;
        }
    }
    Ok(())
}

/// A model object (GFD.225), which has at least one of its lists unless it is empty.
fn model(text: &str) -> Result<Json, String> {
    let all: Json = serde_json::from_str(text).map_err(|why| why.to_string())?;
    let lists = ["kinds", "mixins", "actions", "resources", "links"];
    match all.as_object() {
        Some(object) if object.is_empty() || lists.iter().any(|name| all[name].is_array()) => Ok(all),
        _ => Err(format!("expected JSON with one of {}", lists.join(", "))),
    }
}

fn list(all: &Json, output: &mut Output) -> Result<(), Failure> {
    let mut kinds: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let entities = ["resources", "links"].into_iter().filter_map(|name| all[name].as_array()).flatten();
    for entity in entities {
        let text = |name: &str| entity[name].as_str().unwrap_or_default().to_string();
        let kind = text("kind");
        let kind = kind.rsplit_once('#').map_or(kind.as_str(), |(_, term)| term).to_string();
        kinds.entry(kind).or_default().push((text("id"), text("title")));
    }
    if output.json {
        let named: BTreeMap<&String, Vec<&String>> =
            kinds.iter().map(|(kind, all)| (kind, all.iter().map(|(id, _)| id).collect())).collect();
        output.value(&json!(named))?;
        return Ok(());
    }
    for (kind, entities) in &kinds {
        output.text(&format!("{} {kind}", entities.len()))?;
        for (id, title) in entities {
            output.text(format!("  {id}  {title}").trim_end())?;
        }
    }
    Ok(())
}
