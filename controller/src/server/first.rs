//! What a first start makes: the data directory and the admin token.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::ServeError;
use crate::files;
use crate::fleet::record::{Role, Token};
use crate::fleet::{Author, Fleet, access};

/// The first token's file in the data directory.
const TOKEN_FILE: &str = "admin-token";

/// Where the controller says how it is reached.
pub const ENDPOINT_FILE: &str = "endpoint";

/// The first token's name.
const TOKEN_NAME: &str = "first-start";

/// Makes the data directory; what is secret in it lies in folders for this user alone.
pub fn folder(data: &Path) -> io::Result<()> {
    for folder in [data.to_owned(), data.join("db"), data.join("pki")] {
        std::fs::create_dir_all(&folder)?;
        if folder != data {
            std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700))?;
        }
    }
    Ok(())
}

/// Whether a controller ran here before: what is looked for is written after the first record is durable.
pub fn was_there(data: &Path) -> bool {
    [TOKEN_FILE, ENDPOINT_FILE].iter().any(|file| data.join(file).exists())
}

/// Makes the first admin token and leaves it in a file, where there is none.
///
/// A crash between its record and its file would lock everybody out, so a first token without its file is made again.
/// Once an operator has made an admin token of his own, this one may be taken away for good.
pub async fn admin_token(fleet: &Fleet, data: &Path) -> Result<(), ServeError> {
    let file = data.join(TOKEN_FILE);
    let state = fleet.state();
    let mut admins = state.tokens.iter().filter(|token| token.role == Role::Admin);
    if file.exists() || admins.any(|token| token.name != TOKEN_NAME) {
        return Ok(());
    }
    let text = fleet
        .change(Author::controller(), |draft| {
            let lost: Vec<Token> = draft.state().tokens.iter().filter(|t| t.name == TOKEN_NAME).cloned().collect();
            // Its name is for one token, and the last admin's token stays: it has another name for a moment.
            for token in &lost {
                draft.put(Token { name: format!("{TOKEN_NAME}-lost"), ..token.clone() });
            }
            let (_, text) = access::create(draft, TOKEN_NAME, Role::Admin, None)?;
            lost.iter().try_for_each(|token| access::revoke(draft, &token.id))?;
            Ok(text)
        })
        .await?;
    files::replace(&file, format!("{text}\n").as_bytes(), files::SECRET)
        .map_err(|cause| ServeError::Data { folder: data.to_owned(), cause })?;
    tracing::info!(file = %file.display(), "made an admin token; commands on this computer find it by themselves");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    fn admins(fleet: &Fleet) -> usize {
        fleet.state().tokens.iter().filter(|t| t.role == Role::Admin).count()
    }

    #[tokio::test]
    async fn the_first_token_is_made_once_and_again_only_if_its_file_was_lost() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let (fleet, _ended) = Fleet::start(MemoryStore::new()).expect("starts");
        let file = data.path().join(TOKEN_FILE);
        let read = || std::fs::read_to_string(&file).expect("there").trim().to_owned();

        admin_token(&fleet, data.path()).await.expect("made");
        let first = read();
        assert!(access::check(&fleet.state(), &first, 0).is_ok_and(|t| t.role == Role::Admin));
        assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        admin_token(&fleet, data.path()).await.expect("nothing to do");
        assert_eq!((read(), admins(&fleet)), (first.clone(), 1));

        std::fs::remove_file(&file).expect("removed");
        admin_token(&fleet, data.path()).await.expect("made again");
        assert_ne!(read(), first);
        assert_eq!(admins(&fleet), 1);

        let own = |draft: &mut crate::fleet::Draft| access::create(draft, "ops", Role::Admin, None);
        fleet.change(Author::controller(), own).await.expect("made");
        std::fs::remove_file(&file).expect("removed");
        admin_token(&fleet, data.path()).await.expect("nothing to do");
        assert!(!file.exists());
    }
}
