//! Saying nothing, nothing to some, or late.

use bftfs_proto::config::VIEW_TIMEOUT_NANOS;
use bftfs_proto::message::Message;
use bftfs_proto::types::{Principal, ReplicaId};

use crate::mind::Mind;
use crate::{Lie, Said};

/// Says nothing.
#[derive(Debug)]
pub(crate) struct Silent;

impl Lie for Silent {
    fn say(&mut self, _: &mut Mind, _: Principal, _: Message) -> Vec<Said> {
        Vec::new()
    }
}

/// Says nothing to one replica, and nothing to clients: then a quorum of answers needs the replica
/// that was left out.
#[derive(Debug)]
pub(crate) struct SilentToOne {
    victim: ReplicaId,
}

impl SilentToOne {
    pub(crate) fn new(mind: &mut Mind) -> Self {
        Self { victim: mind.someone() }
    }
}

impl Lie for SilentToOne {
    fn say(&mut self, _: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        let left_out = to == Principal::Replica(self.victim) || matches!(to, Principal::Client(_));
        if left_out { Vec::new() } else { vec![Said::now(to, message)] }
    }
}

/// Says everything after nine tenths of the time after which it would be suspected.
#[derive(Debug)]
pub(crate) struct Slow;

impl Lie for Slow {
    fn say(&mut self, _: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        let said = Said::now(to, message);
        vec![Said { delay_nanos: VIEW_TIMEOUT_NANOS / 10 * 9, ..said }]
    }
}
