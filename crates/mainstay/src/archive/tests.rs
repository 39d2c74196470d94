//! What is not a whole backup of ours is refused, whatever is wrong with it.

use std::fs;

use mainstay_store::Revision;
use tempfile::TempDir;

use super::*;

const STATE_OF: Contents =
    Contents { schema: 3, revision: Revision(7), epoch: 0, objects: 1, operations: 0, messages: 0 };

/// A directory with parts, and the backup of it.
fn backup() -> (TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("keys")).unwrap();
    for (name, text) in [(STATE, "a database of odd length"), ("keys/data.key", "a key"), ("clock", "")] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let created = "2026-11-21T00:00:00Z".parse().unwrap();
    let manifest = Manifest::of(dir.path(), STATE_OF, created, &mut |_, _, _| {}).unwrap();
    let mut file = Vec::new();
    let bytes = write(dir.path(), &manifest, &mut file, &mut |_, _, _| {}).unwrap();
    assert_eq!(bytes, file.len() as u64);
    (dir, file)
}

/// Opens the file and puts its parts into a directory, which it gives back.
fn read(file: &[u8]) -> Result<(Manifest, TempDir), ArchiveError> {
    let dir = tempfile::tempdir().unwrap();
    let (path, into) = (dir.path().join("file"), dir.path().join("into"));
    fs::write(&path, file).unwrap();
    fs::create_dir(&into).unwrap();
    let mut archive = Archive::open(&path, &mut |_, _, _| {})?;
    archive.verify(&mut |_, _, _| {})?;
    archive.extract(&into, |name| name != "clock", &mut |_, _, _| {})?;
    Ok((archive.manifest, dir))
}

/// A file made as ours are, sealed as ours are, of these entries and this manifest.
fn forged(manifest: &str, entries: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Hashed::new(Vec::new()));
    for (name, text) in [&[(MANIFEST, manifest)], entries].concat() {
        let mut header = header("x", text.len() as u64).unwrap();
        // The library would not write such names.
        let bytes = &mut header.as_mut_bytes()[..100];
        bytes.fill(0);
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, text.as_bytes()).unwrap();
    }
    let digest = tar.get_ref().hex();
    tar.append(&header(SEAL, 64).unwrap(), digest.as_bytes()).unwrap();
    tar.into_inner().unwrap().inner
}

fn hex(text: &str) -> String {
    let mut hashed = Hashed::new(io::sink());
    hashed.write_all(text.as_bytes()).unwrap();
    hashed.hex()
}

fn manifest(format: u32, parts: &[(&str, u64, String)]) -> String {
    let parts: Vec<_> = parts
        .iter()
        .map(|(name, bytes, sha256)| serde_json::json!({ "name": name, "bytes": bytes, "sha256": sha256 }))
        .collect();
    serde_json::json!({
        "format": format, "program": "9.9", "created": "2026-11-21T00:00:00Z", "state": STATE_OF, "parts": parts,
    })
    .to_string()
}

#[test]
fn a_backup_is_read_as_it_was_written() {
    let (_, file) = backup();
    let (manifest, dir) = read(&file).unwrap();
    let names: Vec<&str> = manifest.parts.iter().map(|part| &*part.name).collect();
    assert_eq!((manifest.state, names), (STATE_OF, vec![STATE, "keys/data.key", "clock"]));
    let into = dir.path().join("into");
    assert_eq!(fs::read(into.join(STATE)).unwrap(), b"a database of odd length");
    assert_eq!(fs::read(into.join("keys/data.key")).unwrap(), b"a key");
    assert!(!into.join("clock").exists(), "not wanted");
    use std::os::unix::fs::PermissionsExt as _;
    for (name, mode) in [(STATE, 0o600), ("keys", 0o700), ("keys/data.key", 0o600)] {
        assert_eq!(fs::metadata(into.join(name)).unwrap().permissions().mode() & 0o777, mode, "{name}");
    }
}

#[test]
fn every_byte_counts() {
    let (_, file) = backup();
    for at in 0..file.len() {
        let mut changed = file.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(matches!(read(&changed), Err(ArchiveError::Damaged { .. })), "byte {at}");
    }
    for length in (0..file.len()).step_by(97).chain([file.len() - 1, file.len() - 512]) {
        assert!(matches!(read(&file[..length]), Err(ArchiveError::Damaged { .. })), "{length} bytes");
    }
    let longer = [file.as_slice(), &[0; 512]].concat();
    assert!(matches!(read(&longer), Err(ArchiveError::Damaged { .. })));
    assert!(matches!(read(b"something else"), Err(ArchiveError::Damaged { .. })));
}

#[test]
fn what_is_whole_and_yet_not_ours_is_refused() {
    let (db, key) = ("database", "key");
    let (db_part, key_part) = ((STATE, 8, hex(db)), ("keys/data.key", 3, hex(key)));
    let good = manifest(FORMAT, &[db_part.clone(), key_part.clone()]);
    let refused = |manifest: &str, entries: &[(&str, &str)]| match read(&forged(manifest, entries)) {
        Err(ArchiveError::Damaged { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    assert!(read(&forged(&good, &[(STATE, db), ("keys/data.key", key)])).is_ok(), "the forger does it right");
    // Swapped, in their order or in their names; missing; one more.
    assert!(refused(&good, &[("keys/data.key", key), (STATE, db)]).contains("not where it should be"));
    let swapped = manifest(FORMAT, &[(STATE, 3, hex(db)), ("keys/data.key", 8, hex(key))]);
    assert!(refused(&swapped, &[(STATE, key), ("keys/data.key", db)]).contains("not what its digest says"));
    assert!(refused(&good, &[(STATE, db)]).contains("not where it should be"));
    assert!(refused(&good, &[(STATE, db), ("keys/data.key", key), ("more", "")]).contains("more than its manifest"));
    // Names that lead elsewhere, with and without the manifest's blessing.
    for name in ["../state.db", "/etc/passwd", "keys/../../x", "keys/other.key", "keys", "./state.db", ""] {
        assert!(refused(&good, &[(name, db), ("keys/data.key", key)]).contains("not where it should be"), "{name}");
        let blessed = manifest(FORMAT, &[db_part.clone(), (name, 3, hex(key))]);
        assert!(refused(&blessed, &[(STATE, db), (name, key)]).contains("no part of a backup"), "{name}");
    }
    let twice = manifest(FORMAT, &[db_part.clone(), db_part.clone()]);
    assert!(refused(&twice, &[(STATE, db), (STATE, db)]).contains("no part of a backup, or not in its place"));
    // Sizes that nobody has.
    for bytes in [1 << 20, 1 << 60, u64::MAX] {
        let huge = manifest(FORMAT, &[(STATE, bytes, hex(db)), key_part.clone()]);
        assert!(refused(&huge, &[(STATE, db), ("keys/data.key", key)]).contains("more bytes than it has"), "{bytes}");
    }
    assert!(refused(&" ".repeat(1 << 20), &[]).contains("does not begin with a manifest"));
    assert!(refused(&manifest(FORMAT, &[key_part]), &[("keys/data.key", key)]).contains("no database"));
    assert!(refused("{\"format\":1}", &[]).contains("its manifest"));
    let newer = read(&forged(&manifest(2, &[]), &[]));
    assert!(matches!(newer, Err(ArchiveError::Unsupported { found: 2, known: FORMAT, .. })), "{newer:?}");
}

/// Only a plain file is a part, whatever an entry says that it is.
#[test]
fn links_and_other_kinds_of_entries_are_refused() {
    let db = "database";
    let good = manifest(FORMAT, &[(STATE, 8, hex(db))]);
    for kind in
        [tar::EntryType::Symlink, tar::EntryType::GNULongName, tar::EntryType::GNUSparse, tar::EntryType::XHeader]
    {
        let mut tar = tar::Builder::new(Hashed::new(Vec::new()));
        tar.append(&header(MANIFEST, good.len() as u64).unwrap(), good.as_bytes()).unwrap();
        let mut odd = header(STATE, 8).unwrap();
        odd.set_entry_type(kind);
        odd.set_cksum();
        tar.append(&odd, db.as_bytes()).unwrap();
        let digest = tar.get_ref().hex();
        tar.append(&header(SEAL, 64).unwrap(), digest.as_bytes()).unwrap();
        let read = read(&tar.into_inner().unwrap().inner);
        assert!(matches!(read, Err(ArchiveError::Damaged { .. })), "{kind:?}: {read:?}");
    }
}

#[test]
fn one_makes_a_file_at_a_time_and_what_a_dead_one_left_goes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("b.tar");
    let remains = dir.path().join(".mainstay-backup.part");
    let work = Work::beside(&file).unwrap();
    assert_eq!(work.path(), remains);
    assert!(matches!(Work::beside(&file), Err(ArchiveError::Busy(_))));
    drop(work);
    assert!(!remains.exists());
    // As a kill leaves it.
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).create(&remains).unwrap();
    fs::create_dir(remains.join("keys")).unwrap();
    fs::write(remains.join("state.db"), "half").unwrap();
    let work = Work::beside(&file).unwrap();
    assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0);
    drop(work);
    // Open to others: what is put there would be theirs.
    fs::create_dir(&remains).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&remains, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Work::beside(&file), Err(ArchiveError::Io { .. })));
}
