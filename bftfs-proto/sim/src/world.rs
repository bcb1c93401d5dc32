//! Virtual time, nodes, crashes and restarts: one loop that pops the earliest event.

mod clients;
mod liars;
mod node;
mod order;
mod replicas;
mod trouble;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bftfs_adversary::Adversary;
use bftfs_proto::Digest;
use bftfs_proto::auth::{MAC_BYTES, Signer};
use bftfs_proto::client::Client;
use bftfs_proto::codec;
use bftfs_proto::config::Cluster;
use bftfs_proto::engine::{Input, To};
use bftfs_proto::message::Message;
use bftfs_proto::replica::{Replica, Setup};
use bftfs_proto::types::{ClientId, Mono, Now, Principal, ReplicaId, Seq, Wall};
use bftfs_state_memory::Memory;
use fastrand::Rng;

use crate::cast::{Cast, Choices};
use crate::clock::{Clock, EPOCH};
use crate::faults::{Faulty, MILLI, Plan, Sabotage};
use crate::invariants::{History, Violation};
use crate::memo;
use crate::network::Network;
use crate::rogue::Rogue;
use crate::trace::{Trace, caught};
use crate::workload::Workload;

use node::Node;

/// How long faults go on, in nanoseconds of virtual time.
const FAULTS_NANOS: u64 = 6_000 * MILLI;
/// After how long a frame is tried again on a replica that does not listen, in nanoseconds.
const DEAF_NANOS: u64 = 5 * MILLI;
/// How long a run may take after that until all is done, in nanoseconds of virtual time.
const LIVENESS_NANOS: u64 = 60_000 * MILLI;
/// Steps after which those with damaged values look through their stores again.
const SCRUB_STEPS: u32 = 200;
/// Makes the choice of liars independent of that of faults: a run without them is the same run.
const CAST_SEED: u64 = 0x6361_7374;

/// One mount. Mounts may share a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mount(u32);

/// Something that happens.
#[derive(Debug)]
enum Event {
    Frame {
        from: Principal,
        to: Principal,
        bytes: Vec<u8>,
    },
    Timer(ReplicaId, u64),
    ClientTimer(Mount),
    Synced(ReplicaId, u64),
    Stored(ReplicaId, u64),
    Crash(ReplicaId),
    PowerCut,
    Restart(ReplicaId),
    Trouble(ReplicaId),
    Wipe(ReplicaId),
    Partition,
    Heal,
    /// A Byzantine replica says what nobody asked for.
    Tick(ReplicaId),
    /// A Byzantine replica takes up its next role.
    Turn(ReplicaId),
    /// A Byzantine client asks for something.
    Rogue(usize),
}

impl Event {
    /// For people: a frame as the message in it.
    fn text(&self) -> String {
        let Self::Frame { from, to, bytes } = self else { return format!("{self:?}") };
        let encoded = bytes.get(MAC_BYTES..).unwrap_or_default();
        match codec::decode::<Message>(encoded) {
            Ok(message) => format!("{from:?} → {to:?}: {message:?}"),
            Err(_) => format!("{from:?} → {to:?}: {} bytes that are no message", bytes.len()),
        }
    }
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was violated, if anything.
    pub violation: Option<Violation>,
    /// A digest over every event: equal for equal seeds.
    pub trace: Digest,
    /// The last events before the violation.
    pub last_events: Vec<String>,
    /// Who lied.
    pub cast: Cast,
    /// Events.
    pub events: u64,
    /// Virtual time, in nanoseconds.
    pub nanos: u64,
    /// Operations completed.
    pub completed: u64,
    /// Crashes of replicas.
    pub crashes: u64,
    /// Troubles of replicas with disks and clocks.
    pub troubles: u64,
    /// Stops of replicas whose disks were full.
    pub stops: u64,
    /// Replicas that did not start with what was on their disks.
    pub damaged: u64,
    /// Those of them that were brought back without it.
    pub wiped: u64,
    /// Damaged blocks that others made good.
    pub mended: u64,
    /// State transfers completed, stable checkpoints and fast reads, to see that runs reach them.
    pub transfers: u64,
    /// The highest stable checkpoint.
    pub stable: u64,
    /// Reads that needed no ordering.
    pub fast_reads: u64,
    /// Frames of Byzantine senders that were refused for their form.
    pub refused: u64,
    /// The highest view of a correct replica.
    pub view: u64,
}

/// One run.
#[derive(Debug)]
pub struct World<W: Workload> {
    rng: Rng,
    plan: Plan,
    cast: Cast,
    rough: bool,
    cluster: Cluster,
    network: Network,
    now: u64,
    counter: u64,
    events: BTreeMap<(u64, u64), Event>,
    nodes: Vec<Node<W::Service>>,
    liars: BTreeMap<ReplicaId, Adversary>,
    rogues: Vec<Rogue>,
    clients: BTreeMap<Mount, (Client, Option<u64>)>,
    workload: W,
    asked: BTreeMap<Mount, u64>,
    outstanding: BTreeMap<u64, Mount>,
    history: History,
    trace: blake3::Hasher,
    last_events: Trace<Event>,
    steps: u64,
    crashes: u64,
    troubles: u64,
    stops: u64,
    damaged: u64,
    wiped: u64,
    transfers: u64,
    refused: u64,
}

/// The key of a member of the cluster.
fn signer(kind: u8, index: u32) -> Signer {
    let mut seed = [kind; 32];
    seed[..4].copy_from_slice(&index.to_le_bytes());
    Signer::from_seed(&seed)
}

/// The cluster of a run, named by its seed. Clients after the plan's are the Byzantine ones.
fn cluster_of(seed: u64, plan: &Plan, cast: &Cast) -> Cluster {
    let n = u32::try_from(plan.replicas).unwrap_or(1);
    let keys = (0..n).map(|i| signer(0, i).public()).collect();
    let clients = (1..=plan.clients + cast.rogues).map(|i| (ClientId(i), signer(1, i).public()));
    let mut cluster = Cluster::new(Digest::of(&seed.to_le_bytes()), keys, clients.collect());
    cluster.checkpoint_interval = plan.checkpoint_interval;
    cluster.window = 2 * plan.checkpoint_interval;
    // In some runs whoever is cut off for a while loses its session.
    if seed.is_multiple_of(4) {
        cluster.session_nanos = 2_000_000_000;
    }
    memo::forget();
    cluster.verify = memo::verify;
    cluster
}

impl<W: Workload> World<W> {
    /// The world of `seed`, but for what is chosen otherwise.
    #[must_use]
    pub fn new(seed: u64, choices: &Choices, workload: W) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut plan = Plan::of(&mut rng, choices.replicas);
        plan.sabotage = choices.sabotage;
        let mut cast_rng = Rng::with_seed(seed ^ CAST_SEED);
        let cast = Cast::of(&mut cast_rng, plan.replicas, choices);
        let cluster = cluster_of(seed, &plan, &cast);
        let nodes = cluster.ids().map(|me| {
            let (signer, source) = (signer(0, me.0), Memory::new());
            let setup = Setup { cluster: cluster.clone(), me, signer, source: source.clone() };
            let clock = match cast.faulty.get(&me) {
                Some(Faulty::Clock) => Clock::wild(&mut rng),
                Some(Faulty::Disk | Faulty::Memory) | None => Clock::tame(&mut rng, plan.skew),
            };
            Node::new(setup, source, workload.service(), clock, choices.fault)
        });
        let nodes = nodes.collect();
        let now = Now { mono: Mono(0), wall: Wall(EPOCH) };
        let mut known = cluster.clone();
        if plan.sabotage == Some(Sabotage::SmallReadQuorum) {
            known.replicas.pop();
        }
        let mounts = (0..plan.clients * plan.mounts).map(|i| {
            let id = ClientId(1 + i % plan.clients);
            let client = Client::new(known.clone(), id, signer(1, id.0), rng.u64(..), now);
            (Mount(i), (client, None))
        });
        let clients = mounts.collect();
        let rogues = (1..=cast.rogues).map(|i| {
            let id = ClientId(plan.clients + i);
            Rogue::new(cluster.clone(), id, signer(1, id.0), now, cast_rng.u64(..))
        });
        let secret = Digest::of(b"links").0;
        let incorrect = cluster.ids().filter(|id| !cast.is_correct(*id)).count();
        Self {
            rogues: rogues.collect(),
            history: History::new(&cluster, incorrect),
            network: Network::new(cluster.id, secret),
            now: 0,
            counter: 0,
            events: BTreeMap::new(),
            nodes,
            liars: BTreeMap::new(),
            clients,
            workload,
            asked: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            trace: blake3::Hasher::new(),
            last_events: Trace::default(),
            steps: 0,
            crashes: 0,
            troubles: 0,
            stops: 0,
            damaged: 0,
            wiped: 0,
            transfers: 0,
            refused: 0,
            rough: true,
            cluster,
            rng,
            plan,
            cast,
        }
    }

    /// Runs to the end: first with faults, then until everything pending is done and all correct
    /// replicas are equal. Byzantine replicas and clients go on lying throughout.
    pub fn run(mut self) -> Report {
        let ended = catch_unwind(AssertUnwindSafe(|| self.run_to_end()));
        let violation = match ended {
            Ok(ended) => ended.err(),
            Err(panic) => Some(caught(&panic)),
        };
        let fast = self.clients.values().map(|(client, _)| client.stats().reads).sum();
        let stable = self.nodes.iter().filter_map(Node::stable).max().unwrap_or(0);
        let asked: u64 = self.asked.values().sum();
        let correct = self.correct().filter_map(|id| self.node(id).replica());
        Report {
            last_events: match violation {
                Some(_) => self.last_events.lines(Event::text),
                None => Vec::new(),
            },
            violation,
            trace: Digest(*self.trace.finalize().as_bytes()),
            events: self.steps,
            nanos: self.now,
            completed: asked - self.outstanding.len() as u64,
            crashes: self.crashes,
            troubles: self.troubles,
            stops: self.stops,
            damaged: self.damaged,
            wiped: self.wiped,
            mended: self.nodes.iter().map(|node| node.disk().mended()).sum(),
            transfers: self.transfers,
            stable,
            fast_reads: fast,
            refused: self.refused,
            view: correct.map(|replica| replica.status().view).max().unwrap_or(0),
            cast: self.cast,
        }
    }

    fn run_to_end(&mut self) -> Result<(), Violation> {
        self.begin()?;
        while self.now < FAULTS_NANOS && !self.finished() {
            self.step()?;
        }
        self.calm_down()?;
        let bound = self.now + LIVENESS_NANOS;
        while !self.finished() {
            self.step_before(bound)?;
        }
        // Liars may keep the others going with nothing: all are to get where the first has been.
        let executed = self.correct().filter_map(|id| self.node(id).replica());
        let goal = executed.map(Replica::executed).max().unwrap_or_default();
        let goal = goal.max(self.history.last());
        while !self.converged(goal) {
            self.step_before(bound)?;
        }
        while !self.correct().all(|id| self.node(id).rotten().is_empty()) {
            self.scrub()?;
            for _ in 0..SCRUB_STEPS {
                self.step_before(bound)?;
            }
        }
        self.judge_states()?;
        let mut replicas = self.correct().filter_map(|id| self.node(id).replica());
        let Some(witness) = replicas.find(|replica| replica.executed() >= goal) else {
            return Err("I13: nobody is up".into());
        };
        self.workload.judge(&self.order(witness.executed())?, witness.tree())
    }

    fn begin(&mut self) -> Result<(), Violation> {
        self.cast_liars();
        for id in self.cluster.ids() {
            self.start(id)?;
            self.schedule_crash(id);
            self.schedule_trouble(id);
        }
        if self.plan.partition_mean > 0 {
            self.after(self.plan.partition_mean, Event::Partition);
        }
        if self.plan.power_cuts && self.plan.crash_mean > 0 {
            let at = self.rng.u64(0..FAULTS_NANOS);
            self.after(at, Event::PowerCut);
        }
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            self.drain_client(id)?;
            self.feed(id)?;
        }
        Ok(())
    }

    /// Ends the faults: links are whole, everybody is up.
    fn calm_down(&mut self) -> Result<(), Violation> {
        self.rough = false;
        self.plan = self.plan.calm();
        self.network.heal();
        self.make_room();
        for id in self.cluster.ids() {
            if self.node(id).is_down() {
                self.start(id)?;
            }
        }
        Ok(())
    }

    fn finished(&self) -> bool {
        let all = |id: &Mount| self.asked.get(id).copied().unwrap_or(0) >= self.plan.operations;
        self.outstanding.is_empty() && self.clients.keys().all(all)
    }

    /// Whether all correct replicas have executed as far as `goal`, for good; but for those whose
    /// disks are damaged.
    fn converged(&self, goal: Seq) -> bool {
        let mut nodes = self.correct().map(|id| self.node(id)).filter(|node| !node.is_damaged());
        nodes.all(|node| node.executed().is_some_and(|executed| executed >= goal))
    }

    fn step_before(&mut self, bound: u64) -> Result<(), Violation> {
        if self.now > bound { Err(self.stuck()) } else { self.step() }
    }

    /// I13 (liveness): what was pending when the faults stopped is not done.
    fn stuck(&self) -> Violation {
        let replicas: Vec<String> = self.correct().map(|id| self.node(id).describe()).collect();
        let waiting = self.outstanding.len();
        format!("I13: {waiting} operations are not done, or replicas differ: {replicas:?}")
    }

    fn step(&mut self) -> Result<(), Violation> {
        let Some(((at, _), event)) = self.events.pop_first() else {
            return Err("I13: nothing is left to happen".into());
        };
        self.now = at;
        self.steps += 1;
        self.trace.update(&at.to_le_bytes());
        if let Event::Frame { bytes, .. } = &event {
            // The MAC stands for the message.
            self.trace.update(bytes.get(..MAC_BYTES).unwrap_or(bytes));
        } else {
            self.trace.update(format!("{event:?}").as_bytes());
        }
        let happened = self.happen(&event);
        self.last_events.note(at, event);
        happened
    }

    fn happen(&mut self, event: &Event) -> Result<(), Violation> {
        match *event {
            Event::Frame { from, to, ref bytes } if self.is_deaf(to) => {
                self.after(DEAF_NANOS, Event::Frame { from, to, bytes: bytes.clone() });
            }
            Event::Frame { from, to, ref bytes } => return self.deliver(from, to, bytes),
            Event::Timer(id, life) => {
                let now = self.now;
                let due = self.node_mut(id).on_timer(life, now);
                return if due { self.input(id, Input::Timeout) } else { Ok(()) };
            }
            Event::ClientTimer(id) => return self.on_client_timer(id),
            Event::Synced(id, life) | Event::Stored(id, life) if self.stops_for_room(id, life) => {}
            Event::Synced(id, life) => return self.on_synced(id, life),
            Event::Stored(id, life) => return self.on_stored(id, life),
            Event::Crash(id) => self.crash(id),
            Event::PowerCut => self.cluster.ids().for_each(|id| self.crash(id)),
            Event::Restart(id) if self.node(id).is_down() => return self.start(id),
            Event::Restart(_) => {}
            Event::Trouble(id) => return self.trouble(id),
            Event::Wipe(id) => return self.wipe(id),
            Event::Partition => self.partition(),
            Event::Heal => self.network.heal(),
            Event::Tick(id) => self.tick_liar(id),
            Event::Turn(id) => self.turn_liar(id),
            Event::Rogue(index) => self.tick_rogue(index),
        }
        Ok(())
    }

    fn is_deaf(&self, to: Principal) -> bool {
        let Principal::Replica(id) = to else { return false };
        self.nodes.get(id.0 as usize).is_some_and(Node::is_deaf)
    }

    fn partition(&mut self) {
        if self.rough {
            self.network.partition(&mut self.rng, self.plan.replicas);
            let lasts = self.rng.u64(0..=self.plan.partition_mean);
            self.after(lasts, Event::Heal);
            self.after(lasts + self.plan.partition_mean, Event::Partition);
        }
    }

    fn send(&mut self, from: Principal, to: To, message: &Message) {
        let encoded = message.encode();
        let receivers = match to {
            To::One(one) => vec![one],
            To::Replicas => self.cluster.ids().map(Principal::Replica).collect(),
        };
        for to in receivers.into_iter().filter(|to| *to != from) {
            let frame = self.network.key(from, to).seal(&encoded);
            self.put_on_link(from, to, 0, &frame);
        }
    }

    fn put_on_link(&mut self, from: Principal, to: Principal, later: u64, frame: &[u8]) {
        for delay in self.network.fate(&mut self.rng, &self.plan, from, to) {
            self.after(later + delay, Event::Frame { from, to, bytes: frame.to_vec() });
        }
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.counter += 1;
        self.events.insert((self.now + delay, self.counter), event);
    }

    fn clock(&self, id: ReplicaId) -> Now {
        Now { mono: Mono(self.now), wall: self.node(id).wall(self.now) }
    }

    /// The replicas that are not Byzantine.
    fn correct(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.cluster.ids().filter(|id| self.is_correct(*id))
    }

    fn is_correct(&self, id: ReplicaId) -> bool {
        self.cast.is_correct(id)
    }

    fn node(&self, id: ReplicaId) -> &Node<W::Service> {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: ReplicaId) -> &mut Node<W::Service> {
        &mut self.nodes[id.0 as usize]
    }
}
