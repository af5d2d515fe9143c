//! Connections: one port for TLS and plain HTTP, and limits that keep slow or idle clients from harming others.
//!
//! A TLS handshake begins with the byte 0x16 (RFC 8446, section 5.1), which begins no HTTP request. Plain HTTP is answered
//! only to this host itself, where the near end of an SSH tunnel is too.

use super::refusal::Refused;
use axum::Router;
use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use protocol::error::RefusalCode;
use rustix::net::sockopt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tls::{TlsAcceptor, TlsStream};
use tokio::io::{AsyncWriteExt, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

/// How long a stop waits for requests in flight.
const GRACE: Duration = Duration::from_secs(10);
/// How long a client may leave its answer unread or its host may be silent; the kernel watches (TCP_USER_TIMEOUT, RFC 5482).
const UNREAD: Duration = Duration::from_secs(60);
/// How long a client that was refused may go on sending before it is cut off.
const LINGER: Duration = Duration::from_secs(2);
/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;

/// What clients may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For the TLS handshake, and again for each request's header. An idle connection is closed after the same time.
    pub header: Duration,
    /// For the next 64 KiB of a body, or its end.
    pub stall: Duration,
    /// Connections at a time; more wait until one is closed.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { header: Duration::from_secs(30), stall: Duration::from_secs(30), connections: 8192 }
    }
}

/// Serves `app` until `stop`, then answers what is in flight.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, app: Router, limits: Limits, stop: CancellationToken) {
    let most = limits.connections.min(raise_file_limit() / 2).max(1);
    let door = Door { tls, app, remote_plain: Router::new().fallback(refuse_plain), limits, stop: stop.clone() };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < most => match accepted {
                Ok((stream, peer)) => drop(connections.spawn(door.clone().admit(stream, peer))),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Out of file descriptors, for example: asking again at once would only keep this thread busy.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    let _ = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
}

type Stream = Either<TlsStream<TcpStream>, TcpStream>;

/// What every connection passes.
#[derive(Clone)]
struct Door {
    tls: TlsAcceptor,
    app: Router,
    /// Answers plain HTTP from other hosts.
    remote_plain: Router,
    limits: Limits,
    stop: CancellationToken,
}

impl Door {
    async fn admit(self, stream: TcpStream, peer: SocketAddr) {
        let admitted = tokio::select! {
            () = self.stop.cancelled() => return,
            admitted = timeout(self.limits.header, self.meet(stream, peer)) => admitted,
        };
        let served = match admitted {
            Ok(Ok((stream, app))) => self.talk(stream, app).await,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        if let Err(error) = served {
            tracing::debug!(%peer, %error, "a connection ended early");
        }
    }

    /// Shakes hands with a client that wants to, and says what it is served.
    async fn meet(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<(Stream, Router)> {
        stream.set_nodelay(true)?;
        sockopt::set_tcp_user_timeout(&stream, UNREAD.as_millis() as u32)?;
        let mut first = [0];
        match stream.peek(&mut first).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ if first[0] == HANDSHAKE => Ok((Either::Left(self.tls.accept(stream).await?), self.app.clone())),
            _ if peer.ip().to_canonical().is_loopback() => Ok((Either::Right(stream), self.app.clone())),
            _ => Ok((Either::Right(stream), self.remote_plain.clone())),
        }
    }

    /// Answers requests until the client goes or the coordinator stops.
    async fn talk(&self, stream: Stream, app: Router) -> io::Result<()> {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(self.limits.header);
        let mut connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
        let served = tokio::select! {
            served = poll_fn(|context| connection.poll_without_shutdown(context)) => served,
            () = self.stop.cancelled() => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                poll_fn(|context| connection.poll_without_shutdown(context)).await
            }
        };
        served.map_err(io::Error::other)?;
        hang_up(connection.into_parts().io.into_inner()).await
    }
}

/// Closes a connection such that a client that was still sending can read its answer: bytes that nobody reads would make the
/// kernel reset the connection and the answer be lost.
async fn hang_up(mut stream: Stream) -> io::Result<()> {
    stream.shutdown().await?;
    match timeout(LINGER, copy(&mut stream, &mut sink())).await {
        Ok(rest) => rest.map(drop),
        Err(_) => Ok(()),
    }
}

async fn refuse_plain() -> Refused {
    let message = "plain HTTP is answered only on the coordinator's own host: workers use the https address and the fingerprint of \
                   the endpoint file, browsers https or a tunnel (ssh -L PORT:localhost:PORT HOST)";
    Refused::new(StatusCode::FORBIDDEN, RefusalCode::Forbidden, message)
}

/// Lifts the soft limit of open files to the hard one, and says how many there may be.
fn raise_file_limit() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // What is not granted stays as it was, and is read below.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let Rlimit { current, .. } = getrlimit(Resource::Nofile);
    current.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
}
