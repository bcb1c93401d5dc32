//! Lies in view changes: false testimony in VIEW-CHANGEs, false conclusions in NEW-VIEWs.

use bftfs_proto::message::{Message, NewView, Status, ViewChange, Vote};
use bftfs_proto::types::{Principal, ReplicaId, Seq, View};

use crate::mind::Mind;
use crate::{Lie, Said};

/// A view that is never reached.
const FAR_VIEW: View = View(1 << 60);

/// Testifies falsely, to each receiver in another way; suspects every primary; and leaves views
/// that nobody else leaves.
#[derive(Debug)]
pub(crate) struct VcLies;

impl VcLies {
    fn falsified(mind: &mut Mind, mut change: ViewChange) -> ViewChange {
        match mind.rng.u32(0..9) {
            0 => Self::invent(mind, &mut change),
            1 => change.prepared.clear(),
            2 => {
                change.prepared.clear();
                change.accepted.clear();
            }
            3 => Self::repeat(&mut change),
            4 => change.stable.0 += mind.cluster.checkpoint_interval,
            5 => {
                change.stable = Seq(0);
                change.certificate.clear();
            }
            6 => change.view = FAR_VIEW,
            7 => change.view = change.view.next(),
            _ => {}
        }
        change.sign(&mind.cluster.id, &mind.signer)
    }

    /// Says that nothing prepared where something may have, in the latest view that it can name.
    fn invent(mind: &mut Mind, change: &mut ViewChange) {
        let view = View(change.view.0.saturating_sub(1));
        let digest = if mind.once_in(2) { mind.null() } else { mind.digest() };
        let first = change.stable.0 + 1;
        let last = change.prepared.last().map_or(first, |vote| vote.seq.0);
        let invented = (first..=last).map(|seq| Vote { view, seq: Seq(seq), digest });
        change.prepared = invented.clone().collect();
        change.accepted = invented.collect();
    }

    /// The same entry twice: a false one beside a true one.
    fn repeat(change: &mut ViewChange) {
        let twice = |votes: &mut Vec<Vote>| *votes = votes.iter().flat_map(|v| [*v, *v]).collect();
        twice(&mut change.prepared);
        twice(&mut change.accepted);
    }
}

impl Lie for VcLies {
    fn say(&mut self, mind: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        let message = match message {
            Message::ViewChange(change) => Message::ViewChange(Self::falsified(mind, change)),
            Message::Status(status) => Message::Status(Status { suspects: true, ..status }),
            other => other,
        };
        vec![Said::now(to, message)]
    }

    fn tick(&mut self, mind: &mut Mind) -> Vec<Said> {
        let view = match mind.rng.u32(0..40) {
            0 => FAR_VIEW,
            1 => View(u64::MAX),
            2 | 3 => mind.view.next(),
            _ => return Vec::new(),
        };
        let change = mind.blank_view_change(view);
        mind.others().map(|to| Said::now(to, Message::ViewChange(change.clone()))).collect()
    }
}

/// Says NEW-VIEWs that do not follow from their VIEW-CHANGEs, or whose VIEW-CHANGEs do not count.
#[derive(Debug)]
pub(crate) struct BadNewView {
    /// Which lie is told in a view: the seed and the view decide, so that it is told again alike.
    shift: u64,
    victim: ReplicaId,
}

impl BadNewView {
    pub(crate) fn new(mind: &mut Mind) -> Self {
        Self { shift: mind.rng.u64(0..64), victim: mind.someone() }
    }

    /// What is said to `to` in place of `true_one`; `None` for nothing.
    fn falsified(&self, mind: &mut Mind, to: ReplicaId, true_one: NewView) -> Option<NewView> {
        let mut told = true_one;
        match (told.view.0 + self.shift) % 9 {
            0 => Self::repeat_sender(&mut told),
            1 => Self::mix_views(mind, &mut told),
            2 => Self::choose_null(mind, &mut told),
            3 => drop(told.chosen.pop()),
            4 => told.chosen.push(mind.null()),
            5 if mind.in_second_half(to) => Self::choose_null(mind, &mut told),
            6 if to == self.victim => return None,
            7 => Self::forge(mind, &mut told),
            8 => told.stable.0 += mind.cluster.checkpoint_interval,
            _ => {}
        }
        Some(told.sign(&mind.cluster.id, &mind.signer))
    }

    fn repeat_sender(told: &mut NewView) {
        if let (Some(first), count) = (told.changes.first().cloned(), told.changes.len()) {
            told.changes = vec![first; count];
        }
    }

    /// Its own view-change, signed for another view.
    fn mix_views(mind: &Mind, told: &mut NewView) {
        let other = mind.blank_view_change(told.view.next());
        told.changes.retain(|change| change.replica != mind.me);
        told.changes.push(other);
    }

    fn choose_null(mind: &Mind, told: &mut NewView) {
        let null = mind.null();
        told.chosen.iter_mut().for_each(|digest| *digest = null);
    }

    /// Others' view-changes, as if they had prepared nothing, under their old signatures; and the
    /// own one, which says the same.
    fn forge(mind: &Mind, told: &mut NewView) {
        for change in told.changes.iter_mut().filter(|change| change.replica != mind.me) {
            change.prepared.clear();
            change.accepted.clear();
            change.stable = Seq(0);
            change.certificate.clear();
        }
        let blank = mind.blank_view_change(told.view);
        let own = told.changes.iter_mut().filter(|change| change.replica == mind.me);
        own.for_each(|own| *own = blank.clone());
        told.stable = Seq(0);
        told.chosen.clear();
    }
}

impl Lie for BadNewView {
    fn say(&mut self, mind: &mut Mind, to: Principal, message: Message) -> Vec<Said> {
        match (to, message) {
            (Principal::Replica(id), Message::NewView(new_view))
                if mind.is_primary(new_view.view) =>
            {
                let told = self.falsified(mind, id, new_view).map(Message::NewView);
                told.into_iter().map(|message| Said::now(to, message)).collect()
            }
            (to, message) => vec![Said::now(to, message)],
        }
    }

    /// A new view that nobody asked for, on nobody's word but its own.
    fn tick(&mut self, mind: &mut Mind) -> Vec<Said> {
        if !mind.once_in(40) {
            return Vec::new();
        }
        let view = View(mind.view.0 + mind.rng.u64(1..5));
        let changes = vec![mind.blank_view_change(view); mind.cluster.quorum()];
        let signature = bftfs_proto::auth::Signature::NONE;
        let told = NewView { view, changes, stable: Seq(0), chosen: Vec::new(), signature };
        let told = told.sign(&mind.cluster.id, &mind.signer);
        mind.others().map(|to| Said::now(to, Message::NewView(told.clone()))).collect()
    }
}
