//! The simulated world: the real core, codec, MACs and signatures, on virtual time.
//!
//! One seed decides everything: delays, losses, crashes, what clients ask. The same seed gives the
//! same run, event for event. What is simulated: the network ([`network`]), the disks ([`disk`]),
//! the clocks and the crashes ([`world`]), Byzantine replicas ([`cast`]) and clients ([`rogue`]).
//! What is checked: [`invariants`] after every step, the clients' histories ([`workload`]) at the
//! end.

pub mod cast;
pub mod clock;
pub mod disk;
pub mod faults;
pub mod invariants;
pub mod linear;
pub mod memo;
pub mod network;
pub mod order;
pub mod register;
pub mod rogue;
pub mod trace;
pub mod workload;
pub mod world;

pub use cast::Choices;
pub use faults::Plan;
pub use world::{Report, World};
