//! How the daemon fares: what is wrong, and its numbers.

mod descriptors;
mod health;
mod storage;

pub(crate) use descriptors::{InUse, raise_limit};
pub(crate) use health::{Health, Setup, State};
