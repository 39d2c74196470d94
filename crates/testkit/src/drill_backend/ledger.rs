//! The effects, and what follows from them. Each is in the log, and synced, before it is answered.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::verb::{self, Change, Verb};

const UNDO: &str = "undo/";

/// Something that is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// `compute`, `network`, ...
    pub backend: String,
    /// `instance`, `volume`, ...
    pub kind: String,
    /// As its maker called it.
    pub name: String,
    /// Never given twice.
    pub id: u64,
    /// As it was last asked for.
    pub spec: Value,
    /// The verb that last changed it.
    pub state: String,
    /// The operation that made it.
    pub operation: String,
    /// The step that made it.
    pub step: String,
}

/// An effect that was carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// Its place in the log, from 1.
    pub seq: u64,
    /// Whose.
    pub operation: String,
    /// Whose.
    pub step: String,
    /// Of the attempt that did it.
    pub token: u64,
    /// From 1; grows when the step is done again after it was undone.
    pub round: u64,
    /// `compute`, `network`, ...
    pub backend: String,
    /// What was done.
    pub verb: String,
    /// To what.
    pub name: String,
    /// Whether anything is different for it: removing what is not there changes nothing.
    pub changed: bool,
    /// What is there after it; of what leaves nothing behind, its result.
    pub resource: Option<Resource>,
}

/// An order that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code")]
pub enum Refusal {
    /// A newer attempt has been here.
    OldToken {
        /// Its token.
        newest: u64,
    },
    /// The step was undone by this attempt, or a newer one.
    Undone {
        /// Its token.
        token: u64,
    },
    /// There is one of that name.
    AlreadyExists,
    /// There is none of that name.
    NotFound,
    /// The order cannot be understood.
    Invalid {
        /// Why.
        why: String,
    },
}

/// What it guarantees; see the module above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guards {
    /// Older tokens are refused.
    pub fence: bool,
    /// Repetitions are answered with the first result.
    pub duplicate: bool,
    /// Stragglers of undone steps are refused.
    pub undone: bool,
}

impl Default for Guards {
    fn default() -> Self {
        Self { fence: true, duplicate: true, undone: true }
    }
}

/// An effect that is asked for.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) operation: String,
    pub(super) step: String,
    pub(super) token: u64,
    pub(super) verb: &'static Verb,
    pub(super) name: String,
    pub(super) spec: Value,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Entry {
    Effect(Box<Effect>),
    /// A token was seen without an effect.
    Seen {
        operation: String,
        token: u64,
    },
}

type Key = (String, String);

#[derive(Debug)]
pub(super) struct Ledger {
    log: File,
    pub(super) guards: Guards,
    pub(super) effects: Vec<Effect>,
    /// In memory only: judges ask before they kill.
    pub(super) refusals: Vec<(Key, u64, Refusal)>,
    /// By id.
    resources: BTreeMap<u64, Resource>,
    newest: HashMap<String, u64>,
    /// Place in `effects` of what counts for a step.
    results: HashMap<Key, usize>,
    /// Steps that were undone: by which token, in which round.
    undone: HashMap<Key, (u64, u64)>,
    next_id: u64,
}

impl Ledger {
    /// What the log in `dir` says. A last line that was cut off was never answered; it goes.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join("effects.jsonl");
        let log = OpenOptions::new().create(true).read(true).append(true).open(&path)?;
        let mut ledger = Self {
            log,
            guards: Guards::default(),
            effects: Vec::new(),
            refusals: Vec::new(),
            resources: BTreeMap::new(),
            newest: HashMap::new(),
            results: HashMap::new(),
            undone: HashMap::new(),
            next_id: 1,
        };
        let (mut lines, mut line, mut good) = (BufReader::new(File::open(&path)?), Vec::new(), 0);
        loop {
            line.clear();
            let count = lines.read_until(b'\n', &mut line)?;
            if count == 0 || line.last() != Some(&b'\n') {
                break;
            }
            ledger.note(serde_json::from_slice(&line)?);
            good += count as u64;
        }
        ledger.log.set_len(good)?;
        Ok(ledger)
    }

    /// Everything that is there.
    pub(super) fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.resources.values()
    }

    /// What became of a step.
    pub(super) fn result(&self, operation: &str, step: &str) -> Option<&Effect> {
        self.results.get(&(operation.to_owned(), step.to_owned())).and_then(|&at| self.effects.get(at))
    }

    /// Carries an order out, or says why not.
    pub(super) fn carry_out(&mut self, order: &Order) -> io::Result<Result<Effect, Refusal>> {
        let newest = self.newest.get(&order.operation).copied().unwrap_or_default();
        let outcome = if self.guards.fence && order.token < newest {
            Err(Refusal::OldToken { newest })
        } else {
            self.judge(order)
        };
        match outcome {
            Ok(Judged::Repeated(effect)) => {
                self.see(order, newest)?;
                Ok(Ok(*effect))
            }
            Ok(Judged::New(effect)) => {
                let entry = Entry::Effect(effect.clone());
                self.write(&entry)?;
                self.note(entry);
                Ok(Ok(*effect))
            }
            Err(refusal) => {
                self.see(order, newest)?;
                let key = (order.operation.clone(), order.step.clone());
                self.refusals.push((key, order.token, refusal.clone()));
                Ok(Err(refusal))
            }
        }
    }

    fn judge(&self, order: &Order) -> Result<Judged, Refusal> {
        let key = (order.operation.clone(), order.step.clone());
        let undone = self.undone.get(&key);
        if let Some(&(token, _)) = undone.filter(|(token, _)| self.guards.undone && order.token <= *token) {
            return Err(Refusal::Undone { token });
        }
        if let Some(first) = self.result(&order.operation, &order.step)
            && self.guards.duplicate
        {
            return Ok(Judged::Repeated(Box::new(first.clone())));
        }
        let undoes = order.step.strip_prefix(UNDO);
        let before = self.resources.values().find(|there| {
            there.backend == order.verb.backend
                && there.kind == order.verb.kind
                && there.name == order.name
                // What takes a step back takes nothing else that has the name.
                && undoes.is_none_or(|step| there.operation == order.operation && there.step == step)
        });
        let resource = match (order.verb.change, before) {
            // Without the guard, a second arrival makes a second one, as it would in the world.
            (Change::Create, Some(_)) if self.guards.duplicate => return Err(Refusal::AlreadyExists),
            (Change::Update, None) => return Err(Refusal::NotFound),
            (Change::Create | Change::Run, _) | (Change::Put, None) => Some(order.resource(self.next_id)),
            (Change::Update | Change::Put, Some(before)) => {
                Some(Resource { spec: order.spec.clone(), state: order.verb.name.to_owned(), ..before.clone() })
            }
            (Change::Delete, _) => None,
        };
        let target = undoes.map(|step| (order.operation.clone(), step.to_owned()));
        let last = |key: &Key| self.results.get(key).and_then(|&at| self.effects.get(at)).map(|effect| effect.round);
        let round = match target {
            Some(target) => last(&target).unwrap_or(1),
            None => undone.map_or(1, |(_, round)| round + 1),
        };
        Ok(Judged::New(Box::new(Effect {
            seq: self.effects.len() as u64 + 1,
            operation: order.operation.clone(),
            step: order.step.clone(),
            token: order.token,
            round,
            backend: order.verb.backend.to_owned(),
            verb: order.verb.name.to_owned(),
            name: order.name.clone(),
            changed: order.verb.change != Change::Delete || before.is_some(),
            resource,
        })))
    }

    /// A token counts as seen though nothing was done.
    fn see(&mut self, order: &Order, newest: u64) -> io::Result<()> {
        if order.token <= newest {
            return Ok(());
        }
        let entry = Entry::Seen { operation: order.operation.clone(), token: order.token };
        self.write(&entry)?;
        self.note(entry);
        Ok(())
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.log.write_all(&line)?;
        self.log.sync_data()
    }

    /// Takes in what the log says.
    fn note(&mut self, entry: Entry) {
        let (operation, token) = match &entry {
            Entry::Effect(effect) => (&effect.operation, effect.token),
            Entry::Seen { operation, token } => (operation, *token),
        };
        let newest = self.newest.entry(operation.clone()).or_default();
        *newest = token.max(*newest);
        let Entry::Effect(effect) = entry else { return };
        match (verb::find(&effect.backend, &effect.verb), &effect.resource) {
            (Some(Verb { change: Change::Delete, kind, .. }), _) if effect.changed => self
                .resources
                .retain(|_, there| there.backend != effect.backend || there.kind != *kind || there.name != effect.name),
            (Some(Verb { change: Change::Run | Change::Delete, .. }) | None, _) | (_, None) => {}
            (_, Some(resource)) => {
                self.next_id = self.next_id.max(resource.id + 1);
                self.resources.insert(resource.id, resource.clone());
            }
        }
        let key = (effect.operation.clone(), effect.step.clone());
        if let Some(step) = effect.step.strip_prefix(UNDO) {
            let target = (effect.operation.clone(), step.to_owned());
            self.results.remove(&target);
            self.undone.insert(target, (effect.token, effect.round));
        } else if self.undone.remove(&key).is_some() {
            self.results.remove(&(effect.operation.clone(), format!("{UNDO}{}", effect.step)));
        }
        self.results.insert(key, self.effects.len());
        self.effects.push(*effect);
    }
}

enum Judged {
    Repeated(Box<Effect>),
    New(Box<Effect>),
}

impl Order {
    fn resource(&self, id: u64) -> Resource {
        Resource {
            backend: self.verb.backend.to_owned(),
            kind: self.verb.kind.to_owned(),
            name: self.name.clone(),
            id,
            spec: self.spec.clone(),
            state: self.verb.name.to_owned(),
            operation: self.operation.clone(),
            step: self.step.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
