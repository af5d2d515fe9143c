use super::*;
use crate::agent::deliver::Courier;
use crate::agent::{Busy, Gaps, HeldJobs, Ready, Seen};
use crate::client::Client;
use crate::tasks::Runner;
use protocol::claim::ClaimedJob;
use protocol::ids::{ConditionId, Digest, Fence, JobId, Seed, WorkerId};
use protocol::job::{Condition, SimulateCondition};
use protocol::outcome::FailureClass;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::SetOnce;
use tokio::task::yield_now;

/// Tells which job computes. What is left of the first ends once number 2 computes; number 3 breaks the device.
struct Scripted {
    computes: Sender<i64>,
    later: Mutex<Option<Receiver<()>>>,
    earlier: Mutex<Option<Sender<()>>>,
}

impl Runner for Scripted {
    fn run(&self, batch: &[Work]) -> Vec<Result<Computed, TaskError>> {
        let job = batch[0].job.job.0;
        self.computes.send(job).unwrap();
        if job == 2 {
            self.earlier.lock().unwrap().take().unwrap().send(()).unwrap();
        }
        let later = self.later.lock().unwrap().take();
        vec![match job {
            3 => Err(failed(FailureClass::DeviceFault, "Xid 79")),
            _ => Ok(Computed::new(PhaseSeconds::default(), move || {
                later.into_iter().for_each(|later| later.recv().unwrap());
                Err(TaskError::Stopped)
            })),
        }]
    }

    fn is_loaded(&self, _: &Condition) -> bool {
        true
    }

    fn batch(&self, _: &Condition) -> usize {
        1
    }
}

fn failed(class: FailureClass, message: &str) -> TaskError {
    TaskError::Failed { class, message: message.to_owned(), seconds: PhaseSeconds::default() }
}

/// An agent with one slot that held `jobs`, and what tells which of them computes.
fn agent(jobs: &[i64]) -> (Arc<Agent>, Receiver<i64>) {
    let (computes, computing) = channel();
    let (earlier, later) = channel();
    let runner = Scripted { computes, later: Mutex::new(Some(later)), earlier: Mutex::new(Some(earlier)) };
    let client = Client::new("http://127.0.0.1:1", None, "token").unwrap();
    let agent = Arc::new(Agent {
        worker: WorkerId(1),
        runner: Arc::new(runner),
        held: HeldJobs::default(),
        ready: Ready::new(1),
        courier: Courier::new(client.clone(), None),
        gaps: Gaps::default(),
        busy: Busy::default(),
        slots: 1,
        seen: Seen::default(),
        batch: 1,
        deadline: None,
        fault: SetOnce::new(),
        client,
    });
    let work = |job: &i64| {
        let (job, fence) = (JobId(*job), Fence(1));
        let condition = SimulateCondition {
            subject: "sim01".to_owned(),
            region: "A".to_owned(),
            seconds: 0.0,
            spread: 0.0,
            fail: BTreeMap::new(),
            bytes: 0,
        };
        vec![Work {
            job: ClaimedJob { job, fence, attempt: 1, condition: ConditionId(1), seed: Seed(0), image: None },
            key: Digest::from_bytes(&[0; 32]),
            condition: Arc::new(Condition::Simulate(condition)),
            image: None,
            control: agent.held.insert(job, fence),
        }]
    };
    agent.ready.push(jobs.iter().map(work).collect()).unwrap();
    (agent, computing)
}

#[tokio::test]
async fn the_next_batch_computes_while_the_last_one_is_encoded() {
    let (agent, computing) = agent(&[1, 2]);
    let slot = tokio::spawn(serve(agent.clone()));
    // What is left of job 1 ends only after job 2 has begun: a slot that waited for it would hang here.
    while !agent.held.list().is_empty() {
        yield_now().await;
    }
    assert_eq!(computing.try_iter().collect::<Vec<_>>(), [1, 2]);
    agent.ready.close();
    slot.await.unwrap();
}

#[tokio::test]
async fn a_slot_whose_device_failed_takes_nothing_more() {
    let (agent, computing) = agent(&[3, 4]);
    let slot = tokio::spawn(serve(agent.clone()));
    assert_eq!(agent.fault.wait().await, "Xid 79");
    assert_eq!(agent.ready.close().len(), 1, "job 4 can be given back");
    assert_eq!(computing.try_iter().collect::<Vec<_>>(), [3]);
    // It goes on telling the coordinator, which does not answer, of the failure.
    slot.abort();
}
