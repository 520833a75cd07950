//! Runs that wait for the same thing, in the order in which they will be taken.

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

/// Priority classes, 0 being the most urgent.
pub const CLASSES: usize = 4;
/// Runs that a class always has room for: the next second needs it again.
const ROOM_KEPT: usize = 4_096;
/// One run in so many is taken from the least urgent class that waits: no class starves.
const FAIR_EVERY: u32 = 16;

/// A waiting line: urgent classes first, within a class the groups in turn, within a group in the order of arrival.
///
/// Nothing is taken out of the middle: whoever leaves is passed over when its turn comes, as the caller of
/// [`Line::pop`] says.
#[derive(Debug, Default)]
pub struct Line {
    classes: [Class; CLASSES],
    taken: u32,
    count: usize,
}

/// One class. Nearly always all its runs are of one group, and then it is a plain queue.
#[derive(Debug, Default)]
struct Class {
    plain: VecDeque<Uuid>,
    groups: Option<Box<Groups>>,
}

/// Runs of named groups (tenants, customers), each group with a turn of its own; 0 is the group of the nameless.
#[derive(Debug, Default)]
struct Groups {
    turns: VecDeque<u64>,
    lines: HashMap<u64, VecDeque<Uuid>>,
}

impl Line {
    /// Puts a run at the end of its group's line. A class beyond the last is read as the last.
    pub fn push(&mut self, class: u8, group: u64, run: Uuid) {
        self.count += 1;
        self.class(class).push(group, run);
    }

    /// Puts a run before all others of its class and of no group: its time had come before.
    pub fn push_front(&mut self, class: u8, run: Uuid) {
        self.count += 1;
        let class = self.class(class);
        match &mut class.groups {
            None => class.plain.push_front(run),
            Some(groups) => groups.push_front(run),
        }
    }

    /// Takes the next run.
    pub fn pop(&mut self) -> Option<Uuid> {
        let fair = self.taken.wrapping_add(1).is_multiple_of(FAIR_EVERY);
        for i in 0..CLASSES {
            let class = if fair { CLASSES - 1 - i } else { i };
            if let Some(run) = self.classes[class].pop() {
                self.taken = self.taken.wrapping_add(1);
                self.count -= 1;
                return Some(run);
            }
        }
        None
    }

    /// Runs in the line, with those that have left it and were not passed over yet.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing is in the line.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Which one a run is in its class and group, from 1 on. Looks at the line.
    pub fn place(&self, class: u8, run: Uuid) -> Option<usize> {
        let class = &self.classes[usize::from(class).min(CLASSES - 1)];
        let groups = class.groups.iter().flat_map(|groups| groups.lines.values());
        let mut lines = groups.chain([&class.plain]);
        lines.find_map(|line| line.iter().position(|waiting| *waiting == run).map(|at| at + 1))
    }

    /// Takes out every run that is not to be kept. Looks at all of them.
    pub fn retain(&mut self, mut keep: impl FnMut(Uuid) -> bool) {
        for class in &mut self.classes {
            class.plain.retain(|run| keep(*run));
            if let Some(groups) = &mut class.groups {
                groups
                    .lines
                    .values_mut()
                    .for_each(|line| line.retain(|run| keep(*run)));
                let lines = &groups.lines;
                groups
                    .turns
                    .retain(|group| lines.get(group).is_some_and(|line| !line.is_empty()));
                groups.lines.retain(|_, line| !line.is_empty());
            }
        }
        self.count = self.classes.iter().map(Class::len).sum();
    }

    /// Gives back the room that it does not need, when that is most of what it has.
    pub fn shrink(&mut self) {
        for class in &mut self.classes {
            if class.plain.len() < class.plain.capacity() / 8 {
                class.plain.shrink_to(class.plain.len().max(ROOM_KEPT));
            }
        }
    }

    fn class(&mut self, class: u8) -> &mut Class {
        &mut self.classes[usize::from(class).min(CLASSES - 1)]
    }
}

impl Class {
    fn push(&mut self, group: u64, run: Uuid) {
        if group == 0 && self.groups.is_none() {
            return self.plain.push_back(run);
        }
        let plain = &mut self.plain;
        let groups = self.groups.get_or_insert_with(|| {
            let mut groups = Groups::default();
            for run in plain.drain(..) {
                groups.push(0, run);
            }
            Box::new(groups)
        });
        groups.push(group, run);
    }

    fn pop(&mut self) -> Option<Uuid> {
        let Some(groups) = &mut self.groups else {
            return self.plain.pop_front();
        };
        let run = groups.pop();
        if groups.turns.is_empty() {
            self.groups = None;
        }
        run
    }

    fn len(&self) -> usize {
        let grouped = self
            .groups
            .as_ref()
            .map_or(0, |g| g.lines.values().map(VecDeque::len).sum());
        self.plain.len() + grouped
    }
}

impl Groups {
    fn push(&mut self, group: u64, run: Uuid) {
        let line = self.lines.entry(group).or_default();
        if line.is_empty() {
            self.turns.push_back(group);
        }
        line.push_back(run);
    }

    fn push_front(&mut self, run: Uuid) {
        let line = self.lines.entry(0).or_default();
        if !line.is_empty() {
            self.turns.retain(|group| *group != 0);
        }
        self.turns.push_front(0);
        line.push_front(run);
    }

    fn pop(&mut self) -> Option<Uuid> {
        let group = self.turns.pop_front()?;
        let line = self.lines.get_mut(&group)?;
        let run = line.pop_front();
        if line.is_empty() {
            self.lines.remove(&group);
        } else {
            self.turns.push_back(group);
        }
        run
    }
}
