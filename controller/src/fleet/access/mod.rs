//! Operators' tokens: made once, stored hashed, checked in constant time. Beside them what hubs show, and who did what.
//!
//! A token reads `muster_<id>_<secret>`: the id finds the record, the secret is compared by its hash.

pub mod audit;
pub mod credential;
pub mod facts;
pub mod ledger;

use muster_protocol::Digest;
use muster_protocol::enroll::shows;
use subtle::ConstantTimeEq;

use super::record::{Role, Token};
use super::{Draft, Facts, Refusal, State};
use crate::api::view::Time;

impl Role {
    /// As the API and the audit log write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Makes a token. The answer holds the only copy of its text.
pub fn create(
    draft: &mut Draft,
    name: &str,
    role: Role,
    expires_unix_ms: Option<u64>,
) -> Result<(Token, String), Refusal> {
    check_name(draft, name)?;
    if expires_unix_ms.is_some_and(|at| at <= draft.now_unix_ms()) {
        return Err(Refusal::invalid("expires", "this is in the past"));
    }
    let id = hex(&draft.random::<4>());
    let secret = hex(&draft.random::<32>());
    let token = Token {
        id: id.clone(),
        name: name.to_owned(),
        role,
        secret: Digest::of(secret.as_bytes()),
        created_unix_ms: draft.now_unix_ms(),
        expires_unix_ms,
    };
    draft.audit("token.created", &id, Facts::none(), facts(&token));
    draft.put(token.clone());
    Ok((token, format!("muster_{id}_{secret}")))
}

/// Makes a token useless at once. The last admin token that is good stays.
pub fn revoke(draft: &mut Draft, id: &str) -> Result<(), Refusal> {
    let named = |token: &&Token| token.name == id;
    let named: Vec<String> = draft.state().tokens.iter().filter(named).map(|token| token.id.clone()).collect();
    if draft.get::<Token>(&id.to_owned()).is_none() && !named.is_empty() {
        return Err(Refusal::invalid("id", format!("{id} is a token's name; give its id: {}", named.join(", "))));
    }
    let token = draft.need::<Token>(&id.to_owned())?;
    let now = draft.now_unix_ms();
    let is_good_admin = |t: &Token| t.role == Role::Admin && t.expires_unix_ms.is_none_or(|at| at > now);
    let is_other = |t: &Token| t.id != token.id && is_good_admin(t);
    if is_good_admin(&token) && !draft.state().tokens.iter().any(is_other) {
        return Err(Refusal::Conflict("this is the last admin token; make another one first".into()));
    }
    draft.audit("token.revoked", id, facts(&token), Facts::none());
    draft.delete::<Token>(&id.to_owned());
    Ok(())
}

/// Who acts with a token, for the audit log: `token:NAME/ID`. Names are given again when a token has ended.
pub fn author(token: &Token) -> String {
    format!("token:{}/{}", token.name, token.id)
}

/// Letters, digits and what stands in mail addresses: nothing that hides, turns the writing round, or looks like two words.
fn check_name(draft: &Draft, name: &str) -> Result<(), Refusal> {
    let legal = |c: char| shows(c) && (c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | '+'));
    if name.is_empty() || name.len() > 63 || !name.chars().all(legal) {
        let problem = format!(
            "{name:?} is no name: 1 to 63 letters, digits, '-', '_', '.', '@' or '+', such as olga or ci-berlin"
        );
        return Err(Refusal::invalid("name", problem));
    }
    let now = draft.now_unix_ms();
    let is_live = |token: &Token| token.expires_unix_ms.is_none_or(|at| at > now);
    match draft.state().tokens.iter().find(|token| token.name == name && is_live(token)) {
        Some(other) => Err(Refusal::Conflict(format!(
            "there is a token of the name {name} already, {}; take another name, or revoke that one first",
            other.id
        ))),
        None => Ok(()),
    }
}

/// A token without its secret, for the audit log.
fn facts(token: &Token) -> Facts {
    let Token { name, role, expires_unix_ms, .. } = token;
    let until = expires_unix_ms.map_or("never".into(), |at| Time(at).text());
    Facts::of([("name", name.clone()), ("role", role.word().to_owned()), ("expires", until)])
}

/// Why a text is no token that is good now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// Never made, or revoked.
    Unknown,
    /// It was good.
    Expired {
        /// Whose.
        name: String,
        /// Until when.
        at_unix_ms: u64,
    },
}

/// The record of a token that is good now.
pub fn check<'a>(state: &'a State, text: &str, now_unix_ms: u64) -> Result<&'a Token, Unfit> {
    let (id, secret) = text.strip_prefix("muster_").and_then(|text| text.split_once('_')).ok_or(Unfit::Unknown)?;
    let token = state.tokens.get(&id.to_owned()).ok_or(Unfit::Unknown)?;
    let right: bool = Digest::of(secret.as_bytes()).as_bytes().ct_eq(token.secret.as_bytes()).into();
    match token.expires_unix_ms {
        _ if !right => Err(Unfit::Unknown),
        Some(at_unix_ms) if at_unix_ms <= now_unix_ms => Err(Unfit::Expired { name: token.name.clone(), at_unix_ms }),
        _ => Ok(token),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::draft::tests::draft;

    #[test]
    fn only_the_whole_token_is_good_and_only_until_it_is_revoked_or_ends() {
        let mut draft = draft();
        create(&mut draft, "root", Role::Admin, None).expect("made");
        let end = draft.now_unix_ms() + 1_000;
        let (token, text) = create(&mut draft, "ci", Role::Viewer, Some(end)).expect("made");
        assert_eq!(check(draft.state(), &text, end - 1).map(|t| t.name.as_str()), Ok("ci"));
        let ended = Unfit::Expired { name: "ci".into(), at_unix_ms: end };
        assert_eq!(check(draft.state(), &text, end), Err(ended));
        assert_eq!(check(draft.state(), &text[..text.len() - 1], end), Err(Unfit::Unknown));
        for wrong in [&text[..text.len() - 1], "", "muster_", "muster_00000000_", &text.replace("muster_", "")] {
            assert_eq!(check(draft.state(), wrong, 0), Err(Unfit::Unknown), "{wrong}");
        }
        let by_name = revoke(&mut draft, "ci").expect_err("names are given again").to_string();
        assert!(by_name.contains(&format!("give its id: {}", token.id)), "{by_name}");
        revoke(&mut draft, &token.id).expect("revoked");
        assert_eq!(check(draft.state(), &text, 0), Err(Unfit::Unknown));
    }

    #[test]
    fn of_the_tokens_that_are_good_each_has_a_name_of_its_own_that_reads_as_it_is() {
        let mut draft = draft();
        for wrong in [
            "",
            "first start",
            "olga\u{202e}",
            "ol\u{200b}ga",
            "a\nb",
            "a\u{a0}b",
            "a\u{3164}b",
            "token/id",
            &"x".repeat(64),
        ] {
            let refused = create(&mut draft, wrong, Role::Viewer, None).expect_err(wrong).to_string();
            assert!(refused.starts_with("name: "), "{refused}");
        }
        let end = draft.now_unix_ms() + 1_000;
        let (first, _) = create(&mut draft, "olga@büro", Role::Viewer, Some(end)).expect("made");
        let twice = create(&mut draft, "olga@büro", Role::Admin, None).expect_err("two of a name").to_string();
        assert!(twice.contains(&first.id), "{twice}");
        draft.advance_ms(1_000);
        let (second, _) = create(&mut draft, "olga@büro", Role::Viewer, None).expect("the first has ended");
        assert_ne!(author(&first), author(&second), "the audit log tells them apart");
        revoke(&mut draft, &second.id).expect("revoked");
        create(&mut draft, "olga@büro", Role::Viewer, None).expect("the second is gone");
    }

    #[test]
    fn the_last_admin_token_cannot_be_revoked() {
        let mut draft = draft();
        let (token, _) = create(&mut draft, "root", Role::Admin, None).expect("made");
        assert!(matches!(revoke(&mut draft, &token.id), Err(Refusal::Conflict(_))));
        let end = draft.now_unix_ms() + 1_000;
        create(&mut draft, "guest", Role::Admin, Some(end)).expect("made");
        draft.advance_ms(1_000);
        assert!(matches!(revoke(&mut draft, &token.id), Err(Refusal::Conflict(_))), "the other one has ended");
    }
}
