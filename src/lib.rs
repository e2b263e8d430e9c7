//! Tandem: two Linux hosts, one floating address, no connection refused.
//!
//! Two nodes run this program. Each balances TCP; together they elect a master, which holds the
//! floating addresses (VIPs), tells the neighbours, and replicates its state to the backup.
//!
//! **The whole node minus IO is one deterministic value, [`node::Node`].** It is told things
//! (`Input`, with the time), it wants things (`Output`), and it says when it next wants to be woken.
//! The daemon, which owns sockets, and the simulation, which owns a pretend world, drive exactly
//! that value. Everything else is a part of `Node` that knows no other part, or an adapter to one
//! outside thing that knows no other adapter.
//!
//! # Floors
//!
//! A module imports only from floors below its own, never sideways; `tests/tidy.rs` keeps that true.
//!
//! ```text
//!   6   cli   lab                                       entrances
//!   5   daemon                                          composition root: adapters meet node
//!       watch                                           a client that tells what it sees
//!   4   net   probe   finder   datapath   control       adapters (IO); none imports another
//!       exporter   notify
//!       program                                         a program that is run with limits
//!   3   node   discover                                 the machines meet: takeover order; what sources say
//!   2   election  vip  replication  health  balance     machines (sans-IO)
//!   1   config   wire   status   metrics                shapes
//!   0   time   model                                    words
//! ```
//!
//! Floors 0 to 3 hold no tokio, sockets, files, threads, clock, entropy or globals.

pub mod model;
pub mod time;

pub mod config;
pub mod metrics;
pub mod status;
pub mod wire;

pub mod balance;
pub mod election;
pub mod health;
pub mod replication;
pub mod vip;

pub mod discover;
pub mod node;

pub mod dial;

pub mod control;
pub mod datapath;
pub mod exporter;
pub mod finder;
pub mod net;
pub mod notify;
pub mod probe;
pub mod program;

pub mod daemon;
pub mod watch;

pub mod cli;
pub mod lab;
