//! Public keys of OpenSSH, as they stand in `authorized_keys`: one line of a type, its bytes in base64, and a comment.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The longest line: an RSA key of 8192 bits with a comment.
const LINE: usize = 2048;

/// Whether a machine could let somebody in by it. Certificates are none: they stand elsewhere.
pub(super) fn is_public_key(line: &str) -> bool {
    let mut words = line.splitn(3, ' ');
    let (kind, text) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let Ok(bytes) = STANDARD.decode(text) else { return false };
    line.len() <= LINE && !line.contains(char::is_control) && parts(&bytes).is_some_and(|parts| is_key(kind, &parts))
}

/// What a key of this type consists of: RFC 4253, section 6.6, RFC 5656, section 3.1, RFC 8709, section 4, and OpenSSH's
/// PROTOCOL.u2f.
fn is_key(kind: &str, parts: &[&[u8]]) -> bool {
    let Some((inner, parts)) = parts.split_first() else { return false };
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let is_sound = match (kind, &lengths[..]) {
        ("ssh-ed25519", [32]) => true,
        // 1024 bits, which no server takes any more, and a byte before them that says that they are positive.
        ("ssh-rsa", [1..=8, modulus]) => *modulus >= 129,
        ("ecdsa-sha2-nistp256", [_, 65]) | ("ecdsa-sha2-nistp384", [_, 97]) | ("ecdsa-sha2-nistp521", [_, 133]) => true,
        ("sk-ssh-ed25519@openssh.com", [32, application]) => *application > 0,
        ("sk-ecdsa-sha2-nistp256@openssh.com", [_, 65, application]) => *application > 0,
        _ => false,
    };
    is_sound && *inner == kind.as_bytes()
}

/// The byte strings, each behind its length in 32 bits (RFC 4251, section 5); `None` where they do not fill the bytes.
fn parts(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        parts.push(part);
        bytes = rest;
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &str, inner: &str, parts: &[usize]) -> String {
        let parts = parts.iter().map(|length| vec![7; *length]);
        let bytes = std::iter::once(inner.as_bytes().to_vec()).chain(parts);
        let bytes: Vec<u8> =
            bytes.flat_map(|part| [(part.len() as u32).to_be_bytes().to_vec(), part].concat()).collect();
        format!("{kind} {}", STANDARD.encode(bytes))
    }

    #[test]
    fn a_key_is_what_its_type_says_and_nothing_else_is_one() {
        let all: [(&str, &[usize]); 7] = [
            ("ssh-ed25519", &[32]),
            ("ssh-rsa", &[3, 385]),
            ("ecdsa-sha2-nistp256", &[8, 65]),
            ("ecdsa-sha2-nistp384", &[8, 97]),
            ("ecdsa-sha2-nistp521", &[8, 133]),
            ("sk-ssh-ed25519@openssh.com", &[32, 4]),
            ("sk-ecdsa-sha2-nistp256@openssh.com", &[8, 65, 4]),
        ];
        for (kind, parts) in all {
            let key = line(kind, kind, parts);
            for key in [key.clone(), format!("{key} olga@example.net"), format!("{key} two words")] {
                assert!(is_public_key(&key), "{key}");
            }
            let more = [parts, &[1]].concat();
            for wrong in [line(kind, "ssh-dss", parts), line(kind, kind, &[]), line(kind, kind, &more)] {
                assert!(!is_public_key(&wrong), "{wrong}");
            }
            assert!(!is_public_key(&key[..key.len() - 4]), "{kind}: it was cut off");
        }
        let key = line("ssh-ed25519", "ssh-ed25519", &[32]);
        for wrong in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 ",
            "ssh-ed25519 AAAA",
            "ssh-ed25519 //// ops",
            &line("ssh-ed25519", "ssh-ed25519", &[31]),
            &line("ssh-rsa", "ssh-rsa", &[3, 65]),
            &line("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256", &[8, 64]),
            &line("ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519-cert-v01@openssh.com", &[32]),
            &format!("no-pty {key}"),
            &format!("{key} a\nb"),
            &format!("{key} {}", "x".repeat(2048)),
            &key["ssh-ed25519 ".len()..],
        ] {
            assert!(!is_public_key(wrong), "{wrong:?}");
        }
    }
}
