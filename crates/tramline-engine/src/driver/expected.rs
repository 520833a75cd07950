//! Tells whoever makes the calls which schedules begin soon.

use super::Driver;

impl Driver {
    /// Tells of the schedules whose periods begin soon.
    pub(super) fn tell_expected(&mut self) {
        if self.state.stopping.is_some() || !self.state.trusted {
            return;
        }
        let names = self.state.expected.take(self.state.clock.now());
        let (go_on, gone): (Vec<_>, Vec<_>) = names
            .into_iter()
            .partition(|name| self.state.schedules.goes_on(name));
        for name in gone {
            self.state.expected.forget(&name);
        }
        if !go_on.is_empty() {
            self.outside
                .invoke
                .expect(go_on.iter().map(|name| name.to_string()).collect());
        }
    }
}
