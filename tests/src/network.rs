//! Networks between a coordinator and its workers that can be cut and healed, one worker at a time.
//!
//! As root: a network namespace for the coordinator and one for each worker, joined by pairs of virtual interfaces; a cut takes one
//! down, and packets are lost without a word. Otherwise: a proxy for each worker, which stops passing bytes on.

use crate::process::Place;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

/// A network with one link per worker.
#[derive(Debug)]
pub enum Network {
    Namespaces(Namespaces),
    Proxies(Proxies),
}

impl Network {
    /// The better of the two kinds that can be had here.
    pub fn new(workers: usize) -> Self {
        match Namespaces::new(workers) {
            Some(namespaces) => Self::Namespaces(namespaces),
            None => Self::of_proxies(workers),
        }
    }

    /// The kind that can be had everywhere.
    pub fn of_proxies(workers: usize) -> Self {
        Self::Proxies(Proxies::new(workers))
    }

    /// Where the coordinator runs.
    pub fn coordinator(&self) -> Place {
        match self {
            Self::Namespaces(namespaces) => Place::Namespace(namespaces.coordinator()),
            Self::Proxies(_) => Place::Here,
        }
    }

    /// Where worker `number` runs.
    pub fn worker(&self, number: usize) -> Place {
        match self {
            Self::Namespaces(namespaces) => Place::Namespace(namespaces.worker(number)),
            Self::Proxies(_) => Place::Here,
        }
    }

    /// What the coordinator listens on.
    pub fn listen(&self) -> String {
        match self {
            Self::Namespaces(_) => format!("{COORDINATOR}:7311"),
            Self::Proxies(proxies) => proxies.upstream.clone(),
        }
    }

    /// How worker `number` reaches the coordinator, if not at the coordinator's own address.
    pub fn detour(&self, number: usize) -> Option<String> {
        match self {
            Self::Namespaces(_) => None,
            Self::Proxies(proxies) => Some(format!("http://{}", proxies.links[number].address)),
        }
    }

    /// From now on nothing passes between the coordinator and worker `number`.
    pub fn cut(&self, number: usize) {
        self.set(number, true);
    }

    pub fn heal(&self, number: usize) {
        self.set(number, false);
    }

    fn set(&self, number: usize, cut: bool) {
        match self {
            Self::Namespaces(namespaces) => namespaces.set(number, cut),
            Self::Proxies(proxies) => proxies.links[number].switch.set(cut),
        }
    }

    /// In a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Namespaces(_) => "network namespaces",
            Self::Proxies(_) => "proxies",
        }
    }
}

/// The coordinator's address in its namespace.
const COORDINATOR: &str = "10.79.0.1";

/// Network namespaces, removed at the end.
#[derive(Debug)]
pub struct Namespaces {
    /// Begins the names of all of them.
    prefix: String,
    workers: usize,
}

impl Namespaces {
    /// `None` if they cannot be made here.
    fn new(workers: usize) -> Option<Self> {
        // Removed by `drop` whatever succeeds.
        let made = Self { prefix: format!("braindive{}", std::process::id()), workers };
        let coordinator = made.coordinator();
        ip(&format!("netns add {coordinator}"))?;
        ip(&format!("-n {coordinator} link set lo up"))?;
        ip(&format!("-n {coordinator} addr add {COORDINATOR}/32 dev lo"))?;
        for number in 0..workers {
            let (worker, subnet) = (made.worker(number), format!("10.79.{}", number + 1));
            ip(&format!("netns add {worker}"))?;
            ip(&format!("link add link{number} netns {coordinator} type veth peer name uplink netns {worker}"))?;
            ip(&format!("-n {coordinator} addr add {subnet}.1/30 dev link{number}"))?;
            ip(&format!("-n {coordinator} link set link{number} up"))?;
            ip(&format!("-n {worker} link set lo up"))?;
            ip(&format!("-n {worker} addr add {subnet}.2/30 dev uplink"))?;
            ip(&format!("-n {worker} link set uplink up"))?;
            ip(&format!("-n {worker} route add default via {subnet}.1"))?;
        }
        Some(made)
    }

    fn coordinator(&self) -> String {
        format!("{}c", self.prefix)
    }

    fn worker(&self, number: usize) -> String {
        format!("{}w{number}", self.prefix)
    }

    fn set(&self, number: usize, cut: bool) {
        let state = if cut { "down" } else { "up" };
        let set = ip(&format!("-n {} link set link{number} {state}", self.coordinator()));
        assert!(set.is_some(), "the link of worker {number} could not be set {state}");
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for number in 0..self.workers {
            let _ = ip(&format!("netns del {}", self.worker(number)));
        }
        let _ = ip(&format!("netns del {}", self.coordinator()));
    }
}

/// `ip` with these words; `None` if it failed or is not there.
fn ip(words: &str) -> Option<()> {
    let output = Command::new("ip").args(words.split(' ')).output().ok()?;
    output.status.success().then_some(())
}

/// A proxy for each worker.
#[derive(Debug)]
pub struct Proxies {
    /// The coordinator's address.
    upstream: String,
    links: Vec<Link>,
}

#[derive(Debug)]
struct Link {
    address: String,
    switch: Arc<Switch>,
}

impl Proxies {
    fn new(workers: usize) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let upstream = free.expect("a port is free").to_string();
        let links = (0..workers).map(|_| Link::new(&upstream)).collect();
        Self { upstream, links }
    }
}

impl Link {
    fn new(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it has an address").to_string();
        let (switch, upstream) = (Arc::new(Switch::default()), upstream.to_owned());
        let own = switch.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let (switch, upstream) = (switch.clone(), upstream.clone());
                thread::spawn(move || switch.carry(near, &upstream));
            }
        });
        Self { address, switch: own }
    }
}

/// Whether a link is cut.
#[derive(Debug, Default)]
struct Switch {
    cut: Mutex<bool>,
    changed: Condvar,
}

impl Switch {
    fn set(&self, cut: bool) {
        *self.cut.lock().unwrap_or_else(PoisonError::into_inner) = cut;
        self.changed.notify_all();
    }

    fn wait_until_whole(&self) {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        while *cut {
            cut = self.changed.wait(cut).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Joins a connection to a new one to `upstream` until either ends.
    fn carry(self: Arc<Self>, near: TcpStream, upstream: &str) {
        self.wait_until_whole();
        let Ok(far) = TcpStream::connect(upstream) else { return };
        let (Ok(near_back), Ok(far_back)) = (near.try_clone(), far.try_clone()) else { return };
        let own = self.clone();
        thread::spawn(move || own.pass(far_back, near_back));
        self.pass(near, far);
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            self.wait_until_whole();
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_cut_proxy_holds_bytes_back_until_it_is_healed() {
        let proxies = Proxies::new(2);
        let upstream = TcpListener::bind(&proxies.upstream).expect("the coordinator's port");
        let echo = |address: &str| {
            let near = TcpStream::connect(address).expect("the proxy answers");
            let (far, _) = upstream.accept().expect("the connection is passed on");
            (near, far)
        };
        let (mut near, mut far) = echo(&proxies.links[0].address);
        let (mut other, mut other_far) = echo(&proxies.links[1].address);
        let mut byte = [0];
        proxies.links[0].switch.set(true);
        near.write_all(b"a").expect("the proxy takes it");
        far.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        assert!(far.read(&mut byte).is_err(), "nothing comes through");
        other.write_all(b"b").expect("the proxy takes it");
        other_far.read_exact(&mut byte).expect("the other link is whole");
        assert_eq!(&byte, b"b");
        proxies.links[0].switch.set(false);
        far.set_read_timeout(None).expect("no timeout");
        far.read_exact(&mut byte).expect("it comes through now");
        assert_eq!(&byte, b"a");
    }
}
