//! HTTP/2 without TLS, by prior knowledge on both sides.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::body::Body;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use super::support::*;

async fn service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let echo = service_fn(|request: Request<hyper::body::Incoming>| async move {
                let seen = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
                let status = if request.uri().path() == "/bad" { 500 } else { 200 };
                let body = Body::new(request.into_body());
                let answer = Response::builder().status(status).header("x-seen", seen).body(body);
                Ok::<_, Infallible>(answer.unwrap())
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .auto_date_header(false)
                    .serve_connection(TokioIo::new(stream), echo),
            );
        }
    });
    address
}

/// Many requests at once on one connection; the answers in order.
async fn transcript(address: SocketAddr) -> Vec<String> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let asked = (0..20).map(|n| {
        let mut sender = sender.clone();
        async move {
            let path = if n % 10 == 9 { "bad" } else { "good" };
            let request = Request::post(format!("http://example.org/{path}?n={n}"))
                .header("x-n", n)
                .body(Body::from(format!("{n}").repeat(20_000)))
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            let (head, body) = answer.into_parts();
            let body = axum::body::to_bytes(Body::new(body), usize::MAX).await.unwrap();
            format!("{:?} {:?} {} {:?}", head.status, head.headers, body.len(), &body[..2.min(body.len())])
        }
    });
    let heard = futures::future::join_all(asked).await;
    drop(sender);
    let _ = tokio::time::timeout(PATIENCE, connection).await.expect("the connection to end");
    heard
}

/// Requirement: R4-13
#[tokio::test]
async fn http2_passes_and_is_measured() {
    let address = service().await;
    let (membrane, front) = wrap(&address.to_string(), limits());
    assert_eq!(transcript(front).await, transcript(address).await);
    let meter = membrane.meter("it");
    until("the calls to be over", || meter.whole().in_flight() == 0).await;
    assert_eq!((meter.whole().requests(), meter.whole().errors()), (20, 2));
    assert!(meter.whole().quantile(0.9).is_some());
}

/// Requirement: R3-19
#[tokio::test]
async fn calls_over_http2_follow_the_binding_on_a_connection_that_stays_open() {
    let (c1, c2) = (service().await, service().await);
    let membrane = homeostat::membrane::Membrane::new(&homeostat::connectors::Connectors::new(), limits());
    membrane.set_services([
        unserved("user"),
        served("C1", any(), &c1.to_string()),
        served("C2", any(), &c2.to_string()),
    ]);
    membrane.set_ports(&"user".into(), vec![port(Some("C1"))]);
    let stream = TcpStream::connect(membrane.port_address("user", "r").unwrap()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for round in 1..=3 {
        for to in ["C1", "C2"] {
            membrane.lead(&"user".into(), &[("r".into(), Some(to.into()))]).await.unwrap();
            let request = Request::get("http://example.org/").body(Body::empty()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            axum::body::to_bytes(Body::new(answer.into_body()), usize::MAX).await.unwrap();
            until("the call to be over", || membrane.meter(to).whole().requests() == round).await;
        }
    }
}

#[tokio::test]
async fn a_service_that_is_down_is_a_bad_gateway_over_http2_too() {
    let (membrane, front) = wrap("127.0.0.1:1", limits());
    let stream = TcpStream::connect(front).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://example.org/").body(Body::empty()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 502);
    assert_eq!(membrane.meter("it").failures(homeostat::membrane::FailureKind::Unreachable), 1);
}
