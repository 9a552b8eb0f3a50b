//! The real programs as processes, as a person or a script meets them: one program, so that it is linked once.
#![allow(missing_docs, unreachable_pub)]

mod access;
mod audio;
mod bad_day;
mod cli;
mod clocks;
mod demo;
mod endurance;
mod examples;
mod failures;
mod flood;
mod foreign_listeners;
mod full_disk;
mod golden;
mod interop;
mod links;
mod machine;
mod old_format;
mod player;
mod recordings;
mod shell;
mod slow_disk;
mod sources;
mod support;
mod terminal;
mod tunnel;
