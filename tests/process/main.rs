//! The real programs as processes, as a person or a script meets them: one program, so that it is linked once.
#![allow(missing_docs, unreachable_pub)]

mod access;
mod audio;
mod cli;
mod clocks;
mod examples;
mod failures;
mod flood;
mod foreign_listeners;
mod golden;
mod interop;
mod links;
mod old_format;
mod shell;
mod slow_disk;
mod support;
mod tunnel;
