//! The replicas, played by one file service in memory on a thread of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bftfs_fs::FileSystem;
use bftfs_mount::volume::{Cluster, Done};
use bftfs_proto::client::{Failure, How};
use bftfs_proto::service::{Context, Nudge, Service};
use bftfs_proto::types::{ClientId, SessionId, Wall};
use bftfs_state::Tree;
use bytes::Bytes;

/// Bytes and inodes that fit; more than the tests need.
const CAPACITY: (u64, u64) = (64 << 30, 1 << 20);

/// The session of who had one that the replicas ended.
const LOST: u64 = 0;

/// Called with what a nudge is about.
type Listener = Box<dyn Fn(&[u8]) + Send>;

/// One cluster. Clones are sessions of it, like the mounts of two machines.
#[derive(Debug)]
pub(crate) struct Double {
    shared: Arc<Shared>,
    jobs: Sender<(Bytes, How, Done)>,
    session: Arc<AtomicU64>,
}

struct Shared {
    state: Mutex<State>,
    sessions: AtomicU64,
    ordered: AtomicU64,
    reads: AtomicU64,
    dead: AtomicBool,
    silent: AtomicBool,
    listeners: Mutex<Vec<(Arc<AtomicU64>, Listener)>>,
}

struct State {
    service: FileSystem,
    tree: Tree,
    time: u64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

impl Default for Double {
    fn default() -> Self {
        let service = FileSystem::new(CAPACITY.0, CAPACITY.1);
        let mut tree = Tree::new();
        service.genesis(&mut tree);
        Self::connect(Arc::new(Shared {
            state: Mutex::new(State { service, tree, time: 0 }),
            sessions: AtomicU64::new(0),
            ordered: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            listeners: Mutex::default(),
        }))
    }
}

impl Clone for Double {
    fn clone(&self) -> Self {
        Self::connect(Arc::clone(&self.shared))
    }
}

impl Double {
    fn connect(shared: Arc<Shared>) -> Self {
        let session = Arc::new(AtomicU64::new(shared.new_session()));
        let (jobs, queue) = mpsc::channel::<(Bytes, How, Done)>();
        let (replicas, own) = (Arc::clone(&shared), Arc::clone(&session));
        thread::spawn(move || {
            for (operation, how, done) in queue {
                while replicas.silent.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(5));
                }
                done(replicas.carry_out(&own, &operation, how));
            }
        });
        Self { shared, jobs, session }
    }

    /// The session that this one has with the replicas.
    pub(crate) fn session(&self) -> Session {
        Session { shared: Arc::clone(&self.shared), number: Arc::clone(&self.session) }
    }

    /// From now on nobody answers, or again.
    pub(crate) fn set_dead(&self, dead: bool) {
        self.shared.dead.store(dead, Ordering::SeqCst);
    }

    /// From now on nothing is answered, or again, also what was asked meanwhile.
    pub(crate) fn set_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
    }

    /// Operations that were ordered and operations that were read, so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        (load(&self.shared.ordered), load(&self.shared.reads))
    }
}

/// A session, for those who want to end it.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    number: Arc<AtomicU64>,
}

impl Session {
    /// Whom to call when it is nudged.
    pub(crate) fn listen(&self, listener: Listener) {
        let listeners = &self.shared.listeners;
        listeners.lock().expect("lock").push((Arc::clone(&self.number), listener));
    }

    /// The replicas end it; its mount finds that when it has something ordered.
    pub(crate) fn lose(&self) {
        let lost = SessionId(self.number.swap(LOST, Ordering::SeqCst));
        let mut state = self.shared.state.lock().expect("lock");
        let State { service, tree, time } = &mut *state;
        let mut nudges = Vec::new();
        service.session_closed(tree, lost, Wall(*time), &mut nudges);
        drop(state);
        self.shared.nudge(&nudges);
    }
}

impl Shared {
    fn new_session(&self) -> u64 {
        1 + self.sessions.fetch_add(1, Ordering::SeqCst)
    }

    fn carry_out(
        &self,
        session: &AtomicU64,
        operation: &Bytes,
        how: How,
    ) -> Result<Bytes, Failure> {
        if self.dead.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(50));
            return Err(Failure::Deadline);
        }
        let mut state = self.state.lock().expect("lock");
        let State { service, tree, time } = &mut *state;
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let wall = u64::try_from(clock.as_nanos()).expect("before 2554");
        let id = SessionId(session.load(Ordering::SeqCst));
        let context = |time| Context { client: ClientId(1), session: id, time: Wall(time) };
        if how == How::Read
            && let Some(result) = service.query(tree, &context(*time), operation)
        {
            self.reads.fetch_add(1, Ordering::SeqCst);
            return Ok(result);
        }
        if id == SessionId(LOST) {
            session.store(self.new_session(), Ordering::SeqCst);
            return Err(Failure::SessionLost);
        }
        self.ordered.fetch_add(1, Ordering::SeqCst);
        *time = wall.max(*time + 1);
        let mut nudges = Vec::new();
        let result = service.execute(tree, &context(*time), operation, &mut nudges);
        drop(state);
        self.nudge(&nudges);
        Ok(result)
    }

    fn nudge(&self, nudges: &[Nudge]) {
        let listeners = self.listeners.lock().expect("lock");
        for (session, listener) in &*listeners {
            let own =
                nudges.iter().filter(|nudge| nudge.session.0 == session.load(Ordering::SeqCst));
            own.for_each(|nudge| listener(&nudge.about));
        }
    }
}

impl Cluster for Double {
    fn submit(&self, operation: Bytes, how: How, done: Done) {
        self.jobs.send((operation, how, done)).expect("the double lives");
    }
}
