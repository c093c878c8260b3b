//! A service that cannot be reached any more is reported by mail, once, after so many failures.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::support::{Daemon, PATIENCE, homeostat, policy};

/// An SMTP server that keeps what it is given: who sends, who receives, and the lines of the mail.
struct Post {
    address: SocketAddr,
    mails: Receiver<Vec<String>>,
}

impl Post {
    fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("address");
        let (sender, mails) = channel();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(mut writer) = connection else { return };
                let mut reader = BufReader::new(writer.try_clone().expect("a second handle"));
                let mut say = |line: &str| writer.write_all(format!("{line}\r\n").as_bytes()).is_ok();
                say("220 post");
                let (mut mail, mut inside) = (Vec::new(), false);
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
                    let said = std::mem::take(&mut line).trim_end().to_string();
                    let word = said.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
                    match (inside, word.as_str()) {
                        (true, ".") => {
                            inside = false;
                            say("250 taken");
                            if sender.send(std::mem::take(&mut mail)).is_err() {
                                return;
                            }
                        }
                        (true, _) => mail.push(said),
                        (false, "DATA") => inside = say("354 go on"),
                        (false, "MAIL" | "RCPT") => {
                            mail.push(said);
                            say("250 ok");
                        }
                        (false, "QUIT") => {
                            say("221 bye");
                            break;
                        }
                        (false, _) => drop(say("250 post")),
                    }
                }
            }
        });
        Self { address, mails }
    }
}

const TESTS: &str = "
test: one failure is no news, three in a row are, once
steps:
  - push: { web.up: 1 }
  - wait: 30s
  - push: { web.up: 0 }
  - wait: 30s
  - push: { web.up: 0 }
  - wait: 30s
  - push: { web.up: 1 }
  - wait: 30s
  - push: { web.up: 0 }
  - wait: 30s
  - push: { web.up: 0 }
  - wait: 30s
  - push: { web.up: 0 }
  - expect: { slo: { web.reachable: pending }, nothing: true }
  - wait: 5s
  - expect: { slo: { web.reachable: violated }, actions: [\"notify(web cannot be reached)\"] }
  - wait: 30m
  - expect: { slo: { web.reachable: violated }, nothing: true }
";

fn web(up: &str, patience: &str, post: SocketAddr) -> String {
    format!(
        "service: web
monitor:
  sensors: {{ up: {up} }}
analyze:
  reachable: {{ objective: up >= 1, for: {patience}, severity: critical }}
plan:
  - {{ when: reachable, mode: act, cooldown: 1h, do: [ {{ notify: {{ text: web cannot be reached }} }} ] }}
  - {{ when: reachable, on: [recovered], mode: act, do: [ {{ notify: {{ text: web is back }} }} ] }}
execute:
  notify:
    mail:
      server: smtp://{post}
      from: \"homeostat <homeostat@example.org>\"
      to: [ops@example.org, boss@example.org]
      subject: \"{{service}}: {{text}}\"
"
    )
}

/// Requirement: R1-54
#[test]
fn three_failures_in_a_row_are_news_and_one_is_not() {
    let dir = policy(&web("push", "65s", ([127, 0, 0, 1], 25).into()));
    std::fs::write(dir.path().join("web.test.yaml"), TESTS).expect("written");
    let said = homeostat(&["test", &dir.path().to_string_lossy()], None);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
}

/// Requirement: R1-54
#[test]
fn a_service_that_cannot_be_reached_is_reported_by_mail_and_so_is_its_return() {
    let post = Post::open();
    let web_server = TcpListener::bind("127.0.0.1:0").expect("bound");
    let at = web_server.local_addr().expect("address");
    let dir = policy(&web(&format!("{{ ping: {{ tcp: \"{at}\", every: 50ms }} }}"), "120ms", post.address));
    let daemon = Daemon::start(dir.path(), &[]);
    daemon.wait_value("web", "up", 1.0);
    drop(web_server);
    let mail = post.mails.recv_timeout(PATIENCE).expect("a mail");
    assert_eq!(mail[0].split(' ').next(), Some("MAIL"));
    assert!(mail[0].contains("<homeostat@example.org>"), "{mail:?}");
    let to: Vec<&String> = mail.iter().filter(|line| line.starts_with("RCPT")).collect();
    assert!(to.len() == 2 && to[0].contains("<ops@example.org>"), "{mail:?}");
    assert!(mail.iter().any(|line| line == "Subject: web: web cannot be reached"), "{mail:?}");
    assert!(mail.iter().any(|line| line.starts_with("Message-ID: <")), "{mail:?}");

    let _web_server = TcpListener::bind(at).expect("bound again");
    let mail = post.mails.recv_timeout(PATIENCE).expect("another mail");
    assert!(mail.iter().any(|line| line == "Subject: web: web is back"), "{mail:?}");
    assert!(post.mails.recv_timeout(Duration::from_millis(300)).is_err(), "one mail for each crossing");
    let why = daemon.expect(0, &["why", "web"]);
    assert!(why.contains("250"), "{why}");
    daemon.stop();
}
