use super::*;
use braindive::gradient::Keep;

const KEEP_ALL: Memory = Memory::CHOICES[0];

fn failure<T>(class: FailureClass, message: &str) -> Result<T, TaskError> {
    Err(TaskError::Failed { class, message: message.to_owned(), seconds: PhaseSeconds::default() })
}

/// A device that holds so many images with what is kept, and records what was asked of it.
fn device(
    holds: impl Fn(Memory) -> usize,
    asked: &mut Vec<(usize, Memory)>,
) -> impl FnMut(&mut [u32], Memory) -> Result<Vec<Result<u32, TaskError>>, TaskError> {
    move |jobs, memory| {
        asked.push((jobs.len(), memory));
        match jobs.len() > holds(memory) {
            true => failure(FailureClass::OutOfMemory, "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")"),
            false => Ok(jobs.iter().map(|job| Ok(10 * *job)).collect()),
        }
    }
}

fn values(outcomes: Vec<Result<u32, TaskError>>) -> Vec<u32> {
    outcomes.into_iter().map(Result::unwrap).collect()
}

#[test]
fn a_batch_that_finds_no_memory_is_halved_and_so_are_those_that_follow() {
    let mut pass = Pass { images: 8, memory: KEEP_ALL };
    let mut asked = Vec::new();
    let mut jobs: Vec<u32> = (1..=8).collect();
    let outcomes = run(&mut pass, &mut jobs, &mut device(|_| 3, &mut asked));
    assert_eq!(values(outcomes), [10, 20, 30, 40, 50, 60, 70, 80]);
    let sizes = |asked: &[(usize, Memory)]| asked.iter().map(|(images, _)| *images).collect::<Vec<_>>();
    assert_eq!(sizes(&asked), [8, 4, 2, 2, 2, 2], "nothing is asked for again that has failed");
    assert_eq!(pass, Pass { images: 2, memory: KEEP_ALL }, "nothing is computed again as long as halves do");
    asked.clear();
    run(&mut pass, &mut jobs, &mut device(|_| 3, &mut asked));
    assert_eq!(sizes(&asked), [2, 2, 2, 2]);
}

#[test]
fn a_single_image_that_finds_no_memory_is_computed_with_less_that_is_kept_and_then_fails_alone() {
    let [_, unet_again, both_again] = Memory::CHOICES;
    let mut pass = Pass { images: 2, memory: KEEP_ALL };
    let mut asked = Vec::new();
    let holds = |memory: Memory| usize::from(memory.unet == Keep::BlockInputs);
    assert_eq!(values(run(&mut pass, &mut [1, 2], &mut device(holds, &mut asked))), [10, 20]);
    assert_eq!(asked, [(2, KEEP_ALL), (1, KEEP_ALL), (1, unet_again), (1, unet_again)]);
    assert_eq!(pass, Pass { images: 1, memory: unet_again });

    asked.clear();
    let outcomes = run(&mut pass, &mut [1, 2], &mut device(|_| 0, &mut asked));
    for outcome in outcomes {
        let Err(TaskError::Failed { class: FailureClass::OutOfMemory, message, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(message.contains("CUDA_ERROR_OUT_OF_MEMORY"), "{message}");
    }
    assert_eq!(asked, [(1, unet_again), (1, both_again), (1, both_again)]);
}

#[test]
fn a_job_that_spoils_its_batch_fails_alone_and_changes_no_pass() {
    let mut pass = Pass { images: 4, memory: KEEP_ALL };
    let mut jobs = [1, 2, 3, 4];
    let outcomes = run(&mut pass, &mut jobs, &mut |jobs: &mut [u32], _| match jobs.contains(&3) {
        true => failure(FailureClass::NonFinite, "all of it"),
        false => Ok(jobs.iter().map(|job| Ok(*job)).collect()),
    });
    assert!(matches!(
        outcomes[..],
        [Ok(1), Ok(2), Err(TaskError::Failed { class: FailureClass::NonFinite, .. }), Ok(4)]
    ));
    assert_eq!(pass.images, 4);
}

#[test]
fn nothing_is_asked_of_a_device_that_has_failed() {
    let mut pass = Pass { images: 2, memory: KEEP_ALL };
    let mut asked = 0;
    let outcomes = run(&mut pass, &mut [1, 2, 3, 4, 5], &mut |jobs: &mut [u32], _| {
        asked += 1;
        match jobs[0] {
            1 => Ok(jobs.iter().map(|job| Ok(*job)).collect()),
            _ => failure(FailureClass::DeviceFault, "Xid 79"),
        }
    });
    assert_eq!(asked, 2);
    assert!(matches!(outcomes[..2], [Ok(1), Ok(2)]));
    assert!(outcomes[2..].iter().all(|outcome| outcome.as_ref().is_err_and(|error| error.device_fault().is_some())));
}

#[test]
fn what_is_stopped_is_not_run_again() {
    let mut pass = Pass { images: 2, memory: KEEP_ALL };
    let outcomes = run(&mut pass, &mut [1, 2, 3], &mut |jobs: &mut [u32], _| match jobs {
        [1, 2] => Err(TaskError::Stopped),
        _ => Ok(jobs.iter().map(|job| Ok(*job)).collect()),
    });
    assert!(matches!(outcomes[..], [Err(TaskError::Stopped), Err(TaskError::Stopped), Ok(3)]));
}

#[test]
fn sizes_of_batches_read_as_the_command_line_writes_them() {
    assert_eq!("auto".parse(), Ok(BatchSize::Auto));
    assert_eq!("64".parse(), Ok(BatchSize::Jobs(64)));
    for wrong in ["0", "65", "-1", "", "Auto", "4.0"] {
        assert!(wrong.parse::<BatchSize>().is_err(), "{wrong}");
    }
}
