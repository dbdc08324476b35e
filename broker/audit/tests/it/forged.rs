//! Proofs that leave the house: true ones hold, forged ones do not.

use mqgate_audit::keys::KeyRing;
use mqgate_audit::note::Note;
use mqgate_audit::proof::{self, Proof, ProofError};

use super::*;

#[test]
fn every_record_is_proved_under_every_later_checkpoint() {
    let world = World::new();
    let mut log = world.open();
    let mut checkpoints = Vec::new();
    while log.written() < 60 {
        let next = log.written() + 1;
        fill(&mut log, next);
        if next.is_multiple_of(13) {
            log.checkpoint(at(next)).unwrap();
        }
        if next.is_multiple_of(5) || next.is_multiple_of(13) {
            checkpoints.push(log.view().checkpoint().unwrap());
        }
    }
    let keys = KeyRing::of(world.key());
    for checkpoint in &checkpoints {
        for sequence in 1..=checkpoint.size {
            let proof = proof::prove(log.view(), sequence, checkpoint).unwrap();
            assert_eq!(proof.check(&keys), Ok(()), "{sequence} of {}", checkpoint.size);
        }
        for older in checkpoints.iter().filter(|older| older.size <= checkpoint.size) {
            let proof = proof::consistency(log.view(), older.size, checkpoint.size).unwrap();
            let (one, two) = ((older.size, older.root), (checkpoint.size, checkpoint.root));
            assert!(mqgate_audit::tree::is_consistent(one, two, &proof.path));
        }
    }
    let newest = checkpoints.last().unwrap();
    fill(&mut log, 61);
    assert!(matches!(proof::prove(log.view(), 61, newest), Err(ProofError::NoCheckpoint(61))));
    assert!(matches!(proof::prove(log.view(), 0, newest), Err(ProofError::NoRecord { .. })));
    assert!(matches!(proof::prove(log.view(), 62, newest), Err(ProofError::NoRecord { .. })));
}

#[test]
fn a_forged_proof_does_not_hold() {
    let world = World::new();
    let mut log = world.open();
    fill(&mut log, 50);
    let checkpoint = log.view().checkpoint().unwrap();
    let keys = KeyRing::of(world.key());
    let proof = proof::prove(log.view(), 23, &checkpoint).unwrap();
    let text = serde_json::to_string(&proof).unwrap();
    assert_eq!(serde_json::from_str::<Proof>(&text).unwrap().check(&keys), Ok(()));
    // Every byte of what is signed or hashed.
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        let read = String::from_utf8(bytes).ok().and_then(|text| serde_json::from_str::<Proof>(&text).ok());
        if let Some(forged) = read {
            assert!(forged.check(&keys).is_err() || forged == proof, "byte {at}: {forged:?}");
        }
    }
    let other = World::new();
    fill(&mut other.open(), 50);
    assert!(proof.check(&KeyRing::of(other.key())).is_err());
    assert!(Note::parse(&proof.checkpoint).unwrap().verify(&world.key()).is_ok());
}
