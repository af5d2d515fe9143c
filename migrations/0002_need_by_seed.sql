-- A job that needs only the job of its own seed: scores of images, which need not wait for the other images.
ALTER TABLE need ADD COLUMN by_seed INTEGER NOT NULL DEFAULT 0 CHECK (by_seed IN (0, 1));
