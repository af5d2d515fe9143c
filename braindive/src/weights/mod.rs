//! Checkpoints: which files a model folder holds, which key feeds which layer.
