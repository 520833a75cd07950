//! Rules of limits that change, and what a shard's last owner has recorded about its keys.

use tramline_core::limit::Rule;
use tramline_store::limits::LimitState;

use super::limits::{At, ScopeId};
use super::{Driver, Stage};

impl Driver {
    /// The rules as they are now; `asked` when they were read because this node asked for them.
    pub(super) fn on_rules(&mut self, rules: Vec<(String, Rule)>, asked: bool) {
        for scope in self.state.limits.set_rules(rules) {
            if self.state.limits.is_paused(scope) {
                self.hold_ready(scope);
                continue;
            }
            let mut lot = std::mem::take(self.state.limits.lot(scope).unwrap_or(&mut Default::default()));
            while let Some(run) = lot.pop() {
                self.admit(run, 0);
            }
            for key in self.state.limits.keys_of(scope) {
                self.state.limits.dirty.push(key);
                let Some(At {
                    limiter,
                    rule,
                    waiting,
                    ..
                }) = self.state.limits.at(key)
                else {
                    continue;
                };
                if rule.is_none_or(|rule| !rule.limits()) {
                    let free = limiter.empty_line(|run| waiting.contains_key(&run));
                    free.iter().for_each(|run| limiter.restore(*run));
                    free.into_iter().for_each(|run| self.make_ready(run, 0));
                }
            }
        }
        if asked {
            for run in std::mem::take(&mut self.state.limits.asked) {
                let Some(waiter) = self.state.limits.waiting.get(&run).copied() else {
                    continue;
                };
                let Some(key) = waiter.key else { continue };
                match self.state.limits.at(key) {
                    Some(At { rule: Some(rule), .. }) if rule.limits() => {
                        self.arrive(key, run, waiter.priority(), 0)
                    }
                    // It was taken back: whoever was inserted under it has its place.
                    found => {
                        if let Some(At { limiter, .. }) = found {
                            limiter.restore(run);
                        }
                        self.make_ready(run, 0);
                    }
                }
            }
        }
    }

    /// A queue was paused: what was ready and has not begun goes back. A place at a key is kept.
    fn hold_ready(&mut self, queue: ScopeId) {
        let mut held = Vec::new();
        let entries = &self.state.entries;
        self.state.ready.retain(|run| {
            let hold = entries
                .get(&run)
                .is_some_and(|e| e.queue == queue && matches!(e.stage, Stage::Ready));
            if hold {
                held.push(run);
            }
            !hold
        });
        for run in held {
            if let Some(waiter) = self.unload(run) {
                self.state.limits.waiting.insert(run, waiter);
                self.admit(run, 0);
            }
        }
    }

    /// What is recorded about the keys of a shard that was taken.
    pub(super) fn on_limit_state(&mut self, shard: u16, recorded: LimitState) {
        match self.state.shards.get_mut(&shard) {
            // After a broken connection memory knows more than the database.
            Some(state) if !state.limits_known && !state.limits_read => state.limits_read = true,
            _ => return,
        }
        for (run, text) in recorded.claims {
            let key = self.state.limits.key(&text, shard);
            if let Some(At { limiter, .. }) = self.state.limits.at(key) {
                limiter.restore(run);
            }
        }
        for (text, bucket) in recorded.buckets {
            let key = self.state.limits.key(&text, shard);
            if let Some(At { limiter, .. }) = self.state.limits.at(key) {
                limiter.restore_bucket(bucket);
            }
        }
    }

    /// Everything unfinished of a shard is known: whoever waits stands in line, in the order of discovery.
    pub(super) fn on_scanned(&mut self, shard: u16) {
        let Some(state) = self.state.shards.get_mut(&shard) else {
            return;
        };
        state.limits_known = true;
        let mut gated = std::mem::take(&mut state.gated);
        gated.sort_unstable_by_key(|(xid, run, _)| (*xid, *run));
        for (_, run, group) in gated {
            self.admit(run, group);
        }
    }
}
