//! Signatures that were verified already: a bounded map in two generations.
//!
//! A hit is kept in the young generation; when that is full it becomes the old one, and what was not used since is
//! forgotten. Keys are hashes: no token is kept.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Entries of one generation; at most twice as many are kept.
const GENERATION: usize = 2048;

type Hash = [u8; 32];

/// A bounded map from a token's hash to what it says.
#[derive(Debug)]
pub(super) struct Cache<T>(Mutex<Generations<T>>);

#[derive(Debug)]
struct Generations<T> {
    young: HashMap<Hash, T>,
    old: HashMap<Hash, T>,
}

impl<T: Clone> Cache<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() }))
    }

    pub(super) fn get(&self, hash: &Hash) -> Option<T> {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = generations.young.get(hash) {
            return Some(found.clone());
        }
        let found = generations.old.remove(hash)?;
        generations.keep(*hash, found.clone());
        Some(found)
    }

    pub(super) fn put(&self, hash: Hash, value: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keep(hash, value);
    }

    pub(super) fn remove(&self, hash: &Hash) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.remove(hash);
        generations.old.remove(hash);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.len() + generations.old.len()
    }
}

impl<T> Generations<T> {
    fn keep(&mut self, hash: Hash, value: T) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, value);
    }
}
