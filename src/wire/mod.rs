//! What goes over wires: shapes and their bytes.
//!
//! Owns: message types, the codec, sealing, frame layouts. Never: sends anything.
//! Invariant: decoding is bounded and gives an error, never a panic, for any bytes.

pub mod admin;
pub mod agent;
pub mod announce;
pub mod codec;
pub mod dns;
pub mod first;
pub mod grpc;
pub mod heartbeat;
pub mod parcel;
pub mod proxy_header;
pub mod replication;
pub mod seal;
pub mod statement;
pub mod x509;
