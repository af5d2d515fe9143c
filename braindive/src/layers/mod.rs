//! Layers with frozen weights: forward, and the gradient with respect to the input only.
