//! The network of the real machine: observe, apply a step.
