//! Whole daemons in this process, over loopback and real Unix sockets: one program, so that it is linked once.
#![allow(missing_docs, unreachable_pub)]

mod connections;
mod crowd;
mod floods;
mod foreign;
mod handlers;
mod hostile;
mod incompatible;
mod large_requests;
mod limits;
mod machines;
mod moved;
mod old_peers;
mod overload;
mod panics;
mod programs;
mod protocols;
mod pubsub;
mod raw_peer;
mod rogue_words;
mod rules;
mod streams;
mod support;
mod validators;
mod values;
mod waiting;
