//! What comes off a link, and records off a disk: bytes that were meant to be messages.

use bftfs_proto::auth::{MAC_BYTES, Reject, Verified, verify};
use bftfs_proto::codec;
use bftfs_proto::engine::Record;
use bftfs_proto::message::{Data, Message};
use bftfs_proto::types::Principal;

use crate::cast::{self, client, client_signer, replica, replica_signer};

const TO: Principal = replica(1);

/// Any bytes, as the message of a replica and of a client, and as a record.
pub fn run(data: &[u8]) {
    for from in [replica(0), client(1)] {
        receive(from, data);
    }
    if let Ok(record) = codec::decode::<Record>(data) {
        let again = codec::encode(&record);
        assert!(again.len() <= data.len(), "ours is the shortest encoding");
        assert_eq!(codec::decode(&again), Ok(record), "a record has one meaning");
    }
}

/// With the right MAC it is used iff it decodes and may be said; with any other it never is.
fn receive(from: Principal, encoded: &[u8]) {
    let key = cast::link(from, TO);
    let frame = key.seal(encoded);
    let used = verify(&key, from, &frame).map(Verified::into_inner);
    match codec::decode::<Message>(encoded) {
        Ok(message) => {
            let allowed = message.check(from).map(|()| message.clone());
            assert_eq!(used, allowed, "the shape decides");
            use_message(from, &message, encoded.len());
        }
        Err(_) => assert_eq!(used, Err(Reject::Malformed)),
    }
    let other = cast::link(TO, from);
    assert_eq!(verify(&other, from, &frame).err(), Some(Reject::Mac), "not to be reflected");
    let cut = verify(&key, from, &frame[..frame.len() - 1]).err();
    let expected = if frame.len() == MAC_BYTES { Reject::Size } else { Reject::Mac };
    assert_eq!(cut, Some(expected));
}

/// It means the same when passed on, and no signature of it holds that was not made.
fn use_message(from: Principal, message: &Message, bytes: usize) {
    let again = message.encode();
    assert!(again.len() <= bytes, "ours is the shortest encoding");
    assert_eq!(codec::decode(&again).as_ref(), Ok(message), "a message has one meaning");
    let (cluster, key) = (cast::cluster(4), replica_signer(0).public());
    let (c, key) = (&cluster.id, &key);
    let cluster = &cast::cluster(4);
    match message {
        Message::Request(request) | Message::Data(Data::Request(request)) => {
            let key = client_signer(1).public();
            // The seeds hold genuine ones of other clusters only.
            assert!(key.verify(&request.digest(c), &request.signature).is_err());
            let _ = request.tag();
        }
        Message::Reply(reply) => {
            let _ = reply.answer.as_ref().map(|answer| answer.digest(c));
        }
        Message::PrePrepare(said) => {
            let _ = said.batch.digest(c);
        }
        Message::Data(Data::Batch(batch)) => {
            let _ = batch.digest(c);
        }
        Message::Checkpoint(claim) => assert!(claim.verify(cluster, key).is_err()),
        Message::Data(Data::Stable(claims, root)) => {
            let _ = root.digest(c);
            assert!(claims.iter().all(|claim| claim.verify(cluster, key).is_err()));
        }
        Message::ViewChange(change) => assert!(change.verify(cluster, key).is_err()),
        Message::NewView(new_view) => assert!(new_view.verify(cluster, key).is_err()),
        Message::Read(_)
        | Message::Ask(_)
        | Message::Prepare(_)
        | Message::Commit(_)
        | Message::Status(_)
        | Message::Decided(_)
        | Message::Fetch(_)
        | Message::Data(Data::Block(..))
        | Message::Nudge(..) => {}
    }
    let may_say = |who| message.check(who).is_ok();
    assert!(!may_say(from) || !may_say(other(from)), "one kind of principal may say it");
}

fn other(from: Principal) -> Principal {
    match from {
        Principal::Replica(_) => client(1),
        Principal::Client(_) => replica(0),
    }
}
