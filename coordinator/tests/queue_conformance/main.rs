//! One suite for every job table: each promise, and random histories in which the SQLite store is held against the model.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod history;
mod memory;
mod promises;
#[path = "../queue_fixture/mod.rs"]
mod queue_fixture;
mod sqlite;
mod table;

/// Each promise as a test of the store and as a test of the model.
macro_rules! promises {
    ($($promise:ident)*) => {
        mod sqlite_keeps {
            $(#[tokio::test]
            async fn $promise() {
                super::promises::$promise::<super::sqlite::Sqlite>().await;
            })*
        }

        mod model_keeps {
            $(#[tokio::test]
            async fn $promise() {
                super::promises::$promise::<super::memory::Memory>().await;
            })*
        }
    };
}

promises! {
    a_result_counts_once_however_often_it_is_sent
    a_worker_that_lost_its_job_never_counts
    a_late_failure_does_not_hurt_the_attempt_that_followed
    a_heartbeat_keeps_a_job_and_silence_gives_it_back
    nobody_loses_a_job_because_the_coordinator_was_away
    attempts_that_fail_use_themselves_up
    the_same_failure_twice_in_a_row_stops_a_job
    bad_input_stops_its_condition_and_no_other
    a_job_that_kills_its_workers_is_stopped
    a_faulty_device_gets_no_more_jobs_and_its_job_goes_elsewhere
    what_is_needed_is_done_first
    a_retry_does_not_start_what_still_needs_something
    a_cancelled_job_is_dropped_and_its_result_does_not_count
    what_a_worker_gives_back_costs_no_attempt
    a_worker_that_leaves_gives_back_what_it_never_heard_of
    a_clock_set_back_neither_loses_nor_doubles_anything
    the_more_important_experiment_comes_first
}
