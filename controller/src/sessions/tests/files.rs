//! Files that machines fetch: whole and in parts, refused, and never at the cost of others.

use std::time::Instant;

use muster_protocol::to_controller::{Answer, Call};
use quinn::RecvStream;

use super::super::files::Files;
use super::*;

/// More than an ordinary window of a stream.
const LARGE: usize = 4 << 20;

impl World {
    /// This controller with one place for a machine that fetches, and this long for each.
    fn with_one_place(self, within: Duration) -> Self {
        let agents = crate::config::Config::with_data(self._data.path().into()).agents;
        let files = Files::with(self._data.path().join("files"), 1, within);
        let (fleet, pki, metrics) = (self.fleet.clone(), self.pki.clone(), self.metrics.clone());
        let sessions = Sessions::started(fleet, pki, agents, files, metrics, Instant::now());
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = sessions.listen(self.own.clone(), socket).expect("listens").address().expect("bound");
        Self { sessions, address, ..self }
    }

    fn put(&self, bytes: &[u8]) -> Digest {
        let (folder, digest) = (self._data.path().join("files"), Digest::of(bytes));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(digest.to_string()), bytes).expect("written");
        digest
    }

    async fn member_number(&self, number: u8) -> Connection {
        let ticket = self.ticket(TicketBound::Bearer).await;
        let who = self.enroll(&ticket, box_number(number)).await.expect("enrolls");
        let id = who.machine;
        self.fleet.change(Author::controller(), move |draft| machine::approve(draft, id)).await.expect("approved");
        self.session(&who).await
    }
}

/// The answer, and the stream behind it.
async fn fetch(connection: &Connection, digest: Digest, offset: u64) -> (Answer, RecvStream) {
    let (mut send, mut receive) = connection.open_bi().await.expect("the connection is up");
    send.write_all(&frame::encode(&Call::Fetch { digest, offset }).expect("fits")).await.expect("sent");
    send.finish().expect("sent");
    let answer = async {
        let mut header = [0; frame::HEADER];
        receive.read_exact(&mut header).await.expect("an answer");
        let mut value = vec![0; frame::length::<Answer>(header).expect("fits")];
        receive.read_exact(&mut value).await.expect("an answer");
        frame::decode(&value).expect("decodes")
    };
    let answer = tokio::time::timeout(DEADLINE, answer).await.expect("in time");
    (answer, receive)
}

async fn all(mut stream: RecvStream) -> Vec<u8> {
    tokio::time::timeout(DEADLINE, stream.read_to_end(LARGE)).await.expect("in time").expect("to its end")
}

fn bytes() -> Vec<u8> {
    (0..LARGE).map(|n| (n / 7) as u8).collect()
}

#[tokio::test]
async fn a_machine_fetches_a_file_by_what_is_in_it_and_the_rest_of_it_from_where_it_stopped() {
    let world = world();
    let (bytes, member) = (bytes(), world.member().await);
    let (digest, session) = (world.put(&bytes), world.session(&member).await);
    let length = Answer::File { bytes: LARGE as u64 };
    for offset in [0, 1, 300_000, LARGE as u64] {
        let (answer, stream) = fetch(&session, digest, offset).await;
        assert_eq!(answer, length);
        assert!(all(stream).await == bytes[offset as usize..], "from {offset}");
    }
    // The next one ends the one before, which is not read.
    let (_, unread) = fetch(&session, digest, 0).await;
    let (answer, stream) = fetch(&session, digest, 5).await;
    assert_eq!((answer, all(stream).await.len()), (length, LARGE - 5));
    drop(unread);
}

#[tokio::test]
async fn what_is_not_there_or_behind_the_end_is_refused_and_the_session_goes_on() {
    let world = world();
    let member = world.member().await;
    let (digest, session) = (world.put(b"tools"), world.session(&member).await);
    for (digest, offset, refusal) in [
        (Digest::of(b"other tools"), 0, Refusal::NoSuchFile),
        (digest, 6, Refusal::BadRequest),
        (digest, u64::MAX, Refusal::BadRequest),
    ] {
        assert_eq!(fetch(&session, digest, offset).await.0, Answer::Refused(refusal));
    }
    assert_eq!(all(fetch(&session, digest, 0).await.1).await, b"tools");
}

#[tokio::test]
async fn a_machine_that_waits_for_approval_fetches_nothing() {
    let world = world();
    let who = world.enrolled().await;
    let (digest, session) = (world.put(b"tools"), world.session(&who).await);
    assert_eq!(fetch(&session, digest, 0).await.0, Answer::Refused(Refusal::BadRequest));
}

#[tokio::test]
async fn a_machine_that_does_not_take_its_file_is_heard_all_the_same() {
    let world = world();
    let member = world.member().await;
    let (digest, session) = (world.put(&bytes()), world.session(&member).await);
    let (answer, _unread) = fetch(&session, digest, 0).await;
    assert_eq!(answer, Answer::File { bytes: LARGE as u64 });
    let inventory = Call::Inventory(Box::default());
    assert_eq!(ask::<_, Answer>(&session, &inventory).await, Answer::Accepted);
}

#[tokio::test]
async fn a_machine_that_takes_a_file_slowly_gives_its_place_to_the_next_one() {
    let world = world().with_one_place(Duration::from_millis(500));
    let digest = world.put(&bytes());
    let (slow, other) = (world.member_number(1).await, world.member_number(2).await);
    let (answer, mut unread) = fetch(&slow, digest, 0).await;
    assert_eq!(answer, Answer::File { bytes: LARGE as u64 });
    let (answer, _) = fetch(&other, digest, 0).await;
    assert_eq!(answer, Answer::Refused(Refusal::Busy), "there is one place");
    let served = async {
        loop {
            match fetch(&other, digest, 0).await {
                (Answer::File { .. }, stream) => return all(stream).await,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    assert_eq!(tokio::time::timeout(DEADLINE, served).await.expect("in time").len(), LARGE);
    let cut = tokio::time::timeout(DEADLINE, unread.read_to_end(LARGE)).await.expect("in time");
    assert!(matches!(cut, Err(ReadToEndError::Read(quinn::ReadError::Reset(_)))), "its stream has no end");
}
