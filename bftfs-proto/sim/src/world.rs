//! Virtual time, nodes, crashes and restarts: one loop that pops the earliest event.

mod node;

use std::collections::BTreeMap;

use bftfs_proto::Digest;
use bftfs_proto::auth::{Signer, verify};
use bftfs_proto::client::{Client, ClientInput, ClientOutput};
use bftfs_proto::config::Cluster;
use bftfs_proto::engine::{Input, Release, To};
use bftfs_proto::message::{Data, Message};
use bftfs_proto::replica::{Replica, Setup};
use bftfs_proto::types::{ClientId, Mono, Now, Principal, ReplicaId, Seq, View, Wall};
use fastrand::Rng;

use crate::faults::{MILLI, Plan, Sabotage};
use crate::invariants::{History, Violation};
use crate::network::Network;
use crate::workload::Workload;

use node::{Deed, Node};

/// When the world begins, in nanoseconds since the epoch.
const EPOCH: u64 = 1_800_000_000_000_000_000;
/// How long faults go on, in nanoseconds of virtual time.
const FAULTS_NANOS: u64 = 6_000 * MILLI;
/// How long a run may take after that until all is done, in nanoseconds of virtual time.
const LIVENESS_NANOS: u64 = 60_000 * MILLI;

/// One mount. Mounts may share a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mount(u32);

/// Something that happens.
#[derive(Debug)]
enum Event {
    Frame { from: Principal, to: Principal, bytes: Vec<u8> },
    Timer(ReplicaId, u64),
    ClientTimer(Mount),
    Synced(ReplicaId, u64),
    Stored(ReplicaId, u64),
    Crash(ReplicaId),
    PowerCut,
    Restart(ReplicaId),
    Partition,
    Heal,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was violated, if anything.
    pub violation: Option<Violation>,
    /// A digest over every event: equal for equal seeds.
    pub trace: Digest,
    /// Events.
    pub events: u64,
    /// Virtual time, in nanoseconds.
    pub nanos: u64,
    /// Operations completed.
    pub completed: u64,
    /// Crashes of replicas.
    pub crashes: u64,
    /// State transfers completed, stable checkpoints and fast reads, to see that runs reach them.
    pub transfers: u64,
    /// The highest stable checkpoint.
    pub stable: u64,
    /// Reads that needed no ordering.
    pub fast_reads: u64,
}

/// One run.
#[derive(Debug)]
pub struct World<W: Workload> {
    rng: Rng,
    plan: Plan,
    rough: bool,
    cluster: Cluster,
    network: Network,
    now: u64,
    counter: u64,
    events: BTreeMap<(u64, u64), Event>,
    nodes: Vec<Node<W::Service>>,
    clients: BTreeMap<Mount, (Client, Option<u64>)>,
    workload: W,
    asked: BTreeMap<Mount, u64>,
    outstanding: BTreeMap<u64, Mount>,
    history: History,
    trace: blake3::Hasher,
    steps: u64,
    crashes: u64,
    transfers: u64,
}

impl<W: Workload> World<W> {
    /// The world of `seed`.
    #[must_use]
    pub fn new(seed: u64, replicas: Option<usize>, workload: W) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::of(&mut rng, replicas);
        Self::with_plan(seed, rng, plan, workload)
    }

    /// The world of `seed` with a rule broken on purpose.
    #[must_use]
    pub fn sabotaged(seed: u64, replicas: Option<usize>, workload: W, sabotage: Sabotage) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan { sabotage: Some(sabotage), ..Plan::of(&mut rng, replicas) };
        Self::with_plan(seed, rng, plan, workload)
    }

    fn with_plan(seed: u64, mut rng: Rng, plan: Plan, workload: W) -> Self {
        let signer = |kind: u8, index: u32| {
            let mut seed = [kind; 32];
            seed[..4].copy_from_slice(&index.to_le_bytes());
            Signer::from_seed(&seed)
        };
        let n = u32::try_from(plan.replicas).unwrap_or(1);
        let id = Digest::of(&seed.to_le_bytes());
        let keys = (0..n).map(|i| signer(0, i).public()).collect();
        let clients = (1..=plan.clients).map(|i| (ClientId(i), signer(1, i).public()));
        let mut cluster = Cluster::new(id, keys, clients.collect());
        cluster.checkpoint_interval = plan.checkpoint_interval;
        cluster.window = 2 * plan.checkpoint_interval;
        let nodes = (0..n).map(|i| {
            let setup = Setup { cluster: cluster.clone(), me: ReplicaId(i), signer: signer(0, i) };
            Node::new(setup, workload.service(), rng.u64(0..=plan.skew))
        });
        let nodes = nodes.collect();
        let now = Now { mono: Mono(0), wall: Wall(EPOCH) };
        let mounts = (0..plan.clients * plan.mounts).map(|i| {
            let id = ClientId(1 + i % plan.clients);
            let client = Client::new(cluster.clone(), id, signer(1, id.0), rng.u64(..), now);
            (Mount(i), (client, None))
        });
        Self {
            network: Network::new(id, *Digest::of(b"links").0.first_chunk().unwrap_or(&[0; 32])),
            now: 0,
            counter: 0,
            events: BTreeMap::new(),
            nodes,
            clients: mounts.collect(),
            workload,
            asked: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            history: History::default(),
            trace: blake3::Hasher::new(),
            steps: 0,
            crashes: 0,
            transfers: 0,
            rough: true,
            cluster,
            rng,
            plan,
        }
    }

    /// Runs to the end: first with faults, then until everything pending is done and all replicas
    /// are equal.
    pub fn run(mut self) -> Report {
        let violation = self.run_to_end().err();
        let fast = self.clients.values().map(|(client, _)| client.stats().reads).sum();
        let stable = self.nodes.iter().filter_map(Node::stable).max().unwrap_or(0);
        let asked: u64 = self.asked.values().sum();
        Report {
            violation,
            trace: Digest(*self.trace.finalize().as_bytes()),
            events: self.steps,
            nanos: self.now,
            completed: asked - self.outstanding.len() as u64,
            crashes: self.crashes,
            transfers: self.transfers,
            stable,
            fast_reads: fast,
        }
    }

    fn run_to_end(&mut self) -> Result<(), Violation> {
        for id in self.cluster.ids().collect::<Vec<_>>() {
            self.start(id)?;
            self.schedule_crash(id);
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
        while self.now < FAULTS_NANOS && !self.finished() {
            self.step()?;
        }
        self.calm_down()?;
        let bound = self.now + LIVENESS_NANOS;
        while !(self.finished() && self.converged()) {
            if self.now > bound {
                return Err(self.stuck());
            }
            self.step()?;
        }
        let state = self.nodes.iter().find_map(Node::replica).map(Replica::tree);
        state.map_or(Ok(()), |tree| self.workload.judge(tree))
    }

    /// Ends the faults: links are whole, everybody is up.
    fn calm_down(&mut self) -> Result<(), Violation> {
        self.rough = false;
        self.plan = self.plan.calm();
        self.network.heal();
        for id in self.cluster.ids().collect::<Vec<_>>() {
            if self.node(id).replica().is_none() {
                self.start(id)?;
            }
        }
        Ok(())
    }

    fn finished(&self) -> bool {
        let all = |id: &Mount| self.asked.get(id).copied().unwrap_or(0) >= self.plan.operations;
        self.outstanding.is_empty() && self.clients.keys().all(all)
    }

    fn converged(&self) -> bool {
        let last = self.history.last();
        self.nodes.iter().all(|node| node.replica().is_some_and(|r| r.executed() == last))
    }

    /// I13 (liveness): what was pending when the faults stopped is not done.
    fn stuck(&self) -> Violation {
        let replicas: Vec<String> = self.nodes.iter().map(Node::describe).collect();
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
            self.trace.update(bytes);
        } else {
            self.trace.update(format!("{event:?}").as_bytes());
        }
        self.happen(event)
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Frame { from, to, bytes } => return self.deliver(from, to, &bytes),
            Event::Timer(id, life) => {
                let now = self.clock(id);
                let due = self.node_mut(id).on_timer(life, now);
                return if due { self.input(id, Input::Timeout) } else { Ok(()) };
            }
            Event::ClientTimer(id) => return self.on_client_timer(id),
            Event::Synced(id, life) => {
                let cluster = self.cluster.id;
                if self.node_mut(id).synced(&cluster, life) {
                    self.pump(id)?;
                    return self.judge_durable(id);
                }
            }
            Event::Stored(id, life) => {
                if let Some(seq) = self.node_mut(id).stored(life) {
                    return self.input(id, Input::CheckpointDurable(seq));
                }
            }
            Event::Crash(id) => self.crash(id),
            Event::PowerCut => self.cluster.ids().collect::<Vec<_>>().into_iter().for_each(|id| {
                self.crash(id);
            }),
            Event::Restart(id) if self.node(id).replica().is_none() => return self.start(id),
            Event::Restart(_) => {}
            Event::Partition if self.rough => {
                self.network.partition(&mut self.rng, self.plan.replicas);
                let lasts = self.rng.u64(0..=self.plan.partition_mean);
                self.after(lasts, Event::Heal);
                self.after(lasts + self.plan.partition_mean, Event::Partition);
            }
            Event::Partition => {}
            Event::Heal => self.network.heal(),
        }
        Ok(())
    }

    fn crash(&mut self, id: ReplicaId) {
        if !self.rough || self.node(id).replica().is_none() {
            return;
        }
        self.crashes += 1;
        let cluster = self.cluster.id;
        let torn = self.rng.u64(..);
        let forgets = self.plan.sabotage == Some(Sabotage::Amnesia);
        self.node_mut(id).crash(&cluster, torn, forgets);
        let down = self.rng.u64(0..=self.plan.down_max);
        self.after(down, Event::Restart(id));
        self.schedule_crash(id);
    }

    fn schedule_crash(&mut self, id: ReplicaId) {
        if self.plan.crash_mean > 0 {
            let at = self.rng.u64(0..=2 * self.plan.crash_mean * self.plan.replicas as u64);
            self.after(at, Event::Crash(id));
        }
    }

    fn start(&mut self, id: ReplicaId) -> Result<(), Violation> {
        let now = self.clock(id);
        self.node_mut(id).start(now);
        self.pump(id)?;
        self.note(id, Seq(0))
    }

    fn deliver(&mut self, from: Principal, to: Principal, frame: &[u8]) -> Result<(), Violation> {
        let key = self.network.key(from, to);
        let Ok(message) = verify(&key, from, frame) else {
            return Err(format!("a correct sender's frame was refused: {from:?} to {to:?}"));
        };
        match (from, to) {
            (_, Principal::Replica(id)) => self.input(id, Input::Message(from, message)),
            (Principal::Replica(replica), Principal::Client(id)) => {
                // Whoever mounts with this certificate hears it.
                let mounts = self.clients.keys().filter(|mount| self.client_of(**mount) == id);
                for mount in mounts.copied().collect::<Vec<_>>() {
                    let message = message.clone();
                    self.client_input(mount, ClientInput::Message(replica, message))?;
                }
                Ok(())
            }
            (Principal::Client(_), Principal::Client(_)) => Ok(()),
        }
    }

    fn input(&mut self, id: ReplicaId, input: Input) -> Result<(), Violation> {
        let now = self.clock(id);
        let Some(replica) = self.node_mut(id).replica_mut() else { return Ok(()) };
        let (before, transferring) = (replica.executed(), replica.status().transferring);
        replica.handle(now, input);
        self.transfers += u64::from(transferring && !replica.status().transferring);
        self.pump(id)?;
        self.note(id, before)?;
        self.judge_durable(id)
    }

    /// Notes what a replica's step did. It counts once it is durable: before, a crash may undo it,
    /// and nobody was told.
    fn note(&mut self, id: ReplicaId, before: Seq) -> Result<(), Violation> {
        let node = &mut self.nodes[id.0 as usize];
        let Some(replica) = node.replica() else { return Ok(()) };
        let executed = replica.executed();
        if replica.status().diverged {
            return Err(format!("I7: {id:?} found that its state differs from a quorum's"));
        }
        let mut deeds = vec![Deed::Moved(View(replica.status().view))];
        for seq in (before.0 + 1..=executed.0).map(Seq) {
            deeds.extend(replica.decided(seq).map(|digest| Deed::Decided(seq, digest)));
        }
        if executed > before {
            let mut digest = replica.digest_from_scratch();
            if self.plan.sabotage == Some(Sabotage::StateDrift) && id.0 == 0 && executed.0 > 20 {
                digest = Digest::ZERO;
            }
            deeds.push(Deed::Reached(executed, digest));
        }
        node.note(deeds);
        Ok(())
    }

    fn judge_durable(&mut self, id: ReplicaId) -> Result<(), Violation> {
        for deed in self.node_mut(id).durable_deeds() {
            match deed {
                Deed::Decided(seq, digest) => self.history.agreement(id, seq, digest)?,
                Deed::Moved(view) => self.history.view(id, view)?,
                Deed::Reached(seq, digest) => self.history.equal_states(id, seq, digest)?,
            }
        }
        Ok(())
    }

    /// Does what a driver does: outputs to the outbox, records to the journal, messages out.
    fn pump(&mut self, id: ReplicaId) -> Result<(), Violation> {
        let life = self.node(id).life();
        self.node_mut(id).poll();
        if self.node_mut(id).sync() {
            let takes = self.rng.u64(0..=self.plan.sync_max);
            self.after(takes, Event::Synced(id, life));
        }
        let early = self.plan.sabotage == Some(Sabotage::EarlySend);
        for release in self.node_mut(id).release(early) {
            match release {
                Release::Send(to, message) => {
                    let node = &self.nodes[id.0 as usize];
                    self.history.said(&self.cluster.id, id, &message, node.disk())?;
                    self.send(Principal::Replica(id), to, &message);
                }
                Release::Checkpoint(snapshots) => {
                    self.node_mut(id).store(snapshots);
                    let takes = self.rng.u64(0..=10 * self.plan.sync_max);
                    self.after(takes, Event::Stored(id, life));
                }
                Release::Truncate(seq) => self.node_mut(id).truncate(seq),
                Release::Serve(to, digest) => {
                    if let Some(bytes) = self.node(id).disk().block(&digest) {
                        let message = Message::Data(Data::Block(digest, bytes));
                        self.send(Principal::Replica(id), To::One(to), &message);
                    }
                }
            }
        }
        if let Some(delay) = self.node_mut(id).arm() {
            self.after(delay, Event::Timer(id, life));
        }
        Ok(())
    }

    fn send(&mut self, from: Principal, to: To, message: &Message) {
        let encoded = message.encode();
        let receivers = match to {
            To::One(one) => vec![one],
            To::Replicas => self.cluster.ids().map(Principal::Replica).collect(),
        };
        for to in receivers.into_iter().filter(|to| *to != from) {
            let frame = self.network.key(from, to).seal(&encoded);
            for delay in self.network.fate(&mut self.rng, &self.plan, from, to) {
                self.after(delay, Event::Frame { from, to, bytes: frame.clone() });
            }
        }
    }

    fn client_of(&self, mount: Mount) -> ClientId {
        ClientId(1 + mount.0 % self.plan.clients)
    }

    fn client_input(&mut self, id: Mount, input: ClientInput) -> Result<(), Violation> {
        let now = Now { mono: Mono(self.now), wall: Wall(EPOCH + self.now) };
        if let Some((client, _)) = self.clients.get_mut(&id) {
            client.handle(now, input);
        }
        self.drain_client(id)?;
        self.feed(id)
    }

    fn on_client_timer(&mut self, id: Mount) -> Result<(), Violation> {
        let Some((client, armed)) = self.clients.get_mut(&id) else { return Ok(()) };
        *armed = None;
        if client.poll_timeout().is_some_and(|due| due.0 <= self.now) {
            return self.client_input(id, ClientInput::Timeout);
        }
        self.arm_client(id);
        Ok(())
    }

    fn drain_client(&mut self, id: Mount) -> Result<(), Violation> {
        while let Some(output) = self.clients.get_mut(&id).and_then(|(c, _)| c.poll_output()) {
            match output {
                ClientOutput::Send { to, message } => {
                    self.send(Principal::Client(self.client_of(id)), to, &message);
                }
                ClientOutput::Complete { ticket, result } => {
                    let result = result.map_err(|why| format!("I13: {ticket} failed: {why}"))?;
                    self.outstanding.remove(&ticket);
                    self.workload.told(ticket, &result, self.now)?;
                }
            }
        }
        self.arm_client(id);
        Ok(())
    }

    fn arm_client(&mut self, id: Mount) {
        let Some((client, armed)) = self.clients.get_mut(&id) else { return };
        let Some(due) = client.poll_timeout() else { return };
        if armed.is_none_or(|at| due.0 < at) {
            let at = due.0.max(self.now + 1);
            *armed = Some(at);
            self.after(at - self.now, Event::ClientTimer(id));
        }
    }

    /// Has a client ask until it has as much outstanding as it may.
    fn feed(&mut self, id: Mount) -> Result<(), Violation> {
        loop {
            let asked = self.asked.entry(id).or_default();
            let mine = self.outstanding.values().filter(|of| **of == id).count() as u64;
            if *asked >= self.plan.operations || mine >= self.plan.outstanding {
                return Ok(());
            }
            *asked += 1;
            let ticket = (u64::from(id.0) + 1) * 1_000_000 + *asked;
            self.outstanding.insert(ticket, id);
            let (operation, how) = self.workload.ask(&mut self.rng, ticket, self.now);
            let deadline = Mono(u64::MAX);
            let now = Now { mono: Mono(self.now), wall: Wall(EPOCH + self.now) };
            if let Some((client, _)) = self.clients.get_mut(&id) {
                client.handle(now, ClientInput::Submit { ticket, operation, how, deadline });
            }
            self.drain_client(id)?;
        }
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.counter += 1;
        self.events.insert((self.now + delay, self.counter), event);
    }

    fn clock(&self, id: ReplicaId) -> Now {
        let skew = self.node(id).skew();
        Now { mono: Mono(self.now), wall: Wall(EPOCH + self.now + skew) }
    }

    fn node(&self, id: ReplicaId) -> &Node<W::Service> {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: ReplicaId) -> &mut Node<W::Service> {
        &mut self.nodes[id.0 as usize]
    }
}
