//! Documents: what is read of them, what the prototype's mean, and what is deployed of them elsewhere than here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use homeostat::dialects::occi::deploy::{Deployment, Place, Role, compose, kubernetes, plan};
use homeostat::dialects::occi::documents::{Documents, vocabulary};
use homeostat::dialects::occi::server::documents::{INDEX, Library, router};
use homeostat::dialects::occi::{Fault, Registry};
use proptest::prelude::*;
use serde_json::{Value, json};

const S: &str = "http://schemas.ogf.org/occi/monitoring#";
const P: &str = "com.example.occi.monitoring";
/// Between the time base of the prototype's documents and its end.
const THEN: f64 = 1_386_926_000.0;

fn words() -> Registry {
    vocabulary().unwrap()
}

fn of(texts: &[&str], now: f64) -> Result<Documents, Fault> {
    let mut documents = Documents::default();
    for (i, text) in texts.iter().enumerate() {
        documents.add(&words(), &format!("file {i}"), text, now)?;
    }
    Ok(documents)
}

/// The documents of the prototype (formats, section 3).
fn prototype() -> [String; 3] {
    let sensor = json!({
        "id": "urn:uuid:s1111", "kind": format!("{S}sensor"),
        "mixins": ["http://example.com/occi/monitoring/publisher#EmailOnAlarm", "http://example.com/occi/monitoring/aggregator#EWMA"],
        "attributes": {
            "occi": { "sensor": { "period": 60, "timebase": 1_386_925_386, "timestart": 600, "timestop": 3600, "networkInterface": "eth1" } },
            "com": { "example": { "occi": { "monitoring": {
                "SendUDP": { "udpAddr": "172.17.0.3:8888", "input": "c" },
                "EWMA": { "gain": 16, "instream": "a", "outstream": "c" },
                "Log": { "filename": "my/log/file", "in_msg": "b" },
            } } } },
        },
        "links": ["urn:uuid:2345"],
    });
    let compute = json!({
        "id": "urn:uuid:c2222", "kind": "http://schemas.ogf.org/occi/infrastructure#compute",
        "mixins": ["http.//schemas.ogf.org/infrastructure/compute#RMIMetricContainer"],
        "attributes": { "occi": { "compute": { "speed": 2, "memory": 4, "cores": 2, "MetricContainerIPAddress": "172.17.0.2", "MetricContainerPort": 12312 } } },
        "actions": [],
    });
    let collector = json!({
        "id": "urn:uuid:2345", "kind": format!("{S}collector"),
        "mixins": ["http://example.com/occi/monitoring/metric#CPUPercent"],
        "attributes": {
            "occi": { "collector": { "period": 3 } },
            "com": { "example": { "occi": { "monitoring": {
                "CPUPercent": { "out": "a" },
                "IsReachable": { "hostname": "192.168.5.2", "maxdelay": 1000, "out": "b" },
                "PingerBase": { "target": "192.168.5.2:7", "maxdelay": 500, "out": "p" },
                "PingerTarget": { "target": "127.0.0.1:7007" },
            } } } },
        },
        "target": "urn:uuid:s1111", "source": "urn:uuid:c2222",
    });
    [sensor, compute, collector].map(|value| value.to_string())
}

fn all(texts: &[String; 3], now: f64) -> Documents {
    of(&texts.each_ref().map(String::as_str), now).unwrap()
}

/// Requirement: R0-17
#[test]
fn a_document_of_the_prototype_means_what_the_prototype_made_of_it() {
    let documents = all(&prototype(), THEN);
    let part = documents.of_sensor(&words(), "urn:uuid:s1111").unwrap();
    let [sensor, compute] = part.resources.as_slice() else { panic!("{part:?}") };
    let [collector] = part.links.as_slice() else { panic!("{part:?}") };
    let terms = |mixins: &[homeostat::dialects::occi::TypeId]| -> Vec<String> {
        let mut terms: Vec<String> = mixins.iter().map(|id| id.term().to_string()).collect();
        terms.sort();
        terms
    };
    // Mixins are those that attributes name, not those of the list.
    assert_eq!(terms(&sensor.mixins), ["EWMA", "Log", "SendUDP"]);
    assert_eq!(terms(&collector.mixins), ["CPUPercent", "IsReachable", "Ping"]);
    assert_eq!(terms(&compute.mixins), ["MetricContainer"]);
    let at = |values: &BTreeMap<String, Value>, name: &str| values.get(name).cloned().unwrap_or_default();
    let values = |draft: &homeostat::dialects::occi::Draft| -> BTreeMap<String, Value> {
        draft.attributes.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    assert_eq!(
        at(&values(compute), &format!("{P}.MetricContainer.url")),
        "http://172.17.0.2:12312/collectors"
    );
    assert_eq!(at(&values(collector), &format!("{P}.Ping.target")), "192.168.5.2:7");
    assert!(!values(sensor).contains_key("occi.sensor.networkInterface"));
    // It works at the pace of its collectors; its time has not passed, and holds.
    assert_eq!(at(&values(sensor), "occi.sensor.period").as_f64(), Some(3.0));
    assert_eq!(at(&values(sensor), "occi.sensor.timestop"), 3600);
    assert_eq!(part.notes.len(), 1, "{:?}", part.notes);
    // The collector begins in the sensor here.
    assert_eq!(collector.source.as_ref().unwrap().location, "urn:uuid:s1111");
    assert_eq!(collector.target.as_ref().unwrap().location, "urn:uuid:c2222");

    let later = all(&prototype(), THEN + 1e7).of_sensor(&words(), "s1111").unwrap();
    assert!(!values(&later.resources[0]).contains_key("occi.sensor.timestop"));
    assert!(later.notes.iter().any(|note| note.contains("has passed")), "{:?}", later.notes);
}

#[test]
fn the_prototype_gets_its_documents_back_as_they_were() {
    let texts = prototype();
    let documents = all(&texts, THEN);
    for (text, id) in texts.iter().zip(["urn:uuid:s1111", "urn:uuid:c2222", "urn:uuid:2345"]) {
        let nested = documents.nested(&words(), id).unwrap();
        assert_eq!(nested, serde_json::from_str::<Value>(text).unwrap());
    }
}

/// What is written in the form of 1.2 is served to the prototype nested, with bare identifiers.
#[test]
fn other_documents_are_nested_for_the_prototype() {
    let sensor = json!({
        "id": "urn:uuid:s1", "kind": format!("{S}sensor"), "mixins": ["http://example.com/occi/monitoring/aggregator#EWMA"],
        "attributes": { "occi.sensor.period": 3, format!("{P}.EWMA.gain"): 16, format!("{P}.EWMA.instream"): "a", format!("{P}.EWMA.outstream"): "c" },
        "links": [{
            "id": "urn:uuid:k1", "kind": format!("{S}collector"), "target": { "location": "urn:uuid:c1" },
            "attributes": { "occi.collector.period": 3, format!("{P}.CPUPercent.out"): "a" },
        }],
    });
    let compute =
        json!({ "id": "urn:uuid:c1", "kind": "http://schemas.ogf.org/occi/infrastructure#compute" });
    let documents = of(&[&json!({ "resources": [sensor, compute] }).to_string()], THEN).unwrap();
    assert_eq!(documents.len(), 3);
    let nested = documents.nested(&words(), "urn:uuid:s1").unwrap();
    assert_eq!(nested["links"], json!(["urn:uuid:k1"]));
    assert_eq!(nested["attributes"]["com"]["example"]["occi"]["monitoring"]["EWMA"]["gain"], 16);
    let link = documents.nested(&words(), "urn:uuid:k1").unwrap();
    assert_eq!((&link["source"], &link["target"]), (&json!("urn:uuid:s1"), &json!("urn:uuid:c1")));
}

#[test]
fn what_is_left_out_is_named() {
    let [sensor, compute, collector] = prototype();
    let without = of(&[&sensor, &collector], THEN).unwrap().of_sensor(&words(), "urn:uuid:s1111").unwrap();
    assert!(without.links.is_empty());
    assert!(
        without.notes[0].contains("measures `urn:uuid:c2222`, of which there is no document"),
        "{:?}",
        without.notes
    );
    let without = of(&[&sensor, &compute], THEN).unwrap().of_sensor(&words(), "urn:uuid:s1111").unwrap();
    assert!(without.notes[0].contains("names the collector `urn:uuid:2345`"), "{:?}", without.notes);
    // What is elsewhere needs no document.
    let elsewhere = collector.replace("urn:uuid:c2222", "http://elsewhere.example/compute/1");
    let part = of(&[&sensor, &elsewhere], THEN).unwrap().of_sensor(&words(), "urn:uuid:s1111").unwrap();
    assert_eq!(part.links[0].target.as_ref().unwrap().location, "http://elsewhere.example/compute/1");
    assert_eq!(of(&[&sensor], THEN).unwrap().of_sensor(&words(), "x").unwrap_err().kind.status(), 404);
}

/// Machines of their own, with names.
struct Apart;

impl Place for Apart {
    fn documents(&self) -> String {
        "documents:6789".into()
    }

    fn library(&self) -> Vec<String> {
        vec![compose::LIBRARY.into()]
    }

    fn listens(&self, address: &str) -> String {
        format!("0.0.0.0:{}", address.rsplit_once(':').unwrap().1)
    }

    fn hosts(&mut self, name: &str, _role: Role, address: &str) -> Option<String> {
        Some(format!("{name}:{}", address.rsplit_once(':')?.1))
    }

    fn reached(&mut self, name: &str, _role: Role) -> Result<String, Fault> {
        Ok(format!("{name}:7000"))
    }

    fn runs_sensors(&self) -> bool {
        true
    }

    fn sensor_options(&self) -> Vec<String> {
        vec!["--occi-from".into(), "$me".into()]
    }

    fn probe_options(&self) -> Vec<String> {
        Vec::new()
    }
}

fn apart() -> Deployment {
    plan(all(&prototype(), THEN), &words(), &mut Apart).unwrap()
}

#[test]
fn units_that_have_machines_of_their_own_find_each_other_by_name() {
    let Deployment { units, documents, .. } = apart();
    let lines: Vec<String> = units
        .iter()
        .map(|unit| format!("{} {} {}", unit.name, unit.address, unit.command.join(" ")))
        .collect();
    assert_eq!(
        lines,
        [
            "documents documents:6789 documents /documents --listen 0.0.0.0:6789",
            "dashboard-8888 dashboard-8888:8888 sink udp --listen 0.0.0.0:8888",
            "echo-7007 echo-7007:7007 sink echo --listen 0.0.0.0:7007",
            "compute-c2222 compute-c2222:12312 probe --listen 0.0.0.0:12312",
            "sensor-s1111 sensor-s1111:7000 sensor --documents http://documents:6789/ --listen 0.0.0.0:7000 --occi-from $me -- urn:uuid:s1111",
        ]
    );
    // The documents say so, to the prototype's programs as well.
    let compute = documents.nested(&words(), "urn:uuid:c2222").unwrap();
    assert_eq!(compute["attributes"]["occi"]["compute"]["MetricContainerIPAddress"], "compute-c2222");
    let sensor = documents.nested(&words(), "urn:uuid:s1111").unwrap();
    assert_eq!(
        sensor["attributes"]["com"]["example"]["occi"]["monitoring"]["SendUDP"]["udpAddr"],
        "dashboard-8888:8888"
    );
}

#[test]
fn a_compose_file_and_manifests_say_the_same() {
    use clap::Parser;
    let deployment = apart();
    let file = compose::file(&deployment, "homeostat:1");
    let manifests = kubernetes::manifests(&deployment, "homeostat:1").unwrap();
    for unit in &deployment.units {
        let service = &file["services"][&unit.name];
        let words: Vec<&str> =
            service["command"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        // What a variable would be is none.
        assert_eq!(words.join(" ").replace("$$", "$"), unit.command.join(" "));
        let pod = manifests
            .iter()
            .find(|m| m["kind"] == "Deployment" && m["metadata"]["name"] == unit.name)
            .unwrap();
        let words = &pod["spec"]["template"]["spec"]["containers"][0]["args"];
        assert_eq!(*words, service["command"]);
        let service =
            manifests.iter().find(|m| m["kind"] == "Service" && m["metadata"]["name"] == unit.name).unwrap();
        let udp = matches!(unit.role, Role::Dashboard | Role::Echo);
        assert_eq!(service["spec"]["ports"][0]["protocol"], if udp { "UDP" } else { "TCP" });
        // Every command is one that this program understands.
        let line = std::iter::once("homeostat").chain(unit.command.iter().map(String::as_str));
        homeostat::cli::Cli::try_parse_from(line).unwrap();
    }
    // The documents that they hold read back as the same.
    let texts = |values: Vec<&Value>| -> Vec<String> {
        values.iter().map(|v| v.as_str().unwrap().to_string()).collect()
    };
    let in_compose = texts(file["configs"].as_object().unwrap().values().map(|c| &c["content"]).collect());
    let in_maps = texts(manifests[0]["data"].as_object().unwrap().values().collect());
    assert_eq!(in_compose, in_maps);
    let again = of(&in_maps.iter().map(String::as_str).collect::<Vec<_>>(), THEN).unwrap();
    assert_eq!(again.of_sensor(&words(), "s1111").unwrap().links.len(), 1);
}

#[test]
fn odd_names_and_numbers_are_kept_apart() {
    let sensor = |id: &str, to: &str| {
        json!({ "id": id, "kind": format!("{S}sensor"), "attributes": { "occi.sensor.period": 1, format!("{P}.SendUDP.udpAddr"): to, format!("{P}.SendUDP.input"): "a" } }).to_string()
    };
    let texts = [
        sensor("a/", "127.0.0.1:8888"),
        sensor("a", "127.0.0.2:8888"),
        sensor("--help", "127.0.0.2:9999"),
        sensor("$HOME", "127.0.0.2:9999"),
    ];
    let documents = of(&texts.iter().map(String::as_str).collect::<Vec<_>>(), THEN).unwrap();
    let deployment = plan(documents, &words(), &mut Apart).unwrap();
    let names: std::collections::BTreeSet<&str> =
        deployment.units.iter().map(|unit| unit.name.as_str()).collect();
    assert_eq!(names.len(), deployment.units.len());
    assert_eq!(names.iter().filter(|name| name.starts_with("dashboard-8888")).count(), 2, "{names:?}");
    assert_eq!(names.iter().filter(|name| **name == "dashboard-9999").count(), 1, "{names:?}");
    for unit in &deployment.units {
        use clap::Parser;
        let line = std::iter::once("homeostat").chain(unit.command.iter().map(String::as_str));
        homeostat::cli::Cli::try_parse_from(line).unwrap();
    }
    let file = compose::file(&deployment, "x").to_string();
    assert!(file.contains("$$HOME") && !file.replace("$$", "").contains('$'), "{file}");
}

/// A collector that something is wrong with is named and left out; the others are not hurt.
#[test]
fn collectors_that_lead_nowhere_are_named() {
    let [sensor, compute, collector] = prototype();
    let own = collector.replace("urn:uuid:2345", "urn:uuid:own").replace("urn:uuid:c2222", "urn:uuid:s1111");
    let one_end = json!({ "id": "urn:uuid:one", "kind": format!("{S}collector"), "source": { "location": "urn:uuid:s1111" }, "attributes": { "occi.collector.period": 1 } }).to_string();
    let stray =
        collector.replace("urn:uuid:2345", "urn:uuid:stray").replace("urn:uuid:s1111", "urn:uuid:sensr");
    let documents = of(&[&sensor, &compute, &collector, &own, &one_end, &stray], THEN).unwrap();
    let deployment = plan(documents.clone(), &words(), &mut Apart).unwrap();
    let noted = |word: &str| deployment.notes.iter().filter(|note| note.contains(word)).count();
    assert_eq!(
        (noted("urn:uuid:own"), noted("urn:uuid:one"), noted("urn:uuid:stray")),
        (1, 1, 1),
        "{:?}",
        deployment.notes
    );
    assert_eq!(documents.of_sensor(&words(), "s1111").unwrap().links.len(), 1);
    // And what is written is read.
    let texts: Vec<String> = documents.iter().map(|(id, _)| documents.written(id).unwrap()).collect();
    assert_eq!(of(&texts.iter().map(String::as_str).collect::<Vec<_>>(), THEN).unwrap().len(), 6);
    // What is at a URL is no document of ours that ends alike.
    let elsewhere = collector.replace("urn:uuid:c2222", "http://other.example/compute/c2222");
    let part = of(&[&sensor, &compute, &elsewhere], THEN).unwrap().of_sensor(&words(), "s1111").unwrap();
    assert_eq!(part.resources.len(), 1);
}

/// Too many documents for one config map are parted.
#[test]
fn config_maps_stay_below_what_they_can_hold() {
    let long = "x".repeat(90 << 10);
    let texts: Vec<String> = (0..5)
        .map(|i| json!({ "id": format!("urn:uuid:{i}"), "kind": "http://schemas.ogf.org/occi/infrastructure#compute", "summary": long }).to_string())
        .collect();
    let documents = of(&texts.iter().map(String::as_str).collect::<Vec<_>>(), THEN).unwrap();
    let deployment = plan(documents, &words(), &mut Apart).unwrap();
    let manifests = kubernetes::manifests(&deployment, "homeostat:1").unwrap();
    let maps: Vec<&Value> = manifests.iter().filter(|m| m["kind"] == "ConfigMap").collect();
    assert_eq!(maps.len(), 3);
    assert!(maps.iter().all(|map| map.to_string().len() < 1 << 20));
}

fn at_noon() -> f64 {
    THEN
}

struct Served {
    directory: tempfile::TempDir,
    address: SocketAddr,
    client: reqwest::Client,
}

/// Documents may be in directories below.
const COLLECTOR: &str = "collectors/collector.json";

impl Served {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for below in ["collectors", ".git"] {
            std::fs::create_dir(directory.path().join(below)).unwrap();
        }
        for (text, name) in prototype().iter().zip(["urn:uuid:s1111", "compute.json", COLLECTOR]) {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        // No documents.
        std::fs::write(directory.path().join("README.md"), "about").unwrap();
        std::fs::write(directory.path().join(".hidden"), "{").unwrap();
        std::fs::write(directory.path().join(".git/index"), "{").unwrap();
        // As editors lock what is edited; and what leads to nothing, or back.
        for (link, to) in [(".#compute.json", "me@here.1"), ("gone.json", "nowhere.json"), ("self", ".")] {
            std::os::unix::fs::symlink(to, directory.path().join(link)).unwrap();
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let library = Library::open(vec![PathBuf::from(directory.path())], address, at_noon).unwrap();
        tokio::spawn(async move { axum::serve(listener, router(library, at_noon)).await });
        Self { directory, address, client: reqwest::Client::new() }
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
        let mut request = self.client.get(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let header = |name: &str| {
            answer.headers().get(name).map(|v| v.to_str().unwrap().to_string()).unwrap_or_default()
        };
        let (status, kind) =
            (answer.status().as_u16(), format!("{} {}", header("content-type"), header("etag")));
        (status, kind, answer.text().await.unwrap())
    }
}

/// What the prototype's client of HTML says that it is.
const JSOUP: [(&str, &str); 2] = [
    (
        "user-agent",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/79.0.3945.130 Safari/537.36",
    ),
    ("accept", "text/html, image/gif, image/jpeg, */*; q=0.2"),
];

/// Requirement: R0-17
#[tokio::test]
async fn the_document_server_answers_everyone_in_a_form_that_they_read() {
    let served = Served::new().await;
    let sensor: Value = serde_json::from_str(&prototype()[0]).unwrap();
    let (status, kind, text) = served.get("/urn:uuid:s1111", &[]).await;
    assert_eq!((status, serde_json::from_str::<Value>(&text).unwrap()), (200, sensor.clone()));
    assert!(kind.starts_with("application/occi+json"), "{kind}");
    // In a page, whose text is the document.
    let (status, kind, page) = served.get("/urn:uuid:s1111", &JSOUP).await;
    assert!(status == 200 && kind.starts_with("text/html"), "{kind}");
    let body = page.split("<body>").nth(1).unwrap().split("</body>").next().unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&body.replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
            .unwrap(),
        sensor
    );
    // As OCCI 1.2 has it, with the collectors.
    let (_, _, text) = served.get("/urn:uuid:s1111", &[("accept", "application/occi+json")]).await;
    let new: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(new["attributes"][format!("{P}.EWMA.gain")], 16);
    assert_eq!(new["links"][0]["id"], "urn:uuid:2345");
    let (_, _, text) = served.get("/urn:uuid:2345", &[("accept", "text/plain")]).await;
    assert!(text.contains("X-OCCI-Attribute: occi.core.id=\"urn:uuid:2345\""), "{text}");
    let (_, kind, text) = served.get("/", &[("accept", "application/occi+xml")]).await;
    assert!(kind.starts_with("application/occi+xml") && text.contains("urn:uuid:c2222"), "{text}");
    let (status, _, text) = served.get("/urn:uuid:none", &[]).await;
    assert!(status == 404 && text.contains("no document `urn:uuid:none`"), "{text}");
    let post = served.client.post(format!("http://{}/urn:uuid:s1111", served.address)).send().await.unwrap();
    assert_eq!(post.status(), 405);
    let (status, _, _) = served.get("/", &[("host", "evil.example")]).await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn who_waits_for_other_documents_is_told_at_once() {
    let served = Served::new().await;
    let (_, kind, text) = served.get(INDEX, &[]).await;
    let before: Value = serde_json::from_str(&text).unwrap();
    let tag = kind.rsplit(' ').next().unwrap().to_string();
    assert_eq!(tag.trim_matches('"'), before["version"].as_str().unwrap());
    let (status, _, _) = served.get(INDEX, &[("if-none-match", &tag)]).await;
    assert_eq!(status, 304);
    // The file is replaced; the collector is part of the sensor.
    let wish = [("if-none-match", tag.as_str()), ("prefer", "wait=60")];
    let waiting = served.get(INDEX, &wish);
    let changing = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let text = prototype()[2].replace("\"period\":3", "\"period\":4");
        std::fs::write(served.directory.path().join(COLLECTOR), text).unwrap();
    };
    let ((status, _, text), ()) = tokio::join!(waiting, changing);
    let after: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status, 200);
    let differs = |id: &str| before["documents"][id] != after["documents"][id];
    assert!(
        differs("urn:uuid:2345") && differs("urn:uuid:s1111") && !differs("urn:uuid:c2222"),
        "{before} {after}"
    );

    // What cannot be read leaves everything as it was, and says so.
    std::fs::write(served.directory.path().join(COLLECTOR), "{ \"id\"").unwrap();
    let looked = served.client.post(format!("http://{}{INDEX}", served.address)).send().await.unwrap();
    let (status, text) = (looked.status(), looked.text().await.unwrap());
    assert!(status == 400 && text.contains("collector.json: no JSON"), "{status} {text}");
    let (_, _, text) = served.get(INDEX, &[]).await;
    let now: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(now["version"], after["version"]);
    assert!(now["problem"].as_str().unwrap().contains("no JSON"), "{now}");
}

/// As who copies a new state beside the old one and swaps them; and what is behind a link.
#[tokio::test]
async fn a_directory_that_took_the_place_of_another_and_a_file_behind_a_link_are_seen() {
    let above = tempfile::tempdir().unwrap();
    let path = |name: &str| above.path().join(name);
    for name in ["now", "next"] {
        std::fs::create_dir(path(name)).unwrap();
        for (text, file) in prototype().iter().zip(["sensor.json", "compute.json", "collector.json"]) {
            std::fs::write(path(name).join(file), text).unwrap();
        }
    }
    let change = |file: &Path, from: &str, to: &str| {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(file, text.replace(from, to)).unwrap();
    };
    change(&path("next").join("collector.json"), "\"period\":3", "\"period\":44");
    let library = Library::open(vec![path("now")], "127.0.0.1:1".parse().unwrap(), at_noon).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = Served {
        directory: tempfile::tempdir().unwrap(),
        address: listener.local_addr().unwrap(),
        client: reqwest::Client::new(),
    };
    tokio::spawn(async move { axum::serve(listener, router(library, at_noon)).await });
    let tag =
        |text: String| serde_json::from_str::<Value>(&text).unwrap()["version"].as_str().unwrap().to_string();
    let first = tag(served.get(INDEX, &[]).await.2);
    let other = async |known: &str| {
        let known = format!("\"{known}\"");
        let (status, _, text) = served.get(INDEX, &[("if-none-match", &known), ("prefer", "wait=30")]).await;
        assert_eq!(status, 200, "it is seen in time");
        tag(text)
    };
    std::fs::rename(path("now"), path("before")).unwrap();
    std::fs::rename(path("next"), path("now")).unwrap();
    let second = other(&first).await;
    std::fs::rename(path("now").join("collector.json"), path("elsewhere.json")).unwrap();
    std::os::unix::fs::symlink("../elsewhere.json", path("now").join("collector.json")).unwrap();
    // Whatever of that is seen first.
    tokio::time::sleep(Duration::from_millis(200)).await;
    change(&path("elsewhere.json"), "\"period\":44", "\"period\":555");
    let mut last = other(&second).await;
    while !served.get("/urn:uuid:2345", &[]).await.2.contains("555") {
        last = other(&last).await;
    }
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from)
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        "[a-z]{1,6}",
        Just("occi".to_string()),
        Just("com".to_string()),
        Just("attributes".to_string()),
        Just("kind".to_string()),
        Just("id".to_string()),
        Just("links".to_string())
    ];
    leaf().prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// No text makes it panic.
    #[test]
    fn anything_is_read_or_refused(value in any_json(), text in ".{0,80}") {
        let _ = of(&[&value.to_string()], THEN);
        let _ = of(&[&text], THEN);
        let _ = of(&[&format!("<html>{text}{{{text}}}</html>")], THEN);
    }

    /// What is written is read as the same.
    #[test]
    fn documents_are_read_as_they_were_written(
        period in 1_u32..1000, gain in 0_u32..100, label in "[a-z][a-z0-9]{0,8}", title in "[ -~]{1,20}", nested in any::<bool>(),
    ) {
        let attributes = match nested {
            true => json!({ "occi": { "sensor": { "period": period } }, "com": { "example": { "occi": { "monitoring": { "EWMA": { "gain": gain, "instream": label } } } } } }),
            false => json!({ "occi.sensor.period": period, format!("{P}.EWMA.gain"): gain, format!("{P}.EWMA.instream"): label }),
        };
        let text = json!({ "id": "urn:uuid:s", "kind": format!("{S}sensor"), "title": title, "attributes": attributes, "links": ["urn:uuid:k"] }).to_string();
        let documents = of(&[&text], THEN).unwrap();
        let again = of(&[&documents.written("urn:uuid:s").unwrap()], THEN).unwrap();
        prop_assert_eq!(documents, again);
    }
}
