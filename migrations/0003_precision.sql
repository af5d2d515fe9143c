-- What a condition's networks compute in, and what a worker's device computes in: not every card has bfloat16.
ALTER TABLE condition ADD COLUMN precision TEXT NOT NULL DEFAULT 'single' CHECK (precision IN ('single', 'half', 'bfloat16'));
UPDATE condition SET precision = coalesce(json_extract(spec, '$.sampling.precision'), 'single')
WHERE json_extract(spec, '$.kind') = 'sample';
CREATE INDEX condition_by_precision ON condition (experiment_id, precision);
ALTER TABLE worker ADD COLUMN precisions TEXT NOT NULL DEFAULT '["single","half"]' CHECK (json_valid(precisions));
