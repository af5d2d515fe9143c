//! A slot: runs one batch after another on the device. What a batch gave is encoded and delivered beside the next one.

use super::Agent;
use super::ready::Batch;
use super::spool::Ending;
use crate::tasks::{Computed, Product, TaskError, Work};
use protocol::outcome::{Completed, Failed, PhaseSeconds};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::{JoinSet, spawn_blocking};

/// Runs what is ready until the worker drains or the device fails, and returns when all of it is delivered.
pub async fn serve(agent: Arc<Agent>) {
    let mut deliveries = JoinSet::new();
    let mut last_end = None;
    while let Some(mut batch) = agent.ready.next().await {
        // Cancelled or lost while they waited.
        batch.retain(|work| {
            let wanted = !work.control.is_stopped();
            if !wanted {
                agent.held.remove(work.job.job, work.job.fence);
            }
            wanted
        });
        if batch.is_empty() {
            agent.ready.free();
            continue;
        }
        let idle = last_end.map(|end: Instant| end.elapsed());
        idle.inspect(|gap| agent.gaps.record(*gap));
        let began = Instant::now();
        let done = agent.compute(batch).await;
        let ended = Instant::now();
        last_end = Some(ended);
        agent.busy.record(began, ended, on_device(&done) / agent.slots);
        let fault = done.iter().find_map(|(_, outcome)| outcome.as_ref().err()?.device_fault()).map(str::to_owned);
        if let Some(fault) = fault {
            // Whatever this process asks of the device from now on fails too: the worker drains, and this slot takes nothing more.
            let _ = agent.fault.set(fault);
            agent.ready.closed().await;
        }
        agent.ready.free();
        let waiting = idle.unwrap_or_default() / u32::try_from(done.len()).unwrap_or(u32::MAX).max(1);
        for (work, outcome) in done {
            deliveries.spawn(agent.clone().conclude(work, outcome, waiting));
        }
        while deliveries.try_join_next().is_some() {}
    }
    while deliveries.join_next().await.is_some() {}
}

/// How long the device worked on a batch.
fn on_device(done: &[(Work, Result<Computed, TaskError>)]) -> Duration {
    let seconds = done.iter().map(|(_, outcome)| match outcome {
        Ok(computed) => computed.seconds,
        Err(TaskError::Failed { seconds, .. }) => *seconds,
        Err(TaskError::Stopped) => PhaseSeconds::default(),
    });
    Duration::try_from_secs_f64(seconds.map(|spent| spent.sampling + spent.scoring).sum()).unwrap_or_default()
}

impl Agent {
    /// Fetches what a batch works on and runs it on a thread of its own.
    async fn compute(&self, mut batch: Batch) -> Vec<(Work, Result<Computed, TaskError>)> {
        if let Err(error) = self.fetch(&mut batch).await {
            return batch.into_iter().map(|work| (work, Err(error.clone()))).collect();
        }
        for Work { job, control, .. } in &batch {
            tracing::info!(job = %job.job, seed = %job.seed, attempt = job.attempt, "started");
            control.begin(batch.len());
        }
        let (runner, batch) = (self.runner.clone(), Arc::new(batch));
        let running = batch.clone();
        let outcomes = spawn_blocking(move || runner.run(&running)).await;
        batch.iter().for_each(|work| work.control.end());
        let outcomes = outcomes.unwrap_or_else(|panic| {
            let error = TaskError::from_panic(panic);
            batch.iter().map(|_| Err(error.clone())).collect()
        });
        batch.iter().cloned().zip(outcomes).collect()
    }

    /// Finishes and delivers what a job gave, and holds it until then. `waiting`: the job's share of the time that its slot had stood
    /// idle.
    async fn conclude(self: Arc<Self>, work: Work, outcome: Result<Computed, TaskError>, waiting: Duration) {
        let (worker, job, fence) = (self.worker, work.job.job, work.job.fence);
        let product = match outcome {
            Ok(computed) => {
                spawn_blocking(|| computed.finish()).await.unwrap_or_else(|panic| Err(TaskError::from_panic(panic)))
            }
            Err(error) => Err(error),
        };
        match product {
            Ok(Product { png, mut result }) => {
                result.seconds_mut().waiting = waiting.as_secs_f64();
                self.courier.deliver(Ending::Completed(Completed { worker, job, fence, result }), png).await;
            }
            Err(TaskError::Stopped) => tracing::info!(%job, "dropped"),
            Err(TaskError::Failed { class, message, mut seconds }) => {
                tracing::warn!(%job, %class, "failed: {message}");
                seconds.waiting = waiting.as_secs_f64();
                let failed = Failed { worker, job, fence, class, message, seconds };
                self.courier.deliver(Ending::Failed(failed), None).await;
            }
        }
        self.held.remove(job, fence);
    }
}

#[cfg(test)]
#[path = "slot/tests.rs"]
mod tests;
