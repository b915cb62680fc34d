//! The agent's binary: PID 1 of a machine in RAM, or an ordinary process.

fn main() {}
