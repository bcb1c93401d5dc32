//! The rules of the agreement core, one test each.

mod amnesia;
mod catch_up;
mod checkpoint;
mod client;
mod execution;
mod frames;
mod hostile;
mod ordering;
mod outbox;
mod recovery;
mod repair;
mod support;
mod view_change;
