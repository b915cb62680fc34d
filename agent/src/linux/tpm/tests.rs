//! Commands and answers byte by byte; the answers are those of a software TPM.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::sync::mpsc;

use proptest::prelude::*;

use super::wire::Kind;
use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("hex"))
        .collect()
}

const POLICY: &str = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";
/// Its X and Y.
const POINT: &str = "0020 79d5f0a5dccc46a64804715d744afebdaef5d65e859b9c7f50006f4420378694
                     0020 e1ea10a1df3f1d8f6d0860b1276f39e2612e9c700742963e887e3d048aaa6beb";
const P256_NAME: &str = "6f9f83f3804310dd2ae30bd169e004fb9c9635ee0e316c99ec53144d2f1f4f68";
const RSA_NAME: &str = "a3feaac0d41d023865dc6b29cac149be2e17f835fabbaf59480272fa87e7e767";
const MODULUS: &str = "
    b855c6976d9ec86155ad3c3426d3b3a88b6a90104ca8e7dd8a7753bb7a34465ddb229281039f7762721a25f02c0e22678b5de9e20f456259af7c
    5db7335a902122bfa582f62576fde5bf5093659cdcce9a22ecb00cc9314d538aa8647db1df12c2a196e18338a9642b3753dc8acc11c4d91a51a5
    116c5c3fceae1042c1559e8d7d3a17b2798db257f99774eb4d3fccdf0b243da3501c1e764aecbd544e038eb892f1c81af521679614e3b048befc
    4ba47984fde8d4c861bae622cd77f4312be3c33509a191f2535f9322057c91fddeb4d348d28ef9bcdd2f9501e4b9c88caae7028a80a0ec7be08a
    2e58d4ef8e1ab723a1e4b663ffe7d5db7c54026365913e7d";

const CREATE_P256: &str = "8002 000000a3 00000131 4000000b 00000009 40000009 0000 00 0000 0004 0000 0000 007a";
const CREATE_RSA: &str = "8002 00000163 00000131 4000000b 00000009 40000009 0000 00 0000 0004 0000 0000 013a";
const READ_P256: &str = "8001 0000000e 00000173 81010002";
const READ_RSA: &str = "8001 0000000e 00000173 81010001";
const FLUSH: &str = "8001 0000000e 00000165 80000000";
const FLUSHED: &str = "8001 0000000a 00000000";
/// TPM_RC_HANDLE for the first handle: nothing lies there.
const NOTHING_THERE: &str = "8001 0000000a 0000018b";
/// TPM_RC_BAD_AUTH for the first session: somebody gave the hierarchy a password.
const BAD_AUTH: &str = "8001 0000000a 000009a2";
/// TPM_RC_RETRY.
const BUSY: &str = "8001 0000000a 00000922";

fn p256(unique: &str) -> String {
    format!("0023 000b 000300b2 0020 {POLICY} 0006 0080 0043 0010 0003 0010 {unique}")
}

fn rsa(unique: &str) -> String {
    format!("0001 000b 000300b2 0020 {POLICY} 0006 0080 0043 0010 0800 00000000 {unique}")
}

fn created_p256() -> String {
    format!(
        "8002 0000015a 00000000 80000000 00000143 007a {} 0037 00000000
         0020 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 01 0010 0004 4000000b 0004 4000000b 0000
         0020 28d026fafd749106743e27c4280551585e5d17668eb521835ed60127effc05d4
         8021 4000000b 0040
         f3d150f83a9b6e84d18d35562988c6dd81df73c59dcd62261fda40ba2a69b66c
         30313c8c23b9f0b3e981af6f66c9b97920591a0941a9df5ffe9e8f9f7755ba31
         0022 000b {P256_NAME} 0000 01 0000",
        p256(POINT)
    )
}

fn persisted_p256() -> String {
    let qualified = "596421d704083200e68f0079ffab28e5ae0151345aaa37b2469cff318ccf104f";
    format!("8001 000000ce 00000000 007a {} 0022 000b {P256_NAME} 0022 000b {qualified}", p256(POINT))
}

fn persisted_rsa() -> String {
    let qualified = "7d4cdaa3bc041b09f6201b69a876d0dafc1725fcea8c844f85cce164e6a562d2";
    format!(
        "8001 0000018e 00000000 013a {} 0022 000b {RSA_NAME} 0022 000b {qualified}",
        rsa(&format!("0100 {MODULUS}"))
    )
}

/// A TPM that says these things, one after the other; a command that is not the next one fails the test.
struct Script(VecDeque<(Vec<u8>, Vec<u8>)>);

impl Script {
    fn new(said: &[(&str, &str)]) -> Self {
        Self(said.iter().map(|(command, answer)| (bytes(command), bytes(answer))).collect())
    }

    /// What is learned, and that everything was asked.
    fn learn(mut self) -> Result<String, String> {
        let learned = learn(&mut |command| {
            let (expected, answer) = self.0.pop_front().expect("one command more than expected");
            assert_eq!(command, expected);
            Ok(answer)
        });
        assert!(self.0.is_empty(), "not asked: {:?}", self.0);
        learned.map(|key| key.to_string()).map_err(|error| error.to_string())
    }
}

fn blank_point() -> String {
    format!("0020 {0} 0020 {0}", "00".repeat(32))
}

fn create_p256() -> String {
    format!("{CREATE_P256} {} 0000 00000000", p256(&blank_point()))
}

fn create_rsa() -> String {
    let blank = format!("0100 {}", "00".repeat(256));
    format!("{CREATE_RSA} {} 0000 00000000", rsa(&blank))
}

#[test]
fn the_key_is_made_from_the_standard_template_and_forgotten_again() {
    let said = [(&*create_p256(), &*created_p256()), (FLUSH, FLUSHED)];
    assert_eq!(Script::new(&said).learn(), Ok(P256_NAME.into()));
}

#[test]
fn a_tpm_whose_hierarchy_has_a_password_is_known_by_the_key_that_is_kept_in_it() {
    let (create, kept) = (create_p256(), persisted_p256());
    let said = [(&*create, BAD_AUTH), (READ_P256, &*kept)];
    assert_eq!(Script::new(&said).learn(), Ok(P256_NAME.into()), "it is the same key");
    let kept = persisted_rsa();
    let said = [(&*create, BAD_AUTH), (READ_P256, NOTHING_THERE), (READ_RSA, &*kept)];
    assert_eq!(Script::new(&said).learn(), Ok(RSA_NAME.into()));
}

#[test]
fn a_tpm_that_lets_nobody_near_its_keys_says_why() {
    let (create, last) = (create_p256(), create_rsa());
    let said = [
        (&*create, BAD_AUTH),
        (READ_P256, NOTHING_THERE),
        (READ_RSA, NOTHING_THERE),
        (&*last, "8001 0000000a 00000185"),
    ];
    assert_eq!(Script::new(&said).learn(), Err("it refused with code 0x9a2".into()));
}

#[test]
fn a_busy_tpm_is_not_known_by_another_key_than_usual() {
    let create = create_p256();
    assert_eq!(Script::new(&[(&create, BUSY)]).learn(), Err("it refused with code 0x922".into()));
    let error = learn(&mut |_| Err(io::ErrorKind::TimedOut.into())).expect_err("no answer");
    assert!(matches!(error, TpmError::Io(_)), "{error}");
}

#[test]
fn what_lies_where_an_endorsement_key_should_is_looked_at() {
    let (create, last) = (create_p256(), create_rsa());
    let signer = persisted_p256().replace("000300b2", "000400b2");
    let owners = persisted_p256().replace("596421d7", "596421d8");
    let blank = persisted_p256().replace(POINT, &blank_point());
    for kept in [signer, owners, blank, persisted_rsa()] {
        let said =
            [(&*create, BAD_AUTH), (READ_P256, &*kept), (READ_RSA, NOTHING_THERE), (&*last, "8001 0000000a 00000185")];
        assert!(Script::new(&said).learn().is_err(), "{kept}");
    }
}

#[test]
fn an_answer_that_is_cut_off_longer_or_changed_is_no_key() {
    let good = bytes(&created_p256());
    let key_of = |answer: &[u8]| wire::created(answer).and_then(|created| created.key(Kind::P256));
    assert_eq!(key_of(&good).expect("reads").to_string(), P256_NAME);
    for length in 0..good.len() {
        let mut cut = good[..length].to_vec();
        assert!(key_of(&cut).is_err(), "{length} bytes");
        // The same with a size that says so.
        if let Some(size) = cut.get_mut(2..6) {
            size.copy_from_slice(&(length as u32).to_be_bytes());
            assert!(key_of(&cut).is_err(), "{length} bytes");
        }
    }
    let longer = [&[0x80, 2, 0, 0, 1, 0x5b][..], &good[6..], &[0]].concat();
    assert!(matches!(key_of(&longer), Err(TpmError::Malformed)));
    let plain = [&[0x80, 1][..], &good[2..]].concat();
    assert!(matches!(key_of(&plain), Err(TpmError::Malformed)), "without an authorization");
    let kept = [&good[..10], &[0x81], &good[11..]].concat();
    assert!(matches!(key_of(&kept), Err(TpmError::Malformed)), "a made key is transient");
    // Neither the key nor its name can be another without the other.
    let public = 20..16 + 2 + 0x7a;
    for at in public {
        let mut other = good.clone();
        other[at] ^= 1;
        assert!(key_of(&other).is_err(), "byte {at}");
    }
    let other = bytes(&persisted_p256().replace(&P256_NAME[..8], "6f9f83f4"));
    assert!(matches!(wire::persisted(&other, Kind::P256), Err(TpmError::Malformed)));
}

/// A TPM in software that runs until it is dropped. Its folder is what it remembers.
struct Swtpm {
    process: Child,
    stream: UnixStream,
}

impl Swtpm {
    fn start(state: &Path) -> Self {
        let socket = state.join("socket");
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg(format!("--tpmstate=dir={}", state.display()))
            .arg(format!("--server=type=unixio,path={}", socket.display()))
            .spawn()
            .unwrap_or_else(|error| panic!("swtpm is needed: {error}; run scripts/setup"));
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => return Self { process, stream },
                Err(error) if Instant::now() > until => panic!("no TPM: {error}"),
                Err(_) => thread::yield_now(),
            }
        }
    }

    fn say(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.stream.write_all(command)?;
        let mut answer = vec![0; ANSWER];
        let length = self.stream.read(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    }

    fn key(&mut self, uuid: u8) -> DiskKey {
        derive(&mut |command| self.say(command), &[uuid; 16]).expect("derived")
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_key_of_a_volume_is_the_same_in_every_boot_and_another_in_another_tpm_or_once_it_was_cleared() {
    let (one, two) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let mut tpm = Swtpm::start(one.path());
    let key = tpm.key(1);
    assert_ne!(key.bytes(), &[0; 32]);
    assert_eq!(tpm.key(1), key);
    assert_ne!(tpm.key(2), key, "each volume has its own");
    // It holds three objects at once, and the kernel's resource manager is not here: nothing is left in it.
    (0..8).for_each(|_| assert_eq!(tpm.key(1), key));
    drop(tpm);
    assert_eq!(Swtpm::start(one.path()).key(1), key);
    assert_ne!(Swtpm::start(two.path()).key(1), key);

    // TPM2_Clear with the lockout hierarchy, whose password is empty.
    let mut tpm = Swtpm::start(one.path());
    let answer = tpm.say(&bytes("8002 0000001b 00000126 4000000a 00000009 40000009 0000 00 0000")).expect("answered");
    assert_eq!(&answer[6..10], &[0; 4], "{answer:x?}");
    assert_ne!(tpm.key(1), key);
}

#[test]
fn an_answer_that_is_no_mac_is_no_key() {
    let good = bytes("8002 00000035 00000000 00000022 0020");
    let good = [&good[..], &[7; 32], &[0, 0, 1, 0, 0]].concat();
    assert_eq!(wire::maced(&good).expect("reads"), [7; 32]);
    for length in 0..good.len() {
        let mut cut = good[..length].to_vec();
        assert!(wire::maced(&cut).is_err());
        if let Some(size) = cut.get_mut(2..6) {
            size.copy_from_slice(&(length as u32).to_be_bytes());
            assert!(wire::maced(&cut).is_err(), "{length} bytes");
        }
    }
    let short = bytes("8002 00000015 00000000 00000002 0000 0000 01 0000");
    assert!(wire::maced(&short).is_err(), "an empty one is none");
}

#[test]
fn a_machine_without_a_tpm_waits_for_nothing() {
    let asked = Asked::begin("/nonexistent/tpmrm0");
    assert_eq!(asked.until.saturating_duration_since(Instant::now()), Duration::ZERO);
    assert_eq!(asked.answer(), Tpm::Absent);
}

#[test]
fn a_tpm_that_does_not_answer_in_time_is_silent_and_heard_later() {
    let key = Tpm::Claimed { key: Digest::of(b"key") };
    let (answer, told) = mpsc::channel();
    let mut asked = Asked::with(Duration::ZERO, move || told.recv().expect("told"));
    assert_eq!(asked.answer(), Tpm::Silent);
    answer.send(key).expect("it still waits");
    // From now on there is all the time that it takes.
    asked.until = Instant::now() + Duration::from_secs(600);
    assert_eq!(asked.answer(), key);
    assert_eq!(asked.answer(), key, "it is asked once");
}

#[test]
fn a_device_that_is_no_tpm_is_silent() {
    assert_eq!(Asked::begin("/dev/null").answer(), Tpm::Silent);
}

proptest! {
    #[test]
    fn arbitrary_answers_never_panic(answers in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 0..8)) {
        let mut answers = answers.into_iter();
        let _ = learn(&mut |_| Ok(answers.next().unwrap_or_default()));
    }

    #[test]
    fn answers_with_arbitrary_bodies_never_panic(
        tag in prop_oneof![Just(0x8001_u16), Just(0x8002)],
        code in prop_oneof![Just(0_u32), Just(0x18b), any::<u32>()],
        body in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let size = (10 + body.len()) as u32;
        let answer = [&tag.to_be_bytes()[..], &size.to_be_bytes(), &code.to_be_bytes(), &body].concat();
        let _ = learn(&mut |_| Ok(answer.clone()));
    }
}
