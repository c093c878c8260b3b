//! Transcripts: what a client reads through the membrane is what it reads without, byte for byte.

use std::sync::atomic::Ordering;

use super::support::*;

/// The transcript of the bare service is that through the membrane, and the service has seen the same bytes.
async fn same(steps: &[Step<'_>]) -> String {
    let (bare, address) = Service::start("s").await;
    bare.release.notify_one();
    let without = talk(address, steps).await;
    let (wrapped, address) = Service::start("s").await;
    wrapped.release.notify_one();
    let (membrane, front) = wrap(&address.to_string(), limits());
    let with = talk(front, steps).await;
    assert_eq!(with, without);
    assert_eq!(wrapped.seen(), bare.seen());
    drop(membrane);
    with
}

/// Requirement: R4-13
#[tokio::test]
async fn a_client_cannot_tell_the_difference_on_a_connection_kept_alive() {
    let steps = [
        Step::Send(b"GET /a?q=1 HTTP/1.1\r\nhOST: example.org:80\r\nX-b: 1\r\nAccept: */*\r\nx-B: 2\r\n\r\n"),
        Step::Until("\r\n\r\ns"),
        Step::Send(b"HEAD /head HTTP/1.1\r\nHost: t\r\n\r\n"),
        Step::Until("12345\r\n\r\n"),
        Step::Send(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\n"),
        Step::Send(b"hello"),
        Step::Until("hello"),
        Step::Send(b"GET /error HTTP/1.1\r\nHost: t\r\n\r\n"),
        Step::Until("busy"),
        Step::Send(b"GET /old HTTP/1.1\r\nHost: t\r\n\r\n"),
        Step::End,
    ];
    let heard = same(&steps).await;
    assert!(
        heard.contains("X-Odd-CASE: 1\r\nsErVeR: hand\r\nX-Odd-CASE: 2") && heard.ends_with("until the end")
    );
}

/// Requirement: R4-13
#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let steps = [
        Step::Send(b"GET /a HTTP/1.1\r\nHost: t\r\n\r\nPOST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabcGET /hints HTTP/1.1\r\nHost: t\r\n\r\n"),
        Step::Until("hinted"),
    ];
    let (service, address) = Service::start("s").await;
    let without = talk(address, &steps).await;
    let (_membrane, front) = wrap(&address.to_string(), limits());
    assert_eq!(talk(front, &steps).await, without);
    assert_eq!(service.requests.load(Ordering::SeqCst), 6);
}

/// Requirement: R4-13
#[tokio::test]
async fn chunks_their_extensions_and_trailers_pass_both_ways() {
    let heard = same(&[
        Step::Send(b"GET /chunked HTTP/1.1\r\nHost: t\r\nTE: trailers\r\n\r\n"),
        Step::Until("X-Undeclared: yes\r\n\r\n"),
        Step::Send(b"POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n"),
        Step::Send(b"0\r\n\r\n"),
        Step::Until("0\r\n\r\n"),
    ])
    .await;
    assert!(heard.contains("5;note=a\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n"));
}

/// Requirement: R4-13
#[tokio::test]
async fn it_is_the_service_that_says_whether_to_continue() {
    same(&[
        Step::Send(b"POST /expect HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"),
        Step::Until("X-Interim: 1\r\n\r\n"),
        Step::Send(b"body"),
        Step::Until("\r\n\r\nbody"),
    ])
    .await;
    let heard = same(&[
        Step::Send(b"POST /refuse HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"),
        Step::End,
    ])
    .await;
    assert!(heard.starts_with("HTTP/1.1 417") && !heard.contains("100 Continue"));
}

/// Requirement: R4-13
#[tokio::test]
async fn an_upgraded_connection_carries_bytes() {
    same(&[
        Step::Send(b"GET /upgrade HTTP/1.1\r\nHost: t\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"),
        Step::Until("hello from the service"),
        Step::Send(b"\x01one"),
        Step::Until("\x01ONE"),
        Step::Send(b"two"),
        Step::Until("TWO"),
        Step::Finish,
        Step::End,
    ])
    .await;
}

/// Requirement: R4-13
#[tokio::test]
async fn events_come_when_they_happen() {
    let (service, address) = Service::start("s").await;
    let (membrane, front) = wrap(&address.to_string(), limits());
    let steps = |until| [Step::Send(b"GET /events HTTP/1.1\r\nHost: t\r\n\r\n"), Step::Until(until)];
    // The second event is not sent before the first was read.
    assert!(!talk(front, &steps("id: 0\ndata: x\n\n")).await.contains("id: 1"));
    // As without the membrane, a service learns that its client is gone by writing to it.
    until("the first client to be gone", || {
        service.release.notify_waiters();
        membrane.meter("it").whole().in_flight() == 0
    })
    .await;
    let reading = tokio::spawn(async move {
        talk(front, &[Step::Send(b"GET /events HTTP/1.1\r\nHost: t\r\n\r\n"), Step::End]).await
    });
    until("the second request", || service.requests.load(Ordering::SeqCst) == 2).await;
    while !reading.is_finished() {
        service.release.notify_waiters();
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert!(reading.await.unwrap().ends_with("id: 2\ndata: x\n\n"));
    assert!(membrane.meter("it").whole().quantile(0.5).is_some());
}

/// Requirement: R4-13
#[tokio::test]
async fn large_bodies_stream_both_ways() {
    let (_service, address) = Service::start("s").await;
    let (membrane, front) = wrap(&address.to_string(), limits());
    let body = "0123456789abcdef".repeat(256 * 1024);
    let mut request = format!("POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", body.len());
    let head = request.len();
    request += &body;
    let heard = talk(front, &[Step::Send(request.as_bytes()), Step::Until(&body)]).await;
    assert!(heard.ends_with(&body));
    until("the call to be over", || membrane.meter("it").whole().requests() == 1).await;
    assert_eq!(membrane.meter("it").whole().bytes_in(), (head + body.len()) as u64);
}

/// Requirement: R4-13
#[tokio::test]
async fn plain_tcp_passes_and_is_measured() {
    let (_service, address) = Service::start("s").await;
    let (membrane, front) = wrap(&format!("tcp://{address}"), limits());
    let steps = [
        Step::Send(b"GET /upgrade HTTP/1.1\r\nhost: t\n\nnot http at all\r\n\r\n"),
        Step::Until("service"),
        Step::Finish,
        Step::End,
    ];
    let with = talk(front, &steps).await;
    assert_eq!(with, talk(address, &steps).await);
    let meter = membrane.meter("it");
    until("the connection to be over", || meter.whole().requests() == 1).await;
    assert_eq!(meter.whole().bytes_out(), with.len() as u64);
    assert!(meter.whole().quantile(1.0).is_some(), "the first byte has a time");
}

#[tokio::test]
async fn what_connection_names_stays_on_its_connection() {
    let (service, address) = Service::start("s").await;
    let (_membrane, front) = wrap(&address.to_string(), limits());
    let request = b"GET / HTTP/1.1\r\nHost: t\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nX-End: 2\r\n\r\n";
    talk(front, &[Step::Send(request), Step::Until("\r\n\r\ns")]).await;
    assert_eq!(service.seen(), "GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\nX-End: 2\r\n\r\n");
}
