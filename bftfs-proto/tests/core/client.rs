//! The client believes a quorum and nobody else, and gives up in time.

use bftfs_proto::client::{Client, ClientInput, ClientOutput, Failure, How};
use bftfs_proto::config::OPERATION_BYTES_MAX;
use bftfs_proto::engine::To;
use bftfs_proto::message::{Answer, Body, Message, Reply, Request, Tag};
use bftfs_proto::types::{ClientId, Mono, Now, ReplicaId, SessionId, SlotIndex, View};
use bytes::Bytes;

use super::support::*;

const SECOND: u64 = 1_000_000_000;

/// What a client says, as far as tests compare it. Requests without their hint of a replier.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Asked(Body),
    Read(u64),
    Ask(Tag),
    Nudged(Bytes),
    Done(u64, Result<Bytes, Failure>),
}

fn done(ticket: u64, text: &'static [u8]) -> Said {
    Said::Done(ticket, Ok(Bytes::from_static(text)))
}

fn operation(number: u64, text: &'static [u8]) -> Said {
    Said::Asked(Body::Operation(SessionId(1), SlotIndex(0), number, Bytes::from_static(text)))
}

fn ordered(number: u64) -> Tag {
    Tag::Ordered(SessionId(1), SlotIndex(0), number)
}

fn read_tag(number: u64) -> Tag {
    Tag::Read(SessionId(1), number)
}

/// Client 1 and its clock.
struct Mount {
    client: Client,
    now: Now,
}

impl Mount {
    /// A client that has asked for its session and has none yet.
    fn fresh() -> Self {
        let client = Client::new(cluster(4), ClientId(1), client_signer(1), 9, at(0));
        let mut mount = Self { client, now: at(0) };
        assert_eq!(mount.drain(), [Said::Asked(Body::Open(9))]);
        mount
    }

    /// A client with session 1.
    fn new() -> Self {
        let mut mount = Self::fresh();
        let opened = reply(Tag::Open(9), Answer::Opened(SessionId(1)));
        (0..3).for_each(|by| assert_eq!(mount.hear(by, &opened), []));
        assert_eq!(mount.client.session(), Some(SessionId(1)));
        mount
    }

    fn input(&mut self, input: ClientInput) -> Vec<Said> {
        self.client.handle(self.now, input);
        self.drain()
    }

    fn hear(&mut self, by: u32, message: &Message) -> Vec<Said> {
        let message = verified(replica(by), client(1), message);
        self.input(ClientInput::Message(ReplicaId(by), message))
    }

    fn submit(&mut self, ticket: u64, how: How, text: &'static [u8]) -> Vec<Said> {
        let (operation, deadline) = (Bytes::from_static(text), Mono(60 * SECOND));
        self.input(ClientInput::Submit { ticket, operation, how, deadline })
    }

    /// Lets the clock reach the time that the client asked for.
    fn tick(&mut self) -> Vec<Said> {
        let due = self.client.poll_timeout().expect("something is outstanding");
        self.now = at(due.0);
        self.input(ClientInput::Timeout)
    }

    fn drain(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        while let Some(output) = self.client.poll_output() {
            said.push(match output {
                ClientOutput::Complete { ticket, result } => Said::Done(ticket, result),
                ClientOutput::Send { message, .. } => Self::say(message),
                ClientOutput::Nudge { about } => Said::Nudged(about),
            });
        }
        said
    }

    fn say(message: Message) -> Said {
        match message {
            Message::Request(request) => {
                let Request { client, body, signature, .. } = request;
                assert_eq!((client, signature), (ClientId(1), signed(1, body.clone()).signature));
                Said::Asked(body)
            }
            Message::Read(read) => Said::Read(read.number),
            Message::Ask(tag) => Said::Ask(tag),
            message => panic!("a client does not say {message:?}"),
        }
    }
}

#[test]
fn a_session_is_opened_by_a_quorum() {
    let mut mount = Mount::fresh();
    assert_eq!(mount.submit(1, How::Ordered, b"x"), [], "it waits for the session");
    let opened = reply(Tag::Open(9), Answer::Opened(SessionId(1)));
    let other = reply(Tag::Open(9), Answer::Opened(SessionId(2)));
    assert_eq!(mount.hear(0, &opened), []);
    assert_eq!(mount.hear(1, &opened), []);
    assert_eq!(mount.hear(2, &other), []);
    assert_eq!(mount.client.session(), None);
    assert_eq!(mount.hear(3, &opened), [operation(1, b"x")]);
}

#[test]
fn an_answer_is_believed_from_q_replicas_that_agree() {
    let mut mount = Mount::new();
    assert_eq!(mount.submit(1, How::Ordered, b"x"), [operation(1, b"x")]);
    let answer = reply(ordered(1), result(b"x"));
    assert_eq!(mount.hear(0, &answer), []);
    assert_eq!(mount.hear(0, &answer), [], "one replica, one voice");
    assert_eq!(mount.hear(0, &answer), []);
    assert_eq!(mount.hear(1, &answer), [], "w is not enough");
    assert_eq!(mount.hear(2, &reply(ordered(1), result(b"lie"))), []);
    assert_eq!(mount.hear(3, &answer), [done(1, b"x")]);
    assert_eq!(mount.hear(2, &answer), [], "once");
}

#[test]
fn an_answer_that_does_not_hash_to_its_digest_is_not_used() {
    let mut mount = Mount::new();
    mount.submit(1, How::Ordered, b"x");
    let digest = result(b"x").digest(&id());
    let lie = Reply { tag: ordered(1), view: View(0), digest, answer: Some(result(b"lie")) };
    for by in 0..3 {
        assert_eq!(mount.hear(by, &Message::Reply(lie.clone())), []);
    }
    assert_eq!(mount.hear(3, &reply(ordered(1), result(b"x"))), [done(1, b"x")]);
}

#[test]
fn an_answer_that_a_quorum_agrees_on_is_asked_for_if_it_does_not_come() {
    let mut mount = Mount::new();
    mount.submit(1, How::Ordered, b"x");
    let digest = result(b"x").digest(&id());
    let without = Reply { tag: ordered(1), view: View(0), digest, answer: None };
    for by in 0..3 {
        assert_eq!(mount.hear(by, &Message::Reply(without.clone())), []);
    }
    assert_eq!(mount.tick(), [Said::Ask(ordered(1))]);
    assert!(mount.now.mono.0 < SECOND / 10, "soon: {:?}", mount.now.mono);
    assert_eq!(mount.hear(2, &reply(ordered(1), result(b"x"))), [done(1, b"x")]);
}

#[test]
fn replicas_that_the_cluster_does_not_have_are_not_heard() {
    let mut mount = Mount::new();
    mount.submit(1, How::Ordered, b"x");
    for by in 4..9 {
        assert_eq!(mount.hear(by, &reply(ordered(1), result(b"x"))), []);
    }
}

#[test]
fn an_answer_that_nobody_kept_is_given_up_and_its_slot_is_free_again() {
    let mut mount = Mount::new();
    mount.submit(1, How::Ordered, b"x");
    let digest = result(b"x").digest(&id());
    let without = Reply { tag: ordered(1), view: View(0), digest, answer: None };
    (0..3).for_each(|by| drop(mount.hear(by, &Message::Reply(without.clone()))));
    (0..4).for_each(|_| assert_eq!(mount.tick(), [Said::Ask(ordered(1))]));
    assert_eq!(mount.tick(), [Said::Done(1, Err(Failure::ResultLost))]);
    assert_eq!(mount.submit(2, How::Ordered, b"y"), [operation(2, b"y")]);
}

#[test]
fn a_request_without_an_answer_is_sent_again_unchanged() {
    let mut mount = Mount::new();
    mount.submit(1, How::Ordered, b"x");
    assert_eq!(mount.tick(), [operation(1, b"x")]);
    assert_eq!(mount.tick(), [operation(1, b"x")]);
    assert_eq!(mount.client.stats().retries, 2);
    let again = ClientInput::Connected(ReplicaId(2));
    assert_eq!(mount.input(again), [operation(1, b"x")], "also on a new link");
}

#[test]
fn a_read_needs_a_quorum_too() {
    let mut mount = Mount::new();
    assert_eq!(mount.submit(1, How::Read, GET), [Said::Read(1)]);
    let answer = reply(read_tag(1), result(b"x"));
    assert_eq!(mount.hear(0, &answer), []);
    assert_eq!(mount.hear(1, &answer), []);
    assert_eq!(mount.hear(2, &answer), [done(1, b"x")]);
    assert_eq!(mount.client.stats().reads, 1);
}

#[test]
fn a_read_on_which_no_quorum_can_agree_is_ordered() {
    let mut mount = Mount::new();
    mount.submit(1, How::Read, GET);
    assert_eq!(mount.hear(0, &reply(read_tag(1), result(b"a"))), []);
    assert_eq!(mount.hear(1, &reply(read_tag(1), result(b"b"))), []);
    assert_eq!(mount.hear(2, &reply(read_tag(1), result(b"c"))), [operation(1, GET)]);
    assert_eq!(mount.client.stats().fallbacks, 1);
    assert_eq!(mount.hear(3, &reply(read_tag(1), result(b"a"))), [], "too late");
    for by in 0..2 {
        assert_eq!(mount.hear(by, &reply(ordered(1), result(b"c"))), []);
    }
    assert_eq!(mount.hear(3, &reply(ordered(1), result(b"c"))), [done(1, b"c")]);
}

#[test]
fn a_read_that_is_not_answered_soon_is_ordered() {
    let mut mount = Mount::new();
    mount.submit(1, How::Read, GET);
    assert_eq!(mount.tick(), [operation(1, GET)]);
    assert!(mount.now.mono.0 < SECOND, "soon: {:?}", mount.now.mono);
}

#[test]
fn what_a_quorum_calls_no_read_is_ordered() {
    let mut mount = Mount::new();
    mount.submit(1, How::Read, b"x");
    let refusal = reply(read_tag(1), Answer::NotRead);
    assert_eq!(mount.hear(0, &refusal), []);
    assert_eq!(mount.hear(1, &refusal), []);
    assert_eq!(mount.hear(2, &refusal), [operation(1, b"x")]);
}

#[test]
fn a_deadline_is_kept_and_the_slot_stays_taken() {
    let mut mount = Mount::new();
    let (operation_x, deadline) = (Bytes::from_static(b"x"), Mono(SECOND / 4));
    let how = How::Ordered;
    mount.input(ClientInput::Submit { ticket: 1, operation: operation_x, how, deadline });
    assert_eq!(mount.tick(), [Said::Done(1, Err(Failure::Deadline))]);
    assert_eq!(mount.now.mono, deadline);
    let second = Body::Operation(SessionId(1), SlotIndex(1), 1, Bytes::from_static(b"y"));
    assert_eq!(mount.submit(2, How::Ordered, b"y"), [Said::Asked(second)], "another slot");
    let answer = reply(ordered(1), result(b"x"));
    (0..3).for_each(|by| assert_eq!(mount.hear(by, &answer), [], "told once"));
    assert_eq!(mount.submit(3, How::Ordered, b"z"), [operation(2, b"z")], "free again");
}

#[test]
fn a_deadline_is_kept_for_what_waits_for_a_session() {
    let mut mount = Mount::fresh();
    let deadline = Mono(SECOND / 4);
    for (ticket, how) in [(1, How::Ordered), (2, How::Read)] {
        let operation = Bytes::from_static(GET);
        assert_eq!(mount.input(ClientInput::Submit { ticket, operation, how, deadline }), []);
    }
    let failed = |ticket| Said::Done(ticket, Err(Failure::Deadline));
    assert_eq!(mount.tick(), [failed(1), failed(2)]);
}

#[test]
fn a_lost_session_is_told_and_a_new_one_opened() {
    let mut mount = Mount::new();
    mount.submit(1, How::Ordered, b"x");
    mount.submit(2, How::Ordered, b"y");
    let gone = reply(ordered(1), Answer::NoSession);
    assert_eq!(mount.hear(0, &gone), []);
    assert_eq!(mount.hear(1, &gone), []);
    let lost = |ticket| Said::Done(ticket, Err(Failure::SessionLost));
    assert_eq!(mount.hear(2, &gone), [lost(1), lost(2), Said::Asked(Body::Open(10))]);
    assert_eq!(mount.client.session(), None);
}

#[test]
fn an_operation_larger_than_any_may_be_is_refused_at_once() {
    let mut mount = Mount::new();
    let operation = Bytes::from(vec![0; OPERATION_BYTES_MAX + 1]);
    let (how, deadline) = (How::Ordered, Mono(SECOND));
    assert_eq!(
        mount.input(ClientInput::Submit { ticket: 1, operation, how, deadline }),
        [Said::Done(1, Err(Failure::TooLarge))]
    );
}

#[test]
fn a_nudge_is_believed_from_w_replicas_and_is_for_one_session() {
    let mut mount = Mount::new();
    let session = mount.client.session().expect("it is open");
    let about = Bytes::from_static(b"f");
    let nudge = Message::Nudge(session, about.clone());
    assert_eq!(mount.hear(0, &nudge), []);
    assert_eq!(mount.hear(0, &nudge), [], "one replica, one voice");
    assert_eq!(mount.hear(1, &Message::Nudge(session, Bytes::from_static(b"g"))), []);
    assert_eq!(mount.hear(2, &nudge), [Said::Nudged(about)]);
    let other = Message::Nudge(SessionId(session.0 + 1), Bytes::from_static(b"f"));
    assert_eq!([mount.hear(0, &other), mount.hear(1, &other)], [[], []]);
}

#[test]
fn nudges_of_one_liar_are_forgotten() {
    let mut mount = Mount::new();
    let session = mount.client.session().expect("it is open");
    let nudge = |about: u64| Message::Nudge(session, Bytes::copy_from_slice(&about.to_le_bytes()));
    (0..=1024).for_each(|about| assert_eq!(mount.hear(3, &nudge(about)), []));
    assert_eq!(mount.hear(0, &nudge(1)), [], "what the liar said of it is forgotten");
    assert_eq!(
        mount.hear(1, &nudge(1)),
        [Said::Nudged(Bytes::copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]))]
    );
}

#[test]
fn requests_go_to_all_replicas() {
    let mut client = Client::new(cluster(4), ClientId(1), client_signer(1), 9, at(0));
    let sent = client.poll_output();
    assert!(matches!(sent, Some(ClientOutput::Send { to: To::Replicas, .. })), "{sent:?}");
    assert!(client.poll_output().is_none());
}
