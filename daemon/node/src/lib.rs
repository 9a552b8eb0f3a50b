//! The owners of what a daemon does. Each has its own state, its own lock, its own error and its own loop, and knows of the others only
//! what it is given. They join network, store and pure state; they know no API type.

pub mod clock;
pub mod dht;
pub mod disk;
pub mod events;
pub mod fanout;
pub mod oversized;
pub mod peers;
pub mod pubsub;
pub mod running;
pub mod streams;
pub mod tasks;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks state. A panic elsewhere cannot leave it half-changed in a way that matters, so poison is not passed on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
