//! `homeostat pack`: from a descriptor (a policy with a section `pack`) to a micro-container: a directory that holds the service, its policy, homeostat, and
//! a list of the modules that there are in it (S4; R4-16, R4-20 to R4-24, R4-27). The phases are those of S4, in their order.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::foreign::{self, stays_inside};
use super::local::tell_problems;
use super::{Common, Exit, Failure, Output, PackOptions};
use crate::model::connector::SensorSpec;
use crate::model::endpoint::{Protocol, parse_address};
use crate::model::manage::SubscriptionMode;
use crate::model::module::{Module, Modules, PackProtocol, PackSpec, is_image};
use crate::policy::ServicePolicy;
use crate::policy::diagnostics::Problem;
use crate::policy::load::Sources;
use crate::policy::set::PolicySet;

/// What pack writes at the top of a container.
const OURS: [&str; 6] = ["run", "bin", "policy", "manifest.json", "Containerfile", "build.log"];

/// The image that the Containerfile begins with.
const IMAGE: &str = "debian:stable-slim";

/// The script that starts the container. Nothing in it says where it lies.
const RUN: &str = r#"#!/bin/sh
# Starts this micro-container, wherever it lies. SIGTERM ends it in order.
set -eu
cd -- "$(dirname -- "$0")"
exec ./bin/homeostat run policy --modules manifest.json --log "$@"
"#;

/// What was packed, phase by phase.
struct Log(Vec<String>);

impl Log {
    fn say(&mut self, phase: &str, text: &str) {
        let line = format!("{phase:<11}{text}");
        eprintln!("{line}");
        self.0.push(line);
    }
}

/// A descriptor that was read.
struct Descriptor {
    text: String,
    /// The scripts beside it, by name.
    scripts: BTreeMap<String, String>,
    set: PolicySet,
    /// The service that is packed.
    service: std::sync::Arc<str>,
    spec: PackSpec,
}

pub(super) fn pack(options: &PackOptions, common: &Common, output: &mut Output) -> Exit {
    let mut log = Log(Vec::new());
    let result = packed(options, &mut log, output);
    match result {
        Ok(manifest) if common.json => output.value(&manifest).map_or(Exit::Failed, |()| Exit::Ok),
        Ok(_) => Exit::Ok,
        Err(failure) => output.failure(&failure),
    }
}

fn usage(why: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, why)
}

fn packed(options: &PackOptions, log: &mut Log, output: &mut Output) -> Result<Value, Failure> {
    if options.output.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(usage(format!("{} is there already, and not empty", options.output.display())));
    }
    let base = options.descriptor.parent().unwrap_or(Path::new(""));
    let descriptor = parse(&options.descriptor, base, output)?;
    let count = descriptor.set.services.len();
    let plural = if count == 1 { "service" } else { "services" };
    log.say("parse", &format!("{count} {plural}, policy {}: `{}`", descriptor.set.hash, descriptor.service));

    let (communication, files) = process(&descriptor, base)?;
    for policy in descriptor.set.services.values() {
        for named in relocatable(policy)? {
            log.say("process", &format!("warning: {named} has to be there where the container runs"));
        }
    }
    for (module, at) in &communication {
        log.say("process", &format!("{}{}", module.word(), at_text(at)));
    }
    log.say("process", &format!("{} files of the service", files.len()));

    let monitoring = monitoring(&descriptor);
    for (module, at) in &monitoring {
        log.say("monitoring", &format!("{}{}", module.word(), at_text(at)));
    }
    if monitoring.is_empty() {
        log.say("monitoring", "none: the descriptor asks for none");
    }

    let mut modules = communication;
    modules.extend(monitoring);
    let manifest = transform(&descriptor, &modules);
    log.say("transform", &transformation(&descriptor));

    assemble(options, base, &descriptor, &files, manifest, log)
}

fn at_text(at: &[String]) -> String {
    match at {
        [] => String::new(),
        at => format!(" at {}", at.join(", ")),
    }
}

/// Reads the descriptor with the scripts beside it, as `check` would.
fn parse(path: &Path, base: &Path, output: &mut Output) -> Result<Descriptor, Failure> {
    let unreadable = |e: std::io::Error| usage(format!("{}: {e}", path.display()));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !(name.ends_with(".yaml") || name.ends_with(".yml")) {
        return Err(usage(format!(
            "{}: expected a policy, whose name ends in `.yaml` or `.yml`",
            path.display()
        )));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let mut scripts = BTreeMap::new();
    let here = if base.as_os_str().is_empty() { Path::new(".") } else { base };
    for entry in fs::read_dir(here).map_err(unreadable)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".rhai") {
            scripts.insert(name, fs::read_to_string(entry.path()).map_err(unreadable)?);
        }
    }
    let named = scripts.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    let sources = Sources::from_texts(std::iter::once((name.as_str(), text.as_str())).chain(named));
    let refused = |problems: &[Problem], output: &mut Output| {
        let _ = tell_problems(output, &sources, problems);
        Failure::new(Exit::Refused, "")
    };
    let (set, _) = PolicySet::from_sources(&sources, None).map_err(|problems| refused(&problems, output))?;
    let mut packs: Vec<_> =
        set.services.values().filter_map(|p| Some((p.name.clone(), p.document.open().ok()?.pack?))).collect();
    match (packs.pop(), packs.len()) {
        (Some((service, spec)), 0) => Ok(Descriptor { text, scripts, set, service, spec }),
        (None, _) => Err(usage(format!(
            "{}: no service has a section `pack`; say `pack: {{ source: [DIR] }}`",
            path.display()
        ))),
        (Some(_), _) => Err(usage(format!(
            "{}: {} services have a section `pack`; expected one",
            path.display(),
            packs.len() + 1
        ))),
    }
}

/// A module, and where it listens.
type Chosen = (Module, Vec<String>);

/// The communicators that are needed, and the files of the service, relative to the descriptor.
fn process(descriptor: &Descriptor, base: &Path) -> Result<(Vec<Chosen>, Vec<PathBuf>), Failure> {
    let mut chosen: BTreeMap<Module, Vec<String>> = BTreeMap::new();
    for policy in descriptor.set.services.values() {
        if let (Some(listen), Some(endpoint)) = (policy.listen, &policy.endpoint) {
            for protocol in protocols(&descriptor.spec, endpoint.protocol, policy)? {
                for module in protocol.modules() {
                    let at = chosen.entry(*module).or_default();
                    if !at.contains(&listen.to_string()) {
                        at.push(listen.to_string());
                    }
                }
            }
        }
        let ports = policy.references.values().filter_map(|r| r.listen);
        for port in ports {
            chosen.entry(Module::References).or_default().push(port.to_string());
        }
        if policy.process.is_some() {
            chosen.entry(Module::Process).or_default();
        }
    }
    for protocol in descriptor.spec.protocols.iter().flatten() {
        if !protocol.modules().iter().any(|m| chosen.contains_key(m)) {
            let word = protocol.modules().last().map_or("", |m| m.word());
            return Err(usage(format!(
                "`pack.protocols` names {word}, which no `listen` of the descriptor needs"
            )));
        }
    }
    if let Some(api) = &descriptor.spec.api {
        let address = parse_address(api).map_err(|why| usage(format!("`pack.api`: {why}")))?;
        if !address.ip().is_loopback() {
            return Err(usage(format!(
                "`pack.api`: {address} can be reached by others, and has no token; expected a loopback address"
            )));
        }
        chosen.insert(Module::Api, vec![address.to_string()]);
    }
    if let Some(image) = descriptor.spec.image.as_ref().filter(|image| !is_image(image)) {
        return Err(usage(format!(
            "`pack.image`: {image:?} names no image; expected one such as python:3-slim"
        )));
    }
    let mut files = Vec::new();
    for source in &descriptor.spec.source {
        let inside = Path::new(source);
        let first = inside.components().find(|c| !matches!(c, std::path::Component::CurDir));
        let first = first.map(|c| c.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
        if OURS.contains(&first.as_str()) {
            return Err(usage(format!(
                "`pack.source`: `{source}` has the name of something that pack writes itself ({}); rename it",
                OURS.join(", ")
            )));
        }
        if !stays_inside(inside) {
            return Err(usage(format!(
                "`pack.source`: `{source}` does not lie beside the descriptor; expected a relative path without `..`"
            )));
        }
        collect(base, inside, &mut files).map_err(|e| usage(format!("`pack.source`: `{source}`: {e}")))?;
    }
    Ok((chosen.into_iter().collect(), files))
}

/// What is spoken at a port in front of a service.
fn protocols(spec: &PackSpec, of: Protocol, policy: &ServicePolicy) -> Result<Vec<PackProtocol>, Failure> {
    let fits = |p: &PackProtocol| (*p == PackProtocol::Tcp) == (of == Protocol::Tcp);
    let needed = match of {
        Protocol::Http => PackProtocol::Http,
        Protocol::Tcp => PackProtocol::Tcp,
    };
    match &spec.protocols {
        None => Ok(vec![needed]),
        Some(asked) => {
            let fitting: Vec<PackProtocol> = asked.iter().copied().filter(fits).collect();
            if fitting.is_empty() {
                let word = needed.modules()[0].word();
                return Err(usage(format!(
                    "the endpoint of `{}` speaks {word}, which `pack.protocols` does not name",
                    policy.name
                )));
            }
            Ok(fitting)
        }
    }
}

/// Nothing that is run, read or written may lie elsewhere on this machine; what else is named outside has to be there where the container runs.
///
/// # Errors
/// The first of the former; answers the latter.
fn relocatable(policy: &ServicePolicy) -> Result<Vec<String>, Failure> {
    let name = &policy.name;
    let document = policy.document.open().map_err(|e| usage(format!("`{name}`: {e}")))?;
    let found = foreign::of(&document);
    match found.wrong.first() {
        None => Ok(found.needed.iter().map(|what| format!("`{name}`: {what}")).collect()),
        Some(what) => Err(usage(format!(
            "`{name}`: {what} is only on this machine; expected a relative path without `..`, from the descriptor"
        ))),
    }
}

/// All files below a path, in order; links are what they lead to.
fn collect(base: &Path, inside: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let meta = fs::metadata(base.join(inside))?;
    if meta.is_file() {
        files.push(inside.to_path_buf());
    } else if meta.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(base.join(inside))?.map(|e| e.map(|e| e.file_name())).collect::<Result<_, _>>()?;
        names.sort();
        for name in names.iter().filter(|n| *n != "__pycache__" && *n != ".git") {
            collect(base, &inside.join(name), files)?;
        }
    } else {
        // Left out in silence, it would be missed only when it is looked for.
        return Err(std::io::Error::other(format!(
            "{} is neither a file nor a directory, and cannot be packed; remove it",
            inside.display()
        )));
    }
    Ok(())
}

/// The monitoring that was asked for, between processing and assembly (R4-24).
fn monitoring(descriptor: &Descriptor) -> Vec<Chosen> {
    let mut chosen: BTreeMap<Module, Vec<String>> = BTreeMap::new();
    for manage in descriptor.set.services.values().filter_map(|p| p.manage.as_ref()) {
        // Without a listener of its own, what is offered is for actions and sensors.
        let at = manage.listen.map(|at| at.to_string());
        let mut add = |module: Module| chosen.entry(module).or_default().extend(at.clone());
        add(Module::Polling);
        if manage.spec.offers(SubscriptionMode::Interval) {
            add(Module::Interval);
        }
        if manage.spec.offers(SubscriptionMode::Change) {
            add(Module::Change);
        }
    }
    let sensors = descriptor.set.services.values().filter_map(|p| p.document.open().ok()?.monitor);
    for sensor in sensors.flat_map(|monitor| monitor.sensors.into_values()) {
        let at = match sensor {
            SensorSpec::Udp(s) => s.listen,
            SensorSpec::Statsd(s) => s.listen,
            SensorSpec::Collectd(s) => s.listen,
            _ => continue,
        };
        let all = chosen.entry(Module::Datagrams).or_default();
        if !all.contains(&at) {
            all.push(at);
        }
    }
    chosen.into_iter().collect()
}

/// What stands around the service from now on, in words.
fn transformation(descriptor: &Descriptor) -> String {
    let Some(policy) = descriptor.set.services.get(&*descriptor.service) else { return String::new() };
    match (&policy.endpoint, policy.listen) {
        (Some(endpoint), Some(listen)) => {
            format!("clients of {endpoint} are served at {listen}; nothing of the service is changed")
        }
        _ => "nothing of the service is changed".to_string(),
    }
}

/// The list of what there is; also what `run --modules` goes by.
fn transform(descriptor: &Descriptor, modules: &[Chosen]) -> Value {
    let there: Modules = modules.iter().map(|(module, _)| *module).collect();
    let shown: Vec<Value> = modules
        .iter()
        .map(|(module, at)| {
            let mut shown = json!({ "name": module.word(), "part": module.part() });
            if !module.protocols().is_empty() {
                shown["protocols"] = json!(module.protocols());
            }
            if !at.is_empty() {
                shown["listens"] = json!(at);
            }
            shown
        })
        .collect();
    let absent: Vec<&str> = Module::ALL.iter().filter(|m| !there.has(**m)).map(|m| m.word()).collect();
    json!({
        "micro_container": &*descriptor.service,
        "homeostat": env!("CARGO_PKG_VERSION"),
        "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        "policy": &*descriptor.set.hash,
        "modules": shown,
        "not_packed": absent,
    })
}

/// Writes everything aside, and puts it in its place when it is whole.
fn assemble(
    options: &PackOptions,
    base: &Path,
    descriptor: &Descriptor,
    files: &[PathBuf],
    mut manifest: Value,
    log: &mut Log,
) -> Result<Value, Failure> {
    let name = options.output.file_name().ok_or_else(|| usage("the output has no name"))?;
    let aside = options.output.with_file_name(format!(".{}.part", name.to_string_lossy()));
    let failed = |what: &Path| {
        let what = what.display().to_string();
        move |e: std::io::Error| Failure::new(Exit::Failed, format!("{what}: {e}"))
    };
    let _ = fs::remove_dir_all(&aside);
    let put = |path: &Path, content: &[u8]| -> Result<(), Failure> {
        let to = aside.join(path);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(failed(parent))?;
        }
        fs::write(&to, content).map_err(failed(&to))
    };
    put(Path::new("policy/service.yaml"), descriptor.text.as_bytes())?;
    for (name, text) in &descriptor.scripts {
        put(&Path::new("policy").join(name), text.as_bytes())?;
    }
    let mut hashes = serde_json::Map::new();
    for file in files {
        let content = fs::read(base.join(file)).map_err(failed(file))?;
        put(file, &content)?;
        let permissions = fs::metadata(base.join(file)).map_err(failed(file))?.permissions();
        fs::set_permissions(aside.join(file), permissions).map_err(failed(file))?;
        hashes.insert(file.to_string_lossy().into_owned(), blake3::hash(&content).to_hex().as_str().into());
    }
    let exe = std::env::current_exe().map_err(failed(Path::new("homeostat")))?;
    let bin = aside.join("bin");
    fs::create_dir_all(&bin).map_err(failed(&bin))?;
    let size = fs::copy(&exe, bin.join("homeostat")).map_err(failed(&exe))?;
    log.say(
        "assemble",
        &format!(
            "homeostat {} ({} MiB), {} files, policy, manifest",
            env!("CARGO_PKG_VERSION"),
            size >> 20,
            files.len()
        ),
    );
    manifest["files"] = Value::Object(hashes);
    let api = descriptor.spec.api.as_ref().map(|at| format!("--listen {at} ")).unwrap_or_default();
    put(Path::new("run"), RUN.replace("--log", &format!("{api}--log")).as_bytes())?;
    executable(&aside.join("run")).map_err(failed(&aside))?;
    put(Path::new("Containerfile"), containerfile(descriptor, &manifest).as_bytes())?;
    let text = format!("{manifest:#}\n");
    put(Path::new("manifest.json"), text.as_bytes())?;
    log.say("assemble", &format!("`{}/run` starts it", options.output.display()));
    // Without the place: the container does not know where it lies.
    let lines: Vec<&str> = log.0.iter().map(String::as_str).filter(|l| !l.contains("/run`")).collect();
    put(Path::new("build.log"), format!("{}\n", lines.join("\n")).as_bytes())?;
    // An empty directory may be there.
    let _ = fs::remove_dir(&options.output);
    fs::rename(&aside, &options.output).map_err(failed(&options.output))?;
    Ok(manifest)
}

#[cfg(unix)]
fn executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn executable(_: &Path) -> std::io::Result<()> {
    Ok(())
}

fn containerfile(descriptor: &Descriptor, manifest: &Value) -> String {
    let image = descriptor.spec.image.as_deref().unwrap_or(IMAGE);
    let mut ports: Vec<String> = manifest["modules"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|m| m["part"] == "communication")
        .flat_map(|m| m["listens"].as_array().cloned().unwrap_or_default())
        .filter_map(|at| at.as_str()?.rsplit_once(':').map(|(_, port)| port.to_string()))
        .collect();
    ports.sort();
    ports.dedup();
    let expose: String = ports.iter().map(|port| format!("EXPOSE {port}\n")).collect();
    format!(
        "# The image has to bring what the service needs; homeostat needs a C library as new as the one that it was built with.\n\
         # Addresses of the descriptor such as 127.0.0.1 are those of the container: say 0.0.0.0 for what is to be reached from outside.\n\
         FROM {image}\nCOPY . /micro-container\n{expose}ENTRYPOINT [\"/micro-container/run\"]\n"
    )
}
