//! The spool's promises: nothing finished is lost, nothing is delivered to a stranger.

use super::*;
use protocol::outcome::{FailureClass, JobResult, PhaseSeconds, SimulateResult};

const PNG: &[u8] = b"an image";

fn completed(job: i64) -> Ending {
    let result = JobResult::Simulate(SimulateResult {
        image_sha256: Digest::from_bytes(&Sha256::digest(PNG).into()),
        seconds: PhaseSeconds { sampling: 0.1 + 0.2, ..PhaseSeconds::default() },
        device: "cpu".to_owned(),
        software: "test".to_owned(),
    });
    Ending::Completed(Completed { worker: WorkerId(7), job: JobId(job), fence: Fence(2), result })
}

fn failure(job: i64) -> Ending {
    let (class, message) = (FailureClass::Io, "gone".to_owned());
    let seconds = PhaseSeconds::default();
    Ending::Failed(Failed { worker: WorkerId(7), job: JobId(job), fence: Fence(1), class, message, seconds })
}

fn expected() -> Digest {
    Digest::from_bytes(&Sha256::digest(PNG).into())
}

fn open(root: &Path, token: &str) -> (Spool, Left) {
    Spool::open(root, "node-1", campaign(token)).unwrap()
}

/// What a killed process leaves: its files, and a free lock.
fn die(spool: Spool, kept: Vec<Kept>) {
    drop((spool, kept));
}

fn folders(root: &Path) -> usize {
    fs::read_dir(root).unwrap().count()
}

#[test]
fn what_a_dead_worker_left_is_found_by_the_next_and_by_no_other() {
    let root = tempfile::tempdir().unwrap();
    let (spool, left) = open(root.path(), "ours");
    assert_eq!((left.entries.len(), left.foreign), (0, 0));
    let kept = vec![spool.keep(&completed(1), Some(PNG)).unwrap(), spool.keep(&failure(2), None).unwrap()];
    let (_other, left) = open(root.path(), "ours");
    assert!(left.entries.is_empty(), "its owner lives");
    die(spool, kept);

    let (_heir, left) = open(root.path(), "ours");
    let mut entries = left.entries;
    entries.sort_by_key(|(ending, _)| ending.attempt());
    assert_eq!(entries.iter().map(|(ending, _)| ending.clone()).collect::<Vec<_>>(), [completed(1), failure(2)]);
    assert_eq!(entries[0].1.image(&expected()).unwrap(), PNG);
    let (_third, left) = open(root.path(), "ours");
    assert!(left.entries.is_empty(), "the heir holds them");

    let before = folders(root.path());
    entries.iter().for_each(|(_, kept)| kept.remove());
    drop(entries);
    assert_eq!(folders(root.path()), before - 1, "the dead worker's folder is gone with its last entry");
}

#[test]
fn results_of_another_campaign_stay_until_a_worker_of_theirs_comes() {
    let root = tempfile::tempdir().unwrap();
    let (spool, _) = open(root.path(), "theirs");
    let kept = spool.keep(&completed(1), Some(PNG)).unwrap();
    die(spool, vec![kept]);
    let (ours, left) = open(root.path(), "ours");
    assert_eq!((left.entries.len(), left.foreign), (0, 1));
    drop((ours, left));
    let (_theirs, left) = open(root.path(), "theirs");
    assert_eq!((left.entries.len(), left.foreign), (1, 0));
}

#[test]
fn a_torn_entry_is_none_and_stands_in_nobodys_way() {
    let root = tempfile::tempdir().unwrap();
    let (spool, _) = open(root.path(), "ours");
    let folder = spool.path().to_owned();
    let kept = spool.keep(&completed(1), Some(PNG)).unwrap();
    fs::remove_file(folder.join("7-1-2.json")).unwrap();
    fs::write(folder.join(".tmpXyz"), "half a fi").unwrap();
    die(spool, vec![kept]);
    let (_heir, left) = open(root.path(), "ours");
    assert_eq!((left.entries.len(), left.foreign), (0, 0));
    assert!(!folder.exists());
}

#[test]
fn a_refused_entry_is_moved_aside_with_the_reason() {
    let root = tempfile::tempdir().unwrap();
    let (spool, _) = open(root.path(), "ours");
    let kept = spool.keep(&completed(1), Some(PNG)).unwrap();
    let aside = kept.reject("there is no job 1").unwrap();
    assert!(aside.ends_with("rejected/7-1-2.json") && aside.exists());
    assert_eq!(fs::read(aside.with_extension("png")).unwrap(), PNG);
    assert_eq!(fs::read_to_string(aside.with_extension("reason")).unwrap(), "there is no job 1");
    die(spool, vec![kept]);
    let (_heir, left) = open(root.path(), "ours");
    assert!(left.entries.is_empty());
    assert_eq!(folders(root.path()), 2, "the heir's folder and the rejected");
}

#[test]
fn only_its_owner_can_read_the_spool_and_the_token_is_not_in_it() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("deep/spool");
    let (spool, _) = open(&path, "secret");
    let kept = spool.keep(&completed(1), Some(PNG)).unwrap();
    kept.clone().reject("no").unwrap();
    spool.keep(&completed(2), Some(PNG)).unwrap();
    let mut waiting = vec![path];
    while let Some(path) = waiting.pop() {
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        if path.is_dir() {
            assert_eq!(mode, 0o700, "{}", path.display());
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            assert_eq!(mode, 0o600, "{}", path.display());
            assert!(!String::from_utf8_lossy(&fs::read(&path).unwrap()).contains("secret"));
        }
    }
}

#[test]
fn an_image_that_changed_on_disk_is_not_taken_for_the_one_that_was_written() {
    let root = tempfile::tempdir().unwrap();
    let (spool, _) = open(root.path(), "ours");
    let kept = spool.keep(&completed(1), Some(PNG)).unwrap();
    fs::write(spool.path().join("7-1-2.png"), "another").unwrap();
    assert!(matches!(kept.image(&expected()), Err(SpoolError::Changed { .. })));
}

#[test]
fn a_spool_that_cannot_be_written_says_so_and_keeps_nothing_half() {
    let root = tempfile::tempdir().unwrap();
    let (spool, _) = open(root.path(), "ours");
    let folder = spool.path().to_owned();
    // A folder stands where the JSON should go.
    fs::create_dir_all(folder.join("7-1-2.json/in the way")).unwrap();
    let error = spool.keep(&completed(1), Some(PNG)).unwrap_err();
    assert!(error.to_string().starts_with("writing "), "{error}");
    assert!(!folder.join("7-1-2.png").exists());
}
