//! The coordinator and its workers, what is being done to them, and how each gets over it.

use crate::event::{Event, Moment, Standing};
use end_to_end::network::Network;
use end_to_end::table::Table;
use end_to_end::{Campaign, Process, read_json, wait_for};
use rustix::process::Signal;
use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const WORKERS: usize = 4;
/// Of database and images: room for the largest campaign, small enough to be filled in a moment.
const DISK_MB: u32 = 512;
/// Short, so that leases run out while people wait.
const LEASES: [&str; 4] = ["--lease-ms", "1000", "--heartbeat-ms", "400"];
/// A cut that no lease notices.
const BRIEF: Duration = Duration::from_millis(400);
/// Seeds that are added when the backlog is short, times four conditions.
const MORE_SEEDS: u64 = 250;
const BACKLOG: i64 = 200;

/// Everything that is running. Dropped in this order: processes before what they run on.
pub struct Arena {
    coordinator: Process,
    workers: Vec<Worker>,
    pub table: Table,
    pub campaign: Campaign,
    network: Network,
    seeds: Cell<u64>,
    /// Workers that ended on request, each with exit code 0.
    pub drained: u32,
    /// Jobs that failed for good and were retried by hand: the same failure drawn twice in a row.
    pub retried: i64,
    done: i64,
}

struct Worker {
    process: Process,
    harm: Option<Harm>,
}

/// What a worker has to get over.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Frozen,
    CutBriefly { since: Instant },
    Cut,
    Draining,
}

impl Arena {
    /// Starts everything, and waits for the first result.
    pub fn open(proxies: bool) -> Self {
        let network = if proxies { Network::of_proxies(WORKERS) } else { Network::new(WORKERS) };
        let campaign = Campaign::laid_out(network.coordinator(), Some(DISK_MB));
        let seeds = Cell::new(0);
        add_jobs(&campaign, &seeds);
        let table = Table::open(&campaign.database());
        let coordinator = campaign.serve_on(&network.listen(), &LEASES);
        for number in 0..WORKERS {
            if let Some(url) = network.detour(number) {
                let mut endpoint = read_json(&campaign.endpoint());
                endpoint["url"] = url.into();
                campaign.write(&format!("endpoint-{number}.json"), &endpoint.to_string());
            }
        }
        let workers = (0..WORKERS).map(|number| Worker::start(&campaign, &network, number)).collect();
        let mut arena = Self { campaign, table, network, coordinator, workers, seeds, drained: 0, retried: 0, done: 0 };
        arena.wait_for_the_moment(Moment { after_progress: true, delay: Duration::ZERO });
        arena
    }

    pub fn network(&self) -> &'static str {
        self.network.kind()
    }

    pub fn disk(&self) -> &'static str {
        match self.campaign.disk() {
            Some(_) => "a small disk",
            None => "no disk to fill (that needs root)",
        }
    }

    pub fn standings(&self) -> Vec<Standing> {
        let standing = |worker: &Worker| if worker.harm.is_some() { Standing::Harmed } else { Standing::Well };
        self.workers.iter().map(standing).collect()
    }

    /// Jobs that are done.
    pub fn done(&self) -> i64 {
        self.table.number("SELECT coalesce(sum(jobs), 0) FROM counter WHERE state = 'done'")
    }

    /// Grid of the experiment: seeds of each of its conditions so far.
    pub fn seeds(&self) -> u64 {
        self.seeds.get()
    }

    /// Waits for progress if it should, then for the delay, and helps up who has suffered enough.
    pub fn wait_for_the_moment(&mut self, moment: Moment) {
        if moment.after_progress {
            let before = self.done;
            wait_for("another job to be done", || {
                self.tend();
                self.done = self.done();
                (self.done > before).then_some(())
            });
        }
        // A random moment is what is wanted; there is no signal for it.
        std::thread::sleep(moment.delay);
        self.tend();
    }

    /// Ends what has lasted long enough.
    fn tend(&mut self) {
        for number in 0..WORKERS {
            let Some(harm) = self.workers[number].harm else { continue };
            let over = match harm {
                Harm::Frozen | Harm::Cut => self.holds_nothing(number),
                Harm::CutBriefly { since } => since.elapsed() >= BRIEF,
                Harm::Draining => self.workers[number].process.ended().is_some(),
            };
            if over {
                self.relieve(number);
            }
        }
        let waiting = "SELECT coalesce(sum(jobs), 0) FROM counter WHERE state = 'ready'";
        if self.table.number(waiting) < BACKLOG {
            add_jobs(&self.campaign, &self.seeds);
        }
    }

    /// The leases of what a worker held have run out.
    fn holds_nothing(&self, number: usize) -> bool {
        let held = "SELECT count(*) FROM job WHERE state = 'running'
                    AND worker_id IN (SELECT id FROM worker WHERE pid = ?)";
        self.table.number_of(held, self.workers[number].process.id().into()) == 0
    }

    fn relieve(&mut self, number: usize) {
        match self.workers[number].harm.take() {
            None => {}
            Some(Harm::Frozen) => self.workers[number].process.signal(Signal::CONT),
            Some(Harm::CutBriefly { .. } | Harm::Cut) => self.network.heal(number),
            Some(Harm::Draining) => {
                let process = &mut self.workers[number].process;
                let code = process.wait();
                assert_eq!(code, 0, "a drained worker ends well:\n{}", process.log());
                self.drained += 1;
                self.workers[number] = Worker::start(&self.campaign, &self.network, number);
            }
        }
    }

    pub fn strike(&mut self, event: Event) {
        match event {
            Event::KillCoordinator => {
                self.coordinator.kill();
                self.serve();
            }
            Event::KillWorker(number) => {
                // A cut link stays cut: the new process finds it so.
                let harm = self.workers[number].harm.filter(|harm| matches!(harm, Harm::Cut | Harm::CutBriefly { .. }));
                self.workers[number].process.kill();
                let worker = Worker::start(&self.campaign, &self.network, number);
                self.workers[number] = Worker { harm, ..worker };
            }
            Event::Freeze(number) => {
                self.workers[number].process.signal(Signal::STOP);
                self.workers[number].harm = Some(Harm::Frozen);
            }
            Event::CutBriefly(number) => {
                self.network.cut(number);
                self.workers[number].harm = Some(Harm::CutBriefly { since: Instant::now() });
            }
            Event::Cut(number) => {
                self.network.cut(number);
                self.workers[number].harm = Some(Harm::Cut);
            }
            Event::Drain(number) => {
                self.workers[number].process.terminate();
                self.workers[number].harm = Some(Harm::Draining);
            }
            Event::FillDisk => self.fill_disk(),
        }
    }

    fn serve(&mut self) {
        self.coordinator = self.campaign.serve_on(&self.network.listen(), &LEASES);
    }

    /// Leaves no room until a worker was told so, then kills the coordinator, and makes room for the next.
    fn fill_disk(&mut self) {
        let Some(disk) = self.campaign.disk() else { return };
        let full = disk.fill();
        wait_for("a worker to hear that the disk is full", || {
            let told = |worker: &Worker| worker.process.log().contains("no room is left");
            self.workers.iter().any(told).then_some(())
        });
        self.coordinator.kill();
        drop(full);
        self.serve();
    }

    /// Ends all harm, waits until every job is done, and stops everybody.
    pub fn calm(&mut self) {
        (0..WORKERS).for_each(|number| self.relieve(number));
        wait_for("every job to be done", || {
            let failed = self.table.number("SELECT coalesce(sum(jobs), 0) FROM counter WHERE state = 'failed'");
            if failed > 0 {
                self.retried += failed;
                let output = self.campaign.run(&["retry", "--failed"]);
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            let left = "SELECT coalesce(sum(jobs), 0) FROM counter WHERE state <> 'done'";
            (self.table.number(left) == 0).then_some(())
        });
        for Worker { process, .. } in &mut self.workers {
            process.terminate();
            assert_eq!(process.wait(), 0, "{}", process.log());
        }
        self.coordinator.terminate();
        assert_eq!(self.coordinator.wait(), 0, "{}", self.coordinator.log());
    }
}

impl Worker {
    fn start(campaign: &Campaign, network: &Network, number: usize) -> Self {
        let own: PathBuf = campaign.path(&format!("endpoint-{number}.json"));
        let endpoint = if own.exists() { own } else { campaign.endpoint() };
        let process = campaign.worker_in(&network.worker(number), &endpoint, &format!("worker-{number}"), &[]);
        Self { process, harm: None }
    }
}

/// Submits the experiment with more seeds than before: what is there stays as it is.
fn add_jobs(campaign: &Campaign, seeds: &Cell<u64>) {
    seeds.set(seeds.get() + MORE_SEEDS);
    let fail = "{ preempted: 0.03, io: 0.003, non_finite: 0.003, timeout: 0.003, bug: 0.003 }";
    campaign.submit(&experiment("chaos", seeds.get(), &format!("seconds: 0.04, spread: 0.5, fail: {fail}")));
}

/// Four conditions of simulated jobs. Their images depend on subject, region and seed alone.
pub fn experiment(name: &str, seeds: u64, simulate: &str) -> String {
    format!(
        "name: {name}\ndescription: jobs that only take time\nkind: simulate\nretries: 100\nlosses: 100\n\
         grid:\n  subject: [sim01, sim02]\n  region: [face, text]\n  seed: {{ start: 0, count: {seeds} }}\n\
         simulate: {{ {simulate}, bytes: 600 }}\n"
    )
}
