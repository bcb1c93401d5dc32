//! What the others say: of every kind, plausible as a rule.

use bftfs_proto::Digest;
use bftfs_proto::auth::Signature;
use bftfs_proto::codec;
use bftfs_proto::message::{
    Batch, Body, Checkpoint, Data, Decided, Fetch, Message, NewView, PrePrepare, Read, Request,
    SlotStatus, StateRoot, Status, Tag, ViewChange, Vote,
};
use bftfs_proto::replica::choose;
use bftfs_proto::service::Service;
use bftfs_proto::types::{ClientId, ReplicaId, Seq, SessionId, SlotIndex, View, Wall};

use super::Stage;
use super::chronicle::SEQS;
use crate::cast::{EPOCH, K, L, claim, client_signer, cluster, id, replica_signer};
use crate::pick::Pick;

const SLOT_STATUS: [SlotStatus; 4] =
    [SlotStatus::Empty, SlotStatus::Accepted, SlotStatus::Prepared, SlotStatus::Committed];
/// View-changes that are remembered for a new view.
const CHANGES_MAX: usize = 32;

impl<S: Service + Clone> Stage<'_, S> {
    /// A view near the present one; of the liar any.
    fn some_view(&self, pick: &mut Pick<'_>, liar: bool) -> View {
        let now = self.view().0;
        match pick.byte() % 8 {
            0..=4 => View(now),
            5 => View(now + 1 + pick.below(2)),
            6 => View(now.saturating_sub(1)),
            _ if liar => View(pick.number(8)),
            _ => View(pick.below(now + 3)),
        }
    }

    /// A number between the watermarks or near them; of the liar any.
    fn some_seq(&self, pick: &mut Pick<'_>, liar: bool) -> Seq {
        let status = self.node.status();
        match pick.byte() % 8 {
            0..=3 => Seq(status.last_executed + 1 + pick.below(2)),
            4..=6 => Seq(status.last_stable + pick.below(L + 2)),
            _ if liar => Seq(pick.number(2 * SEQS)),
            _ => Seq(pick.below(2 * SEQS)),
        }
    }

    /// The batch that the replica knows for a number, or that correct replicas would order there,
    /// or another.
    pub(super) fn batch(&self, pick: &mut Pick<'_>, seq: Seq) -> Batch {
        let known = self.node.batches.get(&seq).cloned();
        let usual = known.unwrap_or_else(|| self.chronicle.batch(seq));
        match pick.byte() % 16 {
            0..=12 => usual,
            13 => Batch::null(),
            14 => self.chronicle.batch(Seq(pick.below(SEQS + 1))),
            _ => self.odd_batch(pick, usual),
        }
    }

    fn odd_batch(&self, pick: &mut Pick<'_>, mut batch: Batch) -> Batch {
        match pick.byte() % 4 {
            0 => batch.time = Wall(EPOCH.wrapping_add(pick.number(1 << 33))),
            1 => batch.requests.extend(batch.requests.clone()),
            2 => batch.requests.push(self.request(pick, 1).digest(&id())),
            _ => batch.requests = vec![Digest::of(&[pick.byte()]); pick.index(300)],
        }
        batch
    }

    fn digest(&self, pick: &mut Pick<'_>, seq: Seq) -> Digest {
        match pick.byte() % 16 {
            0..=12 => self.batch(pick, seq).digest(&id()),
            13 => self.request(pick, 1).digest(&id()),
            14 => {
                let at = pick.index(self.chronicle.blocks.len());
                self.chronicle.blocks.keys().nth(at).copied().unwrap_or(Digest::ZERO)
            }
            _ => Digest::ZERO,
        }
    }

    fn vote(&self, pick: &mut Pick<'_>, liar: bool) -> Vote {
        let (view, seq) = (self.some_view(pick, liar), self.some_seq(pick, liar));
        Vote { view, seq, digest: self.digest(pick, seq) }
    }

    /// A request of the history, or one of `client`'s making.
    fn request(&self, pick: &mut Pick<'_>, client: u32) -> Request {
        let at = pick.index(self.chronicle.requests.len());
        let usual = self.chronicle.requests.values().nth(at);
        if let Some(request) = usual.filter(|_| !pick.rarely(4)) {
            return request.clone();
        }
        let (session, slot) = (SessionId(pick.below(4)), SlotIndex(u16::from(pick.byte() % 3)));
        let body = match pick.byte() % 4 {
            0 => Body::Open(pick.below(40)),
            1 => Body::Close(session, slot, pick.number(4)),
            _ => Body::Operation(session, slot, pick.number(4), pick.bytes(40).into()),
        };
        let replier = ReplicaId(u32::from(pick.byte() % 6));
        let signature = Signature::NONE;
        let mut request = Request { client: ClientId(client), body, signature, replier };
        if !pick.rarely(8) {
            request.signature = client_signer(client).sign(&request.digest(&id()));
        }
        request
    }

    /// Something that a client says.
    pub(super) fn client_message(&self, pick: &mut Pick<'_>, from: u32) -> Message {
        let (session, number) = (SessionId(pick.below(4)), pick.number(4));
        match pick.byte() % 8 {
            0..=4 => Message::Request(self.request(pick, from)),
            5..=6 => {
                let replier = ReplicaId(u32::from(pick.byte() % 6));
                let operation = pick.bytes(16).into();
                Message::Read(Read { session, number, operation, replier })
            }
            _ => Message::Ask(match pick.byte() % 3 {
                0 => Tag::Open(number),
                1 => Tag::Ordered(session, SlotIndex(0), number),
                _ => Tag::Read(session, number),
            }),
        }
    }

    /// Something that a replica says.
    pub(super) fn replica_message(&mut self, pick: &mut Pick<'_>, from: u32) -> Message {
        let liar = from == self.liar;
        match pick.byte() % 16 {
            0..=1 => {
                let (view, seq) = (self.some_view(pick, liar), self.some_seq(pick, liar));
                Message::PrePrepare(PrePrepare { view, seq, batch: self.batch(pick, seq) })
            }
            2..=3 => Message::Prepare(self.vote(pick, liar)),
            4..=5 => Message::Commit(self.vote(pick, liar)),
            6 => Message::Checkpoint(self.some_claim(pick, from)),
            7 => {
                let view = self.some_view(pick, liar);
                Message::ViewChange(self.change(pick, from, view))
            }
            8 => {
                let view = self.some_view(pick, liar);
                Message::NewView(self.new_view(pick, view))
            }
            9 => self.some_status(pick, liar),
            10 => {
                let decided = |_| {
                    let seq = self.some_seq(pick, liar);
                    (seq, self.digest(pick, seq))
                };
                Message::Decided(Decided { batches: (0..3).map(decided).collect() })
            }
            11 => {
                let count = if pick.rarely(16) { 256 } else { pick.below(4) };
                Message::Fetch((0..count).map(|_| self.some_fetch(pick)).collect())
            }
            12..=14 => {
                let what = self.some_fetch(pick);
                let data = self.data_for(pick, &what);
                Message::Data(data.unwrap_or(Data::Batch(Batch::null())))
            }
            _ => codec::decode(&pick.bytes(64)).unwrap_or(Message::Fetch(Vec::new())),
        }
    }

    fn some_status(&self, pick: &mut Pick<'_>, liar: bool) -> Message {
        let (view, active, suspects) = (self.some_view(pick, liar), pick.flip(), pick.flip());
        let (stable, executed) = (self.some_seq(pick, liar), self.some_seq(pick, liar));
        let count = if pick.rarely(16) { 256 } else { pick.below(L) };
        let slots = (0..count).map(|_| SLOT_STATUS[pick.index(4)]).collect();
        let awaits = pick.flip().then(|| self.some_seq(pick, liar));
        Message::Status(Status { view, active, suspects, awaits, stable, executed, slots })
    }

    fn some_fetch(&self, pick: &mut Pick<'_>) -> Fetch {
        if let Some(asked) = pick.one(&self.node.asked).copied().filter(|_| pick.flip()) {
            return asked;
        }
        let seq = self.some_seq(pick, true);
        match pick.byte() % 4 {
            0 => Fetch::Request(self.request(pick, 1).digest(&id())),
            1 => Fetch::Batch(self.digest(pick, seq)),
            2 => Fetch::Stable(seq),
            _ => Fetch::Block(self.digest(pick, seq)),
        }
    }

    /// A checkpoint that correct replicas have: this one's own, or the history's.
    pub(super) fn root(&self, pick: &mut Pick<'_>) -> Option<StateRoot> {
        let seq = Seq(K * (self.node.status().last_stable / K + 1 + pick.below(2)));
        self.root_at(seq)
    }

    fn root_at(&self, seq: Seq) -> Option<StateRoot> {
        self.node.roots.get(&seq).or_else(|| self.chronicle.roots.get(&seq)).copied()
    }

    fn some_claim(&self, pick: &mut Pick<'_>, by: u32) -> Checkpoint {
        let (liar, root) = (by == self.liar, self.root(pick));
        let seq = if pick.rarely(4) { self.some_seq(pick, liar) } else { Seq(K) };
        let mut claimed = match root.filter(|_| !(liar && pick.flip())) {
            Some(root) => claim(by, root.seq, root.digest(&id())),
            None if liar => claim(by, seq, self.digest(pick, seq)),
            None => claim(by, Seq(K), Digest::ZERO),
        };
        if pick.rarely(16) {
            claimed.replica = ReplicaId(self.n);
        }
        claimed
    }

    /// q claims for a state that is, or nearly so.
    fn certificate(&self, pick: &mut Pick<'_>, root: &StateRoot) -> Vec<Checkpoint> {
        let (quorum, state) = (cluster(self.n).quorum(), root.digest(&id()));
        let first = u32::from(pick.byte());
        let by = (0..u32::try_from(quorum).unwrap_or(0)).map(|at| (first + at) % self.n);
        let mut claims: Vec<_> = by.map(|by| claim(by, root.seq, state)).collect();
        match pick.byte() % 32 {
            0 => claims.truncate(quorum - 1),
            1 => claims.extend(claims.clone()),
            2 => claims[0].seq.0 ^= K,
            3 => claims[0].signature = Signature::NONE,
            _ => {}
        }
        claims
    }

    /// What a replica would send that is asked for this.
    pub(super) fn data_for(&self, pick: &mut Pick<'_>, what: &Fetch) -> Option<Data> {
        let bad = pick.rarely(16);
        match what {
            Fetch::Request(digest) => {
                let request = self.chronicle.requests.get(digest).cloned();
                Some(Data::Request(request.unwrap_or_else(|| self.request(pick, 1))))
            }
            Fetch::Batch(digest) => {
                let all = self.node.batches.values().chain(&self.chronicle.batches);
                all.into_iter().find(|b| b.digest(&id()) == *digest).cloned().map(Data::Batch)
            }
            Fetch::Stable(seq) => {
                let seqs = (0..4).map(|more| Seq(seq.0.saturating_add(K * more) / K * K));
                let root =
                    seqs.filter_map(|seq| self.root_at(seq)).find(|root| root.seq >= *seq)?;
                let mut certificate = self.certificate(pick, &root);
                if bad {
                    certificate.pop();
                }
                Some(Data::Stable(certificate, root))
            }
            Fetch::Block(digest) => {
                let mut bytes = self.chronicle.blocks.get(digest)?.to_vec();
                if bad {
                    bytes[0] ^= 1;
                }
                Some(Data::Block(*digest, bytes.into()))
            }
        }
    }

    /// What `by` stands by on its way to `view`: some of what it may have promised.
    pub(super) fn change(&mut self, pick: &mut Pick<'_>, by: u32, view: View) -> ViewChange {
        let stable = match pick.byte() % 4 {
            0 => self.root(pick),
            _ => self.root_at(Seq(self.node.status().last_stable)),
        };
        let certificate = stable.map(|root| self.certificate(pick, &root)).unwrap_or_default();
        let stable = stable.map_or(Seq(0), |root| root.seq);
        let (mut prepared, mut accepted) = (Vec::new(), Vec::new());
        for above in 1..=pick.below(L) {
            let seq = Seq(stable.0 + above);
            let earlier = View(view.0.saturating_sub(1 + pick.below(2)));
            let vote = Vote { view: earlier, seq, digest: self.digest(pick, seq) };
            let what = pick.byte();
            prepared.extend((what & 1 != 0).then_some(vote));
            accepted.extend((what & 6 != 0).then_some(vote));
            if what & 24 == 24 {
                accepted.push(Vote { digest: self.digest(pick, seq), ..vote });
            }
        }
        accepted.sort_unstable_by_key(|vote| (vote.seq, vote.digest));
        accepted.dedup_by_key(|vote| (vote.seq, vote.digest));
        if by == self.liar && pick.rarely(4) {
            let vote = self.vote(pick, true);
            prepared.insert(pick.index(prepared.len() + 1), vote);
            accepted.push(vote);
        }
        let (replica, signature) = (ReplicaId(by), Signature::NONE);
        let signer = replica_signer(if pick.rarely(32) { self.liar } else { by });
        let change =
            ViewChange { replica, view, stable, certificate, prepared, accepted, signature };
        let change = change.sign(&id(), signer);
        self.changes.retain(|known| known.replica != change.replica || known.view != view);
        self.changes.push(change.clone());
        if self.changes.len() > CHANGES_MAX {
            self.changes.remove(0);
        }
        change
    }

    /// What the primary of `view` makes of the view-changes; of those missing some are made up.
    pub(super) fn new_view(&mut self, pick: &mut Pick<'_>, view: View) -> NewView {
        let own = self.node.change.clone().filter(|change| change.view == view);
        // No correct replica leaves for a view that is far away.
        let near = view.0 <= self.view().0.saturating_add(8);
        if near && (own.is_none() || pick.flip()) {
            let missing: Vec<u32> = self.others().collect();
            for by in missing {
                let known = self.changes.iter().any(|c| (c.replica.0, c.view) == (by, view));
                if !known {
                    self.change(pick, by, view);
                }
            }
        }
        let of_view = self.changes.iter().filter(|change| change.view == view);
        let mut changes: Vec<ViewChange> = of_view.chain(&own).cloned().collect();
        changes.sort_by_key(|change| change.replica);
        if pick.rarely(4) && !changes.is_empty() {
            changes.remove(pick.index(changes.len()));
        }
        let choice = choose(cluster(self.n), &changes);
        let (mut stable, mut chosen) =
            choice.map_or((Seq(0), Vec::new()), |choice| (choice.stable, choice.chosen));
        match pick.byte() % 16 {
            0 => chosen.push(self.digest(pick, stable)),
            1 => chosen.truncate(1),
            2 => stable.0 ^= K,
            3 => changes.extend(changes.clone()),
            _ => {}
        }
        let primary = cluster(self.n).primary(view).0;
        // It cannot sign in this replica's name.
        let signer = if primary == self.me { self.liar } else { primary };
        NewView { view, changes, stable, chosen, signature: Signature::NONE }
            .sign(&id(), replica_signer(signer))
    }
}
