//! One faulty replica and one faulty client may say anything, in any order.

use bftfs_proto::Digest;
use bftfs_proto::config::WINDOW_SEQS;
use bftfs_proto::message::{
    Batch, Body, Checkpoint, Data, Decided, Fetch, Message, PrePrepare, Read, Request, SlotStatus,
    StateRoot, Status, Tag, Vote,
};
use bftfs_proto::types::{ReplicaId, Seq, SessionId, SlotIndex, View, Wall};
use proptest::collection::vec;
use proptest::prelude::*;

use super::support::*;

/// Outputs that one input may have: a window of slots, sent again in three kinds of message, or
/// answers to everything one FETCH asks for.
const OUTPUTS_MAX: usize = 32;

/// One step against the replica under test.
#[derive(Clone, Debug)]
enum Step {
    Replica(Message),
    Client(Message),
    Tick,
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..=2 * L,
        1 => Just(u64::MAX - 1),
        1 => Just(u64::MAX),
        1 => any::<u64>(),
    ]
}

fn view() -> impl Strategy<Value = View> {
    prop_oneof![8 => Just(0), 1 => 0_u64..6, 1 => Just(u64::MAX)].prop_map(View)
}

fn seq() -> impl Strategy<Value = Seq> {
    number().prop_map(Seq)
}

/// Requests of client 1, few enough that they meet again; some with a bad signature.
fn request() -> impl Strategy<Value = Request> {
    let body = prop_oneof![
        (0_u64..3).prop_map(Body::Open),
        (0_u64..4, 0_u16..2, number(), 0_u8..3).prop_map(|(session, slot, number, byte)| {
            Body::Operation(SessionId(session), SlotIndex(slot), number, vec![byte].into())
        }),
        (0_u64..4, 0_u16..2, number()).prop_map(|(session, slot, number)| {
            Body::Close(SessionId(session), SlotIndex(slot), number)
        }),
    ];
    (body, 0_u32..6).prop_map(|(body, replier)| {
        let mut request = signed(1, body);
        request.replier = ReplicaId(replier);
        if replier == 5 {
            request.signature = open(2, 1).signature;
        }
        request
    })
}

/// Batches of few requests, so that what is proposed, voted and fetched meets.
fn some_batch() -> impl Strategy<Value = Batch> {
    let time = prop_oneof![6 => Just(EPOCH), 1 => Just(0), 1 => Just(u64::MAX)];
    let requests = vec((0_u64..3).prop_map(|nonce| open(1, nonce).digest(&id())), 0..3);
    (requests, time).prop_map(|(requests, time)| Batch { requests, time: Wall(time) })
}

fn digest() -> impl Strategy<Value = Digest> {
    prop_oneof![
        4 => some_batch().prop_map(|batch| batch.digest(&id())),
        2 => (0_u64..3).prop_map(|nonce| open(1, nonce).digest(&id())),
        1 => Just(Digest::ZERO),
    ]
}

fn vote() -> impl Strategy<Value = Vote> {
    (view(), seq(), digest()).prop_map(|(view, seq, digest)| Vote { view, seq, digest })
}

fn checkpoint(by: u32) -> impl Strategy<Value = Checkpoint> {
    let seq = prop_oneof![(0_u64..5).prop_map(|k| k * K), number()];
    (seq, digest(), 0..4_u32).prop_map(move |(seq, state, forged)| {
        let signer = if forged == 0 { 2 } else { by };
        Checkpoint { replica: ReplicaId(by), ..claim(signer, seq, state) }
    })
}

fn status() -> impl Strategy<Value = Message> {
    let slot = prop_oneof![
        Just(SlotStatus::Empty),
        Just(SlotStatus::Accepted),
        Just(SlotStatus::Prepared),
        Just(SlotStatus::Committed),
    ];
    let most = usize::try_from(WINDOW_SEQS).expect("a small number");
    (view(), seq(), seq(), vec(slot, 0..=most)).prop_map(|(view, stable, executed, slots)| {
        Message::Status(Status {
            view,
            active: true,
            suspects: false,
            awaits: None,
            stable,
            executed,
            slots,
        })
    })
}

fn fetch() -> impl Strategy<Value = Fetch> {
    prop_oneof![
        digest().prop_map(Fetch::Request),
        digest().prop_map(Fetch::Batch),
        seq().prop_map(Fetch::Stable),
        digest().prop_map(Fetch::Block),
    ]
}

fn root() -> impl Strategy<Value = StateRoot> {
    (seq(), number(), digest(), digest()).prop_map(|(seq, time, sessions, service)| StateRoot {
        seq,
        time: Wall(time),
        sessions,
        service,
    })
}

/// Claims for `root` in everybody's name. The liar has one key: only its own are genuine.
fn certificate(root: &StateRoot, by: Vec<u32>) -> Vec<Checkpoint> {
    let genuine = claim(3, root.seq.0, root.digest(&id()));
    let claim = |by| Checkpoint { replica: ReplicaId(by), ..genuine.clone() };
    by.into_iter().map(claim).collect()
}

fn data() -> impl Strategy<Value = Data> {
    let stable = (root(), vec(0_u32..5, 0..5)).prop_map(|(root, by)| {
        let certificate = certificate(&root, by);
        Data::Stable(certificate, root)
    });
    let mixed = (root(), vec(checkpoint(3), 0..5));
    prop_oneof![
        request().prop_map(Data::Request),
        some_batch().prop_map(Data::Batch),
        stable,
        mixed.prop_map(|(root, claims)| Data::Stable(claims, root)),
        (digest(), vec(any::<u8>(), 0..64)).prop_map(|(d, bytes)| Data::Block(d, bytes.into())),
    ]
}

fn of_replica(liar: u32) -> impl Strategy<Value = Message> {
    prop_oneof![
        4 => (view(), seq(), some_batch()).prop_map(|(view, seq, batch)| {
            Message::PrePrepare(PrePrepare { view, seq, batch })
        }),
        4 => vote().prop_map(Message::Prepare),
        4 => vote().prop_map(Message::Commit),
        2 => checkpoint(liar).prop_map(Message::Checkpoint),
        2 => status(),
        2 => vec((seq(), digest()), 0..8)
            .prop_map(|batches| Message::Decided(Decided { batches })),
        2 => vec(fetch(), 0..8).prop_map(Message::Fetch),
        3 => data().prop_map(Message::Data),
    ]
}

fn of_client() -> impl Strategy<Value = Message> {
    let tag = prop_oneof![
        number().prop_map(Tag::Open),
        number().prop_map(|number| Tag::Read(SessionId(1), number)),
        number().prop_map(|number| Tag::Ordered(SessionId(1), SlotIndex(0), number)),
    ];
    let read = (number(), number(), 0_u32..6).prop_map(|(session, number, replier)| Read {
        session: SessionId(session),
        number,
        operation: GET.into(),
        replier: ReplicaId(replier),
    });
    prop_oneof![
        4 => request().prop_map(Message::Request),
        1 => read.prop_map(Message::Read),
        1 => tag.prop_map(Message::Ask),
    ]
}

fn step(liar: u32) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => of_replica(liar).prop_map(Step::Replica),
        3 => of_client().prop_map(Step::Client),
        1 => Just(Step::Tick),
    ]
}

/// A liar, how far the replica under test got before it began, and what it says.
fn attack() -> impl Strategy<Value = (u32, u64, Vec<Step>)> {
    prop_oneof![Just(0), Just(3)]
        .prop_flat_map(|liar| (Just(liar), 1..=K + 1, vec(step(liar), 1..48)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// The liar may be the primary or a backup. The other replicas are silent or slow, but for a
    /// correct primary's one proposal. Then nothing is decided, executed or made stable
    /// on the liar's word, nothing panics, and what is said and kept stays small.
    #[test]
    fn one_liar_and_a_client_decide_nothing_and_break_nothing((liar, ran, steps) in attack()) {
        let mut node = Node::new(1);
        node.run_to(ran);
        if liar != 0 {
            node.hear(replica(0), &pre_prepare(ran + 1, &batch(&[])));
        }
        let (state, records) = (node.replica.digest_from_scratch(), node.records.len());
        for step in &steps {
            let outputs = match step {
                Step::Replica(message) => node.hear(replica(liar), message),
                Step::Client(message) => node.hear(client(1), message),
                Step::Tick => node.tick(),
            };
            prop_assert!(outputs.len() <= OUTPUTS_MAX, "{step:?}: {} outputs", outputs.len());
        }
        prop_assert_eq!(node.replica.digest_from_scratch(), state);
        let status = node.replica.status();
        prop_assert_eq!((status.last_executed, status.last_stable), (ran, 0));
        prop_assert!((ran + 1..=L).all(|seq| node.replica.decided(Seq(seq)).is_none()));
        prop_assert!(!status.diverged && !status.transferring);
        prop_assert!(status.waiting <= steps.len());
        let window = usize::try_from(L).expect("a small number");
        prop_assert!(node.records.len() - records <= 2 * window, "one of each kind a slot");
        let (node, _) = node.restart();
        prop_assert!(node.replica.executed().0 <= ran, "what it left on the disk is sound");
    }
}
