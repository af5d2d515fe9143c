//! Who serves a database: one process on one host, on a local disk.

use crate::queue::clock::{Clock, Millis};
use crate::queue::error::{OpenError, QueueError};
use crate::queue::view::moment::utc;
use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions, Connection, FromRow};
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

    /// Whether the process still serves, as far as can be told from this host at time `now`.
    pub fn is_alive(&self, now: Millis) -> bool {
        if self.host == this_host() {
            process_started(self.pid).is_some_and(|started| started <= self.started_at)
        } else {
            now - self.renewed_at < FRESH
        }
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
    Ok(owner.filter(|owner| owner.is_alive(Clock::System.now())))
}

/// Writes `owner` into the record, unless another process that is alive stands there.
pub(super) async fn acquire(connection: &mut SqliteConnection, owner: &Owner) -> Result<(), AcquireError> {
    if let Some(other) = read(connection).await?
        && other.is_alive(owner.started_at)
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

/// When process `pid` of this host started, rounded down to a clock tick; `None` if it does not run. A record that is older
/// than the process with its number belongs to a process that has ended.
fn process_started(pid: u32) -> Option<Millis> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: Millis = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    started_from_stat(&stat, boot, rustix::param::clock_ticks_per_second())
}

/// proc(5): field 22 is the start in ticks since boot; the command's name in field 2 may hold spaces and brackets. A zombie
/// (field 3) has ended.
fn started_from_stat(stat: &str, boot_seconds: Millis, ticks_per_second: u64) -> Option<Millis> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let ticks: Millis = fields.nth(18)?.parse().ok()?;
    Some(boot_seconds * 1000 + ticks * 1000 / Millis::try_from(ticks_per_second).ok()?.max(1))
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

    #[test]
    fn this_process_is_alive_and_an_older_record_with_its_number_is_not() {
        let now = Clock::System.now();
        let pid = std::process::id();
        assert!(record(this_host(), pid, now, 0).is_alive(now));
        assert!(!record(this_host(), pid, 1, now).is_alive(now), "the number was reused");
        assert!(!record(this_host(), u32::MAX, now, now).is_alive(now), "no such process");
    }

    #[test]
    fn an_owner_on_another_host_is_alive_while_it_renews() {
        let there = || "another-host.example".to_owned();
        assert!(record(there(), 1, 0, 100_000).is_alive(159_999));
        assert!(!record(there(), 1, 0, 100_000).is_alive(160_000));
    }

    #[test]
    fn a_command_name_with_brackets_does_not_hide_the_start() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 250 9 9";
        assert_eq!(started_from_stat(stat, 1_000, 100), Some(1_002_500));
        assert_eq!(started_from_stat(&stat.replace(" S ", " Z "), 1_000, 100), None);
    }
}
