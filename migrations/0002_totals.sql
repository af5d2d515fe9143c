-- Sums over closed attempts, kept by a trigger in the transaction that closes one, so that pages about GPU time and
-- failures are O(conditions) and exact.

-- An attempt holds one of its worker's slots from claim to close, so it spends 1/slots of the device for that time.
CREATE TABLE spent (
    condition_id  INTEGER NOT NULL REFERENCES condition (id),
    outcome       TEXT    NOT NULL CHECK (outcome IN ('done', 'failed', 'cancelled')),
    attempts      INTEGER NOT NULL,
    gpu_seconds   REAL    NOT NULL,
    PRIMARY KEY (condition_id, outcome)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER attempt_spent AFTER UPDATE OF outcome ON attempt WHEN old.outcome = 'running' AND new.outcome <> 'running' BEGIN
    INSERT INTO spent (condition_id, outcome, attempts, gpu_seconds)
        SELECT job.condition_id, new.outcome, 1, max(new.ended_at - new.started_at, 0) / 1000.0 / worker.slots
        FROM job, worker WHERE job.id = new.job_id AND worker.id = new.worker_id
        ON CONFLICT (condition_id, outcome)
        DO UPDATE SET attempts = attempts + 1, gpu_seconds = gpu_seconds + excluded.gpu_seconds;
END;

-- Failed attempts by signature.
CREATE TABLE failure (
    condition_id  INTEGER NOT NULL REFERENCES condition (id),
    class         TEXT    NOT NULL,
    message       TEXT    NOT NULL,
    attempts      INTEGER NOT NULL,
    last_at       INTEGER NOT NULL,
    last_job_id   INTEGER NOT NULL REFERENCES job (id),
    PRIMARY KEY (condition_id, class, message)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER attempt_failure AFTER UPDATE OF outcome ON attempt WHEN old.outcome = 'running' AND new.outcome = 'failed' BEGIN
    INSERT INTO failure (condition_id, class, message, attempts, last_at, last_job_id)
        SELECT job.condition_id, new.class, coalesce(new.message, ''), 1, new.ended_at, new.job_id
        FROM job WHERE job.id = new.job_id
        ON CONFLICT (condition_id, class, message)
        DO UPDATE SET attempts = attempts + 1, last_at = excluded.last_at, last_job_id = excluded.last_job_id;
END;

-- The newest images of one condition.
CREATE INDEX result_newest_of_condition ON result (condition_id, created_at DESC) WHERE counted = 1;

-- What tables of scores ask of a condition's spec, so that nobody parses a spec with its thousands of voxels for it.
CREATE INDEX condition_science ON condition (
    experiment_id, json_extract(spec, '$.prefers'), json_extract(spec, '$.sampling.gamma'), json_extract(spec, '$.probes')
);
