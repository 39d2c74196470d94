//! A sealed value opens in its own place only, and only unchanged.

use super::*;

const PLACE: Place<'static> = Place {
    group: "mainstay.dev",
    resource: "credentials",
    namespace: "team",
    name: "forge",
    uid: "6f9c",
    field: "spec.token",
};

fn sealer(keys: &[[u8; 32]]) -> Sealer {
    Sealer::with_keys(keys.iter().map(|key| &key[..])).unwrap()
}

#[test]
fn a_value_comes_back_in_its_own_place() {
    let sealer = sealer(&[[7; 32]]);
    for plain in [b"".as_slice(), b"x", b"a token", &vec![0xa5; MAX_PLAIN]] {
        let envelope = sealer.seal(&PLACE, plain).unwrap();
        assert!(Sealer::is_sealed(&envelope));
        assert_eq!(sealer.open(&PLACE, &envelope).unwrap().as_slice(), plain);
    }
    assert_eq!(sealer.seal(&PLACE, &vec![0; MAX_PLAIN + 1]), Err(CryptError::TooLarge));
    assert_ne!(sealer.seal(&PLACE, b"same").unwrap(), sealer.seal(&PLACE, b"same").unwrap());
}

#[test]
fn a_value_moved_to_any_other_place_does_not_open() {
    let sealer = sealer(&[[7; 32]]);
    let envelope = sealer.seal(&PLACE, b"a token").unwrap();
    let others = [
        Place { group: "", ..PLACE },
        Place { resource: "secrets", ..PLACE },
        Place { namespace: "other", ..PLACE },
        Place { name: "other", ..PLACE },
        Place { uid: "6f9d", ..PLACE },
        Place { field: "spec.url", ..PLACE },
        // The same bytes, divided at another place.
        Place { namespace: "tea", name: "mforge", ..PLACE },
    ];
    for place in others {
        assert_eq!(sealer.open(&place, &envelope), Err(CryptError::Forged), "{place:?}");
    }
}

#[test]
fn every_changed_byte_and_every_cut_is_refused() {
    let sealer = sealer(&[[7; 32]]);
    let envelope = sealer.seal(&PLACE, b"a token").unwrap();
    for index in 0..envelope.len() {
        let mut bytes = envelope.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(sealer.open(&PLACE, &changed).is_err(), "byte {index}");
        assert!(sealer.open(&PLACE, &envelope[..index]).is_err(), "cut at {index}");
    }
    for wrong in ["", "a token", "mainstay:v1:", "mainstay:v1:x:", "mainstay:v2:00000000:AAAA"] {
        assert!(sealer.open(&PLACE, wrong).is_err(), "{wrong}");
    }
}

#[test]
fn after_a_rotation_old_values_open_and_new_ones_use_the_new_key() {
    let (old, new) = (sealer(&[[1; 32]]), sealer(&[[2; 32], [1; 32]]));
    let envelope = old.seal(&PLACE, b"a token").unwrap();
    assert_eq!(new.open(&PLACE, &envelope).unwrap().as_slice(), b"a token");
    let fresh = new.seal(&PLACE, b"a token").unwrap();
    assert_eq!(old.open(&PLACE, &fresh), Err(CryptError::UnknownKey));
}
