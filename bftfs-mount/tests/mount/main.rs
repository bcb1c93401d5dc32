//! The volume and the mount over a double of the replicas, with and without a kernel.

mod acl;
mod costs;
mod double;
mod kernel;
mod killed;
mod locker;
mod locks;
mod mounted;
mod ranges;
mod script;
mod unlinked;
mod volume;
