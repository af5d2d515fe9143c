-- The job table and what surrounds it. Times are milliseconds since 1970 (UTC). CHECK constraints mirror the state machine
-- in coordinator/src/queue/state.rs, so that an illegal row cannot be written.

-- Who serves this file: a second coordinator is refused while this one is alive.
CREATE TABLE owner (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    host        TEXT    NOT NULL,
    pid         INTEGER NOT NULL,
    url         TEXT    NOT NULL,
    endpoint    TEXT    NOT NULL,   -- path of the endpoint file, which holds the token
    started_at  INTEGER NOT NULL,
    renewed_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE experiment (
    id                  INTEGER PRIMARY KEY,
    name                TEXT    NOT NULL UNIQUE,
    description         TEXT    NOT NULL,
    kind                TEXT    NOT NULL CHECK (kind IN ('sample')),
    priority            INTEGER NOT NULL,
    max_attempts        INTEGER NOT NULL CHECK (max_attempts >= 1),
    budget_gpu_seconds  REAL             CHECK (budget_gpu_seconds > 0),
    yaml                TEXT    NOT NULL,   -- as submitted last
    created_at          INTEGER NOT NULL,
    submitted_at        INTEGER NOT NULL
) STRICT;

-- One cell of the grid without its seeds. `key` is the sha256 of everything that decides a result but the seed.
CREATE TABLE condition (
    id             INTEGER PRIMARY KEY,
    experiment_id  INTEGER NOT NULL REFERENCES experiment (id),
    key            TEXT    NOT NULL CHECK (length(key) = 64),
    subject        TEXT    NOT NULL,
    region         TEXT    NOT NULL,
    axes           TEXT    NOT NULL CHECK (json_valid(axes)),   -- other swept axes: {"gamma": 14.0}
    spec           TEXT    NOT NULL CHECK (json_valid(spec)),   -- protocol::job::Condition
    created_at     INTEGER NOT NULL,
    UNIQUE (experiment_id, key)
) STRICT;

-- What tables of scores ask of a condition's spec, so that nobody parses a spec with its thousands of voxels for it.
CREATE INDEX condition_science ON condition (
    experiment_id, json_extract(spec, '$.prefers'), json_extract(spec, '$.sampling.gamma'), json_extract(spec, '$.probes')
);

CREATE TABLE worker (
    id              INTEGER PRIMARY KEY,
    name            TEXT    NOT NULL,
    host            TEXT    NOT NULL,
    pid             INTEGER NOT NULL,
    device          TEXT    NOT NULL,
    device_name     TEXT    NOT NULL,
    slots           INTEGER NOT NULL CHECK (slots >= 1),
    software        TEXT    NOT NULL,
    activity        TEXT    NOT NULL CHECK (activity IN ('working', 'draining', 'gone', 'silent')),
    registered_at   INTEGER NOT NULL,
    heartbeat_at    INTEGER NOT NULL
) STRICT;

CREATE TABLE job (
    id            INTEGER PRIMARY KEY,
    condition_id  INTEGER NOT NULL REFERENCES condition (id),
    seed          INTEGER NOT NULL,     -- the seed's 64 bits as a signed number
    state         TEXT    NOT NULL CHECK (state IN ('blocked', 'ready', 'running', 'done', 'failed', 'cancelled')),
    priority      INTEGER NOT NULL,
    attempts      INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),     -- attempts that count against max_attempts
    max_attempts  INTEGER NOT NULL CHECK (max_attempts >= 1),
    fence         INTEGER NOT NULL DEFAULT 0 CHECK (fence >= 0),        -- of the last claim; only ever grows
    not_before    INTEGER NOT NULL DEFAULT 0,                           -- back-off: no claim before this time
    worker_id     INTEGER REFERENCES worker (id),
    lease_until   INTEGER,
    step          INTEGER NOT NULL DEFAULT 0,                           -- progress of the running attempt
    steps         INTEGER NOT NULL DEFAULT 0,
    updated_at    INTEGER NOT NULL,
    UNIQUE (condition_id, seed),
    CHECK ((state = 'running') = (worker_id IS NOT NULL)),
    CHECK ((state = 'running') = (lease_until IS NOT NULL)),
    CHECK (state NOT IN ('running', 'done') OR fence >= 1)
) STRICT;

CREATE INDEX job_ready ON job (priority DESC, id) WHERE state = 'ready';
CREATE INDEX job_backoff ON job (not_before) WHERE state = 'ready' AND not_before > 0;
CREATE INDEX job_lease ON job (lease_until) WHERE state = 'running';
CREATE INDEX job_worker ON job (worker_id) WHERE state = 'running';
CREATE INDEX job_by_state ON job (condition_id, state);

-- One try at a job by one worker; the GPU-second ledger.
CREATE TABLE attempt (
    id          INTEGER PRIMARY KEY,
    job_id      INTEGER NOT NULL REFERENCES job (id),
    fence       INTEGER NOT NULL CHECK (fence >= 1),
    worker_id   INTEGER NOT NULL REFERENCES worker (id),
    device      TEXT    NOT NULL,
    started_at  INTEGER NOT NULL,
    ended_at    INTEGER,
    outcome     TEXT    NOT NULL CHECK (outcome IN ('running', 'done', 'failed', 'cancelled')),
    class       TEXT    CHECK (class IN ('out_of_memory', 'device_fault', 'lost', 'preempted', 'drained', 'bad_input',
                                         'non_finite', 'io', 'timeout', 'bug')),
    message     TEXT,
    counted     INTEGER NOT NULL DEFAULT 1 CHECK (counted IN (0, 1)),   -- against the job's max_attempts
    loading_s   REAL    NOT NULL DEFAULT 0,
    sampling_s  REAL    NOT NULL DEFAULT 0,
    scoring_s   REAL    NOT NULL DEFAULT 0,
    uploading_s REAL    NOT NULL DEFAULT 0,
    UNIQUE (job_id, fence),
    CHECK ((outcome = 'running') = (ended_at IS NULL)),
    CHECK ((outcome = 'failed') = (class IS NOT NULL))
) STRICT;

CREATE INDEX attempt_failed ON attempt (ended_at DESC) WHERE outcome = 'failed';
CREATE INDEX attempt_worker ON attempt (worker_id, started_at);

-- Stored files, by content.
CREATE TABLE artifact (
    sha256      TEXT    PRIMARY KEY CHECK (length(sha256) = 64),
    bytes       INTEGER NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;

-- Every result that a worker delivered. At most one per job counts; others came with an old fence and are kept for audit.
CREATE TABLE result (
    id               INTEGER PRIMARY KEY,
    job_id           INTEGER NOT NULL REFERENCES job (id),
    condition_id     INTEGER NOT NULL REFERENCES condition (id),
    fence            INTEGER NOT NULL,
    counted          INTEGER NOT NULL CHECK (counted IN (0, 1)),
    worker_id        INTEGER NOT NULL REFERENCES worker (id),
    image_sha256     TEXT    NOT NULL REFERENCES artifact (sha256),
    activation       REAL    NOT NULL,
    effective_gamma  REAL    NOT NULL,
    probe_class      TEXT    NOT NULL,
    body             TEXT    NOT NULL CHECK (json_valid(body)),   -- protocol::outcome::SampleResult
    created_at       INTEGER NOT NULL,
    UNIQUE (job_id, fence)
) STRICT;

CREATE UNIQUE INDEX result_counted ON result (job_id) WHERE counted = 1;
CREATE INDEX result_newest ON result (created_at DESC) WHERE counted = 1;
CREATE INDEX result_newest_of_condition ON result (condition_id, created_at DESC) WHERE counted = 1;
CREATE INDEX result_best ON result (condition_id, activation DESC) WHERE counted = 1;

-- Exact numbers for every page: kept by triggers in the transaction of the transition itself.
CREATE TABLE counter (
    condition_id  INTEGER NOT NULL REFERENCES condition (id),
    state         TEXT    NOT NULL,
    jobs          INTEGER NOT NULL CHECK (jobs >= 0),
    PRIMARY KEY (condition_id, state)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER job_counted AFTER INSERT ON job BEGIN
    INSERT INTO counter (condition_id, state, jobs) VALUES (new.condition_id, new.state, 1)
        ON CONFLICT (condition_id, state) DO UPDATE SET jobs = jobs + 1;
END;

CREATE TRIGGER job_moved AFTER UPDATE OF state ON job WHEN old.state <> new.state BEGIN
    UPDATE counter SET jobs = jobs - 1 WHERE condition_id = old.condition_id AND state = old.state;
    INSERT INTO counter (condition_id, state, jobs) VALUES (new.condition_id, new.state, 1)
        ON CONFLICT (condition_id, state) DO UPDATE SET jobs = jobs + 1;
END;

CREATE TRIGGER job_uncounted AFTER DELETE ON job BEGIN
    UPDATE counter SET jobs = jobs - 1 WHERE condition_id = old.condition_id AND state = old.state;
END;

-- Sums over counted results, so that tables are O(conditions) too.
CREATE TABLE score (
    condition_id    INTEGER NOT NULL REFERENCES condition (id),
    probe_class     TEXT    NOT NULL,
    images          INTEGER NOT NULL,
    activation_sum  REAL    NOT NULL,
    PRIMARY KEY (condition_id, probe_class)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER result_scored AFTER INSERT ON result WHEN new.counted = 1 BEGIN
    INSERT INTO score (condition_id, probe_class, images, activation_sum)
        VALUES (new.condition_id, new.probe_class, 1, new.activation)
        ON CONFLICT (condition_id, probe_class)
        DO UPDATE SET images = images + 1, activation_sum = activation_sum + excluded.activation_sum;
END;

-- A fence never goes back: that is what makes a late result recognisable.
CREATE TRIGGER fence_only_grows BEFORE UPDATE OF fence ON job WHEN new.fence < old.fence BEGIN
    SELECT RAISE(ABORT, 'a fence never goes back');
END;

-- Device time of closed attempts, summed in the transaction that closes one. An attempt holds one of its worker's slots from
-- claim to close, so it spends 1/slots of the device for that time.
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

-- Failed attempts by signature, counted in the same way.
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
