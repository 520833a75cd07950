//! What a node knows about limit keys and paused queues, and the runs that wait for them.
//!
//! A run that waits is a header: its id in a line, and a [`Waiter`] of 16 bytes by its id. It becomes an [`super::Entry`]
//! when it gets its place, so that a million blocked runs neither stop the reading nor fill the memory.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;

use tramline_core::Millis;
use tramline_core::limit::{Limiter, Line, Rule};
use uuid::Uuid;

/// Index of a key, from 1 on: an optional one takes no more room.
pub(super) type KeyId = NonZeroU32;
/// Index of a scope: what a rule is about. 0 is the default queue.
pub(super) type ScopeId = u16;

/// Keys that may be idle before they are looked through: looking costs as much as there are runs in memory.
const IDLE_MAX: usize = 4_096;
/// Scopes that are told apart; the queues beyond it cannot be paused and their limits are not kept, so nothing starts there.
const SCOPES_MAX: usize = 60_000;

pub(super) struct Limits {
    scopes: Vec<Scope>,
    scope_ids: HashMap<Box<str>, ScopeId>,
    keys: Vec<Option<Key>>,
    free: Vec<KeyId>,
    key_ids: HashMap<Arc<str>, KeyId>,
    /// Every run that waits for a key or a queue, wherever it stands.
    pub(super) waiting: HashMap<Uuid, Waiter>,
    /// Keys at which something may start now.
    pub(super) dirty: Vec<KeyId>,
    /// When to look at a key again.
    due: BinaryHeap<Reverse<(Millis, KeyId)>>,
    /// Runs whose key has no rule here: those of the question that is out, and those of the next one.
    pub(super) asked: Vec<Uuid>,
    pub(super) unasked: Vec<Uuid>,
    maybe_idle: Vec<KeyId>,
}

/// What a rule is about: a queue, or a target.
struct Scope {
    rule: Option<Arc<Rule>>,
    /// Runs that wait only because the queue is paused.
    lot: Line,
}

/// One limit key.
pub(super) struct Key {
    text: Arc<str>,
    scope: ScopeId,
    shard: u16,
    /// When it is looked at next; `Millis::MAX` = when something happens.
    look_at: Millis,
    limiter: Limiter,
}

/// A key with its rule and the runs that wait.
pub(super) struct At<'a> {
    pub(super) limiter: &'a mut Limiter,
    pub(super) text: &'a Arc<str>,
    /// `None` while it is not known here, and when it was taken back.
    pub(super) rule: Option<Arc<Rule>>,
    pub(super) waiting: &'a HashMap<Uuid, Waiter>,
}

/// A run that waits. Packed: a million of them are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    /// The transaction that enqueued it; 0 when a durable row names it.
    pub(super) xid: u64,
    pub(super) key: Option<KeyId>,
    pub(super) queue: ScopeId,
    /// Shard (10 bits), priority (2), foreign (2), past (1), parked (1).
    bits: u16,
}

const _: () = assert!(size_of::<Waiter>() == 16);

impl Waiter {
    pub(super) fn new(shard: u16, priority: u8, foreign: Option<bool>, past: bool) -> Self {
        let foreign = match foreign {
            None => 0,
            Some(false) => 1,
            Some(true) => 2,
        };
        let bits = (shard & 0x3ff) | u16::from(priority & 3) << 10 | foreign << 12 | u16::from(past) << 14;
        Self {
            xid: 0,
            key: None,
            queue: 0,
            bits,
        }
    }

    pub(super) fn shard(self) -> u16 {
        self.bits & 0x3ff
    }

    pub(super) fn priority(self) -> u8 {
        (self.bits >> 10 & 3) as u8
    }

    pub(super) fn foreign(self) -> Option<bool> {
        match self.bits >> 12 & 3 {
            0 => None,
            n => Some(n == 2),
        }
    }

    /// Something may be recorded about it.
    pub(super) fn past(self) -> bool {
        self.bits & 1 << 14 != 0
    }

    /// A row of `parked` names it, or is on its way.
    pub(super) fn parked(self) -> bool {
        self.bits & 1 << 15 != 0
    }

    pub(super) fn set_past(&mut self) {
        self.bits |= 1 << 14;
    }

    pub(super) fn set_priority(&mut self, priority: u8) {
        self.bits = self.bits & !(3 << 10) | u16::from(priority & 3) << 10;
    }

    pub(super) fn set_parked(&mut self) {
        // The row has to be taken away by the run's end, which only a run that reads its past does.
        self.set_past();
        self.bits |= 1 << 15;
    }
}

impl Limits {
    pub(super) fn new(rules: Vec<(String, Rule)>) -> Self {
        let mut limits = Self {
            scopes: Vec::new(),
            scope_ids: HashMap::new(),
            keys: Vec::new(),
            free: Vec::new(),
            key_ids: HashMap::new(),
            waiting: HashMap::new(),
            dirty: Vec::new(),
            due: BinaryHeap::new(),
            asked: Vec::new(),
            unasked: Vec::new(),
            maybe_idle: Vec::new(),
        };
        limits.scope("queue:default");
        limits.set_rules(rules);
        limits
    }

    /// Whether nothing was ever limited here: then nothing has to be looked at.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// When something is to be looked at next.
    pub(super) fn next_due(&self) -> Option<Millis> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn pop_due(&mut self, now: Millis) -> Option<KeyId> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse((_, id)) = self.due.pop()?;
        if let Some(Some(key)) = self.keys.get_mut(index(id)) {
            key.look_at = Millis::MAX;
        }
        Some(id)
    }

    pub(super) fn look_at(&mut self, key: KeyId, at: Millis) {
        if let Some(Some(state)) = self.keys.get_mut(index(key))
            && at < state.look_at
        {
            state.look_at = at;
            self.due.push(Reverse((at, key)));
        }
    }

    /// The scope of a name, made known where it is new.
    pub(super) fn scope(&mut self, name: &str) -> ScopeId {
        if let Some(id) = self.scope_ids.get(name) {
            return *id;
        }
        let id = self.scopes.len().min(SCOPES_MAX);
        if id == SCOPES_MAX {
            tracing::error!(
                scope = name,
                "too many queues and limited targets; this one is not started"
            );
        }
        let rule = (id == SCOPES_MAX).then(|| {
            Arc::new(Rule {
                paused: true,
                ..Rule::default()
            })
        });
        if self.scopes.len() <= SCOPES_MAX {
            self.scopes.push(Scope {
                rule,
                lot: Line::default(),
            });
        }
        let id = ScopeId::try_from(id).unwrap_or(ScopeId::MAX);
        self.scope_ids.insert(name.into(), id);
        id
    }

    /// The scope of a queue; the default one has an empty name.
    pub(super) fn queue(&mut self, name: &str) -> ScopeId {
        if name.is_empty() {
            return 0;
        }
        self.scope(&format!("queue:{name}"))
    }

    /// The key of a text, made known where it is new.
    pub(super) fn key(&mut self, text: &str, shard: u16) -> KeyId {
        if let Some(id) = self.key_ids.get(text) {
            return *id;
        }
        let key = Key {
            text: text.into(),
            scope: self.scope(tramline_core::limit::scope_of(text)),
            shard,
            look_at: Millis::MAX,
            limiter: Limiter::default(),
        };
        let text = key.text.clone();
        let id = match self.free.pop() {
            Some(id) => {
                self.keys[index(id)] = Some(key);
                id
            }
            None => {
                self.keys.push(Some(key));
                let count = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
                NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN)
            }
        };
        self.key_ids.insert(text, id);
        id
    }

    fn key_of(&self, id: KeyId) -> Option<&Key> {
        self.keys.get(index(id))?.as_ref()
    }

    /// A key, for a question to its limiter.
    pub(super) fn at(&mut self, id: KeyId) -> Option<At<'_>> {
        let key = self.keys.get_mut(index(id))?.as_mut()?;
        let rule = self
            .scopes
            .get(usize::from(key.scope))
            .and_then(|s| s.rule.clone());
        Some(At {
            limiter: &mut key.limiter,
            text: &key.text,
            rule,
            waiting: &self.waiting,
        })
    }

    /// A key's text, and how many have their place there.
    pub(super) fn held_at(&self, key: KeyId) -> Option<(&str, usize)> {
        self.key_of(key).map(|key| (&*key.text, key.limiter.held().len()))
    }

    pub(super) fn shard_of(&self, key: KeyId) -> Option<u16> {
        self.key_of(key).map(|key| key.shard)
    }

    /// Whether a run has its place at its key.
    pub(super) fn holds(&self, key: KeyId, run: Uuid) -> bool {
        self.key_of(key).is_some_and(|key| key.limiter.holds(run))
    }

    /// A run gives its place up.
    pub(super) fn leave(&mut self, key: KeyId, run: Uuid) {
        if let Some(Some(state)) = self.keys.get_mut(index(key))
            && state.limiter.leave(run)
        {
            self.dirty.push(key);
            self.maybe_idle.push(key);
        }
    }

    pub(super) fn is_paused(&self, queue: ScopeId) -> bool {
        let rule = self.scopes.get(usize::from(queue)).and_then(|s| s.rule.as_ref());
        rule.is_some_and(|rule| rule.paused)
    }

    pub(super) fn lot(&mut self, queue: ScopeId) -> Option<&mut Line> {
        self.scopes
            .get_mut(usize::from(queue))
            .map(|scope| &mut scope.lot)
    }

    /// Takes the rules as they are now. Answers the scopes whose rule changed.
    pub(super) fn set_rules(&mut self, rules: Vec<(String, Rule)>) -> Vec<ScopeId> {
        let mut now: HashMap<ScopeId, Arc<Rule>> = HashMap::new();
        for (name, rule) in rules {
            let id = self.scope(&name);
            now.insert(id, Arc::new(rule));
        }
        let mut changed = Vec::new();
        for (id, scope) in self.scopes.iter_mut().enumerate().take(SCOPES_MAX) {
            let Ok(id) = ScopeId::try_from(id) else { break };
            let rule = now.remove(&id);
            if scope.rule != rule {
                scope.rule = rule;
                changed.push(id);
            }
        }
        changed
    }

    pub(super) fn keys_of(&self, scope: ScopeId) -> Vec<KeyId> {
        let of = |(i, key): (usize, &Option<Key>)| {
            let number = u32::try_from(i + 1).ok().and_then(NonZeroU32::new);
            number.filter(|_| key.as_ref().is_some_and(|key| key.scope == scope))
        };
        self.keys.iter().enumerate().filter_map(of).collect()
    }

    /// Forgets a shard that is no longer ours, with its keys.
    pub(super) fn drop_shard(&mut self, shard: u16) {
        self.drop_waiters(shard);
        for i in 0..self.keys.len() {
            if self.keys[i].as_ref().is_some_and(|key| key.shard == shard)
                && let Some(id) = u32::try_from(i + 1).ok().and_then(NonZeroU32::new)
            {
                self.drop_key(id);
            }
        }
    }

    /// Nothing more of this shard starts here.
    pub(super) fn drop_waiters(&mut self, shard: u16) {
        self.waiting.retain(|_, waiter| waiter.shard() != shard);
    }

    /// Whether so many keys may be idle that they are worth looking through.
    pub(super) fn is_full(&self) -> bool {
        self.maybe_idle.len() >= IDLE_MAX
    }

    /// Forgets keys that nobody holds, waits for or refers to.
    pub(super) fn drop_idle(&mut self, now: Millis, referred: impl Iterator<Item = KeyId>) {
        let mut busy: std::collections::HashSet<KeyId> = referred.collect();
        busy.extend(self.waiting.values().filter_map(|waiter| waiter.key));
        for id in std::mem::take(&mut self.maybe_idle) {
            match self.key_of(id) {
                Some(key) if key.limiter.is_idle(now) && !busy.contains(&id) => self.drop_key(id),
                // It may be by the next time; its rate is still filling up.
                Some(key) if key.limiter.held().is_empty() => self.maybe_idle.push(id),
                _ => {}
            }
        }
        self.maybe_idle.sort_unstable();
        self.maybe_idle.dedup();
    }

    fn drop_key(&mut self, id: KeyId) {
        if let Some(key) = self.keys.get_mut(index(id)).and_then(Option::take) {
            self.key_ids.remove(&key.text);
            self.free.push(id);
        }
    }
}

fn index(id: KeyId) -> usize {
    id.get() as usize - 1
}
