//! Who serves a database: one process on one host, on a local disk.
//!
//! An exclusive flock(2) on `DB.lock` is the ownership: the kernel takes it back from a process that ends, however it ends,
//! whatever the clock says. The record in the database says who it is, for messages, and is what another host sees.

use crate::queue::clock::{Clock, Millis};
use crate::queue::error::{OpenError, QueueError};
use crate::queue::view::moment::utc;
use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions, Connection, FromRow};
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A record of another host counts as alive when it was renewed within this time.
const FRESH: Millis = 60_000;
/// How often the owner renews its record.
pub const RENEWAL: Duration = Duration::from_secs(20);

/// The process that serves a database.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Owner {
    pub host: String,
    pub pid: u32,
    pub url: String,
    /// Path of the endpoint file, which holds the token.
    pub endpoint: String,
    pub started_at: Millis,
    pub renewed_at: Millis,
}

/// Becoming the owner failed.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    #[error(transparent)]
    Owned(#[from] OpenError),
    #[error("writing the owner record")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl Owner {
    /// This process, serving at `url`.
    pub fn this_process(url: &str, endpoint: &Path) -> Self {
        let now = Clock::System.now();
        Self {
            host: this_host(),
            pid: std::process::id(),
            url: url.to_owned(),
            endpoint: endpoint.display().to_string(),
            started_at: now,
            renewed_at: now,
        }
    }

    /// Whether this is a process of another host that still renews its record at time `now`. Its lock cannot be seen from here.
    fn is_alive_elsewhere(&self, now: Millis) -> bool {
        self.host != this_host() && now - self.renewed_at < FRESH
    }

    /// Why this owner keeps others out.
    pub fn refusal(&self) -> OpenError {
        let since = format!("{} UTC", utc(self.started_at));
        OpenError::Owned { host: self.host.clone(), pid: self.pid, url: self.url.clone(), since }
    }
}

/// The living owner of the database at `path`, if there is one.
pub async fn living(path: &Path) -> Result<Option<Owner>, OpenError> {
    if !path.exists() {
        return Ok(None);
    }
    let failed = |source| OpenError::Database { path: path.to_owned(), source };
    let mut connection = super::options(path).read_only(true).connect().await.map_err(failed)?;
    let has_table =
        sqlx::query("SELECT 1 FROM sqlite_master WHERE name = 'owner'").fetch_optional(&mut connection).await;
    let owner = match has_table.map_err(failed)? {
        Some(_) => read(&mut connection).await.map_err(failed)?,
        None => None,
    };
    let _ = connection.close().await;
    let Some(owner) = owner else { return Ok(None) };
    let alive = owner.is_alive_elsewhere(Clock::System.now()) || is_locked(path)?;
    Ok(alive.then_some(owner))
}

/// The right to serve a database, for as long as it is not dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock is held as long as the file is open")] File);

impl Lock {
    /// Takes the right to serve the database at `path`, which need not be there yet, unless another process has it.
    pub async fn take(path: &Path) -> Result<Self, OpenError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|source| OpenError::Folder { path: folder.to_owned(), source })?;
        refuse_network_file_system(folder)?;
        let name = lock_file(path);
        let failed = |source| OpenError::Lock { path: name.clone(), source };
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&name).map_err(failed)?;
        loop {
            if granted(file.try_lock()).map_err(failed)? {
                return Ok(Self(file));
            }
            if is_locked(path)? {
                return Err(match living(path).await? {
                    Some(owner) => owner.refusal(),
                    None => OpenError::Changing { path: path.to_owned() },
                });
            }
            // Somebody only looked, which takes microseconds.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Whether a process of this host serves the database at `path`.
fn is_locked(path: &Path) -> Result<bool, OpenError> {
    let name = lock_file(path);
    let failed = |source| OpenError::Lock { path: name.clone(), source };
    match File::open(&name) {
        // Shared, so that those who look do not see each other.
        Ok(file) => Ok(!granted(file.try_lock_shared()).map_err(failed)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// `DB.lock`: the same whatever link the database was reached by.
fn lock_file(path: &Path) -> PathBuf {
    beside(&path.canonicalize().unwrap_or_else(|_| path.to_owned()), "lock")
}

fn granted(lock: Result<(), TryLockError>) -> io::Result<bool> {
    match lock {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// `DB.EXTENSION`, beside the database.
pub fn beside(db: &Path, extension: &str) -> PathBuf {
    let mut name = db.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

/// Writes `owner`, which holds the lock, into the record, unless a process of another host stands there that is alive.
pub(super) async fn acquire(connection: &mut SqliteConnection, owner: &Owner) -> Result<(), AcquireError> {
    if let Some(other) = read(connection).await?
        && other.is_alive_elsewhere(owner.started_at)
    {
        return Err(other.refusal().into());
    }
    sqlx::query(
        "INSERT OR REPLACE INTO owner (id, host, pid, url, endpoint, started_at, renewed_at) VALUES (1, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&owner.host)
    .bind(owner.pid)
    .bind(&owner.url)
    .bind(&owner.endpoint)
    .bind(owner.started_at)
    .bind(owner.renewed_at)
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn renew(connection: &mut SqliteConnection, pid: u32) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE owner SET renewed_at = ? WHERE host = ? AND pid = ?")
        .bind(Clock::System.now())
        .bind(this_host())
        .bind(pid)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn release(connection: &mut SqliteConnection, pid: u32) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM owner WHERE host = ? AND pid = ?").bind(this_host()).bind(pid).execute(connection).await?;
    Ok(())
}

async fn read(connection: &mut SqliteConnection) -> Result<Option<Owner>, sqlx::Error> {
    sqlx::query_as("SELECT host, pid, url, endpoint, started_at, renewed_at FROM owner")
        .fetch_optional(connection)
        .await
}

/// This machine's name.
pub fn this_host() -> String {
    hostname::get().map(|name| name.to_string_lossy().into_owned()).unwrap_or_else(|_| "unknown".to_owned())
}

/// Refuses a folder on a network file system.
pub fn refuse_network_file_system(folder: &Path) -> Result<(), OpenError> {
    let Ok(found) = rustix::fs::statfs(folder) else { return Ok(()) };
    match classify(found.f_type as u64) {
        FileSystem::Local => Ok(()),
        FileSystem::Network(kind) => Err(OpenError::NetworkFileSystem { path: PathBuf::from(folder), kind }),
    }
}

/// Where a file system keeps its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    Local,
    /// With its usual name.
    Network(&'static str),
}

/// Tells network file systems by the `f_type` of statfs(2) (Linux `magic.h`, and the file systems' own headers).
pub fn classify(magic: u64) -> FileSystem {
    match magic & 0xffff_ffff {
        0x6969 => FileSystem::Network("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => FileSystem::Network("SMB/CIFS"),
        0x0bd0_0bd0 => FileSystem::Network("Lustre"),
        0x4750_4653 => FileSystem::Network("GPFS"),
        0x1983_0326 => FileSystem::Network("BeeGFS"),
        0x00c3_6400 => FileSystem::Network("Ceph"),
        0x5346_414f | 0x6b41_4653 => FileSystem::Network("AFS"),
        0x0102_1997 => FileSystem::Network("9p"),
        0x6573_5546 => FileSystem::Network("FUSE, such as sshfs"),
        0xaad7_aaea => FileSystem::Network("PanFS"),
        0x2030_528a => FileSystem::Network("OrangeFS"),
        _ => FileSystem::Local,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(host: String, pid: u32, started_at: Millis, renewed_at: Millis) -> Owner {
        Owner { host, pid, url: String::new(), endpoint: String::new(), started_at, renewed_at }
    }

    #[test]
    fn network_file_systems_are_told_from_local_ones() {
        for (magic, name) in
            [(0x6969, "NFS"), (0x0bd0_0bd0, "Lustre"), (0xffff_ffff_fe53_4d42, "SMB/CIFS"), (0x4750_4653, "GPFS")]
        {
            assert_eq!(classify(magic), FileSystem::Network(name));
        }
        for local in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1] {
            assert_eq!(classify(local), FileSystem::Local, "{local:x}");
        }
    }

    #[tokio::test]
    async fn one_process_has_the_lock_until_it_lets_go_and_whoever_only_looks_takes_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("queue.db");
        assert!(!is_locked(&path).expect("no lock file"));
        let lock = Lock::take(&path).await.expect("a free database");
        assert!(is_locked(&path).expect("the lock file"));
        let refused = Lock::take(&path).await.expect_err("it is taken");
        assert!(matches!(refused, OpenError::Changing { .. }), "nobody has signed the record yet: {refused}");
        std::fs::write(&path, "").expect("a file");
        let link = folder.path().join("link.db");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        assert!(is_locked(&link).expect("the lock file"), "a link is no way around it");
        drop(lock);
        assert!(!is_locked(&path).expect("the lock file"));
        for _ in 0..100 {
            let looking = {
                let path = path.clone();
                std::thread::spawn(move || (0..100).all(|_| is_locked(&path).is_ok()))
            };
            drop(Lock::take(&path).await.expect("those who look do not keep others out"));
            assert!(looking.join().expect("it looked"));
        }
    }

    #[test]
    fn an_owner_on_another_host_is_alive_while_it_renews() {
        let there = || "another-host.example".to_owned();
        assert!(record(there(), 1, 0, 100_000).is_alive_elsewhere(159_999));
        assert!(!record(there(), 1, 0, 100_000).is_alive_elsewhere(160_000));
        assert!(!record(this_host(), 1, 0, 100_000).is_alive_elsewhere(100_000), "here the lock decides");
    }
}
