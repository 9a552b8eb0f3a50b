//! The real programs as processes, as a person or a script meets them: one program, so that it is linked once.
#![allow(missing_docs, unreachable_pub)]

mod access;
mod audio;
mod cli;
mod examples;
mod failures;
mod flood;
mod golden;
mod interop;
mod links;
mod old_format;
mod recordings;
mod shell;
mod slow_disk;
mod sources;
mod support;
mod tunnel;
