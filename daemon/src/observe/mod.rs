//! How the daemon fares: what is wrong, and its numbers.

mod descriptors;
mod explain;
mod findings;
mod health;
mod probe;
mod storage;

pub(crate) use descriptors::raise_limit;
pub(crate) use findings::{Finding, Level, advice, findings, in_use};
pub(crate) use health::{Health, Setup};
