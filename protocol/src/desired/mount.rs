//! Mount options: which there are, and the one form in which they are kept and compared.
//!
//! Called by the reader of documents, by the check, and by the agent, which compares what is desired with what is.
//! What the kernel does with a filesystem's own options is its own business; here is only which ones it knows
//! (Linux kernel, Documentation/filesystems and fs/*/super.c), so that a typo is found before anything is made.

use serde::{Deserialize, Serialize};

use super::format::Format;

/// Where a filesystem is mounted, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path.
    pub path: String,
    /// In the form that [`mount_options`] gives them, at most 32.
    pub options: Vec<String>,
}

/// A mount of something that is on no disk of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeMount {
    /// Of what.
    pub what: Tree,
    /// Where, and how.
    pub mount: Mount,
}

/// What is mounted that is on no disk of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tree {
    /// A filesystem in memory, empty at first and gone when it is unmounted.
    Tmpfs,
    /// A directory that is elsewhere in the tree, by its path; without what is mounted in it.
    Bind(String),
}

/// What options are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mountable {
    /// A filesystem on a disk.
    Format(Format),
    /// See [`Tree::Tmpfs`].
    Tmpfs,
    /// See [`Tree::Bind`].
    Bind,
}

impl Tree {
    /// Whose options it has.
    pub fn mountable(&self) -> Mountable {
        match self {
            Self::Tmpfs => Mountable::Tmpfs,
            Self::Bind(_) => Mountable::Bind,
        }
    }
}

/// Options that every filesystem has, in the order in which they are kept. What is not said is the opposite, which is
/// the default.
pub const FLAGS: [&str; 9] =
    ["ro", "nosuid", "nodev", "noexec", "noatime", "strictatime", "nodiratime", "sync", "lazytime"];

/// Whether this is one that every filesystem has, and that a remount changes.
pub fn is_flag(option: &str) -> bool {
    FLAGS.contains(&option)
}

/// Bytes of one option.
const LENGTH: usize = 200;
const COUNT: usize = 32;

/// Brings options into the one form in which they are kept: [`FLAGS`] first, then the filesystem's own as they come; of
/// what contradicts, the last counts; nothing that is the default.
///
/// Errors: the place of the first one that cannot be, and why.
pub fn mount_options(of: Mountable, words: &[&str]) -> Result<Vec<String>, (usize, String)> {
    let mut set = [false; FLAGS.len()];
    let mut own: Vec<&str> = Vec::new();
    for (at, &word) in words.iter().enumerate() {
        let mut put = |names: &[&str], to: bool| {
            for (flag, name) in set.iter_mut().zip(FLAGS) {
                *flag = if names.contains(&name) { to } else { *flag };
            }
        };
        match word {
            // There is no boot that waits for a mount, or fails for want of one.
            "defaults" | "auto" | "nofail" => {}
            "sync" | "lazytime" if of == Mountable::Bind => {
                return Err((at, format!("{word:?} is the filesystem's, and a bind mount has none of its own")));
            }
            "ro" | "nosuid" | "nodev" | "noexec" | "nodiratime" | "sync" | "lazytime" => put(&[word], true),
            "noatime" | "strictatime" => {
                put(&["noatime", "strictatime"], false);
                put(&[word], true);
            }
            "atime" | "relatime" => put(&["noatime", "strictatime"], false),
            "rw" => put(&["ro"], false),
            "async" => put(&["sync"], false),
            "suid" | "dev" | "exec" | "diratime" => put(&[&format!("no{word}")], false),
            "nolazytime" => put(&["lazytime"], false),
            _ => {
                refuses(of, word).map_or(Ok(()), |problem| Err((at, problem)))?;
                let key = |word: &str| word.split('=').next().unwrap_or(word).to_owned();
                own.retain(|other| key(other) != key(word));
                own.push(word);
            }
        }
    }
    let flags = FLAGS.into_iter().zip(set).filter(|(_, is_set)| *is_set).map(|(name, _)| name);
    let all: Vec<String> = flags.chain(own).map(str::to_owned).collect();
    if all.len() > COUNT {
        return Err((words.len() - 1, format!("{} options are over the limit of {COUNT}", all.len())));
    }
    Ok(all)
}

/// Whether these are in the form that [`mount_options`] gives.
pub(super) fn are_canonical(of: Mountable, options: &[String]) -> Result<(), String> {
    let words: Vec<&str> = options.iter().map(String::as_str).collect();
    match mount_options(of, &words) {
        Ok(canonical) if canonical == options => Ok(()),
        Ok(canonical) => Err(format!("options are kept as {}", canonical.join(","))),
        Err((_, problem)) => Err(problem),
    }
}

fn refuses(of: Mountable, word: &str) -> Option<String> {
    let name = match of {
        Mountable::Format(format) => format.name(),
        Mountable::Tmpfs => "tmpfs",
        Mountable::Bind => "a bind mount",
    };
    let known = own_options(of);
    let plain = |b: u8| b.is_ascii_graphic() && b != b',' && b != b'\\';
    if word.len() > LENGTH || !word.bytes().all(plain) {
        return Some(format!("a mount option has at most {LENGTH} characters, no blanks and no commas"));
    }
    let is_known = match word.split_once('=') {
        Some((key, value)) => {
            known.split_ascii_whitespace().any(|one| one.strip_suffix('=') == Some(key)) && !value.is_empty()
        }
        None => known.split_ascii_whitespace().any(|one| one == word),
    };
    let why = match word {
        "noauto" => "say with_mount_unit: false instead",
        _ if known.split_ascii_whitespace().any(|one| one.strip_suffix('=') == Some(word)) => "it needs a value",
        _ => "the kernel has no such option for it, or it reaches beyond this filesystem",
    };
    (!is_known).then(|| format!("{word:?} is no mount option for {name}: {why}"))
}

/// What each filesystem knows for itself; what ends in `=` has a value.
fn own_options(of: Mountable) -> &'static str {
    match of {
        Mountable::Format(Format::Ext4) => {
            "acl noacl user_xattr nouser_xattr journal_checksum nojournal_checksum journal_async_commit commit= data= \
             data_err= barrier barrier= nobarrier errors= discard nodiscard delalloc nodelalloc auto_da_alloc \
             auto_da_alloc= noauto_da_alloc init_itable init_itable= noinit_itable stripe= inode_readahead_blks= \
             max_batch_time= min_batch_time= journal_ioprio= minixdf bsddf grpid nogrpid bsdgroups sysvgroups resgid= \
             resuid= quota noquota usrquota grpquota prjquota usrjquota= grpjquota= jqfmt= dioread_lock \
             dioread_nolock nodioread_nolock max_dir_size_kb= i_version dax dax= block_validity noblock_validity \
             mb_optimize_scan= norecovery noload"
        }
        Mountable::Format(Format::Xfs) => {
            "allocsize= attr2 noattr2 dax dax= discard nodiscard grpid nogrpid bsdgroups sysvgroups filestreams ikeep \
             noikeep inode32 inode64 largeio nolargeio logbufs= logbsize= noalign norecovery nouuid noquota usrquota \
             uquota quota uqnoenforce qnoenforce grpquota gquota gqnoenforce prjquota pquota pqnoenforce sunit= swidth= \
             swalloc wsync"
        }
        Mountable::Format(Format::Btrfs) => {
            "acl noacl autodefrag noautodefrag barrier nobarrier clear_cache commit= compress compress= compress-force \
             compress-force= datacow nodatacow datasum nodatasum degraded discard discard= nodiscard flushoncommit \
             noflushoncommit max_inline= metadata_ratio= treelog notreelog rescue= skip_balance space_cache \
             space_cache= nospace_cache ssd nossd ssd_spread nossd_spread subvol= subvolid= thread_pool= \
             user_subvol_rm_allowed"
        }
        Mountable::Format(Format::Vfat) => {
            "uid= gid= umask= dmask= fmask= allow_utime= codepage= iocharset= utf8 utf8= uni_xlate uni_xlate= \
             nonumtail nonumtail= shortname= showexec quiet check= flush tz= time_offset= errors= discard rodir nfs nfs= \
             dos1xfloppy"
        }
        Mountable::Tmpfs => "size= nr_blocks= nr_inodes= mode= uid= gid= huge= inode32 inode64 noswap",
        Mountable::Format(Format::Swap) | Mountable::Bind => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXT4: Mountable = Mountable::Format(Format::Ext4);

    fn kept(of: Mountable, words: &[&str]) -> Result<String, usize> {
        mount_options(of, words).map(|all| all.join(",")).map_err(|(at, _)| at)
    }

    #[test]
    fn options_that_mean_the_same_are_kept_the_same() {
        for words in [
            &["defaults"][..],
            &[],
            &["rw", "relatime", "suid", "async"],
            &["ro", "rw"],
            &["noatime", "atime"],
            &["nofail"],
        ] {
            assert_eq!(kept(EXT4, words), Ok(String::new()), "{words:?}");
        }
        assert_eq!(
            kept(EXT4, &["noexec", "commit=5", "noatime", "ro", "nosuid"]),
            Ok("ro,nosuid,noexec,noatime,commit=5".into())
        );
        assert_eq!(
            kept(EXT4, &["commit=5", "discard", "commit=9"]),
            Ok("discard,commit=9".into()),
            "the last one counts"
        );
        assert_eq!(kept(EXT4, &["strictatime", "noatime"]), Ok("noatime".into()));
        assert_eq!(kept(EXT4, &["lazytime", "nolazytime", "nodev", "dev", "nodiratime"]), Ok("nodiratime".into()));
    }

    #[test]
    fn what_is_kept_is_kept_as_it_is() {
        let kept = mount_options(EXT4, &["errors=remount-ro", "nodev", "ro"]).expect("fine");
        assert_eq!(are_canonical(EXT4, &kept), Ok(()));
        for odd in [&["nodev", "ro"][..], &["defaults"], &["commit=1", "commit=2"], &["device=x"]] {
            let odd: Vec<String> = odd.iter().map(|word| (*word).to_owned()).collect();
            assert!(are_canonical(EXT4, &odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn each_filesystem_knows_its_own_options_and_no_others() {
        let format = Mountable::Format;
        assert_eq!(
            kept(format(Format::Btrfs), &["compress=zstd:3", "subvol=/home"]),
            Ok("compress=zstd:3,subvol=/home".into())
        );
        assert_eq!(kept(format(Format::Vfat), &["umask=0077"]), Ok("umask=0077".into()));
        for (of, words, at) in [
            (EXT4, &["ro", "compress=zstd"][..], 1),
            (EXT4, &["noatme"], 0),
            (EXT4, &["commit"], 0),
            (EXT4, &["commit="], 0),
            (EXT4, &["discard=async"], 0),
            (EXT4, &["noauto"], 0),
            (EXT4, &["x-systemd.automount"], 0),
            (EXT4, &["commit=5,ro"], 0),
            (EXT4, &["bind"], 0),
            (EXT4, &[""], 0),
            (format(Format::Btrfs), &["device=/dev/sdb"], 0),
            (format(Format::Xfs), &["logdev=/dev/sdb"], 0),
            (format(Format::Swap), &["pri=1"], 0),
            (Mountable::Bind, &["ro", "sync"], 1),
            (Mountable::Bind, &["size=1G"], 0),
            (Mountable::Tmpfs, &["size=1G", "discard"], 1),
        ] {
            assert_eq!(kept(of, words), Err(at), "{words:?}");
        }
    }
}
