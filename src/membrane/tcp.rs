//! Plain TCP through the membrane: a connection is a call, and its response time is that of the first byte from the service.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::front::Front;
use super::meter::FailureKind;
use super::relay::{BUFFER, tunnel};

/// Serves one connection of a client until both sides have ended it.
pub(super) async fn serve(mut client: TcpStream, front: Arc<Front>) {
    let call = front.meter.begin("TCP", "");
    let (mut tried, mut retries) = (Vec::new(), front.limits().retries);
    let (visit, mut stream) = loop {
        let Ok(mut visit) = front.slot.enter(&tried) else { return call.failed(FailureKind::Unbound) };
        match front.connect(&visit.target).await {
            Ok(stream) => {
                visit.sent();
                visit.answered(true);
                break (visit, stream);
            }
            Err(_) if front.has_left(&visit.target) => {}
            // Nothing has reached anybody yet, so this is safe whatever the connection is for.
            Err(no) => {
                if retries == 0 {
                    visit.answered(false);
                    return call.failed(no.kind);
                }
                retries -= 1;
                visit.sent();
                visit.failed(&mut tried).await;
            }
        }
    };
    let (client_from, client_to) = client.split();
    let (service_from, service_to) = stream.split();
    let (mut a, mut b) = (BytesMut::with_capacity(BUFFER), BytesMut::with_capacity(BUFFER));
    let (mut client_from, mut client_to, mut service_from, mut service_to) =
        (client_from, client_to, service_from, service_to);
    tunnel((&mut client_from, &mut a, &mut client_to), (&mut service_from, &mut b, &mut service_to), &call)
        .await;
    drop(visit);
}
