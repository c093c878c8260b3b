//! Bad input and bad services: each is answered and counted in its own way, and disturbs nobody else.

use std::sync::atomic::Ordering;
use std::time::Duration;

use homeostat::membrane::{FailureKind, Limits};

use super::support::*;

#[tokio::test]
async fn ambiguous_requests_are_refused_and_the_service_sees_nothing() {
    let (service, address) = Service::start("s").await;
    let (membrane, front) = wrap(&address.to_string(), limits());
    let smuggled = "GET /admin HTTP/1.1\r\nHost: t\r\n\r\n";
    let requests = [
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX".to_string(),
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nX".to_string(),
        format!("Content-Length: 0\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len()),
        "Content-Length: 3, 4\r\n\r\nabc".to_string(),
        "Content-Length: -1\r\n\r\n".to_string(),
        format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("X: y\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        format!("Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n{smuggled}"),
        format!("Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n{smuggled}"),
        format!("Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n{smuggled}"),
        format!("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n{smuggled}"),
        format!("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
    ];
    for (number, rest) in requests.iter().enumerate() {
        let request = format!("POST / HTTP/1.1\r\nHost: t\r\n{rest}");
        let answer = talk(front, &[Step::Send(request.as_bytes()), Step::End]).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{rest:?}: {answer}");
        assert_eq!(membrane.meter("it").failures(FailureKind::Malformed), number as u64 + 1);
    }
    let answer = talk(front, &[Step::Send(b"\x16\x03\x01\x02\x00\r\n\r\n"), Step::End]).await;
    assert!(answer.starts_with("HTTP/1.1 400 "));
    assert_eq!((service.seen().as_str(), service.connections.load(Ordering::SeqCst)), ("", 0));
    assert_eq!(membrane.meter("it").whole().errors(), 0, "the service is not to blame");
    assert_eq!(get(front, "/").await, (200, "s".into()));
}

#[tokio::test]
async fn a_chunk_that_turns_bad_later_ends_the_call_before_its_bytes_are_forwarded() {
    let (service, address) = Service::start("s").await;
    let (membrane, front) = wrap(&address.to_string(), limits());
    let answer = talk(
        front,
        &[
            Step::Send(b"POST /expect HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
            Step::Until("100 Continue"),
            Step::Send(b"zz\r\nGET /admin HTTP/1.1\r\n\r\n"),
            Step::End,
        ],
    )
    .await;
    assert!(answer.contains("HTTP/1.1 400 "), "{answer}");
    assert!(service.seen().ends_with("3\r\nabc\r\n"), "{}", service.seen());
    assert_eq!(membrane.meter("it").failures(FailureKind::Malformed), 1);
}

#[tokio::test]
async fn each_failure_of_a_service_has_its_answer_and_its_count_and_disturbs_nobody_else() {
    let (service, address) = Service::start("s").await;
    let limits = Limits { response: Some(Duration::from_millis(100)), ..limits() };
    let (membrane, front) = wrap(&address.to_string(), limits);
    let meter = membrane.meter("it");
    for (path, status, kind) in [
        ("/garbage", 502, FailureKind::Garbage),
        ("/large", 502, FailureKind::Garbage),
        ("/hang-up", 502, FailureKind::BrokenOff),
        ("/slow", 504, FailureKind::ResponseTimeout),
    ] {
        let before = meter.failures(kind);
        let (answered, why) = get(front, path).await;
        assert_eq!(answered, status, "{path}: {why}");
        until(path, || meter.failures(kind) == before + 1 && meter.whole().in_flight() == 0).await;
        assert_eq!(get(front, "/").await, (200, "s".into()));
    }
    // What has begun cannot become another answer: the connection ends, as it would without the membrane.
    let (status, body) = get(front, "/cut").await;
    assert_eq!((status, body.as_str()), (200, "only this"));
    until("the count", || meter.failures(FailureKind::BrokenOff) == 2).await;
    until("the calls to be over", || meter.whole().in_flight() == 0).await;
    assert_eq!((meter.whole().requests(), meter.whole().errors()), (9, 5));
    service.release.notify_waiters();
}

#[tokio::test]
async fn a_service_that_is_down_is_a_bad_gateway_and_one_that_does_not_accept_a_gateway_timeout() {
    let (membrane, front) = wrap("127.0.0.1:1", limits());
    let (status, why) = get(front, "/").await;
    assert!(status == 502 && why.contains("`it` cannot be reached"), "{status} {why}");
    assert_eq!(membrane.meter("it").failures(FailureKind::Unreachable), 1);

    // A listener that never accepts, with no place left in its queue.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let full = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(tokio::spawn(tokio::net::TcpStream::connect(full)));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (membrane, front) = wrap(&full.to_string(), limits());
    assert_eq!(get(front, "/").await.0, 504);
    assert_eq!(membrane.meter("it").failures(FailureKind::ConnectTimeout), 1);
}

#[tokio::test]
async fn clients_that_send_too_much_or_too_slowly_or_leave_are_told_and_counted() {
    let (service, address) = Service::start("s").await;
    let (membrane, front) = wrap(&address.to_string(), limits());
    let meter = membrane.meter("it");
    let large = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    assert!(talk(front, &[Step::Send(large.as_bytes()), Step::End]).await.starts_with("HTTP/1.1 431 "));
    assert_eq!(meter.failures(FailureKind::TooLarge), 1);
    let slow = talk(front, &[Step::Send(b"GET / HTTP/1.1\r\nHo"), Step::End]).await;
    assert!(slow.starts_with("HTTP/1.1 408 "), "{slow}");
    assert_eq!(meter.failures(FailureKind::SlowClient), 1);
    assert_eq!(service.connections.load(Ordering::SeqCst), 0);
    // Gone in the middle of its body.
    let half = b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nhalf";
    assert_eq!(talk(front, &[Step::Send(half), Step::Finish, Step::End]).await, "");
    until("the count", || meter.failures(FailureKind::ClientGone) == 1).await;
    assert_eq!(meter.whole().errors(), 0);
    assert_eq!(get(front, "/").await, (200, "s".into()));
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_clear_state_and_opens_when_it_is_free() {
    let (_service, address) = Service::start("s").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap();
    let (membrane, other) = wrap(&address.to_string(), limits());
    let both =
        [served("it", any(), &address.to_string()), served("blocked", Some(port), &address.to_string())];
    let troubles = membrane.set_services(both);
    assert!(
        troubles.len() == 1 && &*troubles[0].0 == "blocked" && troubles[0].1.0.contains("cannot listen on")
    );
    assert_eq!(get(other, "/").await.0, 200, "the other service is not disturbed");
    drop(taken);
    until("the port to open", || membrane.trouble("blocked").is_none()).await;
    assert_eq!(get(port, "/").await.0, 200);
}

#[tokio::test]
async fn stopping_lets_calls_end_and_takes_no_new_ones() {
    let (service, address) = Service::start("s").await;
    let (membrane, front) = wrap(&address.to_string(), limits());
    let call = tokio::spawn(get(front, "/slow"));
    until("the call", || service.requests.load(Ordering::SeqCst) == 1).await;
    let stopping = tokio::spawn({
        let membrane = membrane.clone();
        async move { membrane.stop(PATIENCE).await }
    });
    until("the port to close", || std::net::TcpStream::connect(front).is_err()).await;
    assert!(!stopping.is_finished());
    service.release.notify_waiters();
    assert_eq!(call.await.unwrap().0, 200);
    assert!(stopping.await.unwrap());
}
