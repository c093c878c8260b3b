//! What a descriptor names that lies outside of the micro-container made of it: files of this machine, by their absolute paths.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde_json::Value;

use crate::model::connector::{EffectorSpec, SensorSpec};
use crate::model::manage::ManageSpec;
use crate::model::process::ProcessSpec;
use crate::policy::document::ServiceDocument;

/// What is named there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Foreign {
    /// Cannot be right: what is run, or read and written, would not be there.
    pub(super) wrong: Vec<String>,
    /// Has to be there where the container runs: secrets, what programs are told by their arguments.
    pub(super) needed: Vec<String>,
}

/// Whether a path stays where it begins.
pub(super) fn stays_inside(path: &Path) -> bool {
    path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
        && path.components().next().is_some()
}

/// Everything that a service names.
pub(super) fn of(document: &ServiceDocument) -> Foreign {
    let mut found = Foreign::default();
    if let Some(process) = &document.process {
        found.process(process);
    }
    if let Some(manage) = &document.manage {
        found.manage(manage);
    }
    for (name, sensor) in document.monitor.iter().flat_map(|m| &m.sensors) {
        let of = format!("sensor `{name}`");
        match sensor {
            SensorSpec::Exec(s) => found.command(&of, &s.command),
            SensorSpec::Nagios(s) => found.command(&of, &s.command),
            SensorSpec::Http(s) => found.headers(&of, &s.headers),
            SensorSpec::Custom(s) => found.config(&of, &s.config),
            _ => {}
        }
    }
    for (name, effector) in document.execute.iter().flatten() {
        let of = format!("effector `{name}`");
        let check = match effector {
            EffectorSpec::Http(e) => {
                found.headers(&of, &e.headers);
                &e.check
            }
            EffectorSpec::Exec(e) => {
                found.command(&of, &e.command);
                &e.check
            }
            EffectorSpec::Mail(e) => {
                found.secret(&of, e.password.as_deref().unwrap_or_default());
                &None
            }
            EffectorSpec::Custom(e) => {
                found.config(&of, &e.config);
                &None
            }
            EffectorSpec::Sqlite(e) => {
                if !stays_inside(Path::new(&e.path)) {
                    found.wrong(&format!("{of}: the file"), &e.path);
                }
                &None
            }
            EffectorSpec::Log(_)
            | EffectorSpec::Websocket(_)
            | EffectorSpec::Udp(_)
            | EffectorSpec::Tcp(_) => &None,
        };
        if let Some(command) = check.as_ref().and_then(|c| c.command.as_ref()) {
            found.command(&format!("{of}, `check`"), command);
        }
    }
    found
}

impl Foreign {
    fn process(&mut self, process: &ProcessSpec) {
        self.command("the process", &process.command);
        if let Some(directory) = &process.directory
            && !stays_inside(Path::new(directory))
        {
            self.wrong("the directory", directory);
        }
        for (name, value) in &process.environment {
            self.word(&format!("the variable `{name}` of the process"), value);
        }
    }

    fn manage(&mut self, manage: &ManageSpec) {
        for (name, property) in &manage.properties {
            let of = format!("property `{name}`");
            if let Some(file) = &property.file {
                if !stays_inside(Path::new(&file.path)) {
                    self.wrong(&format!("{of}: the file"), &file.path);
                }
                if let Some(tell) = &file.tell {
                    self.command(&format!("{of}, `tell`"), &tell.exec);
                    self.word(&format!("{of}, `tell`"), tell.pid_file.as_deref().unwrap_or_default());
                }
            }
            if let Some(http) = &property.http {
                self.headers(&of, &http.headers);
            }
        }
        for (name, method) in &manage.methods {
            self.headers(&format!("method `{name}`"), &method.headers);
        }
    }

    fn wrong(&mut self, what: &str, path: &str) {
        self.wrong.push(format!("{what} `{path}`"));
    }

    /// A program, which may be found by its name, and its arguments.
    fn command(&mut self, of: &str, command: &[String]) {
        let Some((program, arguments)) = command.split_first() else { return };
        if !stays_inside(Path::new(program)) {
            self.wrong(&format!("{of}: the program"), program);
        }
        for argument in arguments {
            self.word(&format!("{of}, an argument:"), argument);
        }
    }

    /// A word that may be a path, or say one after `=`.
    fn word(&mut self, of: &str, word: &str) {
        let said = word.split_once('=').map_or(word, |(_, said)| said);
        if [word, said].iter().any(|path| path.len() > 1 && Path::new(path).is_absolute()) {
            self.needed.push(format!("{of} `{word}`"));
        }
    }

    fn headers(&mut self, of: &str, headers: &BTreeMap<String, String>) {
        headers.values().for_each(|value| self.secret(of, value));
    }

    /// A text that may name files whose content is to stand in it.
    fn secret(&mut self, of: &str, text: &str) {
        for rest in text.split("${file:").skip(1) {
            let path = rest.split('}').next().unwrap_or_default();
            if !stays_inside(Path::new(path)) {
                self.needed.push(format!("{of}, the secret `{path}`"));
            }
        }
    }

    fn config(&mut self, of: &str, config: &Value) {
        match config {
            Value::String(text) => self.word(of, text),
            Value::Array(all) => all.iter().for_each(|one| self.config(of, one)),
            Value::Object(all) => all.values().for_each(|one| self.config(of, one)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_place_that_names_a_file_is_looked_at() {
        let document = json!({
            "service": "a",
            "process": {
                "command": ["run", "/etc/a", "--b=/etc/b", "--prefix", "c/d"], "directory": "/srv",
                "environment": { "HOME_OF": "/var/e", "OTHER": "x" }
            },
            "manage": {
                "properties": {
                    "p": { "type": "string", "file": { "path": "../f", "tell": { "signal": "hup", "pid_file": "/run/g" } } },
                    "q": { "type": "string", "file": { "path": "q.json", "tell": { "exec": ["/bin/h"] } } },
                    "r": { "type": "string", "http": { "url": "/admin", "pointer": "/x", "headers": { "a": "b ${file:/run/i}" } } }
                },
                "methods": { "m": { "url": "/m", "headers": { "a": "${file:/run/j}" } } }
            },
            "monitor": { "sensors": {
                "s": { "exec": { "command": ["/bin/k"] } },
                "t": { "nagios": { "command": ["check", "/l"] } },
                "u": { "http": { "url": "http://h/x", "headers": { "a": "${file:in/side}" } } },
                "v": { "custom": { "kind": "z", "config": { "at": ["/dev/m"] } } }
            } },
            "execute": {
                "e": { "exec": { "command": ["../n"], "check": { "command": ["/bin/o"] } } },
                "n": { "mail": { "server": "smtp://h", "from": "a@b", "to": ["c@d"], "user": "u", "password": "${file:/run/p}" } }
            }
        });
        let found = of(&serde_json::from_value(document).expect("a document"));
        let named = |all: &[String], path: &str| all.iter().any(|one| one.contains(&format!("`{path}`")));
        for path in ["/srv", "../f", "/bin/h", "/bin/k", "../n", "/bin/o"] {
            assert!(named(&found.wrong, path), "{path} {found:?}");
        }
        for path in ["/etc/a", "--b=/etc/b", "/var/e", "/run/g", "/run/i", "/run/j", "/l", "/dev/m", "/run/p"]
        {
            assert!(named(&found.needed, path), "{path} {found:?}");
        }
        assert_eq!((found.wrong.len(), found.needed.len()), (6, 9), "{found:?}");
    }
}
