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
    kind                TEXT    NOT NULL CHECK (kind IN ('prepare', 'fit', 'cluster', 'sample', 'score', 'simulate')),
    priority            INTEGER NOT NULL,
    share               REAL    NOT NULL DEFAULT 1 CHECK (share > 0),       -- of the workers' time, against others of its priority
    paused              INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    max_attempts        INTEGER NOT NULL CHECK (max_attempts >= 1),
    max_losses          INTEGER NOT NULL DEFAULT 5 CHECK (max_losses >= 1),
    budget_gpu_seconds  REAL             CHECK (budget_gpu_seconds > 0),
    virtual_time        REAL    NOT NULL DEFAULT 0,     -- GPU-seconds charged so far, over `share`: the least is served next
    cost_s              REAL    NOT NULL DEFAULT 1,     -- GPU-seconds that a claim charges in advance: what jobs took lately
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
    breaker        TEXT    NOT NULL DEFAULT 'closed' CHECK (breaker IN ('closed', 'open')),  -- open: a job of it met bad input
    created_at     INTEGER NOT NULL,
    UNIQUE (experiment_id, key)
) STRICT;

-- A condition waits until every job of the conditions that it needs is done.
CREATE TABLE need (
    condition_id        INTEGER NOT NULL REFERENCES condition (id),
    needs_condition_id  INTEGER NOT NULL REFERENCES condition (id),
    PRIMARY KEY (condition_id, needs_condition_id),
    CHECK (condition_id <> needs_condition_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX need_reverse ON need (needs_condition_id);

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
    device_key      TEXT    NOT NULL,   -- the device wherever workers run on it: its UUID, or HOST/DEVICE
    slots           INTEGER NOT NULL CHECK (slots >= 1),
    batch           INTEGER NOT NULL DEFAULT 1 CHECK (batch >= 1),
    kinds           TEXT    NOT NULL CHECK (json_valid(kinds)),
    deadline_at     INTEGER,            -- when its allocation ends
    software        TEXT    NOT NULL,
    activity        TEXT    NOT NULL CHECK (activity IN ('working', 'draining', 'gone', 'silent')),
    registered_at   INTEGER NOT NULL,
    heartbeat_at    INTEGER NOT NULL,   -- of its last message of any kind
    useful_s        REAL    NOT NULL DEFAULT 0,     -- device seconds of its attempts that gave a counted result
    wasted_s        REAL    NOT NULL DEFAULT 0      -- device seconds of its other closed attempts
) STRICT;

-- Devices that get no jobs: a fault of theirs is not to be met by the next job.
CREATE TABLE quarantine (
    device_key  TEXT    PRIMARY KEY,
    reason      TEXT    NOT NULL,
    worker_id   INTEGER NOT NULL REFERENCES worker (id),
    since       INTEGER NOT NULL
) STRICT;

CREATE TABLE job (
    id            INTEGER PRIMARY KEY,
    experiment_id INTEGER NOT NULL REFERENCES experiment (id),              -- of its condition
    condition_id  INTEGER NOT NULL REFERENCES condition (id),
    seed          INTEGER NOT NULL,     -- the seed's 64 bits as a signed number
    state         TEXT    NOT NULL CHECK (state IN ('blocked', 'ready', 'running', 'done', 'failed', 'cancelled')),
    attempts      INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),     -- attempts that count against max_attempts
    max_attempts  INTEGER NOT NULL CHECK (max_attempts >= 1),
    losses        INTEGER NOT NULL DEFAULT 0 CHECK (losses >= 0),       -- attempts that took their worker or device with them
    fence         INTEGER NOT NULL DEFAULT 0 CHECK (fence >= 0),        -- of the last claim; only ever grows
    retried_at    INTEGER NOT NULL DEFAULT 0,                           -- fence at the last retry by hand: failures until then are forgiven
    not_before    INTEGER NOT NULL DEFAULT 0,                           -- back-off: no claim before this time
    worker_id     INTEGER REFERENCES worker (id),
    lease_until   INTEGER,
    step          INTEGER NOT NULL DEFAULT 0,                           -- progress of the running attempt
    steps         INTEGER NOT NULL DEFAULT 0,
    computing_ms  INTEGER NOT NULL DEFAULT 0,                           -- the running attempt's share of its slot so far
    updated_at    INTEGER NOT NULL,
    UNIQUE (condition_id, seed),
    CHECK ((state = 'running') = (worker_id IS NOT NULL)),
    CHECK ((state = 'running') = (lease_until IS NOT NULL)),
    CHECK (state NOT IN ('running', 'done') OR fence >= 1),
    CHECK (state = 'ready' OR not_before = 0),
    CHECK (attempts <= max_attempts),
    CHECK (state NOT IN ('ready', 'running') OR attempts < max_attempts)
) STRICT;

-- What a claim walks: an experiment's jobs, first those that come back from a back-off.
CREATE INDEX job_ready ON job (experiment_id, not_before, id) WHERE state = 'ready';
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
    expected_s  REAL    NOT NULL DEFAULT 0,                             -- device seconds that its claim charged in advance
    device_s    REAL    NOT NULL DEFAULT 0 CHECK (device_s >= 0),       -- device seconds that it took
    waiting_s   REAL    NOT NULL DEFAULT 0,
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
    activation       REAL,      -- scores are those of guided samples
    effective_gamma  REAL,
    probe_class      TEXT,
    body             TEXT    NOT NULL CHECK (json_valid(body)),   -- protocol::outcome::JobResult
    created_at       INTEGER NOT NULL,
    UNIQUE (job_id, fence),
    CHECK ((activation IS NULL) = (probe_class IS NULL) AND (activation IS NULL) = (effective_gamma IS NULL))
) STRICT;

CREATE INDEX result_image ON result (image_sha256);
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

CREATE TRIGGER result_scored AFTER INSERT ON result WHEN new.counted = 1 AND new.probe_class IS NOT NULL BEGIN
    INSERT INTO score (condition_id, probe_class, images, activation_sum)
        VALUES (new.condition_id, new.probe_class, 1, new.activation)
        ON CONFLICT (condition_id, probe_class)
        DO UPDATE SET images = images + 1, activation_sum = activation_sum + excluded.activation_sum;
END;

-- A fence never goes back: that is what makes a late result recognisable.
CREATE TRIGGER fence_only_grows BEFORE UPDATE OF fence ON job WHEN new.fence < old.fence BEGIN
    SELECT RAISE(ABORT, 'a fence never goes back');
END;

-- The GPU-second ledger: what closed attempts were charged, by condition and outcome and by worker, summed in the transaction
-- that closes one. Useful and wasted time never exceed the time that a worker was up; the rest it was idle.
CREATE TABLE spent (
    condition_id  INTEGER NOT NULL REFERENCES condition (id),
    outcome       TEXT    NOT NULL CHECK (outcome IN ('done', 'failed', 'cancelled')),
    attempts      INTEGER NOT NULL,
    gpu_seconds   REAL    NOT NULL,
    PRIMARY KEY (condition_id, outcome)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER attempt_spent AFTER UPDATE OF outcome ON attempt WHEN old.outcome = 'running' AND new.outcome <> 'running' BEGIN
    INSERT INTO spent (condition_id, outcome, attempts, gpu_seconds)
        SELECT job.condition_id, new.outcome, 1, new.device_s FROM job WHERE job.id = new.job_id
        ON CONFLICT (condition_id, outcome)
        DO UPDATE SET attempts = attempts + 1, gpu_seconds = gpu_seconds + excluded.gpu_seconds;
    UPDATE worker SET useful_s = useful_s + iif(new.outcome = 'done', new.device_s, 0),
                      wasted_s = wasted_s + iif(new.outcome = 'done', 0, new.device_s)
        WHERE id = new.worker_id;
END;

-- A worker that was thought lost tells later what its attempt really took.
CREATE TRIGGER attempt_recharged AFTER UPDATE OF device_s ON attempt WHEN old.outcome <> 'running' AND new.device_s <> old.device_s BEGIN
    UPDATE spent SET gpu_seconds = gpu_seconds + new.device_s - old.device_s
        WHERE outcome = new.outcome AND condition_id = (SELECT condition_id FROM job WHERE id = new.job_id);
    UPDATE worker SET useful_s = useful_s + iif(new.outcome = 'done', new.device_s - old.device_s, 0),
                      wasted_s = wasted_s + iif(new.outcome = 'done', 0, new.device_s - old.device_s)
        WHERE id = new.worker_id;
END;

-- How long jobs take, for claims before a deadline: done attempts by wall seconds in buckets of ten per cent (bucket b holds
-- durations up to 1.1^b s).
CREATE TABLE pace (
    experiment_id  INTEGER NOT NULL REFERENCES experiment (id),
    device_name    TEXT    NOT NULL,
    bucket         INTEGER NOT NULL,
    attempts       INTEGER NOT NULL,
    PRIMARY KEY (experiment_id, device_name, bucket)
) STRICT, WITHOUT ROWID;

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
