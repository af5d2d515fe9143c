//! Experiment files: YAML text to a validated experiment, with every mistake named.
