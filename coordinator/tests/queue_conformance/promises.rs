//! What every job table promises, one test a promise, run on the SQLite store and on the model.

use super::table::{Given, Grid, Table, Which};
use coordinator::queue::state::State;
use protocol::ids::JobId;
use protocol::outcome::Disposition::{Accepted, Duplicate, Superseded};
use protocol::outcome::FailureClass;

const GRID: Grid = Grid { name: "images", conditions: 1, seeds: 1, priority: 0, needs: None };

async fn one<T: Table>(table: &mut T, worker: usize) -> Given {
    table.claim(worker, 1).await.expect("a healthy device").pop().expect("a ready job")
}

async fn state<T: Table>(table: &mut T, job: JobId) -> State {
    table.rows().await[&job].job.state
}

pub async fn a_result_counts_once_however_often_it_is_sent<T: Table>() {
    let mut table = T::empty().await;
    table.submit(GRID).await;
    let worker = table.register().await;
    let given = one(&mut table, worker).await;
    assert_eq!(table.complete(worker, given).await, Accepted);
    assert_eq!(table.complete(worker, given).await, Duplicate);
    let row = &table.rows().await[&given.job];
    assert_eq!((row.counted, row.superseded.len()), (Some(given.fence), 0));
}

pub async fn a_worker_that_lost_its_job_never_counts<T: Table>() {
    let mut table = T::empty().await;
    table.submit(GRID).await;
    let (frozen, other) = (table.register().await, table.register().await);
    let old = one(&mut table, frozen).await;
    table.jump(61);
    assert_eq!(table.expire().await, [old.job]);
    let new = one(&mut table, other).await;
    assert!(new.fence > old.fence);
    assert_eq!(table.complete(frozen, old).await, Superseded);
    assert_eq!(state(&mut table, old.job).await, State::Running, "the other's attempt goes on");
    assert_eq!(table.complete(other, new).await, Accepted);
    assert_eq!(table.complete(frozen, old).await, Superseded);
    let row = &table.rows().await[&old.job];
    assert_eq!((row.counted, row.superseded.contains(&old.fence)), (Some(new.fence), true));
}

pub async fn a_late_failure_does_not_hurt_the_attempt_that_followed<T: Table>() {
    let mut table = T::empty().await;
    table.submit(GRID).await;
    let (frozen, other) = (table.register().await, table.register().await);
    let old = one(&mut table, frozen).await;
    table.jump(61);
    table.expire().await;
    let new = one(&mut table, other).await;
    assert_eq!(table.fail(frozen, old, FailureClass::Bug, "late").await, Superseded);
    assert_eq!(table.complete(other, new).await, Accepted);
}

pub async fn a_heartbeat_keeps_a_job_and_silence_gives_it_back<T: Table>() {
    let mut table = T::empty().await;
    table.submit(GRID).await;
    let worker = table.register().await;
    let given = one(&mut table, worker).await;
    for _ in 0..10 {
        table.jump(30);
        assert_eq!(table.heartbeat(worker, &[given]).await, Default::default());
        assert!(table.expire().await.is_empty());
    }
    table.jump(60);
    assert_eq!(table.expire().await, [given.job]);
    assert_eq!(table.heartbeat(worker, &[given]).await.lost, [given.job]);
}

pub async fn nobody_loses_a_job_because_the_coordinator_was_away<T: Table>() {
    let mut table = T::empty().await;
    table.submit(GRID).await;
    let worker = table.register().await;
    let given = one(&mut table, worker).await;
    table.jump(1_800);
    table.restart().await;
    assert!(table.expire().await.is_empty());
    assert_eq!(table.complete(worker, given).await, Accepted, "half an hour late");
}

pub async fn attempts_that_fail_use_themselves_up<T: Table>() {
    let mut table = T::empty().await;
    table.submit(GRID).await;
    let worker = table.register().await;
    for message in ["one", "two", "three"] {
        let given = one(&mut table, worker).await;
        assert_eq!(table.fail(worker, given, FailureClass::Io, message).await, Accepted);
        assert_eq!(table.fail(worker, given, FailureClass::Io, message).await, Duplicate);
        table.jump(600);
    }
    assert_eq!(state(&mut table, JobId(1)).await, State::Failed);
    assert_eq!(table.retry(Which::Job(JobId(1))).await, 1);
    let given = one(&mut table, worker).await;
    table.fail(worker, given, FailureClass::Io, "three").await;
    assert_eq!(state(&mut table, JobId(1)).await, State::Ready, "a retry by hand forgives what was before");
}

pub async fn the_same_failure_twice_in_a_row_stops_a_job<T: Table>() {
    let mut table = T::empty().await;
    table.submit(GRID).await;
    let worker = table.register().await;
    for expected in [State::Ready, State::Failed] {
        let given = one(&mut table, worker).await;
        table.fail(worker, given, FailureClass::NonFinite, "NaN at step 7").await;
        assert_eq!(state(&mut table, given.job).await, expected);
        table.jump(600);
    }
}

pub async fn bad_input_stops_its_condition_and_no_other<T: Table>() {
    let mut table = T::empty().await;
    table.submit(Grid { conditions: 2, seeds: 3, ..GRID }).await;
    let worker = table.register().await;
    let given = one(&mut table, worker).await;
    table.fail(worker, given, FailureClass::BadInput, "head.safetensors is cut short").await;
    let states: Vec<State> = table.rows().await.values().map(|row| row.job.state).collect();
    use State::*;
    assert_eq!(states, [Failed, Blocked, Blocked, Ready, Ready, Ready]);
    table.submit(Grid { conditions: 2, seeds: 4, ..GRID }).await;
    assert_eq!(state(&mut table, JobId(7)).await, Blocked, "a seed that is added meets the same input");
    assert_eq!(table.retry(Which::Job(given.job)).await, 4);
    assert!(table.rows().await.values().all(|row| row.job.state == Ready));
}

pub async fn a_job_that_kills_its_workers_is_stopped<T: Table>() {
    let mut table = T::empty().await;
    table.submit(GRID).await;
    for _ in 0..super::memory::MAX_LOSSES {
        let worker = table.register().await;
        one(&mut table, worker).await;
        table.jump(61);
        table.expire().await;
    }
    assert_eq!(state(&mut table, JobId(1)).await, State::Failed);
    assert_eq!(table.rows().await[&JobId(1)].job.attempts, 0, "a loss is no attempt");
}

pub async fn a_faulty_device_gets_no_more_jobs_and_its_job_goes_elsewhere<T: Table>() {
    let mut table = T::empty().await;
    table.submit(GRID).await;
    let (faulty, other) = (table.register().await, table.register().await);
    let given = one(&mut table, faulty).await;
    assert_eq!(table.fail(faulty, given, FailureClass::DeviceFault, "Xid 79").await, Accepted);
    assert_eq!(table.claim(faulty, 1).await, None);
    let again = one(&mut table, other).await;
    assert_eq!(again.job, given.job);
}

pub async fn what_is_needed_is_done_first<T: Table>() {
    let mut table = T::empty().await;
    table.submit(Grid { name: "encoders", conditions: 2, seeds: 2, ..GRID }).await;
    table.submit(Grid { name: "images", conditions: 2, seeds: 1, needs: Some("encoders"), ..GRID }).await;
    let worker = table.register().await;
    let given = table.claim(worker, 10).await.expect("a healthy device");
    assert_eq!(given.len(), 4, "only what needs nothing");
    let images: Vec<JobId> = vec![JobId(5), JobId(6)];
    for (done, expected) in [
        (given[0], [State::Blocked, State::Blocked]),
        (given[1], [State::Ready, State::Blocked]),
        (given[3], [State::Ready, State::Blocked]),
        (given[2], [State::Ready, State::Ready]),
    ] {
        assert_eq!(table.complete(worker, done).await, Accepted);
        let rows = table.rows().await;
        assert_eq!(images.iter().map(|id| rows[id].job.state).collect::<Vec<_>>(), expected, "after {done:?}");
    }
}

pub async fn a_retry_does_not_start_what_still_needs_something<T: Table>() {
    let mut table = T::empty().await;
    table.submit(Grid { name: "encoders", ..GRID }).await;
    table.submit(Grid { name: "images", needs: Some("encoders"), ..GRID }).await;
    assert_eq!(table.retry(Which::Experiment("images")).await, 0);
    assert_eq!(state(&mut table, JobId(2)).await, State::Blocked);
}

pub async fn a_cancelled_job_is_dropped_and_its_result_does_not_count<T: Table>() {
    let mut table = T::empty().await;
    table.submit(GRID).await;
    let worker = table.register().await;
    let given = one(&mut table, worker).await;
    assert_eq!(table.cancel(Which::Experiment("images")).await, 1);
    assert_eq!(table.heartbeat(worker, &[given]).await.cancelled, [given.job]);
    assert_eq!(table.complete(worker, given).await, Superseded);
    assert_eq!(state(&mut table, given.job).await, State::Cancelled);
}

pub async fn what_a_worker_gives_back_costs_no_attempt<T: Table>() {
    let mut table = T::empty().await;
    table.submit(GRID).await;
    let worker = table.register().await;
    for _ in 0..10 {
        let given = one(&mut table, worker).await;
        assert!(table.release(worker, given).await);
        assert!(!table.release(worker, given).await, "once");
    }
    assert_eq!(table.rows().await[&JobId(1)].job.attempts, 0);
}

pub async fn a_worker_that_leaves_gives_back_what_it_never_heard_of<T: Table>() {
    let mut table = T::empty().await;
    table.submit(GRID).await;
    let worker = table.register().await;
    one(&mut table, worker).await;
    table.leave(worker).await;
    assert_eq!(state(&mut table, JobId(1)).await, State::Ready);
}

pub async fn a_clock_set_back_neither_loses_nor_doubles_anything<T: Table>() {
    let mut table = T::empty().await;
    table.submit(GRID).await;
    let worker = table.register().await;
    let given = one(&mut table, worker).await;
    table.jump(-3_600);
    assert_eq!(table.heartbeat(worker, &[given]).await, Default::default());
    assert!(table.expire().await.is_empty());
    assert_eq!(table.complete(worker, given).await, Accepted);
    assert_eq!(table.complete(worker, given).await, Duplicate);
}

pub async fn the_more_important_experiment_comes_first<T: Table>() {
    let mut table = T::empty().await;
    table.submit(Grid { name: "later", seeds: 2, ..GRID }).await;
    table.submit(Grid { name: "sooner", seeds: 2, priority: 1, ..GRID }).await;
    let worker = table.register().await;
    let given = table.claim(worker, 3).await.expect("a healthy device");
    assert_eq!(given.iter().map(|given| given.job.0).collect::<Vec<_>>(), [3, 4, 1]);
}
