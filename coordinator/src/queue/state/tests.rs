//! What the table of transitions promises.

use super::*;

const FENCE: Fence = Fence(7);

fn job(state: State) -> Job {
    Job { state, fence: FENCE, attempts: 0, max_attempts: 3, losses: 0, max_losses: 5 }
}

fn fail(fence: Fence, class: FailureClass) -> Event {
    Event::Fail { fence, class, repeated: false, jitter: 0.0 }
}

fn events() -> Vec<Event> {
    let mut events =
        vec![Event::Claim, Event::Complete { fence: FENCE }, Event::Cancel, Event::Retry { attempts: 3 }, Event::Block];
    events.push(Event::Unblock);
    events.extend(FailureClass::ALL.map(|class| fail(FENCE, class)));
    events
}

#[test]
fn every_step_is_a_row_of_the_table_and_every_row_is_reached() {
    let mut reached = Vec::new();
    for from in State::ALL {
        for event in events() {
            let Ok(step) = apply(job(from), event) else { continue };
            let row = TRANSITIONS
                .iter()
                .position(|row| (row.from, row.event, row.to) == (from, event.kind(), step.job.state))
                .expect("a step outside the table");
            reached.push(row);
        }
    }
    for (index, row) in TRANSITIONS.iter().enumerate() {
        assert!(reached.contains(&index), "{row:?} is never taken");
    }
}

#[test]
fn done_is_final() {
    for event in events() {
        assert!(apply(job(State::Done), event).is_err(), "{event:?}");
    }
}

#[test]
fn a_claim_gives_a_larger_fence_and_nothing_else_changes_it() {
    for from in State::ALL {
        for event in events() {
            let Ok(step) = apply(job(from), event) else { continue };
            let grows = i64::from(event == Event::Claim);
            assert_eq!(step.job.fence.0, FENCE.0 + grows, "{event:?}");
        }
    }
}

#[test]
fn a_message_with_another_fence_is_superseded_in_every_state() {
    for from in State::ALL {
        for fence in [Fence(6), Fence(8)] {
            assert_eq!(apply(job(from), Event::Complete { fence }), Err(Refused::Superseded));
            assert_eq!(apply(job(from), fail(fence, FailureClass::Io)), Err(Refused::Superseded));
        }
    }
}

#[test]
fn a_result_that_was_counted_is_a_duplicate_and_one_for_a_cancelled_job_is_superseded() {
    assert_eq!(apply(job(State::Done), Event::Complete { fence: FENCE }), Err(Refused::Duplicate));
    assert_eq!(apply(job(State::Cancelled), Event::Complete { fence: FENCE }), Err(Refused::Superseded));
}

/// The state after each of `classes` in turn, every failure met by a new claim.
fn after(classes: &[FailureClass], repeated: bool) -> State {
    let mut job = job(State::Ready);
    for &class in classes {
        job = apply(job, Event::Claim).expect("a ready job can be claimed").job;
        let event = Event::Fail { fence: job.fence, class, repeated, jitter: 0.0 };
        job = apply(job, event).expect("a running job can fail").job;
    }
    job.state
}

#[test]
fn bad_input_fails_at_once_and_the_same_signature_twice_stops_a_counted_retry() {
    use FailureClass::*;
    assert_eq!(after(&[BadInput], false), State::Failed);
    assert_eq!(after(&[Io], false), State::Ready);
    assert_eq!(after(&[Io], true), State::Failed);
    assert_eq!(after(&[Io, Bug, Timeout], false), State::Failed, "three attempts");
}

#[test]
fn what_is_not_the_jobs_fault_uses_up_no_attempts() {
    use FailureClass::*;
    assert_eq!(after(&[Drained; 1000], true), State::Ready);
    assert_eq!(after(&[Preempted; 1000], true), State::Ready);
    assert_eq!(after(&[Lost, DeviceFault, Lost, Lost], true), State::Ready);
}

#[test]
fn a_job_that_takes_its_workers_with_it_again_and_again_is_the_culprit() {
    use FailureClass::*;
    assert_eq!(after(&[Lost, DeviceFault, Lost, Lost, Lost], false), State::Failed);
}

#[test]
fn a_device_fault_quarantines_the_device_and_nothing_else_does() {
    for class in FailureClass::ALL {
        let step = apply(job(State::Running), fail(FENCE, class)).expect("a running job can fail");
        assert_eq!(step.quarantines_device, class == FailureClass::DeviceFault, "{class}");
    }
}

#[test]
fn a_retried_job_gets_its_attempts_anew() {
    let used_up = Job { attempts: 3, losses: 4, ..job(State::Failed) };
    let step = apply(used_up, Event::Retry { attempts: 2 }).expect("failed jobs can be retried");
    assert_eq!((step.job.state, step.job.attempts, step.job.max_attempts, step.job.losses), (State::Ready, 3, 5, 0));
}

#[test]
fn an_event_that_moves_many_jobs_at_once_has_one_target() {
    let bulk = [
        (EventKind::Cancel, State::Cancelled),
        (EventKind::Retry, State::Ready),
        (EventKind::Block, State::Blocked),
        (EventKind::Unblock, State::Ready),
    ];
    for (event, target) in bulk {
        assert!(TRANSITIONS.iter().filter(|row| row.event == event).all(|row| row.to == target), "{event:?}");
        assert!(sources(event).count() > 0);
    }
}

#[test]
fn states_read_back_from_their_names() {
    for state in State::ALL {
        assert_eq!(state.as_str().parse(), Ok(state));
    }
    assert!("waiting".parse::<State>().is_err());
}
