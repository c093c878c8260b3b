//! Where services keep their properties: files of every kind, headers, their own command line, environment and process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use homeostat::model::ports::Actions;
use homeostat::model::{Action, OutcomeStatus};
use homeostat::service::handle::Handle;
use serde_json::{Value, json};

use super::bridge::{free, start};
use super::manage::{Client, listen, look_around, manage};
use super::support::{PATIENCE, until};

const YAML: &str = "# of the shop\nlimits:\n  rate: 1.5   # per second\n  name: 'a'\n";
const TOML: &str = "# of the shop\n[limits]\nrate = 1.5   # per second\nname = 'a'\n";
const INI: &str = "; of the shop\n[limits]\nrate = 1.5   ; per second\nname = a\n";
const JSON: &str = "{\n  \"limits\": {\n    \"rate\": 1.5,\n    \"name\": \"a\"\n  }\n}\n";

/// Requirement: R4-01, R4-02, R4-03, R4-06
#[tokio::test]
async fn a_value_is_changed_in_its_file_and_nothing_else_is() {
    for (name, text) in [("a.yaml", YAML), ("a.toml", TOML), ("a.ini", INI), ("a.json", JSON)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let property = |kind: &str, pointer: &str| json!({ "type": kind, "settable": true, "file": { "path": path, "pointer": pointer } });
        let spec = json!({
            "listen": "127.0.0.1:1",
            "properties": { "rate": property("number", "/limits/rate"), "name": property("string", "/limits/name") }
        });
        let (_membrane, address) = manage("127.0.0.1:1", spec);
        let client = Client::new(address);
        assert_eq!(
            (client.value("rate").await, client.value("name").await),
            (json!(1.5), json!("a")),
            "{name}"
        );
        look_around(&client).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "what is set to what it is stays: {name}");
        // Two values of one file at once: neither is lost.
        let (rate, other) = tokio::join!(client.set("rate", json!(2.5)), client.set("name", json!("b")));
        assert_eq!((rate.0, other.0), (200, 200), "{name}: {rate:?} {other:?}");
        let changed = text.replace("1.5", "2.5").replace("'a'", "'b'").replace("= a\n", "= b\n");
        let changed = changed.replace("\"a\"", "\"b\"");
        let now = std::fs::read_to_string(&path).unwrap();
        // TOML's own editor chooses the quotes.
        assert_eq!(now.replace("\"b\"", "'b'"), changed.replace("\"b\"", "'b'"), "{name}");
        assert_eq!((client.value("rate").await, client.value("name").await), (json!(2.5), json!("b")));
        assert_eq!(client.set("rate", json!("3")).await.0, 422);
    }
}

/// Requirement: R4-02
#[tokio::test]
async fn a_file_that_is_gone_or_unreadable_is_the_trouble_of_its_own_properties_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for (name, text) in
        [("good.toml", "rate = 1\n"), ("odd.toml", "rate = = 1"), ("twice.ini", "[a]\nb = 1\nb = 2\n")]
    {
        std::fs::write(path(name), text).unwrap();
    }
    let file = |name: &str, pointer: &str| json!({ "type": "integer", "settable": true, "file": { "path": path(name), "pointer": pointer } });
    let spec = json!({
        "listen": "127.0.0.1:1",
        "properties": {
            "good": file("good.toml", "/rate"), "gone": file("gone.toml", "/rate"), "odd": file("odd.toml", "/rate"),
            "nothing": file("good.toml", "/none/there"), "twice": file("twice.ini", "/a/b")
        }
    });
    let (_membrane, address) = manage("127.0.0.1:1", spec);
    let client = Client::new(address);
    let (status, list) = client.get("properties").await;
    assert_eq!(status, 200);
    for property in list["properties"].as_array().unwrap() {
        let name = property["name"].as_str().unwrap();
        let why = property["error"].as_str().unwrap_or_default();
        let part = match name {
            "good" => {
                assert_eq!(property["value"], 1);
                continue;
            }
            "gone" => "gone.toml",
            "odd" => "not written as it should be",
            "nothing" => "nothing at `/none/there`",
            _ => "is null there",
        };
        assert!(why.contains(part), "{name}: {why}");
        let (status, problem) = client.get(&format!("properties/{name}")).await;
        assert_eq!((status, &problem["type"]), (502, &json!("urn:homeostat:error:unavailable")));
        assert_eq!(client.set(name, json!(7)).await.0, 502, "{name}");
    }
    assert_eq!(std::fs::read_to_string(path("odd.toml")).unwrap(), "rate = = 1");
    assert_eq!(client.set("good", json!(7)).await.0, 200);
    assert_eq!(std::fs::read_to_string(path("good.toml")).unwrap(), "rate = 7\n");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left beside");
}

/// Requirement: R4-02, R4-03, R4-04, R4-22
#[tokio::test]
async fn a_header_is_a_value_and_secrets_open_what_is_asked() {
    let refused = Arc::new(AtomicUsize::new(0));
    fn knows(headers: &HeaderMap, refused: &AtomicUsize) -> bool {
        // The variable is there in every test: cargo sets it.
        let good = headers.get("authorization").is_some_and(|v| v == "Bearer homeostat");
        refused.fetch_add(usize::from(!good), Ordering::SeqCst);
        good
    }
    let read = |State(refused): State<Arc<AtomicUsize>>, headers: HeaderMap| async move {
        match knows(&headers, &refused) {
            true => ([("x-rate", "7")], "nothing here").into_response(),
            false => StatusCode::UNAUTHORIZED.into_response(),
        }
    };
    let set = |State(refused): State<Arc<AtomicUsize>>, headers: HeaderMap, body: String| async move {
        if knows(&headers, &refused) && body == "9" {
            StatusCode::NO_CONTENT
        } else {
            StatusCode::BAD_REQUEST
        }
    };
    let double = |State(refused): State<Arc<AtomicUsize>>, headers: HeaderMap, Json(body): Json<Value>| async move {
        match knows(&headers, &refused) {
            true => Json(json!(2 * body["n"].as_i64().unwrap())).into_response(),
            false => StatusCode::UNAUTHORIZED.into_response(),
        }
    };
    let router = Router::new()
        .route("/admin", get(read).put(set))
        .route("/double", post(double))
        .with_state(refused.clone());
    let endpoint = listen(router).await;
    let headers = json!({ "authorization": "Bearer ${CARGO_PKG_NAME}" });
    let spec = json!({
        "listen": "127.0.0.1:1",
        "properties": {
            "rate": { "type": "integer", "settable": true, "http": { "url": "/admin", "header": "X-Rate", "headers": headers, "set": {} } },
            "none": { "type": "integer", "http": { "url": "/admin", "header": "X-None", "headers": headers } },
            "locked": { "type": "integer", "http": { "url": "/admin", "header": "X-Rate" } },
            "secret": { "type": "integer", "http": { "url": "/admin", "headers": { "authorization": "${HOMEOSTAT_NOT_SET}" } } }
        },
        "methods": { "double": { "url": "/double", "headers": headers, "params": [{ "name": "n", "type": "integer" }] } }
    });
    let (_membrane, address) = manage(&endpoint.to_string(), spec);
    let client = Client::new(address);
    assert_eq!(client.value("rate").await, json!(7));
    assert_eq!(client.set("rate", json!(9)).await.0, 200);
    assert_eq!(client.invoke("double", json!([21])).await, (200, json!({ "result": 42 })));
    assert_eq!(refused.load(Ordering::SeqCst), 0);
    let why = async |name: &str| {
        client.get(&format!("properties/{name}")).await.1["detail"].as_str().unwrap().to_string()
    };
    assert!(why("none").await.contains("without the header `X-None`"));
    assert!(why("locked").await.contains("answered 401"));
    assert!(why("secret").await.contains("`HOMEOSTAT_NOT_SET`, which is not set"));
}

fn supervised(dir: &Path, manage: std::net::SocketAddr) -> String {
    let (told, config) = (dir.join("told").display().to_string(), dir.join("app.toml").display().to_string());
    format!(
        r#"
service: app
process:
  command: [sh, -c, "trap 'echo told >> {told}' HUP; echo ready; while :; do sleep 0.02; done", app, --rate, "5", --verbose]
  environment: {{ REGION: eu }}
  ready: {{ output: ready }}
manage:
  listen: {manage}
  properties:
    rate: {{ type: integer, argument: --rate }}
    verbose: {{ type: boolean, argument: --verbose }}
    region: {{ type: string, environment: REGION }}
    state: {{ type: string, process: state }}
    pid: {{ type: integer, process: pid }}
    restarts: {{ type: integer, process: restarts }}
    uptime: {{ type: number, process: uptime }}
    cpu: {{ type: number, process: cpu }}
    rss: {{ type: integer, process: rss }}
    threads: {{ type: integer, process: threads }}
    descriptors: {{ type: integer, process: descriptors }}
    size: {{ type: integer, settable: true, file: {{ path: {config}, pointer: /size, tell: {{ process: true, signal: hup }} }} }}
execute: {{}}
"#
    )
}

/// Requirement: R4-01, R4-02, R4-03
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_homeostat_runs_is_asked_by_its_command_line_environment_and_process() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("app.toml"), "size = 1 # of the pool\n").unwrap();
    let at = free();
    let supervisor = start(&supervised(dir.path(), at), &[at]).await;
    let client = Client::new(at);
    until("it runs", || {
        supervisor.shell().processes().status("app").is_some_and(|s| s.state.to_string() == "running")
    })
    .await;
    assert_eq!((client.value("rate").await, client.value("verbose").await), (json!(5), json!(true)));
    assert_eq!((client.value("region").await, client.value("state").await), (json!("eu"), json!("running")));
    let pid = supervisor.shell().processes().status("app").unwrap().pid.unwrap();
    assert_eq!((client.value("pid").await, client.value("restarts").await), (json!(pid), json!(0)));
    for (name, least) in
        [("uptime", 0.0), ("cpu", 0.0), ("rss", 10_000.0), ("threads", 1.0), ("descriptors", 1.0)]
    {
        let value = client.value(name).await;
        assert!(value.as_f64().is_some_and(|v| v >= least), "{name}: {value}");
        assert_eq!(client.set(name, value).await.0, 409, "{name}");
    }
    // The service is told by its own process, without a file that names it.
    assert_eq!(client.set("size", json!(4)).await.0, 200);
    assert_eq!(std::fs::read_to_string(dir.path().join("app.toml")).unwrap(), "size = 4 # of the pool\n");
    until("it is told", || dir.path().join("told").exists()).await;

    // A process that does not run is said where it matters, and nowhere else.
    let stopped =
        Handle::new(supervisor.clone(), "app").send_action(Action::Stop { service: None }).await.unwrap();
    assert_eq!(stopped.status, OutcomeStatus::Done, "{stopped:?}");
    let (status, problem) = client.get("properties/rss").await;
    assert!(status == 502 && problem["detail"].as_str().unwrap().contains("stopped"), "{problem}");
    assert_eq!((client.value("state").await, client.value("rate").await), (json!("stopped"), json!(5)));
    let (status, problem) = client.set("size", json!(5)).await;
    assert!(status == 502 && problem["detail"].as_str().unwrap().contains("was not told"), "{problem}");
    assert!(supervisor.shell().stop(PATIENCE).await.is_empty());
}

/// Waits until so many calls are counted: asked for, it is how it is now, and a call counts when its last byte has gone, a moment before or after
/// the client has read it.
#[cfg(unix)]
async fn counted(client: &Client, calls: u64) {
    answered(client, "requests", |(status, answer)| (status, &answer["value"]) == (200, &json!(calls))).await;
}

/// Waits until a property is answered so: what is told call by call (response times) is there a moment after the call.
#[cfg(unix)]
async fn answered(client: &Client, property: &str, holds: impl Fn((u16, Value)) -> bool) {
    let asking = async {
        while !holds(client.get(&format!("properties/{property}")).await) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| panic!("`{property}` is what was waited for, in time"));
}

/// Requirement: R4-01, R4-05, R4-06, R4-17, R4-23, R3-20
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_wrapped_program_has_properties_without_a_policy() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.txt"), "the file").unwrap();
    let (front, to) = (free(), free());
    let (port, dir) = (to.port().to_string(), dir.path().display().to_string());
    let server = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", &dir, &port];
    let wrapped = super::wrap::Wrapped::start(front, to, &server).await;
    let client = Client::new(wrapped.manage);
    for n in 1..=5 {
        assert_eq!(super::support::get(front, "/a.txt").await.0, 200);
        counted(&client, n).await;
    }
    assert_eq!(super::support::get(front, "/none").await.0, 404);
    counted(&client, 6).await;
    assert_eq!((client.value("requests").await, client.value("errors").await), (json!(6), json!(0)));
    assert_eq!(client.value("state").await, json!("running"));
    answered(&client, "p99", |(status, answer)| status == 200 && answer["value"].as_f64() > Some(0.0)).await;
    assert!(client.value("memory").await.as_i64().unwrap() > 1_000_000);
    let (_, list) = client.get("properties").await;
    for property in list["properties"].as_array().unwrap() {
        assert_eq!(property["settable"], false);
        assert!(property["value"].is_number() || property["value"].is_string(), "{property}");
    }
    // One endpoint serves the three: invoke, ask, subscribe; and the API beside.
    assert_eq!(client.invoke("none", json!([])).await.0, 404);
    let (_, problem) = client.get("properties/none").await;
    assert_eq!(problem["type"], "urn:homeostat:error:no-such-property");
    let mut events = client.events("requests", "mode=interval&interval=50ms").await;
    assert_eq!(super::manage::next(&mut events).await.0, "subscribed");
    assert_eq!(super::manage::next(&mut events).await.1["new"], json!(6));
    assert_eq!(super::support::get(wrapped.manage, "/v1/services").await.0, 200);
    // Function and management do not meet.
    assert_eq!(super::support::get(front, "/_mon/properties").await.0, 404);
    assert_eq!(super::support::get(wrapped.manage, "/a.txt").await.0, 404);
}
