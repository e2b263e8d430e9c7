//! Health of the backends: rise and fall, when to probe next, jitter, passive marking.

pub mod probe;
