//! A real replica on a stage where everybody else may say anything.
//!
//! The others hold their own keys only. One of them, the liar, says whatever fits a message; the
//! rest may equivocate too, but name only views, numbers and states that exist. So more than f are
//! faulty as a rule, and still the replica must not panic, break its own word, or say what its
//! disk does not hold ([`node`]).

mod chronicle;
mod node;
mod speech;

use bftfs_proto::engine::Input;
use bftfs_proto::message::{Message, NewView, Status, ViewChange, Vote};
use bftfs_proto::replica::Setup;
use bftfs_proto::service::Service;
use bftfs_proto::types::{ClientId, Principal, ReplicaId, Seq, View};
use bftfs_state_memory::Memory;

use crate::cast::{K, claim, client, client_signer, cluster, deliver, id, replica, replica_signer};
use crate::pick::Pick;
use chronicle::{APPENDS_CHRONICLE, Appends, Chronicle, FILES_CHRONICLE, files};
use node::Node;

/// Longer than the pause that replicas ask of each other between two view-changes.
const PAUSE_NANOS: u64 = 60_000_000;
/// Steps of one run.
const STEPS_MAX: usize = 400;

/// Who is there.
struct Stage<'a, S> {
    node: Node<S>,
    chronicle: &'a Chronicle,
    n: u32,
    me: u32,
    liar: u32,
    /// The latest view-changes that the others signed.
    changes: Vec<ViewChange>,
    /// Every input is followed by a write to the disk.
    eager: bool,
}

/// Inputs of every kind in any order.
pub fn run(data: &[u8]) {
    let mut pick = Pick::new(data);
    let n = [4, 4, 4, 5, 7, 1][pick.index(6)];
    let me = u32::try_from(pick.below(u64::from(n))).unwrap_or(0);
    if pick.flip() {
        play(Appends, &APPENDS_CHRONICLE, (n, me), &mut pick);
    } else {
        play(files(), &FILES_CHRONICLE, (n, me), &mut pick);
    }
}

fn play<S: Service + Clone>(
    service: S,
    chronicle: &Chronicle,
    (n, me): (u32, u32),
    pick: &mut Pick<'_>,
) {
    let setup = Setup {
        cluster: cluster(n).clone(),
        me: ReplicaId(me),
        signer: replica_signer(me).clone(),
        source: Memory::new(),
    };
    let node = Node::new(setup, service);
    let liar = (me + 1 + u32::from(pick.byte()) % (n - 1).max(1)) % n;
    let mut stage = Stage { node, chronicle, n, me, liar, changes: Vec::new(), eager: true };
    for _ in 0..STEPS_MAX {
        if pick.is_empty() {
            break;
        }
        stage.step(pick);
        if stage.eager {
            stage.node.sync();
        }
    }
    stage.node.end();
}

impl<S: Service + Clone> Stage<'_, S> {
    fn step(&mut self, pick: &mut Pick<'_>) {
        match pick.byte() % 41 {
            0..=11 => self.anybody(pick),
            12..=17 => self.order(pick),
            18..=19 => self.claim(pick),
            20..=21 => self.answer(pick),
            22..=23 => self.leave(pick),
            24..=25 => self.begin(pick),
            26 => self.suspect(pick),
            27..=29 => self.node.tick(),
            30 => self.node.mono += pick.below(1 << 35),
            31 => self.node.wall = self.node.wall.wrapping_add(pick.number(1 << 33)),
            32..=33 => self.node.store(),
            34 => self.node.sync(),
            35 => self.eager = pick.flip(),
            36 => self.node.crash(pick.index(8)),
            37 => {
                let id = u32::from(pick.byte() % 5);
                self.node.input(Input::Client(ClientId(id), client_signer(id).public()));
            }
            38 => self.node.damage(pick),
            _ => self.ask(pick),
        }
    }

    /// The other replicas.
    fn others(&self) -> impl Iterator<Item = u32> + use<S> {
        let me = self.me;
        (0..self.n).filter(move |id| *id != me)
    }

    fn other(&self, pick: &mut Pick<'_>) -> u32 {
        let others: Vec<u32> = self.others().collect();
        pick.one(&others).copied().unwrap_or(self.me)
    }

    fn view(&self) -> View {
        View(self.node.status().view)
    }

    /// The message arrives with its sender's MAC, unless its shape is refused.
    fn hear(&mut self, from: Principal, message: &Message) {
        if let Ok(verified) = deliver(from, self.node.me(), message) {
            self.node.input(Input::Message(from, verified));
        }
    }

    fn hear_replica(&mut self, from: u32, message: &Message) {
        self.hear(replica(from), message);
    }

    /// One message of anybody, also of strangers.
    fn anybody(&mut self, pick: &mut Pick<'_>) {
        if pick.rarely(4) {
            let from = u32::from(pick.byte() % 4);
            let message = self.client_message(pick, from);
            self.hear(client(from), &message);
        } else {
            let from = if pick.rarely(32) { self.n } else { self.other(pick) };
            let message = self.replica_message(pick, from);
            self.hear_replica(from, &message);
        }
    }

    /// Clients ask for what the next batches hold.
    fn ask(&mut self, pick: &mut Pick<'_>) {
        let seq = Seq(self.node.status().last_executed + 1 + pick.below(3));
        self.bodies(seq);
    }

    fn bodies(&mut self, seq: Seq) {
        for digest in self.chronicle.batch(seq).requests {
            if let Some(request) = self.chronicle.requests.get(&digest).cloned() {
                self.hear(Principal::Client(request.client), &Message::Request(request));
            }
        }
    }

    /// Some batches go through all phases, with everybody's votes or most.
    fn order(&mut self, pick: &mut Pick<'_>) {
        for _ in 0..1 + pick.below(K) {
            let (view, seq) = (self.view(), Seq(self.node.status().last_executed + 1));
            let silent = if pick.rarely(8) { self.other(pick) } else { self.n };
            if !pick.rarely(16) {
                self.bodies(seq);
            }
            let batch = self.batch(pick, seq);
            let vote = Vote { view, seq, digest: batch.digest(&id()) };
            let primary = cluster(self.n).primary(view).0;
            let said = bftfs_proto::message::PrePrepare { view, seq, batch };
            if primary != self.me {
                self.hear_replica(primary, &Message::PrePrepare(said));
            }
            for message in [Message::Prepare(vote), Message::Commit(vote)] {
                for from in self.others().filter(|from| *from != silent) {
                    self.hear_replica(from, &message);
                }
            }
        }
    }

    /// The others sign for a checkpoint: this replica's own if it has one.
    fn claim(&mut self, pick: &mut Pick<'_>) {
        let Some(root) = self.root(pick) else { return };
        for from in self.others() {
            let said = claim(from, root.seq, root.digest(&id()));
            self.hear_replica(from, &Message::Checkpoint(said));
        }
    }

    /// What was asked for comes, as a rule as it should be.
    fn answer(&mut self, pick: &mut Pick<'_>) {
        for what in std::mem::take(&mut self.node.asked) {
            let from = self.other(pick);
            if let Some(data) = self.data_for(pick, &what) {
                self.hear_replica(from, &Message::Data(data));
            }
        }
    }

    /// Most others leave for a view and say what they stand by.
    fn leave(&mut self, pick: &mut Pick<'_>) {
        let view = View(self.view().0 + pick.below(3));
        self.node.mono += PAUSE_NANOS;
        for from in self.others() {
            if !pick.rarely(6) {
                let change = self.change(pick, from, view);
                self.hear_replica(from, &Message::ViewChange(change));
            }
        }
    }

    /// The primary of a view begins it, with what was signed and what this replica said itself.
    fn begin(&mut self, pick: &mut Pick<'_>) {
        let view = self.changes.last().map_or_else(|| self.view(), |change| change.view);
        self.node.mono += PAUSE_NANOS;
        let new_view: NewView = self.new_view(pick, view);
        let primary = cluster(self.n).primary(view).0;
        let from = if pick.rarely(4) { self.other(pick) } else { primary };
        self.hear_replica(from, &Message::NewView(new_view));
    }

    /// All others have waited in vain.
    fn suspect(&mut self, pick: &mut Pick<'_>) {
        let status = self.node.status();
        let (stable, executed) = (Seq(status.last_stable), Seq(status.last_executed));
        let (view, active, suspects) = (self.view(), !pick.rarely(4), !pick.rarely(4));
        let (awaits, slots) = (None, Vec::new());
        let said =
            Message::Status(Status { view, active, suspects, awaits, stable, executed, slots });
        self.others().for_each(|from| self.hear_replica(from, &said));
    }
}
